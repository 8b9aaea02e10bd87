"""Says findings as text for a terminal; judges nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from extractor.inspection.checks import times
from extractor.inspection.findings import Check, ImageFacts, RegionFacts, StudyFindings

MARKS = {"ok": "ok     ", "warning": "WARNING", "refused": "REFUSED", "not checked": "–      "}


def lines(found: StudyFindings) -> Iterator[str]:
    """What was understood of one study, a line a fact."""
    told = "would be REFUSED" if found.refused else "would be extracted"
    warned = f", {found.warnings} warning(s)" if found.warnings else ""
    yield f"{found.patient}: {told}{warned}"
    for image in found.images:
        yield from _image(image)
    yield from (f"  {one.role:12s} {one.name}: not read" for one in found.unread)
    for region in found.regions:
        yield from _region(region, found.grid)
    yield "  checks"
    yield from (_check(check) for check in found.checks)
    yield from _entries(found)


def _image(one: ImageFacts) -> Iterator[str]:
    turned = "turned to LPS" if one.turned else "as it is"
    yield f"  {one.role:12s} {one.name}: {one.format}; {one.orientation}, {turned}"
    yield (
        f"  {'':12s} {times(one.size_xyz, 'd')} voxels of {times(one.spacing_xyz_mm, '.3f')} mm, "
        f"{times(one.extent_xyz_mm, '.0f')} mm in all"
    )
    values = ", ".join(f"{name} {value:.6g}" for name, value in one.values.items())
    yield f"  {'':12s} {one.unit}: {values}; {one.unit_from}"
    if one.suv is not None:
        yield f"  {'':12s} SUV from: {_suv(one.suv)}"


def _suv(made: Mapping[str, Any]) -> str:
    """What the conversion of a DICOM PET rests on, each with its unit."""
    said = {
        "dose": made["dose_bq"] and f"{made['dose_bq'] / 1e6:.1f} MBq",
        "weight": made["weight_kg"] and f"{made['weight_kg']:g} kg",
        "half-life": made["half_life_s"] and f"{made['half_life_s']:g} s",
        "decay correction": made["decay_correction"],
        "corrected for": made["corrected"] and made["corrected"].replace("\\", ", "),
        "injected at": made["injected_at"],
        "decay counted to": made["reference"] + (f" at {made['counted_to_at']}" if made["counted_to_at"] else ""),
        "elapsed": None if made["elapsed_s"] is None else f"{made['elapsed_s'] / 60:.1f} min",
        "SUV of 1": f"{made['factor']:.6g}",
        "units": made["units"],
    }
    return ", ".join(f"{name} {value}" for name, value in said.items() if value)


def _region(one: RegionFacts, grid: str) -> Iterator[str]:
    yield f"  region {one.roi} (from its {one.source}, on the {grid.upper()}'s grid)"
    kept = one.kept_slices_z
    yield (
        f"  {'':12s} {one.volume_ml:.1f} ml, {one.bearing_slices} slices, {len(kept)} kept: z {kept[0]} down to {kept[-1]}, "
        f"largest at z {one.key_slice_z}"
    )
    sizes = [(box[2] - box[0] + 1, box[3] - box[1] + 1) for box in one.boxes_xyxy]
    widths, heights = zip(*sizes, strict=True)
    yield f"  {'':12s} boxes {min(widths)}–{max(widths)} × {min(heights)}–{max(heights)} voxels; first {list(one.boxes_xyxy[0])}"
    yield f"  {'':12s} outside the PET {_share(one.outside_pet)}, outside the CT {_share(one.outside_ct)}"


def _share(value: float | None) -> str:
    return "not known" if value is None else f"{value:.2%}"


def _check(one: Check) -> str:
    return f"    {MARKS[one.verdict]} {one.name}: {one.said}"


def _entries(found: StudyFindings) -> Iterator[str]:
    if not found.entries:
        yield "  entries: none; mend what is refused and look again"
        return
    yield f"  entries: {len(found.entries)} × {len(found.products)} views ({', '.join(found.products)})"
    yield from (f"    {entry}" for entry in found.entries)
