"""Prepares one study: images on one grid as grey values, regions as masks, everything checked; knows no network or store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypedDict

import numpy as np
from jaxtyping import Bool, UInt8

from extractor.alignment import BODY_HU, RELATIVE_PER_SUV, Alignment, alignment, body, coarse
from extractor.intensity import CT_OUTSIDE_HU, PET_OUTSIDE_SUV, relative_level, to_uint8
from extractor.label_sets import WHOLE, map_column, parts_needed
from extractor.perturbation import Perturbation
from extractor.perturbation_kinds import AXES, BOUNDARIES, PLACED
from extractor.perturbed_masks import perturbed_image, perturbed_mask
from extractor.reading import read_ct, read_pet
from extractor.regions import Derived, derive
from extractor.surroundings import Surroundings, surroundings
from extractor.volumes import (
    Grid,
    Labels,
    Volume,
    coverage,
    decoded_sha256,
    read_labels,
    resample_linear,
    resample_nearest,
)
from store_schema.errors import GeometryError, MaskError, StudyError

MAX_OUTSIDE_SHARE = 0.05
"""A region of which more lies outside the PET, or outside the CT, is refused."""


@dataclass(frozen=True)
class StudyFiles:
    """Where the files of one study lie: paths, or addresses without a secret; CT and PET may be folders with a DICOM series."""

    patient: str
    ct: str
    pet: str | None
    masks: Mapping[str, str]
    """Mask file by ROI."""
    label_map: str | None = None
    label_parts: Mapping[str, str] = field(default_factory=dict)
    """Label map file by part, where the label set comes in several: vertebrae, ribs, peripheral_bones."""

    @property
    def label_maps(self) -> dict[str, str]:
        """Label map file by part; `WHOLE` for one that holds every bone."""
        return ({} if self.label_map is None else {WHOLE: self.label_map}) | dict(self.label_parts)

    @property
    def places(self) -> list[str]:
        """Every file of the study, each once."""
        named = (self.ct, self.pet, *self.label_maps.values(), *self.masks.values())
        return list(dict.fromkeys(place for place in named if place is not None))


@dataclass(frozen=True)
class PrepareRules:
    """What decides the numbers of a prepared study."""

    pet_units: str | None
    """`suv`, or None where they were not declared: then only a DICOM series can be read, which says its own; `relative`: none has
    any, and each is divided by its own percentile inside the body."""
    ct_window_hu: tuple[float, float] = (-500.0, 1300.0)
    pet_clip_suv: tuple[float, float] = (0.0, 10.0)
    derive: tuple[str, ...] = ()
    label_set: str = "totalsegmentator"
    closing_mm: float = 10.0
    dilation_mm: float = 10.0
    max_outside_share: float = MAX_OUTSIDE_SHARE
    modalities: tuple[str, ...] = ("PET", "CT")
    grid: Literal["ct", "pet"] = "ct"
    """Whose grid everything is put on."""
    perturb: Perturbation | None = None
    """How images or regions are disturbed on purpose."""

    @property
    def reads_pet(self) -> bool:
        """Whether a study needs its PET: as an image, or for its grid."""
        return "PET" in self.modalities or self.grid == "pet"


@dataclass(frozen=True)
class PreparedStudy:
    """A study on one grid, the CT's or the PET's, in LPS, ready to be embedded."""

    images_zyx: Mapping[str, UInt8[np.ndarray, "z y x"]]
    """Grey values by modality."""
    masks_zyx: Mapping[str, UInt8[np.ndarray, "z y x"]]
    """0 or 1, by ROI."""
    grid: Grid
    original_orientations: Mapping[str, str]
    """Orientation code of each modality's file."""
    source_sha256: Mapping[str, str]
    """Digest of decoded voxels and geometry before resampling, by role: CT, PET, mask:ROI, label_map."""
    outside_share: Mapping[str, float] = field(default_factory=dict)
    """Share of each ROI's voxels on the CT's grid outside the PET's field of view, 0–1; empty without a PET. Of the region as it is
    before its boundary is moved by a perturbation, so that the same studies are accepted."""
    outside_ct_share: Mapping[str, float] = field(default_factory=dict)
    """Share of each ROI's own voxels outside the CT, 0–1: they are lost."""
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What a person should know of a ROI, such as vertebrae that its label map has not."""
    alignment: Alignment | None = None
    """How the PET lies on the CT; None without a PET."""
    lies_on: Literal["ct", "pet"] = "ct"
    """Whose grid it is."""
    perturb: Perturbation | None = None
    """How it is disturbed: images and regions are so already, boxes and slices are yet to be."""
    surroundings: Surroundings | None = None
    """Where misplaced boxes may lie; only where some are to be."""
    undisturbed_zyx: Mapping[str, UInt8[np.ndarray, "z y x"]] = field(default_factory=dict)
    """Regions as they are before a perturbation moves their boundaries, by ROI; only where one does."""
    refused: Mapping[str, StudyError] = field(default_factory=dict)
    """Why a ROI cannot be disturbed as asked, by ROI: it has no mask here, and the others have."""

    def missing_share(self, modality: str, roi: str) -> float:
        """Share of a region that one modality has no voxels for, 0–1; on the PET's grid the CT ends where the PET does."""
        return float(self.outside_share[roi]) if modality == "PET" or self.lies_on == "pet" else 0.0


