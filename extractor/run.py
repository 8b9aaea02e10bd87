"""Runs an extraction from study table to snapshots: plan, work, record; knows no voxel and no network module.

Running the same command again resumes: what a commit holds is not made again.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from extractor.config import EncoderFacts, ExtractConfig, views_of
from extractor.outcome import ItemOutcome, PlanItem, to_jsonl
from extractor.plan import make_plan, rois_of
from extractor.pool import StudyResult, WorkerSpec, run_studies
from extractor.table import StudyRow, read_study_table
from extractor.work import StudyTask, failures
from store_schema import EntryKey, Store, open_store
from store_schema.errors import ConfigError, StoreNotFoundError, UsageError

DEFAULT_WEIGHTS = "MedSAM2_latest.pt"


@dataclass(frozen=True)
class RunOptions:
    """Where and how a run happens; nothing here changes a number."""

    table: Path
    store_url: str
    jobs: int | None = None
    """Processes; None takes one a core, 0 works in this process."""
    device: str = "cpu"
    dry_run: bool = False
    make_current: bool = False


@dataclass(frozen=True)
class RunReport:
    """What a run planned and did."""

    run_id: str | None
    """None for a dry run, which leaves no record."""
    views: Mapping[str, str]
    plan: tuple[PlanItem, ...]
    outcomes: tuple[ItemOutcome, ...] = ()
    snapshots: Mapping[str, str] | None = None
    """Snapshot id by layout: exactly the study table's entries that are committed."""

    @property
    def failed(self) -> bool:
        """Whether any item failed or was refused."""
        return bool(failures(self.outcomes)) or any(item.state == "refused" for item in self.plan)


def run(config: ExtractConfig, options: RunOptions, *, console: Console) -> RunReport:
    """Plans, and unless it is a dry run, extracts what the plan says and snapshots the table.

    Raises
    ------
    UsageError
        If table, settings or options are wrong; nothing was done.
    WeightsError
        If the weights do not load strictly.
    """
    _check(config, options)
    rows = read_study_table(options.table, config)
    spec, facts = _load(config, options)
    console.print(f"Encoder {facts.name}, weights sha256 {facts.weights_sha256[:16]}, {_training(facts)}")
    store = _open(options)
    specs = views_of(config, facts)
    views = {layout: view.view_id if options.dry_run else store.put_view(view) for layout, view in specs.items()}
    plan = tuple(make_plan(rows, views=views, store=store, config=config))
    if options.dry_run:
        return RunReport(run_id=None, views=views, plan=plan)
    return _Run(rows, plan, views, spec, store, config, options, console).execute()


def _open(options: RunOptions) -> Store:
    """The store; for a dry run over an address without one, an empty one in memory."""
    if not options.dry_run:
        return open_store(options.store_url, create=True)
    try:
        return open_store(options.store_url)
    except StoreNotFoundError:
        return open_store(f"memory://dry-run-{uuid.uuid4().hex}", create=True)


def _training(facts: EncoderFacts) -> str:
    return "trained" if facts.trained else "UNTRAINED random weights: for tests and demonstrations only"


def _check(config: ExtractConfig, options: RunOptions) -> None:
    if "PET" in config.modalities and config.pet_units is None:
        raise ConfigError(
            "the PET units are not known: NIfTI, NRRD and MetaImage cannot say them. Declare 'pet_units: suv' in the settings if "
            "the images hold SUV by body weight; convert them first if they hold Bq/ml or counts."
        )
    if options.store_url.startswith("memory://") and options.jobs != 0:
        raise UsageError("a memory store lives in one process: use --jobs 0, or a folder as the store.")


def _load(config: ExtractConfig, options: RunOptions) -> tuple[WorkerSpec, EncoderFacts]:
    """Loads the network once here, so that a wrong checkpoint fails before any worker starts."""
    from extractor.segmenter import load_segmenter  # noqa: PLC0415 - keeps --help and table errors instant

    if config.weights is None and config.model == "mini":
        raise ConfigError("the mini model has no published weights: give --weights random:SEED or a checkpoint path.")
    weights = config.weights or DEFAULT_WEIGHTS
    segmenter = load_segmenter(config.model, weights, device=options.device, precision=config.precision)
    facts = EncoderFacts(
        name=segmenter.name,
        image_size=segmenter.image_size,
        weights_sha256=segmenter.weights_sha256,
        trained=segmenter.trained,
        flags=dict(segmenter.flags),
    )
    spec = WorkerSpec(options.store_url, config.model, weights, facts.weights_sha256, options.device, config.precision)
    return spec, facts


