"""Derives the paper's two regions from label maps of the CT's bones; knows no image, file or network.

The paper names the regions and gives no distances: closing by 10 mm (which fills the canal) and dilation by 10 mm (which takes
in the paramedullary tissue) are ours, stand in the settings, and are part of the view.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int

from extractor.label_sets import LABEL_SETS, WHOLE, LabelFile, map_column, parts_needed
from extractor.morphology import Mask, closed_mm, dilated_mm
from extractor.volumes import Labels
from store_schema.errors import GeometryError, MaskError

MAX_VERTEBRA_ML = 500.0
"""Of one label; a large sacrum has half of it. A brain or a bowel that another set calls so has more."""
IN_ORDER_SHARE = 0.9
"""Of pairs of vertebrae that lie one above the other as their names say, and of bones whose left one lies on the left; pairs count
by the smaller one's voxels, so that a stray fragment does not refuse a patient."""


@dataclass(frozen=True)
class Derived:
    """Regions on the grid of their label map, and what a person should know of them."""

    regions: Mapping[str, Labels]
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By region: bones that one would expect and that the label map has not."""


@dataclass(frozen=True)
class _Bones:
    """Where the bones of one label map lie."""

    labels: Labels
    file: LabelFile
    voxels: Int[np.ndarray, " label"]
    """Number of voxels by label; 0 for what is no bone."""
    centre_z: Float64[np.ndarray, " label"]
    """Mean index; NaN where a label has no voxel. Rises towards superior."""
    centre_x: Float64[np.ndarray, " label"]
    """Rises towards the patient's left."""

    def present(self, labels: Iterable[int]) -> list[int]:
        return [label for label in labels if self.voxels[label]]

    def mask(self, labels: Iterable[int]) -> Mask:
        mask: Mask = _lookup(labels)[self.labels.array_zyx]
        return mask


def derive_regions(
    maps: Labels | Mapping[str, Labels],
    *,
    label_set: str = "totalsegmentator",
    closing_mm: float = 10.0,
    dilation_mm: float = 10.0,
    wanted: Sequence[str] = ("spine_dilated", "skeleton"),
) -> dict[str, Labels]:
    """Masks of the wanted regions on the label map's grid: `derive` without its notes."""
    derived = derive(maps, label_set=label_set, closing_mm=closing_mm, dilation_mm=dilation_mm, wanted=wanted)
    return dict(derived.regions)


def derive(
    maps: Labels | Mapping[str, Labels],
    *,
    label_set: str,
    closing_mm: float,
    dilation_mm: float,
    wanted: Sequence[str],
) -> Derived:
    """The wanted regions on the label map's grid.

    `spine_dilated`: vertebrae and sacrum, closed, then dilated. `skeleton`: all bones, together with `spine_dilated`.

    Parameters
    ----------
    maps
        The label map, or several by their part of the set.

    Raises
    ------
    MaskError
        If the set needs a label map that is not given; if one does not fit the set (labels beyond it, no vertebra, vertebrae out of
        order or too large, left bones on the right); or if one stands for two parts.
    GeometryError
        If the label maps do not share a grid.

    References
    ----------
    Guinea-Pérez et al. 2026, section 2.2, names the regions; the distances are our decision.
    """
    parts = {WHOLE: maps} if isinstance(maps, Labels) else maps
    found = _fitting(parts, label_set, wanted)
    spine = next(bones for bones in found.values() if bones.file.spine)
    spacing_zyx_mm = spine.labels.grid.spacing_xyz_mm[::-1]
    closed = closed_mm(spine.mask(spine.file.spine), closing_mm, spacing_zyx_mm)
    region = dilated_mm(closed, dilation_mm, spacing_zyx_mm)
    regions, notes = {"spine_dilated": region}, {"spine_dilated": _missing_levels(spine)}
    if "skeleton" in wanted:
        regions["skeleton"] = np.logical_or.reduce(
            [region, *(bones.mask(bones.file.bones) for bones in found.values())]
        )
        notes["skeleton"] = (*notes["spine_dilated"], *_empty_parts(found))
    grid, orientation = spine.labels.grid, spine.labels.original_orientation
    made = {name: Labels(regions[name].astype(np.uint16), grid, orientation) for name in wanted}
    return Derived(made, {name: notes[name] for name in wanted})


def check_label_map(labels: Labels, label_set: str, part: str = WHOLE) -> None:
    """Refuses a label map that does not fit its part of a set.

    Raises
    ------
    MaskError
        See `derive`.
    """
    _bones(labels, LABEL_SETS[label_set][part], f"the {map_column(part)}", label_set)


def _fitting(parts: Mapping[str, Labels], label_set: str, wanted: Sequence[str]) -> dict[str, _Bones]:
    """Every label map that the regions need, checked."""
    needed = parts_needed(label_set, wanted)
    absent = [map_column(part) for part in needed if part not in parts]
    if absent:
        raise MaskError(
            f"{list(wanted)} of the {label_set} label set need(s) {', '.join(absent)}: fill the column(s), or declare the "
            f"'label_set' that the label map is of: {', '.join(LABEL_SETS)}."
        )
    found = {
        part: _bones(parts[part], LABEL_SETS[label_set][part], f"the {map_column(part)}", label_set) for part in needed
    }
    for part in needed[1:]:
        _check_pair(parts[needed[0]], parts[part], map_column(needed[0]), map_column(part))
    return found


