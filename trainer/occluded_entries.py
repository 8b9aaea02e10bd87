"""Finds the entries of a store that hold a model's embeddings with patches hidden, and reads them; knows no risk."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float
from pydantic import Field, ValidationError

from store_schema import EntryKey, Snapshot, Store, ViewSpec
from store_schema.errors import ConfigError, NotCommittedError, SchemaError, UsageError
from trainer.explain_results import NO_BONE, UNNAMED, PatchRules
from trainer.features import array_read
from trainer.image_grid import ImageGrid
from trainer.model_config import FittedModel
from trainer.sensitivity_map import Box
from trainer.task_results import Record

FLAG = "occlusion_"
"""What the flags of occlusion views begin with that their base views lack."""
PARITY = 1e-3
"""Relative difference between two embeddings of the same image by the same view; that of other images is a hundred times larger."""
SNAPSHOT = re.compile(r"[0-9a-f]{8,64}", re.ASCII)
HOW = "`extractor occlude` makes them"
AGAIN = "Run `extractor occlude` again, or name the snapshot of the same time with --snapshot"


def base_of(view: ViewSpec) -> ViewSpec:
    """The view whose entries' images an occlusion view hides patches of, but for its name."""
    flags = {name: value for name, value in view.flags.items() if not name.startswith(FLAG)}
    return view.model_copy(update={"flags": flags})


def hides(view: ViewSpec) -> bool:
    """Whether a view is an occlusion view."""
    return any(name.startswith(FLAG) for name in view.flags)


def rules_of(view: ViewSpec) -> PatchRules:
    """How an occlusion view hides patches.

    Raises
    ------
    SchemaError
        If its flags do not say so.
    """
    told = {name.removeprefix(FLAG): value for name, value in view.flags.items() if name.startswith(FLAG)}
    try:
        return PatchRules.model_validate(told)
    except ValidationError as error:
        raise SchemaError(
            f"occlusion view {view.view_id} has the flags {told}: expected size_mm, stride_mm and fill, as `extractor occlude` "
            "writes them"
        ) from error


def occlusions_of(store: Store, base: ViewSpec, asked: str | None, pairs: Sequence[tuple[str, str]]) -> Snapshot:
    """Snapshot of the occluded embeddings that belong to a view.

    Parameters
    ----------
    base
        View that the model reads.
    asked
        Occlusion view, or snapshot of one; None takes the only one that belongs to the view.
    pairs
        Modality and region of the entries that the model reads.

    Raises
    ------
    UsageError
        If what was asked for belongs to another view, several belong to this one, or a snapshot holds nothing that the model reads.
    NotCommittedError
        If there is none, or it has no entry that the model reads.
    """
    if asked is not None and SNAPSHOT.fullmatch(asked):
        snapshot = store.snapshot(asked)
        _check_base(snapshot.view, base)
        if not any((key.modality, key.roi) in pairs for key in snapshot.keys):
            raise UsageError(_nothing_read(snapshot.view_id, snapshot.keys, pairs))
        return snapshot
    view = _view(store, base, asked)
    numbers = store.current_numbers(view.view_id)
    wanted = {key: number for key, number in numbers.items() if (key.modality, key.roi) in pairs}
    if not wanted:
        raise NotCommittedError(_nothing_read(view.view_id, tuple(numbers), pairs))
    return store.snapshot(store.make_snapshot(view.view_id, wanted))


def _nothing_read(view: str, keys: Sequence[EntryKey], pairs: Sequence[tuple[str, str]]) -> str:
    wanted = ", ".join("/".join(pair) for pair in pairs)
    held = ", ".join(sorted({f"{key.modality}/{key.roi}" for key in keys})) or "none"
    return f"the model reads {wanted}, and occlusion view {view} holds entries of {held}: {HOW}"


def _view(store: Store, base: ViewSpec, asked: str | None) -> ViewSpec:
    if asked is not None:
        view = store.view(asked)
        _check_base(view, base)
        return view
    views = map(store.view, store.view_ids())
    fitting = [view for view in views if hides(view) and base_of(view).digest == base.digest]
    if not fitting:
        raise NotCommittedError(f"the store has no embeddings of view {base.view_id} with patches hidden: {HOW}")
    if len(fitting) > 1:
        told = ", ".join(view.view_id for view in fitting)
        raise UsageError(f"several occlusion views belong to {base.view_id}: choose one with --occlusion: {told}")
    return fitting[0]


def _check_base(view: ViewSpec, base: ViewSpec) -> None:
    if not hides(view):
        raise UsageError(f"view {view.view_id} hides no patches: name one that `extractor occlude` wrote")
    if base_of(view).digest == base.digest:
        return
    mine, other = base_of(view).model_dump(mode="json"), base.model_dump(mode="json")
    differ = ", ".join(name for name in mine if name != "name" and mine[name] != other[name])
    raise UsageError(
        f"occlusion view {view.view_id} does not belong to view {base.view_id}, which the model reads: they differ in {differ}. "
        "Run `extractor occlude` with the settings of that view"
    )


Share = Annotated[float, Field(ge=0, le=1)]


class LabelMaps(Record):
    """Which label maps named the bones.

    Attributes
    ----------
    known
        Columns of those that were read.
    missing
        Columns of the label set without a file: their bones are not known.
    """

    known: tuple[str, ...]
    missing: tuple[str, ...]


class _Told(Record):
    """The attribute `occlusion` of an entry."""

    patches_zyx: tuple[Box, ...]
    unseen_zyx: tuple[Box, ...]
    seen_slices_z: tuple[int, ...]
    held_slices_z: tuple[int, ...] | None = None
    region_share: Share
    held_region_share: Share
    bones: tuple[tuple[str, float] | None, ...] | None = None
    label_map_shares: tuple[Share, ...] | None = None
    label_maps: LabelMaps | None = None
    base_input_sha256: str
    fill_grey: int
    backdrop_step_zyx: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]


