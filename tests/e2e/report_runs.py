"""Runs whose pages show every kind of table and figure, on a small planted cohort, for tests of pages; knows no browser."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from store_schema import Entry, EntryKey, Store, ViewSpec, create_store, open_store
from trainer.config import RunConfig, parse_config
from trainer.dispatch import Workers
from trainer.explaining import ExplainOptions, explain
from trainer.final import fit_final
from trainer.plan import Inputs
from trainer.predicting import Newcomers
from trainer.quality import measuring as quality
from trainer.quality.page import write_page as write_quality_page
from trainer.quality.writing import write_quality
from trainer.report.explain_page import write_explain_page
from trainer.report.page import write_report
from trainer.report.validation_page import write_validation_page
from trainer.robustness.measuring import Asked, measure
from trainer.robustness.page import write_page
from trainer.robustness.writing import write_robustness
from trainer.run import cross_validate
from trainer.saved import read_model
from trainer.study_config import parse_trusted
from trainer.trust.trusting import trust
from trainer.trust_config import TrustSettings
from trainer.validating import judge, score_others, write_validation

MASKS = ("spine_dilated", "skeleton")
SHORT = {"epochs": 12, "min_epochs": 1, "min_validation_events": 2}


def make_pages(folder: Path, kit: ModuleType, planting: ModuleType, controls: ModuleType) -> dict[str, Path]:
    """Pages of a searched run with competing events, of a study that was looked at, of a validation and of an explanation.

    `kit` draws patients and their entries, `planting` the same with patches hidden, `controls` views to hold them against.
    """
    table = _planted(folder / "a", kit, patients=90, seed=0, prefix="MM")
    _planted(folder / "b", kit, patients=120, seed=77, prefix="QX")
    _searched(folder, table)
    validated = _validated(folder)
    explained = _explained(folder, planting)
    disturbed = _disturbed(folder, kit, table)
    looked_at = _looked_at(folder, kit, table)
    _trusted(folder, kit, table, controls)
    return {
        "searched": folder / "searched/report.html",
        "study": folder / "study/report.html",
        "validation": validated,
        "explanation": explained,
        **disturbed,
        "quality": looked_at,
        "trust": folder / "study/trust/index.html",
        "controls": folder / "study/trust/controls/report.html",
    }


def _planted(place: Path, kit: ModuleType, *, patients: int, seed: int, prefix: str) -> pd.DataFrame:
    """A store and a clinical table with gaps, centres and some first events of another kind."""
    table, rng = kit.draw(patients, seed), np.random.default_rng([seed, 1])
    table["patient"] = [f"{prefix}{row:04d}" for row in range(patients)]
    place.mkdir(parents=True)
    _fill(create_store(place / "store"), kit, table)
    table["centre"] = np.where(np.arange(patients) % 2, "Oslo", "Turin")
    table["event"] = np.where((table["event"] == 1) & (rng.random(patients) < 0.15), 2, table["event"])
    table["age"] = table["age"].where(rng.random(patients) > 0.1)
    table["stage"] = table["stage"].where(rng.random(patients) > 0.2)
    table.drop(columns=["z", "log_hazard"]).to_csv(place / "clinical.csv", index=False)
    table[["patient", "log_hazard"]].to_csv(place / "truth.csv", index=False)
    return table


def _fill(store: Store, kit: ModuleType, table: pd.DataFrame, spec: ViewSpec | None = None, noise: float = 0.0) -> None:
    view = store.put_view(kit.VIEW if spec is None else spec)
    rng = np.random.default_rng(3)
    for row, (patient, z) in enumerate(zip(table["patient"], table["z"], strict=True)):
        for place, (modality, mask) in enumerate((m, r) for m in ("PET", "CT") for r in MASKS):
            entry = kit.entry((z if modality == "PET" else 0.3 * z) + noise * rng.normal(), [0, row, place])
            digest = hashlib.sha256(entry.arrays["mean_map"].tobytes()).hexdigest()
            store.publish(view, EntryKey(patient, modality, mask), entry, input_sha256=digest)


def _settings(**changes: Any) -> dict[str, Any]:
    columns = {
        "time": "months",
        "time_unit": "months",
        "event": "event",
        "competing_values": ["2"],
        "centre": "centre",
        "continuous": ["age"],
        "categorical": ["stage"],
    }
    return {"columns": columns, "splits": {"folds": 3}, "fit": SHORT, **changes}


def _cross_validate(folder: Path, name: str, config: Any) -> None:
    inputs = Inputs(folder / "a/clinical.csv", str(folder / "a/store"))
    quiet = Console(file=io.StringIO())
    report = cross_validate(config, inputs, out=str(folder / name), workers=Workers(number=0), console=quiet)
    assert report.results.complete, report.results.failures
    write_report(report.folder.url)


def _searched(folder: Path, table: pd.DataFrame) -> None:
    image = {"kind": "network", "view": "tiny", "images": {"roi": "spine_dilated"}, "hidden": [4]}
    ranges = {"fit.learning_rate": {"log": [1e-4, 1e-2]}, "dropout": {"range": [0, 0.6]}}
    settings = _settings(
        search={"mode": "both", "points": 2, "inner_folds": 2},
        models=[
            {"name": "clinical-cox", "kind": "ridge_cox"},
            {"name": "clinical-deepsurv", "kind": "network", "clinical": True, "hidden": [4], "search": ranges},
            {"name": "image-gate", "fusion": "gate", **image},
            {"name": "image-and-clinical", "clinical": True, **image},
        ],
        permuted_control={"models": ["clinical-cox"], "repeats": 19},
        oracle={"table": str(folder / "a/truth.csv"), "columns": ["log_hazard"]},
    )
    _cross_validate(folder, "searched", parse_config(settings))


def _study() -> tuple[RunConfig, TrustSettings]:
    own = {"model": ["MedSAM2"], "downsampling": ["averaging", "attention"], "settings": {"hidden": [4]}}
    rows = [
        {"origin": ["combined"], "mask": list(MASKS), "fusion": ["concatenation", "gated"], **own},
        {"origin": ["PET", "CT"], "mask": ["spine_dilated"], **own},
        {"table": "multimodal", "origin": ["PET", "combined"], "mask": ["spine_dilated"], **own, "downsampling": ["averaging"]},
        {"table": "clinical", "name": "clinical-deepsurv", "settings": {"hidden": [4]}},
    ]  # fmt: skip
    settings = _settings(views={"MedSAM2": "tiny"}, rows=rows, permuted_control=None)
    return parse_trusted(settings)


def _validated(folder: Path) -> Path:
    fit_final(str(folder / "searched"), "image-and-clinical", out=str(folder / "model"))
    card, trained = read_model(str(folder / "model"))
    others = score_others(
        card, trained, Newcomers(str(folder / "b/store"), clinical=folder / "b/clinical.csv"), card.columns
    )
    out = write_validation(judge(card, others), others, card, str(folder / "validation"))
    write_validation_page(out)
    return folder / "validation/report.html"


def _explained(folder: Path, planting: ModuleType) -> Path:
    """Of the model that was validated, three of its own patients, and one whose entry is of another image."""
    store = open_store(str(folder / "a/store"))
    base = store.resolve_view("tiny")
    view = store.put_view(planting.occlusion_view(store.view(base)))
    patients = [f"MM{row:04d}" for row in range(4)]
    for row, patient in enumerate(patients):
        for place, modality in enumerate(("PET", "CT")):
            key = EntryKey(patient, modality, MASKS[0])
            arrays = store.read(base, EntryKey(patients[min(row, 2)], modality, MASKS[0])).arrays
            hidden = [planting.noisy(arrays["memory"], [row, place, n]) for n in range(len(planting.BOXES))]
            planting.publish(store, view, key, planting.occluded_entry(arrays, hidden))
    newcomers = Newcomers(store.url, clinical=folder / "a/clinical.csv")
    out = str(folder / "explanation")
    found = explain(ExplainOptions(str(folder / "model"), newcomers), out=out, told=lambda done, of: None).found
    assert (len(found.patients), len(found.failures)) == (3, 1)
    write_explain_page(out)
    return folder / "explanation/report.html"


def _disturbed(folder: Path, kit: ModuleType, table: pd.DataFrame) -> dict[str, Path]:
    """Padding of two sizes, left out slices, and a control, judged by the model that was validated, and over folds of its run."""
    store, views = open_store(str(folder / "a/store")), []
    base = store.resolve_view(kit.VIEW.name)
    sizes = (("padding", "mm", 2.0), ("padding", "mm", 5.0), ("drop", "share", 0.5), ("random_boxes", "", 0.0))
    for place, (kind, unit, size) in enumerate(sizes):
        flags = {**kit.VIEW.flags, "perturbation": kind} | ({f"perturbation_size_{unit}": size} if unit else {})
        spec = kit.VIEW.model_copy(update={"name": f"{kit.VIEW.name}-{kind}-{place}", "flags": flags})
        _fill(store, kit, table, spec, noise=0.2 * (place + 1))
        views.append(spec.view_id)
    asked = {
        "robustness": Asked(
            store.url, base, tuple(views), str(folder / "model"), folder / "a/clinical.csv", resamples=100
        ),
        "robustness-of-folds": Asked(
            store.url, base, tuple(views), run_url=str(folder / "searched"), row="image-and-clinical", resamples=100
        ),
    }
    for name, one in asked.items():
        measured = measure(one, lambda _done, _total: None)
        write_page(measured.found, write_robustness(measured, str(folder / name)))
    return {name: folder / name / "report.html" for name in asked}


def _looked_at(folder: Path, kit: ModuleType, table: pd.DataFrame) -> Path:
    """Two views by centre, stage and out-of-fold risk, one of them with a study filed twice."""
    store = open_store(str(folder / "a/store"))
    base = store.resolve_view(kit.VIEW.name)
    copied = kit.VIEW.model_copy(update={"name": "copied", "recipe": 2})
    view = store.put_view(copied)
    for row, patient in enumerate(table["patient"][:20]):
        for modality in ("PET", "CT"):
            arrays = store.read(base, EntryKey(table["patient"][max(row, 1)], modality, MASKS[0])).arrays
            told = {"valid_layers": [True], "alignment": {"body_dice": 0.75 + row / 100}}
            digest = hashlib.sha256(arrays["mean_map"].tobytes()).hexdigest()
            store.publish(view, EntryKey(patient, modality, MASKS[0]), Entry(arrays, told), input_sha256=digest)
    asked = quality.Asked(
        store.url,
        (base, view),
        folder / "a/clinical.csv",
        groups=("stage",),
        run_url=str(folder / "searched"),
        row="clinical-cox",
        resamples=100,
    )
    measured = quality.measure(asked, lambda _done, _total: None)
    write_quality_page(measured.found, write_quality(measured, str(folder / "quality")))
    return folder / "quality/report.html"


def _trusted(folder: Path, kit: ModuleType, table: pd.DataFrame, controls: ModuleType) -> None:
    """A study, its first row held against what was disturbed, the encoder alone and two other ways; one image is another's."""
    store, base = open_store(str(folder / "a/store")), kit.VIEW
    views = (
        controls.encoder_view(base),
        *(controls.other_way(base, *way) for way in (("upfront", "pooled"), ("first", "thirds"))),
    )
    for seed, view in enumerate(views):
        controls.fill(store, view, table, 0.5, seed=seed, modalities=("PET", "CT"), roi=MASKS[0])
    quiet = Console(file=io.StringIO())
    inputs = Inputs(folder / "a/clinical.csv", store.url)
    where: dict[str, Any] = {"out": str(folder / "study"), "workers": Workers(number=0), "console": quiet}
    report = trust(*_study(), inputs, **where, told=lambda _study: None)
    states = {record.part: record.status for record in report.records}
    assert states == {"controls": "done", "robustness": "done", "explain": "incomplete", "quality": "done"}