def _check_pair(first: Labels, other: Labels, name: str, other_name: str) -> None:
    if first.grid.sha256() != other.grid.sha256():
        raise GeometryError(
            f"the {name} ({first.grid.size_xyz} voxels of {first.grid.spacing_xyz_mm} mm) and the {other_name} "
            f"({other.grid.size_xyz} voxels of {other.grid.spacing_xyz_mm} mm) lie on two grids: label maps of one study must "
            "come from one segmentation of its CT."
        )
    if np.array_equal(first.array_zyx, other.array_zyx):
        raise MaskError(f"the {name} and the {other_name} are one label map: name each part's own file.")


def _bones(labels: Labels, file: LabelFile, name: str, label_set: str) -> _Bones:
    """Where the bones of a label map lie, once it fits."""
    highest = int(labels.array_zyx.max())
    if highest > file.last:
        beyond = np.unique(labels.array_zyx[labels.array_zyx > file.last])
        raise MaskError(
            f"{name} has the labels {beyond[:5].tolist()} …, and those of the {label_set} label set end at {file.last}: declare "
            f"the 'label_set' that it is of: {', '.join(LABEL_SETS)}."
        )
    bones = _located(labels, file)
    if file.spine:
        _check_spine(bones, name, label_set)
    _check_sides(bones, name, label_set)
    return bones


def _located(labels: Labels, file: LabelFile) -> _Bones:
    where = np.flatnonzero(_lookup(file.bones)[labels.array_zyx])
    values = labels.array_zyx.reshape(-1)[where]
    _, height, width = labels.array_zyx.shape
    voxels = np.bincount(values, minlength=file.last + 1)
    with np.errstate(invalid="ignore"):
        centre_z, centre_x = (
            np.bincount(values, weights=index, minlength=file.last + 1) / voxels
            for index in (where // (height * width), where % width)
        )
    return _Bones(labels, file, voxels, centre_z, centre_x)


def _lookup(labels: Iterable[int]) -> np.ndarray:
    """Whether a label is one of these, by label: a table is several times faster than a search."""
    table = np.zeros(2**16, dtype=bool)
    table[list(labels)] = True
    return table


def _check_spine(bones: _Bones, name: str, label_set: str) -> None:
    """Refuses a label map without vertebrae, and one whose vertebrae are none: the sign of another label set."""
    spine = bones.present(bones.file.spine)
    if not spine:
        expected = ", ".join(f"{label} {bones.file.bones[label]}" for label in bones.file.spine[:3])
        raise MaskError(
            f"{name} has no vertebra of the {label_set} label set ({expected}, …): is it of another set, or empty?"
        )
    voxel_ml = float(np.prod(bones.labels.grid.spacing_xyz_mm)) / 1000
    largest = max(spine, key=lambda label: int(bones.voxels[label]))
    volume_ml = float(bones.voxels[largest]) * voxel_ml
    if len(bones.file.spine) > 1 and volume_ml > MAX_VERTEBRA_ML:
        raise MaskError(
            f"{name} gives label {largest} ({bones.file.bones[largest]} in the {label_set} label set) {volume_ml:.0f} ml, more "
            f"than any vertebra has ({MAX_VERTEBRA_ML:.0f} ml): it is of another set. Known sets: {', '.join(LABEL_SETS)}."
        )
    pairs = [(upper, lower) for place, upper in enumerate(spine) for lower in spine[place + 1 :]]
    share = _share(bones.voxels, pairs, bones.centre_z)
    if share < IN_ORDER_SHARE:
        raise MaskError(
            f"{name} has vertebrae that do not follow each other from head to feet as the {label_set} label set says ({share:.0%} "
            f"of pairs do): it is of another set ({', '.join(LABEL_SETS)}), or lies upside down."
        )


def _check_sides(bones: _Bones, name: str, label_set: str) -> None:
    pairs = [pair for pair in bones.file.sides if bones.voxels[list(pair)].all()]
    share = _share(bones.voxels, pairs, bones.centre_x)
    if share < IN_ORDER_SHARE:
        raise MaskError(
            f"{name} has bones that the {label_set} label set calls left on the patient's right ({share:.0%} of pairs lie as they "
            "should): it is mirrored, or of another set. Check the orientation in its header."
        )


def _share(
    voxels: Int[np.ndarray, " label"], pairs: Sequence[tuple[int, int]], centres: Float64[np.ndarray, " label"]
) -> float:
    """Share of pairs, by the smaller one's voxels, of which the first has the greater centre; 1 where there is no pair."""
    weights = [float(min(voxels[first], voxels[second])) for first, second in pairs]
    right = sum(w for w, (first, second) in zip(weights, pairs, strict=True) if centres[first] > centres[second])
    return right / sum(weights) if weights else 1.0


def _missing_levels(bones: _Bones) -> tuple[str, ...]:
    """Vertebrae that lack between two that are there; L6 and S1 are often none of their own."""
    names = {label: bones.file.level(label) for label in bones.file.spine}
    spine = [label for label, name in names.items() if name not in {"L6", "S1"}]
    there = [place for place, label in enumerate(spine) if bones.voxels[label]]
    lacking = [names[spine[place]] for place in range(there[0], there[-1]) if place not in there] if there else []
    return (f"no voxel of {', '.join(lacking)}, which lie(s) between vertebrae that are there",) if lacking else ()


def _empty_parts(found: Mapping[str, _Bones]) -> tuple[str, ...]:
    empty = [map_column(part) for part, bones in found.items() if not bones.voxels.any()]
    return (f"no bone in the {', '.join(empty)}",) if empty else ()