@dataclass(frozen=True)
class _Run:
    """A planned run and what it needs."""

    rows: Sequence[StudyRow]
    plan: tuple[PlanItem, ...]
    views: Mapping[str, str]
    spec: WorkerSpec
    store: Store
    config: ExtractConfig
    options: RunOptions
    console: Console

    def execute(self) -> RunReport:
        """Works through the plan, and records it before and after."""
        run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"
        self.store.put_run(run_id, "start.json", _start_record(self.config, self.views, len(self.rows)))
        self.store.put_run(run_id, "plan.jsonl", to_jsonl(self.plan))
        to_do = {item.patient for item in self.plan if item.to_do}
        outcomes = _without_work(self.plan, to_do) + self._work(to_do)
        self.store.put_run(run_id, "outcomes.jsonl", to_jsonl(outcomes))
        snapshots = self._snapshots(outcomes)
        finish = json.dumps({"snapshots": snapshots, "failed": len(failures(outcomes))}).encode()
        self.store.put_run(run_id, "finish.json", finish)
        return RunReport(run_id, self.views, self.plan, tuple(outcomes), snapshots)

    def _work(self, to_do: set[str]) -> list[ItemOutcome]:
        make_current = self.options.make_current
        tasks = [StudyTask(row, self.config, self.views, make_current) for row in self.rows if row.patient in to_do]
        jobs = (os.cpu_count() or 1) if self.options.jobs is None else self.options.jobs
        outcomes: list[ItemOutcome] = []
        with _progress(self.console) as progress:
            bar = progress.add_task("studies", total=len(tasks), failed=0)
            with closing(run_studies(tasks, self.spec, jobs=min(jobs, max(1, len(tasks))))) as results:
                for result in results:
                    outcomes += _outcomes(result)
                    failed = len({outcome.patient for outcome in failures(outcomes)})
                    progress.update(bar, advance=1, failed=failed)
        return outcomes

    def _snapshots(self, outcomes: Sequence[ItemOutcome]) -> dict[str, str]:
        """One snapshot a view of the table's entries, each pinned to the commit that holds this table's input."""
        snapshots: dict[str, str] = {}
        for layout, view_id in self.views.items():
            held = [o for o in outcomes if o.layout == layout and o.result != "failed"]
            pinned = {EntryKey(o.patient, o.modality, o.roi): o.number for o in held}
            if pinned:
                snapshots[layout] = self.store.make_snapshot(view_id, pinned)
        return snapshots


def _start_record(config: ExtractConfig, views: Mapping[str, str], studies: int) -> bytes:
    record = {
        "started_at": datetime.now(UTC).isoformat(),
        "settings": config.model_dump(mode="json"),
        "views": dict(views),
        "studies": studies,
        "engram": version("engram"),
    }
    return json.dumps(record, indent=2).encode()


def _without_work(plan: Sequence[PlanItem], to_do: set[str]) -> list[ItemOutcome]:
    """Outcomes of studies that no worker sees: refused by the plan, or done altogether."""
    results = {"refused": "failed", "done": "done"}
    return [
        ItemOutcome(item.patient, item.modality, item.roi, item.layout, results[item.state], item.reason, item.number)  # type: ignore[arg-type]
        for item in plan
        if item.patient not in to_do
    ]


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


def _outcomes(result: StudyResult) -> list[ItemOutcome]:
    """Outcomes by item; an error of the whole study counts against each of its items."""
    if result.error is None:
        return list(result.outcomes)
    task = result.task
    return [
        ItemOutcome(task.row.patient, modality, roi, layout, "failed", result.error)
        for modality in task.config.modalities
        for roi in rois_of(task.row, task.config)
        for layout in task.views
    ]
