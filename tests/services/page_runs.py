"""Records of runs as the trainer and the extractor leave them, for the pages; computes no figure that anybody should believe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from store_schema import Store
from store_schema.published import (
    PublishedContrast,
    PublishedCurve,
    PublishedCurves,
    PublishedModel,
    PublishedRiskGroups,
    PublishedRun,
)
from store_schema.records import ObjectRecord, sha256
from trainer.kaplan_meier import kaplan_meier, log_rank

TRAINER_RUN, EXTRACTION, KILLED = "cv-2026-03-pfs", "20260311T081500Z-5f0c2a91", "20260314T170210Z-0b7e66d3"


def publish_trainer_run(store: Store, view: str, snapshot: str) -> None:
    """A study whose report tries to run a script."""
    report = (
        b"<!doctype html><html lang=en><title>Report</title><h1>Report</h1><script>document.title='ran'</script></html>"
    )
    curves = PublishedCurves(
        time_unit="months",
        last_time=96.0,
        models=tuple(_groups(name, hazard) for name, hazard in (("clinical-cox", 2.0), ("both", 3.6))),
        without={"pet-spine (permuted)": "a permuted control has no risk groups"},
    )
    _publish(
        store,
        TRAINER_RUN,
        {"report.html": report, "km.json": curves.to_bytes(), "results.json": b"{}"},
        engram="0.1.0",
        command="study",
        started_at="2026-03-15T10:02:11+00:00",
        models=_models(view),
        contrasts=_contrasts(),
        patients=227,
        studies=227,
        events=131,
        outcome="progression-free survival (pfs_event, pfs_months, months)",
        folds=5,
        snapshots={view: snapshot},
        untrained=(),
        warnings=(),
        notes=("12 patients without follow-up were left out.",),
        left_out=("out_of_fold.csv",),
    )


def _publish(store: Store, run_id: str, records: Mapping[str, bytes], **facts: Any) -> None:
    """Records of a run of the trainer, and last the summary that names them."""
    listed = {name: ObjectRecord(size_bytes=len(data), sha256=sha256(data)) for name, data in records.items()}
    run = PublishedRun(
        published_at="2026-03-15T13:47:50+00:00",
        repeats=1,
        store_id=store.store_id,
        settings_sha256=sha256(b"settings"),
        figures=(),
        records=listed,
        **facts,
    )
    for name, data in records.items():
        store.put_run(run_id, name, data)
    store.put_run(run_id, "trainer.json", run.to_bytes())


def _models(view: str) -> tuple[PublishedModel, ...]:
    return (
        _model("clinical-cox", 0.612, 0.021),
        _model("clinical-deepsurv", 0.604, 0.024, tuned="nested", tried=32),
        _model("pet-spine", 0.661, 0.018, views=(view,), tuned="nested", tried=32),
        _model("pet-spine-paper", 0.689, 0.017, views=(view,), tuned="paper", tried=64),
        _model("both", 0.684, 0.019, views=(view,), tuned="nested", tried=32),
        _model("pet-spine", 0.503, 0.022, kind="permuted", views=(view,), name="pet-spine (permuted)"),
    )


def _model(
    base: str,
    mean: float,
    se: float,
    *,
    name: str | None = None,
    kind: str = "model",
    views: tuple[str, ...] = (),
    tuned: str | None = None,
    tried: int = 1,
) -> PublishedModel:
    scores = mean + np.random.default_rng(len(base)).normal(0, se * 2, 5)
    scores += mean - scores.mean()
    return PublishedModel(
        name=name or base,
        kind=kind,
        mean=mean,
        se=se,
        folds=5,
        scores=tuple(float(one) for one in scores),
        t=(mean - 0.5) / se,
        df=4,
        p_one_sided=0.0004 if mean > 0.65 else 0.012,
        p_two_sided=0.003,
        corrected_p_one_sided=0.021,
        permutation_p=None,
        pooled_c=mean - 0.006,
        tried=tried,
        tuned=tuned,
        views=views,
        untrained=False,
    )


def _contrasts() -> tuple[PublishedContrast, ...]:
    def one(first: str, second: str, mean: float, *, primary: bool = False) -> PublishedContrast:
        return PublishedContrast(
            label=f"{first} − {second}",
            first=first,
            second=second,
            primary=primary,
            folds=5,
            mean=mean,
            se=0.024,
            low=mean - 0.06,
            high=mean + 0.06,
            t=mean / 0.024,
            df=4,
            p_two_sided=0.041,
            p_holm=None if primary else 0.12,
            note=None if primary else "exploratory",
        )

    return one("both", "clinical-cox", 0.072, primary=True), one("pet-spine", "clinical-cox", 0.049)


def _groups(model: str, hazard: float) -> PublishedRiskGroups:
    rng = np.random.default_rng(len(model))
    outcomes = []
    for scale in (60 * np.sqrt(hazard), 60 / np.sqrt(hazard)):
        event, end = rng.exponential(scale, 57), rng.uniform(18, 96, 57)
        outcomes.append((np.round(np.minimum(event, end), 1), event <= end))
    found = log_rank(
        np.concatenate([time for time, _ in outcomes]),
        np.concatenate([event for _, event in outcomes]),
        [0] * 57 + [1] * 57,
    )
    lowest, highest = (_curve(group, *pair) for group, pair in zip(("lowest", "highest"), outcomes, strict=True))
    return PublishedRiskGroups(
        model=model,
        chi_squared=found.statistic,
        nominal_p=found.p,
        permutation_p=0.0125,
        lowest=lowest,
        highest=highest,
    )


def _curve(group: str, time: np.ndarray, event: np.ndarray) -> PublishedCurve:
    found = kaplan_meier(time, event)
    columns = {
        name: tuple(getattr(found, name).tolist())
        for name in ("time", "survival", "low", "high", "at_risk", "censored")
    }
    return PublishedCurve(
        group=group,
        patients=len(time),
        events=int(event.sum()),
        median=found.median,
        events_at=tuple(found.events.tolist()),
        **columns,
    )


def publish_extractions(
    store: Store, views: Mapping[str, str], snapshot: str, items: Sequence[tuple[str, str, str, bool]]
) -> None:
    """One that ended with failures, and one that was killed; an item is patient, modality, ROI, and whether it failed."""
    start = {
        "started_at": "2026-03-11T08:15:00+00:00",
        "settings": {"model": "medsam2", "pet_units": "suv", "layouts": list(views)},
        "views": dict(views),
        "studies": len({item[0] for item in items}),
        "shard": None,
        "patients": "plain",
        "key_fingerprint": None,
        "engram": "0.1.0",
    }
    plan = [
        _item(*item, state="refused" if lost else "new", reason=_reason(item[1]) if lost else "no commit")
        for *item, lost in items
    ]
    ended = [
        _item(*item, result="failed" if lost else "committed", reason=_reason(item[1]) if lost else "")
        for *item, lost in items
    ]
    for run in (EXTRACTION, KILLED):
        store.put_run(run, "start.json", json.dumps(start).encode())
        store.put_run(run, "plan.jsonl", "".join(plan).encode())
    finish = {"snapshots": {"paper": snapshot}, "failed": sum(lost for *_, lost in items)}
    store.put_run(EXTRACTION, "outcomes.jsonl", "".join(ended).encode())
    store.put_run(EXTRACTION, "finish.json", json.dumps(finish).encode())


def _reason(modality: str) -> str:
    if modality == "PET":
        return (
            "the PET ends 84 mm above the region: 7.1% of spine_dilated lie outside its field of view, at most 5% may."
        )
    return "the label map has no label of skeleton: derive it from a whole-body label map."


def _item(patient: str, modality: str, roi: str, **more: str) -> str:
    return (
        json.dumps(
            {"patient": patient, "modality": modality, "roi": roi, "layout": "paper", "number": None, "seconds": 0.0}
            | more
        )
        + "\n"
    )


def publish_hostile_runs(store: Store, view: str, snapshot: str, evil: str) -> None:
    """A published run and an extraction whose every text is hostile, a broken one, and a run of nobody knows what."""
    _publish_hostile_trainer_run(store, view, snapshot, evil)
    start = {"started_at": evil, "engram": evil, "views": {evil: evil}, "settings": {evil: evil}, "studies": 3}
    items = [{"patient": f"MM_{i}", "state": "refused", "result": "failed", "reason": evil} for i in range(9)]
    lines = "".join(json.dumps(one) + "\n" for one in items).encode()
    for name, data in {"start.json": json.dumps(start).encode(), "plan.jsonl": lines, "outcomes.jsonl": lines}.items():
        store.put_run("extraction-1", name, data)
    store.put_run("extraction-2", "start.json", b"[]")
    store.put_run("odd-1", "note.txt", evil.encode())


def _publish_hostile_trainer_run(store: Store, view: str, snapshot: str, evil: str) -> None:
    report = f"<!doctype html><title>r</title><script>{evil}</script>".encode()
    curves = PublishedCurves(time_unit="months", last_time=96.0, models=(_groups(evil, 2.0),), without={})
    model = _model(evil, 0.61, 0.02, views=(view,), tuned="paper", tried=5)
    _publish(
        store,
        "cv-1",
        {"report.html": report, "km.json": curves.to_bytes()},
        engram=evil,
        command="cv",
        started_at=evil,
        models=(model.model_copy(update={"scores": (0.6, None, 0.62), "folds": 3, "df": 2, "untrained": True}),),
        contrasts=(),
        patients=9,
        studies=9,
        events=4,
        outcome=evil,
        folds=3,
        snapshots={view: snapshot},
        untrained=(view,),
        warnings=(evil,),
        notes=(evil,),
        left_out=(evil,),
    )