def prepare_study(files: StudyFiles, rules: PrepareRules) -> PreparedStudy:
    """Images, masks and checks of one study.

    Raises
    ------
    ImageError
        If a file cannot be read, or has voxels that are not finite.
    IntensityError
        If units are not declared or contradict the values.
    GeometryError
        If the PET does not cover the CT's region: another patient, or a region beyond its field of view; or if a region lies
        beyond the CT.
    MaskError
        If a mask is empty, or is not a mask; or if nothing is left of it on the PET's grid.
    """
    prepared, perturb = _undisturbed(files, rules), rules.perturb
    if perturb is None:
        return prepared
    images = {name: perturbed_image(image, perturb) for name, image in prepared.images_zyx.items()}
    masks, refused = dict[str, UInt8[np.ndarray, "z y x"]](), dict[str, StudyError]()
    for roi, mask in prepared.masks_zyx.items():
        try:
            masks[roi] = perturbed_mask(mask, perturb, prepared.grid.spacing_xyz_mm, roi=roi)
        except StudyError as error:
            refused[roi] = error
    before = prepared.masks_zyx if perturb.kind in BOUNDARIES else {}
    return replace(prepared, images_zyx=images, masks_zyx=masks, undisturbed_zyx=before, refused=refused)


def _undisturbed(files: StudyFiles, rules: PrepareRules) -> PreparedStudy:
    """The study with its images where they are to lie, and regions and grey values as they are."""
    pet = _read_pet(files, rules) if rules.reads_pet else None
    ct = _ct(files, rules, pet.grid if pet is not None and rules.grid == "pet" else None)
    images, digests, orientations = {"CT": ct.grey_zyx}, {"CT": ct.sha256}, {"CT": ct.orientation}
    regions = _masks(files, rules, ct.own_grid, digests)
    masks = {roi: region.mask_zyx for roi, region in regions.items()}
    told = _Told(
        outside_ct_share={roi: region.outside_share for roi, region in regions.items()},
        notes={roi: region.notes for roi, region in regions.items() if region.notes},
        perturb=rules.perturb,
        surroundings=_surroundings(files, rules, ct),
    )
    if pet is None:
        return PreparedStudy(images, masks, ct.grid, orientations, digests, **told)
    shares = _outside_shares(coverage(pet.grid, ct.own_grid), masks, _pet_named(files, rules), rules.max_outside_share)
    if rules.grid == "pet":
        masks = {roi: _on_pet(region, roi, files, pet.grid) for roi, region in regions.items()}
    digests["PET"], orientations["PET"] = decoded_sha256(pet), pet.original_orientation
    if rules.pet_units == "relative":
        pet = _without_units(pet, ct.coarse, files)
        # The CT's body decides what the PET is divided by.
        digests["PET"] = hashlib.sha256(f"{digests['PET']} in the body of {ct.sha256}".encode()).hexdigest()
    images["PET"] = _pet_grey(pet, rules, ct.grid)
    wanted = {name: images[name] for name in rules.modalities}
    return PreparedStudy(
        wanted,
        masks,
        ct.grid,
        orientations,
        digests,
        shares,
        alignment=alignment(ct.coarse, pet, per_suv=RELATIVE_PER_SUV if rules.pet_units == "relative" else 1.0),
        lies_on=rules.grid,
        **told,
    )


