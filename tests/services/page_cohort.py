"""A cohort as people would look at it: forty patients with pictures, gaps, withdrawals, snapshots and runs; tests nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from extractor.intensity import to_uint8
from extractor.phantom import CT_GRID, PET_GRID, paint_patient
from extractor.phantom_table import draw_factors
from extractor.preview import render_preview
from extractor.prompts import kept_slices, tight_boxes
from extractor.regions import derive_regions
from extractor.study import PreparedStudy
from extractor.volumes import Labels, Volume, resample_linear
from store_schema import Entry, EntryKey, Store, create_store
from store_schema.records import Encoder, Intensity, Layout, Prompt, Source, ViewSpec, sha256
from store_schema.withdraw import withdraw

PAINTED = 3
"""Patients that are painted; the others borrow their pictures."""
STRIDE = 2
MEMORY = (2, 8, 64, 64)
ROIS = ("spine_dilated", "skeleton")
MODALITIES = ("CT", "PET")
VERSIONS = {"engram": "0.1.0", "torch": "2.8.0", "sam2": "1.1.0", "SimpleITK": "2.5.2", "numpy": "2.3.1"}
WITHDRAWN = ("MM_0012", "MM_0029")


@dataclass(frozen=True)
class Cohort:
    """What was made."""

    store: Store
    view: str
    """With masks and previews."""
    pooled: str
    """Vectors of the same pass, without pictures."""
    snapshot: str
    withdrawn: str
    """A snapshot that names patients who were withdrawn later."""


def make_cohort(folder: Path, runs: Any, *, patients: int = 40) -> Cohort:
    """A store in a folder; `runs` is the module that publishes runs."""
    store = create_store(str(folder))
    view, pooled = store.put_view(_view("paper", MEMORY)), store.put_view(_view("pooled", (1, 512, 1, 1)))
    studies = [_painted(number) for number in range(PAINTED)]
    for number in range(patients):
        _publish_patient(store, view, pooled, number, studies[number % PAINTED])
    _publish_again(store, view, studies[0])
    withdrawn = store.make_snapshot(view, where=["modality=PET"])
    withdraw(store, patients=list(WITHDRAWN), reason="consent withdrawn on 2026-03-12")
    snapshot = store.make_snapshot(view)
    runs.publish_trainer_run(store, view, snapshot)
    runs.publish_extractions(store, {"paper": view, "pooled": pooled}, snapshot, _items(patients))
    return Cohort(store, view, pooled, snapshot, withdrawn)


def _items(patients: int) -> list[tuple[str, str, str, bool]]:
    """Patient, modality, ROI, and whether it failed."""
    return [
        (patient_name(number), modality, roi, is_missing(number, modality, roi))
        for number in range(patients)
        for modality in MODALITIES
        for roi in ROIS
    ]


def patient_name(number: int) -> str:
    """Id of a patient."""
    return f"MM_{number + 1:04d}"


def is_missing(number: int, modality: str, roi: str) -> bool:
    """Whether nothing was committed of an entry."""
    return (number % 11 == 4 and modality == "PET") or (number % 13 == 7 and roi == "skeleton")


def _view(layout: str, shape: tuple[int, ...]) -> ViewSpec:
    return ViewSpec(
        name=f"medsam2-sequential-{layout}",
        encoder=Encoder(name="medsam2", image_size=512, weights_sha256=sha256(b"medsam2"), trained=True),
        intensity={
            "CT": Intensity(unit="HU", low=-500, high=1300, outside=-1024),
            "PET": Intensity(unit="SUV", low=0, high=10, outside=0),
        },
        prompt=Prompt(kind="box", mode="sequential", stride=STRIDE),
        layout=Layout(name=layout, shape=shape),
        flags={"fill_hole_area": 0},
        precision="bfloat16",
        recipe=1,
        grid="ct",
        regions={"spine_dilated": {"closing_mm": 10.0, "dilation_mm": 10.0}},
    )


def _painted(number: int) -> PreparedStudy:
    """One patient of the synthetic cohort, prepared as the extractor does it, without files."""
    ct_hu, pet_suv, labels = paint_patient(draw_factors(PAINTED, 7, "standard"), number, seed=7, kind="standard")
    pet = resample_linear(Volume(pet_suv, PET_GRID, "LPS"), CT_GRID, outside=0.0)
    images = {"CT": to_uint8(ct_hu, low=-500.0, high=1300.0), "PET": to_uint8(pet.array_zyx, low=0.0, high=10.0)}
    regions = derive_regions(Labels(labels, CT_GRID, "LPS"))
    masks = {roi: (regions[roi].array_zyx != 0).astype(np.uint8) for roi in ROIS}
    return PreparedStudy(
        images, masks, CT_GRID, {"CT": "LPS", "PET": "LPS"}, {}, outside_share=dict.fromkeys(ROIS, 0.0)
    )


def _publish_patient(store: Store, view: str, pooled: str, number: int, study: PreparedStudy) -> None:
    for modality in MODALITIES:
        for roi in ROIS:
            if is_missing(number, modality, roi):
                continue
            key, seed = EntryKey(patient_name(number), modality, roi), number * 10 + len(modality + roi)
            _publish(_at(store, number), view, key, _entry(study, modality, roi, seed), f"{key} 0")
            if number < 8:
                _publish(_at(store, number), pooled, key, _vector(study, modality, roi, seed), f"{key} 0 pooled")


def _at(store: Store, number: int) -> Store:
    moment = datetime(2026, 3, 11, 8, 15, tzinfo=UTC) + timedelta(minutes=7 * number)
    return replace(store, clock=lambda: moment.isoformat(timespec="seconds"))


def _publish_again(store: Store, view: str, study: PreparedStudy) -> None:
    """Two later commits of one entry, as after a corrected mask."""
    key = EntryKey(patient_name(0), "PET", "spine_dilated")
    for again in (1, 2):
        moment = f"2026-03-{11 + again}T09:30:00+00:00"
        _publish(
            replace(store, clock=lambda at=moment: at),
            view,
            key,
            _entry(study, "PET", "spine_dilated", 900 + again),
            f"{key} {again}",
        )


def _publish(store: Store, view: str, key: EntryKey, entry: Entry, source: str) -> None:
    sources = [
        Source(
            role="CT",
            path=f"9d1f0a3b5c7e2f48/{key.patient}_ct.nii.gz",
            size_bytes=231_904_112,
            mtime_ns=1_773_216_000_000_000_000,
        ),
        Source(
            role="PET",
            path=f"9d1f0a3b5c7e2f48/{key.patient}_pet.nii.gz",
            size_bytes=18_412_007,
            mtime_ns=1_773_216_000_000_000_000,
        ),
        Source(
            role="label_map",
            path=f"s3://studies/labels/{key.patient}.nii.gz",
            size_bytes=1_204_551,
            etag="9f86d081884c7d659a2f",
        ),
    ]
    timings = {"load": 1.62, "encode": 8.41, "attend": 3.05, "write": 0.31}
    store.publish(
        view, key, entry, input_sha256=sha256(source.encode()), sources=sources, versions=VERSIONS, timings_s=timings
    )


def _entry(study: PreparedStudy, modality: str, roi: str, seed: int) -> Entry:
    mean_map = _map(study, modality, roi, seed)
    memory = np.broadcast_to(mean_map, MEMORY).astype(np.float16)
    slices = kept_slices(study.masks_zyx[roi], STRIDE)
    boxes = tight_boxes(study.masks_zyx[roi], slices)
    preview = render_preview(study, modality, roi, slices, boxes)
    arrays = {"memory": memory, "mean_map": mean_map, "mask": study.masks_zyx[roi], "preview": preview}
    return Entry(arrays, _attributes(study, modality, roi))


def _vector(study: PreparedStudy, modality: str, roi: str, seed: int) -> Entry:
    memory = np.random.default_rng(seed).normal(size=(1, 512, 1, 1)).astype(np.float16)
    return Entry({"memory": memory}, _attributes(study, modality, roi) | {"valid_layers": [True]})


def _attributes(study: PreparedStudy, modality: str, roi: str) -> dict[str, object]:
    slices = kept_slices(study.masks_zyx[roi], STRIDE)
    return {
        "grid": asdict(study.grid),
        "original_orientation": study.original_orientations[modality],
        "kept_slices_z": list(slices),
        "boxes_xyxy": tight_boxes(study.masks_zyx[roi], slices).astype(int).tolist(),
        "valid_layers": [True, True],
        "outside_share": 0.0,
        "alignment": {"body_dice": 0.94, "centroid_mm": 3.2},
        "warnings": ["vertebrae that the label map has not: C1, C2"] if roi == "spine_dilated" else [],
    }


def _map(study: PreparedStudy, modality: str, roi: str, seed: int) -> np.ndarray:
    """Something like a memory map: a slice seen through a small network."""
    mask = study.masks_zyx[roi]
    z = int(np.argmax(mask.any(axis=2).sum(axis=1)))
    slice_yx = study.images_zyx[modality][z].astype(np.float32) / 255 + 0.6 * mask[z]
    rows, columns = (np.linspace(0, size - 1, 64).astype(int) for size in slice_yx.shape)
    noise = np.random.default_rng(seed).normal(0, 0.03, (64, 64))
    return np.asarray(0.11 + 0.2 * slice_yx[np.ix_(rows, columns)] + noise, dtype=np.float32)
