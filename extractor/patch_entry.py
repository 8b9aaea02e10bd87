"""Makes one entry of an occlusion view, taking up what an earlier run has left of it; knows no store and no study table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np
from jaxtyping import UInt8

from extractor.config import Product
from extractor.entries import Subject, memory_entry
from extractor.entry_streams import stream_of
from extractor.layouts import LayoutArray
from extractor.memory import Memory
from extractor.occlusion import Occluder
from extractor.occlusion_bones import Bones
from extractor.occlusion_reach import Patch, Reach
from extractor.occlusion_rules import OcclusionRules
from extractor.patches import backdrop, covered_share, names_under, patch_grid, under_patches
from extractor.segmenter import Segmenter
from extractor.streams import Stream
from extractor.study import PreparedStudy
from extractor.unfinished import Parts
from extractor.work import RECORDED_VERSIONS
from store_schema import Entry, EntryKey
from store_schema.records import canonical_json, sha256

PART = 8
"""Patches of a part at least: what a kill costs at most, a minute or so of a CPU with the full network."""


@dataclass(frozen=True)
class Hiding:
    """A region of an image that is to be hidden patch by patch; no network has seen it yet."""

    key: EntryKey
    prepared: PreparedStudy
    layout: str
    stream: Stream
    patches: tuple[Patch, ...]
    fill: int
    """Grey value."""

    @classmethod
    def of(
        cls,
        key: EntryKey,
        prepared: PreparedStudy,
        *,
        product: Product,
        rules: OcclusionRules,
        stride: int,
        grid_px: int,
    ) -> Hiding:
        """The patches of an entry: no slice that its embedding holds lies under none.

        Raises
        ------
        ConfigError, MaskError
            As `extractor.patches.patch_grid`.
        """
        mask_zyx, spacing = prepared.masks_zyx[key.roi], prepared.grid.spacing_xyz_mm
        stream = stream_of(key, product.variant, prepared, stride)
        held = [stream.slices[rank] for rank in Reach(stream, (product.layout,), grid_px=grid_px).held]
        patches = patch_grid(mask_zyx, spacing, size_mm=rules.size_mm, stride_mm=rules.stride_mm, needed_z=held)
        return cls(key, prepared, product.layout, stream, patches, rules.grey(prepared.images_zyx[key.modality]))

    @property
    def image_zyx(self) -> UInt8[np.ndarray, "z y x"]:
        """Grey values."""
        return self.prepared.images_zyx[self.key.modality]

    def shares(self, held_z: Sequence[int]) -> dict[str, float]:
        """Share of the region that lies under a patch, 0-1: of all of it, and of it on the slices whose memories are held."""
        mask_zyx = self.prepared.masks_zyx[self.key.roi] != 0
        under, held = under_patches(self.patches, mask_zyx.shape), list(held_z)
        return {
            "region_share": float(under[mask_zyx].mean()),
            "held_region_share": float(under[held][mask_zyx[held]].mean()),
        }

    def reach(self, *, grid_px: int) -> Reach:
        """What each patch can change."""
        return Reach(self.stream, (self.layout,), grid_px=grid_px)

    def occluder(self, segmenter: Segmenter) -> Occluder:
        """The whole image embedded, ready to be done again in parts."""
        return Occluder(segmenter, self.image_zyx, self.stream, layouts=(self.layout,), fill=self.fill)


class PatchesTold(Protocol):
    """Takes what happens to the patches of one entry."""

    def begin(self, what: str, seconds: Sequence[float]) -> None:
        """An entry is begun; how long each of its patches should take."""

    def kept(self, count: int) -> None:
        """So many patches in a row had been made before."""

    def made(self) -> None:
        """One more patch is done."""


@dataclass(frozen=True)
class Embedded:
    """An embedding with a patch hidden, as it is stored."""

    memory: np.ndarray
    """float16."""
    mean_map: np.ndarray
    """float32."""

    @classmethod
    def of(cls, memory: Memory, layout: str) -> Embedded:
        """One layout of what a pass made."""
        made = memory.layouts[layout]
        return cls(made.memory.astype(np.float16), made.mean_map)


def patch_entry(
    hiding: Hiding,
    segmenter: Segmenter,
    *,
    bones: Bones | None,
    base_input_sha256: str,
    parts_of: Callable[[str], Parts],
    told: PatchesTold,
) -> Entry:
    """The entry of an occlusion view: the whole image's embedding, and those with each patch hidden that can change it.

    Parameters
    ----------
    bones
        Of the study's label maps; None without one.
    base_input_sha256
        Input digest of the entry whose image is hidden, by which it is known again.
    parts_of
        Where parts lie, by the digest of all that decides their numbers beside the entry's input.
    told
        Takes how far it is.

    Raises
    ------
    RuntimeError
        If the network fails, such as for want of memory.
    """
    with hiding.occluder(segmenter) as occluder:
        reach, per_part = occluder.reach, patches_of_part(segmenter)
        told.begin(str(hiding.key), [reach.visits(patch).seconds(occluder.pace) for patch in hiding.patches])
        parts = parts_of(_made_from(hiding, segmenter, occluder.baseline))
        made = list(_all(hiding, occluder, parts, per_part, told))
        baseline = occluder.baseline
    subject = Subject(hiding.prepared, hiding.key.modality, hiding.key.roi, pictures=False)
    entry = memory_entry(subject, hiding.stream, baseline, hiding.layout)
    small, steps = backdrop(hiding.image_zyx, hiding.prepared.grid.spacing_xyz_mm)
    mask_zyx = hiding.prepared.masks_zyx[hiding.key.roi]
    arrays = {**entry.arrays, **_stacked(made), "mask": mask_zyx, "backdrop": small}
    told_of = {
        **_told_of(hiding, made, reach),
        **_named(hiding, made, bones),
        "base_input_sha256": base_input_sha256,
        "fill_grey": hiding.fill,
        "backdrop_step_zyx": steps,
    }
    return Entry(arrays, {**entry.attributes, "occlusion": told_of})


def patches_of_part(segmenter: Segmenter) -> int:
    """Patches that are kept together: whole batches, so that those after a kill share theirs with the same ones."""
    streams = segmenter.batches.streams
    return streams * -(-PART // streams)


def _made_from(hiding: Hiding, segmenter: Segmenter, baseline: Memory) -> str:
    """Digest of all that decides a patch's numbers beside the entry's input.

    The embedding of the whole image stands for machine, threads and libraries: where these round otherwise, it is another one.
    """
    whole = baseline.layouts[hiding.layout]
    told = {
        "patches": [_ends(patch) for patch in hiding.patches],
        "fill": hiding.fill,
        "device": segmenter.device,
        "batches": [segmenter.batches.slices, segmenter.batches.streams],
        "whole": sha256(whole.memory.tobytes() + whole.mean_map.tobytes()),
        "versions": {name: version(name) for name in RECORDED_VERSIONS},
    }
    return sha256(canonical_json(told))


def _all(
    hiding: Hiding, occluder: Occluder, parts: Parts, per_part: int, told: PatchesTold
) -> Iterator[Embedded | None]:
    """What every patch makes of the embedding, in order; None where it can change nothing."""
    for first in range(0, len(hiding.patches), per_part):
        patches = hiding.patches[first : first + per_part]
        ranks = [occluder.reach.ranks(patch) for patch in patches]
        held = _read(parts.get(first), [bool(one) for one in ranks], occluder.baseline.layouts[hiding.layout])
        if held is not None:
            told.kept(len(patches))
            yield from held
            continue
        made = []
        for memory in occluder.embed(patches):
            made.append(None if memory is None else Embedded.of(memory, hiding.layout))
            told.made()
        if any(made):
            parts.put(first, _part(made))
        yield from made


def _part(made: Sequence[Embedded | None]) -> dict[str, np.ndarray]:
    found = [one for one in made if one is not None]
    return {
        "made": np.array([one is not None for one in made]),
        "memory": np.stack([one.memory for one in found]),
        "mean_map": np.stack([one.mean_map for one in found]),
    }


def _read(
    arrays: Mapping[str, np.ndarray] | None, expected: Sequence[bool], like: LayoutArray
) -> list[Embedded | None] | None:
    """What was kept of a part; None where it is not there, or not of these patches."""
    if arrays is None or arrays.keys() != {"made", "memory", "mean_map"} or arrays["made"].tolist() != list(expected):
        return None
    count, memory, mean_map = sum(expected), arrays["memory"], arrays["mean_map"]
    if memory.shape != (count, *like.memory.shape) or mean_map.shape != (count, *like.mean_map.shape):
        return None
    found = iter([Embedded(*one) for one in zip(memory, mean_map, strict=True)])
    return [next(found) if one else None for one in expected]


def _stacked(made: Sequence[Embedded | None]) -> dict[str, np.ndarray]:
    """Embeddings of the patches that can change them; no array where none can."""
    found = [one for one in made if one is not None]
    if not found:
        return {}
    return {
        "occluded_memory": np.stack([one.memory for one in found]),
        "occluded_mean_map": np.stack([one.mean_map for one in found]),
    }


def _told_of(hiding: Hiding, made: Sequence[Embedded | None], reach: Reach) -> dict[str, Any]:
    """What an entry says of its patches: those with an embedding, in the arrays' order, and those that change nothing."""
    without = [patch for patch, one in zip(hiding.patches, made, strict=True) if one is None]
    slices = hiding.stream.slices
    seen, held = ([int(slices[rank]) for rank in sorted(ranks)] for ranks in (reach.seen, reach.held))
    return {
        "patches_zyx": [_ends(patch) for patch in _with_one(hiding, made)],
        "unseen_zyx": [_ends(patch) for patch in without],
        "seen_slices_z": seen,
        "held_slices_z": held,
        **hiding.shares(held),
    }


def _named(hiding: Hiding, made: Sequence[Embedded | None], bones: Bones | None) -> dict[str, Any]:
    """The bone under each patch with an embedding, what part of the patch the label maps tell of, and which they are."""
    if bones is None:
        return {}
    patches = _with_one(hiding, made)
    return {
        "bones": [names_under(patch, bones.labels_zyx, bones.names) for patch in patches],
        "label_map_shares": [covered_share(patch, bones.covered_zyx) for patch in patches],
        "label_maps": bones.told(),
    }


def _with_one(hiding: Hiding, made: Sequence[Embedded | None]) -> list[Patch]:
    return [patch for patch, one in zip(hiding.patches, made, strict=True) if one is not None]


def _ends(patch: Patch) -> list[int]:
    """z, y, x: start and stop of each."""
    return [int(end) for axis in zip(patch.start_zyx, patch.stop_zyx, strict=True) for end in axis]