class _Told(TypedDict):
    """What is told of a study besides its images and masks."""

    outside_ct_share: dict[str, float]
    notes: dict[str, tuple[str, ...]]
    perturb: Perturbation | None
    surroundings: Surroundings | None


@dataclass(frozen=True)
class _Ct:
    """What is kept of a CT; the Hounsfield units of all its voxels are let go."""

    grey_zyx: UInt8[np.ndarray, "z y x"]
    grid: Grid
    """Of the grey values."""
    own_grid: Grid
    sha256: str
    orientation: str
    coarse: Volume
    """In HU, for the comparison with the PET."""


def _ct(files: StudyFiles, rules: PrepareRules, onto: Grid | None) -> _Ct:
    """The CT as grey values on its own grid, or on another."""
    ct = read_ct(files.ct)
    low_hu, high_hu = rules.ct_window_hu
    there = ct if onto is None else resample_linear(ct, onto, outside=CT_OUTSIDE_HU)
    grey = to_uint8(there.array_zyx, low=low_hu, high=high_hu)
    return _Ct(grey, there.grid, ct.grid, decoded_sha256(ct), ct.original_orientation, coarse(ct))


def _read_pet(files: StudyFiles, rules: PrepareRules) -> Volume:
    if files.pet is None:
        wanted = "PET is to be extracted" if "PET" in rules.modalities else "everything is to lie on the PET's grid"
        raise StudyError(f"patient '{files.patient}' has no PET file, and {wanted}.")
    pet = read_pet(files.pet, declared=rules.pet_units)
    if rules.perturb is None or rules.perturb.kind not in AXES:
        return pet
    origin = list(pet.grid.origin_xyz_mm)
    origin[AXES[rules.perturb.kind]] += rules.perturb.amount
    return replace(pet, grid=replace(pet.grid, origin_xyz_mm=(origin[0], origin[1], origin[2])))


def _surroundings(files: StudyFiles, rules: PrepareRules, ct: _Ct) -> Surroundings | None:
    """Where misplaced boxes may lie; None where none are."""
    if rules.perturb is None or rules.perturb.kind not in PLACED:
        return None
    maps = files.label_maps if rules.perturb.kind == "elsewhere" else {}
    return surroundings(ct.coarse, maps, rules.label_set, ct.grid)


def _pet_grey(pet: Volume, rules: PrepareRules, grid: Grid) -> UInt8[np.ndarray, "z y x"]:
    low_suv, high_suv = rules.pet_clip_suv
    return to_uint8(resample_linear(pet, grid, outside=PET_OUTSIDE_SUV).array_zyx, low=low_suv, high=high_suv)


def _without_units(pet: Volume, coarse_ct: Volume, files: StudyFiles) -> Volume:
    """The PET as parts of its percentile inside the body, which the CT tells."""
    there = resample_linear(coarse_ct, pet.grid, outside=CT_OUTSIDE_HU)
    inside = pet.array_zyx[body(there.array_zyx, BODY_HU)]
    return replace(pet, array_zyx=pet.array_zyx / np.float32(relative_level(inside, path=files.pet or "")))


def _on_pet(region: _Region, roi: str, files: StudyFiles, grid: Grid) -> UInt8[np.ndarray, "z y x"]:
    """A region straight from its file's grid onto the PET's; it was found good on the CT's before."""
    mask = resample_nearest(region.labels, grid).array_zyx.astype(np.uint8)
    if not mask.any():
        raise MaskError(
            f"region '{roi}' of patient '{files.patient}' is too small for the PET's grid: none of its voxels is nearest to one of "
            f"the PET's, which are {' x '.join(f'{mm:.1f}' for mm in grid.spacing_xyz_mm)} mm. Leave it out, or set 'grid: ct'."
        )
    return mask


def _pet_named(files: StudyFiles, rules: PrepareRules) -> str:
    """The PET's file for an error, and whether it was moved."""
    perturb = rules.perturb
    return (
        str(files.pet)
        if perturb is None or perturb.kind not in AXES
        else f"{files.pet} (moved by {perturb.suffix[1:]})"
    )