@dataclass(frozen=True, eq=False)
class Occluded:
    """One entry of an occlusion view, as an explanation takes it."""

    key: EntryKey
    grid: ImageGrid
    told: _Told
    baseline: Float[np.ndarray, "..."]
    """Embedding of the whole image, as the same encoder made it."""
    embeddings: Float[np.ndarray, "patch ..."]
    """With each patch hidden that the view can see."""
    difference: float
    """Relative, between `baseline` and the embedding that the model reads."""
    mask_zyx: np.ndarray
    backdrop_zyx: np.ndarray

    @property
    def boxes(self) -> tuple[Box, ...]:
        """Of all patches, those that the view can see first."""
        return self.told.patches_zyx + self.told.unseen_zyx

    @property
    def bones(self) -> tuple[tuple[str, float | None], ...]:
        """Name and share of what lies under each patch, in the same order."""
        unseen = [(UNNAMED, None)] * len(self.told.unseen_zyx)
        told, maps = self.told, self.told.label_maps
        if told.bones is None or told.label_map_shares is None or maps is None:
            return (*[(UNNAMED, None)] * len(told.patches_zyx), *unseen)
        known = [not maps.missing and share == 1 for share in told.label_map_shares]
        return (
            *(
                (NO_BONE if all_of_it else UNNAMED, None) if bone is None else bone
                for bone, all_of_it in zip(told.bones, known, strict=True)
            ),
            *unseen,
        )


def read_occluded(
    model: FittedModel,
    occlusions: Snapshot,
    key: EntryKey,
    stored: Float[np.ndarray, "..."],
    *,
    input_sha256: str,
) -> Occluded:
    """An entry of occluded embeddings, of the array that the model reads.

    Parameters
    ----------
    stored
        That array of the entry that the model reads.
    input_sha256
        Input digest of that entry.

    Raises
    ------
    ConfigError
        If the entry was made of another image, region or extraction than the one that the model reads.
    SchemaError
        If it is no entry of occluded embeddings.
    StoreError
        If it cannot be read.
    """
    name, where = array_read(model), f"{occlusions.view_id}/{key}"
    attributes = occlusions.commit(key).attributes
    told, grid = _told(attributes, where), ImageGrid.of(attributes, where=where)
    _check_boxes(told, grid, where)
    if told.base_input_sha256 != input_sha256:
        raise ConfigError(
            f"{where} was made of another image, region or extraction than the entry that the model reads: it names the input "
            f"{told.base_input_sha256[:16]}, that entry's commit {input_sha256[:16]}. {AGAIN}"
        )
    occluded = f"occluded_{name}"
    entry = occlusions.read(key, arrays=(name, "mask", "backdrop", *([occluded] if told.patches_zyx else [])))
    baseline = entry.arrays[name]
    difference = relative_difference(baseline, stored)
    if not difference <= PARITY:
        raise ConfigError(
            f"{where} was made of another image, region or extraction than the entry that the model reads: their embeddings of the "
            f"whole image differ by {difference:.2g} of their size, at most {PARITY:g} expected. {AGAIN}"
        )
    embeddings = entry.arrays.get(occluded, np.empty((0, *baseline.shape)))
    mask, backdrop = entry.arrays["mask"], entry.arrays["backdrop"]
    return _checked(Occluded(key, grid, told, baseline, embeddings, difference, mask, backdrop), where)


def relative_difference(one: Float[np.ndarray, "..."], other: Float[np.ndarray, "..."]) -> float:
    """Euclidean length of the difference over that of the second; infinite where shapes differ.

    References
    ----------
    Protocol section 2, parity.
    """
    if one.shape != other.shape:
        return float("inf")
    apart = np.linalg.norm((one.astype(np.float64) - other).ravel())
    return 0.0 if apart == 0 else float(apart / np.linalg.norm(other.astype(np.float64).ravel()))


def _told(attributes: Mapping[str, Any], where: str) -> _Told:
    try:
        return _Told.model_validate(attributes.get("occlusion"))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, ("occlusion", *first["loc"])))
        raise SchemaError(
            f"{where}: the entry's attribute {place}: {first['msg']}. Make the entry again: "
            "`extractor occlude` does, also where an earlier version made it"
        ) from error


def _check_boxes(told: _Told, grid: ImageGrid, where: str) -> None:
    ends = np.asarray([*told.patches_zyx, *told.unseen_zyx]).reshape(-1, 3, 2)
    inside = (ends[..., 0] >= 0) & (ends[..., 0] < ends[..., 1]) & (ends[..., 1] <= grid.shape_zyx)
    if not ends.size or not inside.all():
        raise SchemaError(
            f"{where}: its patches are none, or reach beyond the image of {grid.shape_zyx} voxels (z, y, x): make the entry again"
        )


def _checked(one: Occluded, where: str) -> Occluded:
    counts = {len(one.told.patches_zyx), len(one.embeddings)}
    for named in (one.told.bones, one.told.label_map_shares):
        counts |= set() if named is None else {len(named)}
    if len(counts) != 1 or one.mask_zyx.shape != one.grid.shape_zyx:
        raise SchemaError(
            f"{where}: numbers of patches, embeddings and bones are {sorted(counts)}, and the mask is {one.mask_zyx.shape} on a "
            f"grid of {one.grid.shape_zyx}: expected one number and one shape. Make the entry again"
        )
    return one
