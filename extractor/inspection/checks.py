"""Judges what was found of a study, one statement a subject; reads nothing and draws nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from extractor.alignment import NO_OUTLINE, Alignment
from extractor.dicom.identity import Together
from extractor.inspection.findings import Check, ImageFacts, RegionFacts, UnreadImage, Verdict

TILT_DEGREES = 2.0
"""Above, slices are not the axial ones that the network is shown of others; below is how patients lie."""
WIDE_SPACING_MM = 6.0
"""Above, a vertebra of 20 to 30 mm has few slices."""
LOW_SUV = 1.0
"""A whole PET whose highest value lies below is rarely SUV by body weight."""
AIR_HU = -900.0
SMALL_COVER = 0.5
"""Share of the CT; a PET that covers less is not wrong, and worth a look."""


def file_checks(images: Iterable[ImageFacts], unread: Iterable[UnreadImage]) -> Iterator[Check]:
    """Whether every file was read, what its units are, how it lies and how fine it is."""
    found, refused = list(images), list(unread)
    yield from (Check(f"file {one.role}", "refused", one.refusal) for one in refused)
    if not refused:
        yield Check("files", "ok", f"all {len(found)} were read")
    yield from (_units(one) for one in found if one.unit != "labels")
    yield from (_orientation(one) for one in found)
    yield from (_spacing(one) for one in found)


def _units(one: ImageFacts) -> Check:
    low, high = one.values["lowest"], one.values["highest"]
    said = f"{low:g} to {high:g} {one.unit}; {one.unit_from}"
    if one.unit == "HU" and low > AIR_HU:
        return Check(
            f"units {one.role}", "warning", f"{said}. No air below {AIR_HU:g} HU: a crop, or no Hounsfield units?"
        )
    if one.unit == "SUV" and high < LOW_SUV:
        return Check(
            f"units {one.role}", "warning", f"{said}. Nothing above SUV {LOW_SUV:g}: is it SUV by body weight?"
        )
    return Check(f"units {one.role}", "ok", said)


def _orientation(one: ImageFacts) -> Check:
    said = f"stored as {one.orientation}, turned to LPS" if one.turned else "stored as LPS, taken as it is"
    if one.tilt_degrees <= TILT_DEGREES:
        return Check(f"orientation {one.role}", "ok", said)
    tilt = f"tilted by {one.tilt_degrees:.1f} degrees against the patient's axes: slices are taken along its own axes"
    return Check(f"orientation {one.role}", "warning", f"{said}; {tilt}")


def _spacing(one: ImageFacts) -> Check:
    said = f"{times(one.spacing_xyz_mm, '.2f')} mm, {times(one.size_xyz, 'd')} voxels, {times(one.extent_xyz_mm, '.0f')} mm"
    if one.unit != "labels" and one.spacing_xyz_mm[2] > WIDE_SPACING_MM:
        thick = f"slices lie more than {WIDE_SPACING_MM:g} mm apart, so that few show a vertebra"
        return Check(f"spacing {one.role}", "warning", f"{said}; {thick}")
    return Check(f"spacing {one.role}", "ok", said)


def times(values: Iterable[float], form: str) -> str:
    """Numbers of three axes, as people write them."""
    return " × ".join(format(value, form) for value in values)


def field_of_view(overlap: Mapping[str, float]) -> Check:
    """How much of each image the other covers."""
    if not overlap:
        return Check("field of view", "not checked", "there is no PET and CT to compare")
    ct, pet = overlap["pet_covers_ct"], overlap["ct_covers_pet"]
    said = f"the PET covers {ct:.1%} of the CT, and the CT {pet:.1%} of the PET"
    if ct == 0:
        return Check("field of view", "refused", f"{said}: they do not overlap. Is the PET of another patient?")
    return Check("field of view", "ok" if ct >= SMALL_COVER else "warning", said)


def registration(found: Alignment | None) -> Check:
    """How well the PET lies on the CT."""
    if found is None:
        return Check("registration", "not checked", "there is no PET and CT to compare")
    information = f"mutual information {found.mutual_information:.3f}"
    if found.body_dice is None:
        why = (
            f"{found.body_share:.0%} of the common space is body (over {NO_OUTLINE:.0%}: hardly any outline is in view)"
            if found.body_share >= NO_OUTLINE
            else "no body was found in one of them"
        )
        return Check("registration", "not checked", f"{why}; {information}. Look at the fused pictures")
    said = f"body outlines overlap with Dice {found.body_dice:.3f}, centroids {found.centroid_mm:.1f} mm apart; {information}"
    if found.warning is None:
        return Check("registration", "ok", said)
    return Check("registration", "warning", f"{found.warning}. {information.capitalize()}")


def identity(found: Together | None) -> list[Check]:
    """Whether two DICOM series say that they belong together; nothing where one of them is no series."""
    if found is None:
        return []
    patient: tuple[Verdict, str] = {
        True: ("ok", "CT and PET name one patient"),
        False: ("warning", "CT and PET name different patients (PatientID): is the PET of this patient?"),
        None: ("not checked", "a header has no PatientID"),
    }[found.one_patient]  # type: ignore[assignment]
    frame: tuple[Verdict, str] = {
        True: ("ok", "CT and PET share a frame of reference"),
        False: ("warning", "CT and PET have different frames of reference: were they scanned, or exported, apart?"),
        None: ("not checked", "a header has no frame of reference"),
    }[found.one_frame]  # type: ignore[assignment]
    return [Check("identity", *patient), Check("frame of reference", *frame)]


def region(one: RegionFacts) -> Check:
    """What would be shown of a region to the network."""
    beyond = [
        f"{share:.1%} outside the {name}"
        for name, share in (("PET", one.outside_pet), ("CT", one.outside_ct))
        if share is not None
    ]
    kept = len(one.kept_slices_z)
    said = f"{one.volume_ml:.1f} ml on {one.bearing_slices} slices, {kept} kept; {', '.join(beyond)}"
    if kept == 1:
        return Check(f"region {one.roi}", "warning", f"{said}. One kept slice: a single valid memory")
    return Check(f"region {one.roi}", "ok", said)