def _outside_shares(
    covered: Bool[np.ndarray, "z y x"],
    masks: Mapping[str, UInt8[np.ndarray, "z y x"]],
    pet: str,
    limit: float,
) -> dict[str, float]:
    if not covered.any():
        raise GeometryError(f"{pet} and its CT do not overlap in space: is the PET of another patient?")
    shares = {roi: 1.0 - float(covered[mask != 0].mean()) for roi, mask in masks.items()}
    for roi, share in shares.items():
        if share > limit:
            raise GeometryError(
                f"{share:.1%} of region '{roi}' lies outside the field of view of {pet}: at most {limit:.0%} is accepted. "
                "Check that PET and CT are of one study, or crop the mask."
            )
    return shares


@dataclass(frozen=True)
class _Region:
    """A region on the CT's grid."""

    mask_zyx: UInt8[np.ndarray, "z y x"]
    labels: Labels
    """On its file's grid."""
    outside_share: float
    notes: tuple[str, ...] = ()


def _masks(files: StudyFiles, rules: PrepareRules, grid: Grid, digests: dict[str, str]) -> dict[str, _Region]:
    """Every region on the CT grid; fills in the digests of their sources."""
    regions: dict[str, _Region] = {}
    for roi, path in files.masks.items():
        labels = read_labels(path)
        digests[f"mask:{roi}"] = decoded_sha256(labels)
        regions[roi] = _on_grid(_binary(labels, path), grid, path, rules.max_outside_share)
    if rules.derive:
        derived = _derived(files, rules, digests)
        path = next(iter(files.label_maps.values()))
        for roi, region in derived.regions.items():
            placed = _on_grid(region, grid, path, rules.max_outside_share)
            regions[roi] = replace(placed, notes=derived.notes[roi])
    return regions


def _derived(files: StudyFiles, rules: PrepareRules, digests: dict[str, str]) -> Derived:
    """The derived regions on the label map's grid; an error names the files."""
    places = {part: files.label_maps.get(part) for part in parts_needed(rules.label_set, rules.derive)}
    absent = [map_column(part) for part, place in places.items() if place is None]
    if absent:
        raise MaskError(
            f"patient '{files.patient}' has no {', '.join(absent)}, and {list(rules.derive)} of the {rules.label_set} label set "
            "are to be derived from such a label map."
        )
    maps = {part: read_labels(place) for part, place in places.items() if place is not None}
    digests |= {map_column(part): decoded_sha256(labels) for part, labels in maps.items()}
    try:
        return derive(
            maps,
            label_set=rules.label_set,
            closing_mm=rules.closing_mm,
            dilation_mm=rules.dilation_mm,
            wanted=rules.derive,
        )
    except StudyError as error:
        shown = ", ".join(place for place in places.values() if place is not None)
        raise type(error)(f"{shown}: {error}") from error


def _binary(labels: Labels, path: str) -> Labels:
    """A mask of 0 and 1; its file may use any one other value for inside."""
    values = np.unique(labels.array_zyx)
    inside = values[values != 0]
    if not inside.size:
        raise MaskError(f"{path} is empty: every voxel is 0.")
    if inside.size > 1:
        raise MaskError(
            f"{path} has the labels {inside[:5].tolist()} …: expected 0 and one other value. A label map belongs "
            "into the 'label_map' column."
        )
    return Labels((labels.array_zyx != 0).astype(np.uint16), labels.grid, labels.original_orientation)


def _on_grid(labels: Labels, grid: Grid, path: str, limit: float) -> _Region:
    """A region on the CT's grid; one of which more than `limit` lies outside it would be another region there."""
    mask = resample_nearest(labels, grid).array_zyx.astype(np.uint8)
    if not mask.any():
        raise MaskError(f"{path} has no voxel within the CT: is it the mask of another study?")
    outside = 1 - float(coverage(grid, labels.grid)[labels.array_zyx != 0].mean())
    if outside > limit:
        raise GeometryError(
            f"{outside:.1%} of a region of {path} lies outside the CT: at most {limit:.0%} is accepted. Check that both are of "
            "one study, or crop the mask."
        )
    return _Region(mask, labels, outside)
