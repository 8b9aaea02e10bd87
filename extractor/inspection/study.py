"""Puts a study together as a run would, and says what became of it; runs no network and writes nothing.

Each file is read twice: once for itself, so that every fault is told and not the first alone, and once by `prepare_study`, the
very function of a run, which decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from extractor.config import ExtractConfig
from extractor.dicom.identity import Together, together
from extractor.fetch import fetched
from extractor.inspection import checks
from extractor.inspection.files import Clean, ReadFiles, read_files
from extractor.inspection.findings import Check, RegionFacts, StudyFindings
from extractor.plan import rois_of
from extractor.prompts import kept_slices, key_rank, tight_boxes
from extractor.study import PreparedStudy, PrepareRules, StudyFiles, prepare_study
from extractor.table import StudyRow
from extractor.volumes import coverage
from store_schema.errors import EngramError


@dataclass(frozen=True)
class Inspected:
    """A study that was looked at."""

    findings: StudyFindings
    prepared: PreparedStudy | None
    """To draw: also of a study that is refused because of what lies outside; None where there is nothing to draw."""


def inspect_study(row: StudyRow, config: ExtractConfig, *, clean: Clean) -> Inspected:
    """What is understood of one study; what is wrong with it is a finding, not an exception.

    Parameters
    ----------
    clean
        Takes what must not be shown out of errors.
    """
    try:
        with fetched(row.files) as files:
            return _Look(row, config, files, _told(row.files, files, clean)).inspected()
    except (EngramError, OSError) as error:
        said = clean(f"{type(error).__name__}: {error}")
        return Inspected(StudyFindings(row.patient, config.grid, checks=(Check("files", "refused", said),)), None)


def _told(asked: StudyFiles, there: StudyFiles, clean: Clean) -> Clean:
    """Errors name the places that were asked for, not those to which they were downloaded."""
    moved = {new: old for old, new in zip(asked.places, there.places, strict=True) if new != old}

    def told(text: str) -> str:
        for new, old in moved.items():
            text = text.replace(new, old)
        return clean(text)

    return told


@dataclass(frozen=True)
class _Look:
    """One study whose files are at hand."""

    row: StudyRow
    config: ExtractConfig
    files: StudyFiles
    clean: Clean

    def inspected(self) -> Inspected:
        names = {role: self.row.record_name(role) for role in self.row.paths}
        rules = self.config.rules()
        read = read_files(self.files, names=names, declared=rules.pet_units, clean=self.clean)
        prepared, refusal = self._prepared(rules)
        shown = prepared or self._to_draw(rules)
        return Inspected(self._findings(read, shown, refusal), shown)

    def _prepared(self, rules: PrepareRules) -> tuple[PreparedStudy | None, str | None]:
        try:
            return prepare_study(self.files, rules), None
        except (EngramError, OSError) as error:
            return None, self.clean(f"{type(error).__name__}: {error}")

    def _to_draw(self, rules: PrepareRules) -> PreparedStudy | None:
        """A refused study with less asked of it, since a picture shows best what is wrong."""
        wishes = (
            (self.files, replace(rules, max_outside_share=1.0)),
            (replace(self.files, masks={}), replace(rules, derive=())),
            (replace(self.files, masks={}), replace(rules, derive=(), modalities=("CT",), grid="ct")),
        )
        found = (self._drawable(files, asked) for files, asked in wishes)
        return next((prepared for prepared in found if prepared is not None), None)

    def _drawable(self, files: StudyFiles, rules: PrepareRules) -> PreparedStudy | None:
        try:
            return prepare_study(files, rules)
        except (EngramError, OSError):
            # told already, by the attempt that counts
            return None

    def _findings(self, read: ReadFiles, prepared: PreparedStudy | None, refusal: str | None) -> StudyFindings:
        overlap = _overlap(read)
        regions = () if prepared is None else tuple(self._regions(prepared, read))
        found = None if prepared is None else prepared.alignment
        statements = [
            *checks.file_checks(read.images, read.unread),
            *checks.identity(self._together()),
            checks.field_of_view(overlap),
            checks.registration(found),
            *map(checks.region, regions),
        ]
        if refusal is not None and not any(refusal == one.refusal for one in read.unread):
            statements.append(Check("study", "refused", refusal))
        return StudyFindings(
            patient=self.row.patient,
            grid=self.config.grid,
            images=read.images,
            unread=read.unread,
            overlap=overlap,
            alignment=None if found is None else found.to_json(),
            regions=regions,
            checks=tuple(statements),
            entries=() if refusal is not None else tuple(self._entries()),
            products=tuple(self.config.products),
        )

    def _together(self) -> Together | None:
        """What two DICOM series have in common; None where one of them is none, or cannot be read, which is told elsewhere."""
        ct, pet = self.files.ct, self.files.pet
        if pet is None or not (Path(ct).is_dir() and Path(pet).is_dir()):
            return None
        try:
            return together(ct, pet)
        except EngramError:
            return None

    def _entries(self) -> Iterator[str]:
        for modality in self.config.modalities:
            yield from (f"{self.row.patient}/{modality}/{roi}" for roi in rois_of(self.row, self.config))

    def _regions(self, prepared: PreparedStudy, read: ReadFiles) -> Iterator[RegionFacts]:
        voxel_ml = float(np.prod(prepared.grid.spacing_xyz_mm)) / 1000
        for roi, mask_zyx in prepared.masks_zyx.items():
            slices = kept_slices(mask_zyx, self.config.stride)
            own = roi in self.files.masks
            yield RegionFacts(
                roi=roi,
                source="mask" if own else "label map",
                volume_ml=float(np.count_nonzero(mask_zyx) * voxel_ml),
                bearing_slices=int(mask_zyx.any(axis=(1, 2)).sum()),
                kept_slices_z=slices,
                boxes_xyxy=tuple(tuple(int(v) for v in box) for box in tight_boxes(mask_zyx, slices)),  # type: ignore[misc]
                key_slice_z=slices[key_rank(mask_zyx, slices)],
                outside_pet=prepared.outside_share.get(roi),
                outside_ct=read.outside_ct.get(roi) if own else _derived_outside(read),
            )


def _derived_outside(read: ReadFiles) -> float | None:
    """0 where the label map lies on the CT's grid, and so what is derived from it; not known otherwise."""
    same = read.grids.get("label_map") == read.grids.get("CT")
    return 0.0 if same and "CT" in read.grids else None


def _overlap(read: ReadFiles) -> dict[str, float]:
    ct, pet = read.grids.get("CT"), read.grids.get("PET")
    if ct is None or pet is None:
        return {}
    return {
        "pet_covers_ct": float(coverage(pet, ct).mean()),
        "ct_covers_pet": float(coverage(ct, pet).mean()),
    }
