"""Makes stores whose occlusion entries are planted, for tests of explanations; knows no model."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from store_schema import Entry, EntryKey, Store, ViewSpec
from trainer.occluded_entries import base_of

SIZE_XYZ, SPACING_XYZ_MM, ORIGIN_XYZ_MM = (12, 10, 16), (4.0, 4.0, 5.0), (-20.0, 30.0, -400.0)
STEP_ZYX = (2, 1, 1)
RULES = {"occlusion_size_mm": 20.0, "occlusion_stride_mm": 20.0, "occlusion_fill": "mean"}
BOXES = ((0, 4, 0, 5, 0, 4), (2, 6, 0, 5, 2, 6), (8, 12, 4, 9, 6, 10), (11, 16, 5, 10, 6, 12))
UNSEEN = ((6, 8, 0, 5, 0, 4),)
BONES = (("L1", 0.5), ("L2", 0.25), None, ("rib_left_1", 0.1))


def grid() -> dict[str, Any]:
    """Geometry of every entry."""
    direction = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    return {
        "size_xyz": SIZE_XYZ, "origin_xyz_mm": ORIGIN_XYZ_MM, "spacing_xyz_mm": SPACING_XYZ_MM, "direction": direction,
    }  # fmt: skip


def occlusion_view(base: ViewSpec, **rules: Any) -> ViewSpec:
    """What `extractor occlude` makes of a view."""
    flags = {**base.flags, **RULES, **rules}
    return base.model_copy(update={"name": f"{base.name}-occluded", "flags": flags})


def occluded_entry(
    base: Mapping[str, np.ndarray],
    hidden: Sequence[np.ndarray],
    *,
    boxes: Sequence[Sequence[int]] = BOXES,
    unseen: Sequence[Sequence[int]] = UNSEEN,
    bones: Sequence[Any] | None = BONES,
    **told: Any,
) -> Entry:
    """An entry with the embedding of the whole image and of the image with each patch hidden."""
    z, y, x = SIZE_XYZ[::-1]
    mask = np.zeros((z, y, x), np.uint8)
    mask[3:13, 2:8, 2:9] = 1
    rng = np.random.default_rng(1)
    backdrop = rng.integers(0, 255, (z, y, x), dtype=np.uint8)[:: STEP_ZYX[0], :: STEP_ZYX[1], :: STEP_ZYX[2]]
    arrays = {
        "memory": base["memory"],
        "mean_map": base["mean_map"],
        "mask": mask,
        "backdrop": np.ascontiguousarray(backdrop),
    }
    if hidden:
        arrays["occluded_memory"] = np.stack([one.astype(np.float16) for one in hidden])
        arrays["occluded_mean_map"] = np.stack([mean_map(one) for one in hidden])
    occlusion = {
        "patches_zyx": [list(box) for box in boxes],
        "unseen_zyx": [list(box) for box in unseen],
        "seen_slices_z": [0, 2, 4, 8, 10, 12, 14],
        "held_slices_z": [0, 2],
        "fill_grey": 40,
        "backdrop_step_zyx": list(STEP_ZYX),
        "region_share": 0.9,
        "held_region_share": 0.75,
        **({} if bones is None else _named(bones)),
        **told,
    }
    return Entry(arrays, {"grid": grid(), "occlusion": occlusion})


def _named(bones: Sequence[Any]) -> dict[str, Any]:
    """What whole label maps tell that cover every patch."""
    maps = {"known": ["label_map"], "missing": []}
    return {"bones": list(bones), "label_map_shares": [1.0] * len(bones), "label_maps": maps}


def mean_map(memory: np.ndarray) -> np.ndarray:
    """As entries hold it."""
    return memory.astype(np.float32).mean(axis=(0, 1))


def publish(store: Store, view: str, key: EntryKey, entry: Entry) -> None:
    """Commit an entry as the current one; one of occlusions belongs to the present entry of its base view."""
    if "occlusion" in entry.attributes:
        told = {"base_input_sha256": base_input(store, view, key), **entry.attributes["occlusion"]}
        entry = Entry(entry.arrays, {**entry.attributes, "occlusion": told})
    digest = hashlib.sha256()
    for name in sorted(entry.arrays):
        digest.update(np.ascontiguousarray(entry.arrays[name]).tobytes())
    digest.update(repr(sorted(entry.attributes.items())).encode())
    store.publish(view, key, entry, input_sha256=digest.hexdigest())


def base_input(store: Store, view: str, key: EntryKey) -> str:
    """Input digest of the entry that one of an occlusion view belongs to; zeros where there is none."""
    base = base_of(store.view(view)).digest
    found = [store.current(one, key) for one in store.view_ids() if store.view(one).digest == base]
    return next((commit.input_sha256 for commit in found if commit is not None), "0" * 64)


def noisy(memory: np.ndarray, seed: Sequence[int], size: float = 0.5) -> np.ndarray:
    """The memory, changed everywhere."""
    return memory + size * np.random.default_rng(list(seed)).normal(size=memory.shape)
