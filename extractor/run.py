"""Runs an extraction from study table to snapshots: plan, work, record; knows no voxel and no network module.

Running the same command again resumes: what a commit holds is not made again.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

from rich.console import Console

from extractor.config import EncoderFacts, ExtractConfig, views_of
from extractor.loading import load_networks
from extractor.opening import opened
from extractor.outcome import ItemOutcome, PlanItem, one_line, to_jsonl
from extractor.plan import make_plan, plan_study
from extractor.pool import Processes, run_studies
from extractor.progress import pack_progress, study_progress
from extractor.sealing import envelope
from extractor.sending import check_sendable
from extractor.shards import Shard, elsewhere
from extractor.table import StudyRow, read_study_table
from extractor.work import StudyTask, failures
from extractor.worker import StudyResult, StudyStage, Told, WorkerSpec
from store_schema import EntryKey, Store, events
from store_schema.errors import ConfigError, StoreError, UsageError
from store_schema.files import Place, is_remote, name_of, without_secret
from store_schema.packs import make_pack
from store_schema.pseudonyms import PlainIds
from store_schema.tls import TlsFiles
from store_schema.withdrawals import withdrawn

if TYPE_CHECKING:
    from extractor.metrics import RunMetrics

LEFT_ALONE = ("refused", "withdrawn")
"""States of the plan's items that no worker touches."""
HELD = ("committed", "done", "superseded")
"""Results that have a commit."""
PACKED = "mean_map"
"""What the run packs where a view has it: all that a trainer with an averaging head reads."""


@dataclass(frozen=True)
class RunOptions:
    """Where and how a run happens; nothing here changes a number."""

    table: Place
    """Path or address."""
    store_url: str
    jobs: int | None = None
    """Processes; None leaves it to `process_count`, 0 works in this process."""
    device: str = "cpu"
    """One, or several of this machine with commas between: the processes are dealt to them in turn."""
    scheduler: str | None = None
    """Address of a running Dask scheduler, whose workers do the work instead of processes of this machine."""
    shard: Shard | None = None
    """The part of the table that this run works on; None for all of it."""
    dry_run: bool = False
    make_current: bool = False
    pack: bool = True
    """Whether the mean maps of each snapshot are packed for readers of whole cohorts."""
    ids: PlainIds = field(default_factory=PlainIds)
    """What patients are called, and the filter of every text that leaves."""
    at_once: int = 1
    """Studies whose streams share batches in a process on a GPU; more than one, and numbers differ by rounding."""
    tls: TlsFiles | None = None
    """With which the scheduler is reached; None takes Dask's own settings where its address asks for TLS."""

    @property
    def devices(self) -> tuple[str, ...]:
        """Each device once, in the order given."""
        return tuple(dict.fromkeys(name.strip() for name in self.device.split(",") if name.strip())) or ("cpu",)

    @property
    def loading_device(self) -> str:
        """Where the networks are loaded to be looked at; the machine that a cluster is called from needs no GPU."""
        return "cpu" if self.scheduler is not None else self.devices[0]


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
    pack_s: Mapping[str, float] = field(default_factory=dict)
    """Seconds that packing took, by layout."""
    missing: int = 0
    """Entries of other parts of the table that are not held yet: none is snapshot before all are."""
    lines: Mapping[str, int] = field(default_factory=dict)
    """Of the study table by patient."""
    error: str | None = None
    """Why the run's records or snapshots could not be written after the work; what was committed stands."""

    @property
    def failed(self) -> bool:
        """Whether any item failed or was refused, or the run could not be recorded."""
        refused = any(item.state == "refused" for item in self.plan)
        return refused or bool(failures(self.outcomes)) or self.error is not None


def run(
    config: ExtractConfig, options: RunOptions, *, console: Console, metrics: RunMetrics | None = None
) -> RunReport:
    """Plans, and unless it is a dry run, extracts what the plan says and snapshots the table.

    Parameters
    ----------
    metrics
        Figures that are kept while it works.

    Raises
    ------
    UsageError
        If table, settings or options are wrong; nothing was done.
    WeightsError
        If the weights do not load strictly; nothing was done.
    StoreError
        If the store cannot be opened, or takes no record of the run's beginning; nothing was extracted.
    """
    return options.ids.filtered(lambda: _planned_and_run(config, options, console, metrics))


def _planned_and_run(
    config: ExtractConfig, options: RunOptions, console: Console, metrics: RunMetrics | None
) -> RunReport:
    _check(config, options)
    if config.weights is not None:
        # Settings travel to the processes and into the record.
        config = config.model_copy(update={"weights": without_secret(config.weights)})
    known = {name: without_secret(place) for name, place in config.baseline_weights.items()}
    config = config.model_copy(update={"baseline_weights": known})
    table = read_study_table(options.table, config, options.ids)
    _check_pet_units(config, table)
    if options.scheduler is not None:
        check_sendable(table, config)
    rows = table if options.shard is None else options.shard.part(table)
    spec, facts, others = load_networks(
        config, options.store_url, device=options.devices[0], looked_at_on=options.loading_device
    )
    for one in (*([facts] if facts else []), *others.values()):
        _tell_encoder(one, console)
    store = opened(options.store_url, options.ids, dry_run=options.dry_run)
    specs = views_of(config, facts, others)
    views = {layout: view.view_id if options.dry_run else store.put_view(view) for layout, view in specs.items()}
    plan = tuple(make_plan(rows, views=views, store=store, config=config))
    states = Counter(item.state for item in plan)
    events.tell("plan", studies=len(rows), to_do=len({item.patient for item in plan if item.to_do}), items=states)
    if options.dry_run:
        return RunReport(None, views, tuple(_cleaned(plan, options.ids.clean)), lines=_lines(rows))
    key = options.ids.rule.key_fingerprint
    spec = replace(spec, store_url=store.url, store_id=store.store_id, sealed_with=key)
    return _Run(table, rows, plan, views, spec, store, config, options, console, metrics).execute()


def _cleaned[T: (PlanItem, ItemOutcome)](items: Sequence[T], clean: Callable[[str], str]) -> list[T]:
    """The items with reasons that may leave the program; ids in them are those of the store already."""
    return [replace(item, reason=one_line(clean(item.reason))) for item in items]


def _lines(rows: Sequence[StudyRow]) -> dict[str, int]:
    return {row.patient: row.line for row in rows}


def _tell_encoder(facts: EncoderFacts, console: Console) -> None:
    if events.on():
        events.tell("encoder", name=facts.name, weights_sha256=facts.weights_sha256, trained=facts.trained)
        return
    training = "trained" if facts.trained else "UNTRAINED random weights: for tests and demonstrations only"
    console.print(f"Encoder {facts.name}, weights sha256 {facts.weights_sha256[:16]}, {training}")


def _check(config: ExtractConfig, options: RunOptions) -> None:
    if options.scheduler is not None and options.jobs is not None:
        raise UsageError("--jobs counts local processes, and --scheduler names a cluster: give one of them.")
    if options.at_once > 1 and (options.scheduler is not None or not options.device.startswith("cuda")):
        raise UsageError(
            "--at-once makes batches of several studies in a process on a GPU of this machine: use it with --device cuda and "
            "without --scheduler"
        )
    if options.scheduler is not None and len(options.devices) > 1:
        raise UsageError(
            f"--device {options.device}: with --scheduler it is the device of each worker, one process a GPU: give cuda or cpu."
        )
    if options.store_url.startswith("memory://") and options.jobs != 0:
        raise UsageError(
            "a memory store lives in one process: use --jobs 0 and no --scheduler, or a folder as the store."
        )
    if options.scheduler is not None and not options.dry_run:
        from extractor.cluster import checked_tls  # noqa: PLC0415 - a run without a cluster needs no Dask

        checked_tls(options.scheduler, options.tls, "client")
    if options.jobs != 0 and not options.dry_run:
        # Other processes could open nothing: better said before anything is done.
        envelope(options.ids.rule.key_fingerprint)


def _check_pet_units(config: ExtractConfig, rows: Sequence[StudyRow]) -> None:
    """Refuses a table with PETs whose units nobody says; a DICOM series says its own."""
    unknown = [row for row in rows if row.undeclared_pet is not None]
    if config.rules().reads_pet and config.pet_units is None and unknown:
        raise ConfigError(
            f"the PET units of {len(unknown)} of {len(rows)} studies are not known (first: line {unknown[0].line} of the table): "
            "NIfTI, NRRD and MetaImage cannot say them. Declare 'pet_units: suv' in the settings if the images hold SUV by body "
            "weight; convert them first if they hold Bq/ml or counts, or declare 'pet_units: relative'."
        )


@dataclass(frozen=True)
class _Run:
    """A planned run and what it needs."""

    table: Sequence[StudyRow]
    rows: Sequence[StudyRow]
    """Those of the table that this run works on."""
    plan: tuple[PlanItem, ...]
    views: Mapping[str, str]
    spec: WorkerSpec
    store: Store
    config: ExtractConfig
    options: RunOptions
    console: Console
    metrics: RunMetrics | None

    def execute(self) -> RunReport:
        """Works through the plan, and records it before and after."""
        run_id, ids = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}", self.options.ids
        start = _start_record(self.config, self.views, len(self.rows), self.options)
        self.store.put_run(run_id, "start.json", start)
        self.store.put_run(run_id, "plan.jsonl", to_jsonl(_cleaned(self.plan, ids.recorded)))
        to_do = {item.patient for item in self.plan if item.to_do}
        aside = _without_work(self.plan, to_do)
        if self.metrics is not None:
            self.metrics.planned(self.views, aside, to_do)
        outcomes = aside + self._work(to_do)
        written = self._record(run_id, outcomes)
        return RunReport(
            run_id,
            self.views,
            tuple(_cleaned(self.plan, ids.clean)),
            tuple(_cleaned(outcomes, ids.clean)),
            written.snapshots,
            written.pack_s,
            written.missing,
            _lines(self.rows),
            None if written.error is None else ids.clean(written.error),
        )

    def _work(self, to_do: set[str]) -> list[ItemOutcome]:
        tasks = [self._task(row) for row in self.rows if row.patient in to_do]
        outcomes: list[ItemOutcome] = []
        with study_progress(self.console, {task.row.patient: task.row.line for task in tasks}) as progress:

            def tell(event: StudyStage | StudyResult) -> None:
                patient = event.task.row.patient
                if isinstance(event, StudyStage):
                    progress.stage(patient, event.stage, event.where)
                    if self.metrics is not None:
                        self.metrics.stage(event)
                    return
                made = event.outcomes if event.error is None else self._after(event, event.error)
                outcomes.extend(made)
                progress.result(patient, made)
                if self.metrics is not None:
                    self.metrics.result(event, made)

            self._spread(tasks, tell)
        return outcomes

    def _spread(self, tasks: Sequence[StudyTask], tell: Told) -> None:
        """Has the studies worked on where the options say."""
        if not tasks:
            return
        if self.options.scheduler is not None:
            from extractor.cluster import Cluster  # noqa: PLC0415 - a run without a cluster needs no Dask
            from extractor.dispatch import run_on_cluster  # noqa: PLC0415

            cluster = Cluster(self.options.scheduler, tls=self.options.tls)
            run_on_cluster(tasks, self.spec, cluster, tell=tell)
            return
        jobs = process_count(self.options, studies=len(tasks), cores=len(os.sched_getaffinity(0)))
        run_studies(tasks, self.spec, Processes(jobs, self.options.devices, at_once=self.options.at_once), tell=tell)

    def _task(self, row: StudyRow) -> StudyTask:
        mine = [item for item in self.plan if item.patient == row.patient and item.state in LEFT_ALONE]
        refused = frozenset((item.modality, item.roi, item.layout) for item in mine)
        return StudyTask(row, self.config, self.views, self.options.make_current, refused)

    def _after(self, result: StudyResult, error: str) -> list[ItemOutcome]:
        """Outcomes of a study that ended in an error: what it committed before stands, the rest failed."""
        plan = plan_study(result.task.row, views=self.views, store=self.store, config=self.config)
        held = {(item.modality, item.roi, item.layout): item.number for item in plan if item.state == "done"}
        patient = result.task.row.patient
        return [
            ItemOutcome(patient, *item, "done", "committed before its study ended in an error", held[item])
            if item in held
            else ItemOutcome(patient, *item, "failed", error)
            for item in result.task.items()
        ]

    def _record(self, run_id: str, outcomes: Sequence[ItemOutcome]) -> _Written:
        """Writes what came of the run; where that fails, the outcomes of work that is done stay."""
        written = _Written()
        try:
            self.store.put_run(run_id, "outcomes.jsonl", to_jsonl(_cleaned(outcomes, self.options.ids.recorded)))
            whole = self._whole(outcomes, written)
            for layout, view_id in self.views.items() if whole is not None else ():
                if pinned := self._pinned(whole or (), layout, view_id):
                    written.snapshots[layout] = self.store.make_snapshot(view_id, pinned)
            finish = {"snapshots": written.snapshots, "failed": len(failures(outcomes))}
            if self.options.shard is not None:
                finish["missing"] = written.missing
            self.store.put_run(run_id, "finish.json", json.dumps(finish).encode())
            for layout in written.snapshots if self.options.pack else ():
                self._pack(layout, written.snapshots[layout], written.pack_s)
        except StoreError as error:
            written.error = f"{type(error).__name__}: {error}"
        return written

    def _whole(self, outcomes: Sequence[ItemOutcome], written: _Written) -> Sequence[ItemOutcome] | None:
        """Outcomes of the whole table; None while other parts of it are not done, or where an item of this one failed."""
        if self.options.shard is None:
            return outcomes
        mine = {row.patient for row in self.rows}
        others = [row for row in self.table if row.patient not in mine]
        found = elsewhere(others, views=self.views, store=self.store, config=self.config)
        written.missing = found.missing
        if found.missing or failures(outcomes):
            return None
        return [*outcomes, *_without_work(found.held, set())]

    def _pinned(self, outcomes: Sequence[ItemOutcome], layout: str, view_id: str) -> dict[EntryKey, int | None]:
        """The table's entries in one view, each pinned to the commit that holds this table's input."""
        gone = withdrawn(self.store.location, view_id)
        held = {
            EntryKey(o.patient, o.modality, o.roi): o.number
            for o in outcomes
            if o.layout == layout and o.result in HELD
        }
        return {key: number for key, number in held.items() if key not in gone}

    def _pack(self, layout: str, snapshot_id: str, pack_s: dict[str, float]) -> None:
        """Packs the snapshot's mean maps, or its vectors, which have none."""
        started, snapshot = time.perf_counter(), self.store.snapshot(snapshot_id)
        kind = PACKED if PACKED in snapshot.commit(snapshot.keys[0]).arrays else "memory"
        with pack_progress(self.console, layout, len(snapshot)) as told:
            make_pack(snapshot, kind, told=told)
        pack_s[layout] = time.perf_counter() - started


@dataclass
class _Written:
    """What a run left in the store besides entries."""

    snapshots: dict[str, str] = field(default_factory=dict)
    pack_s: dict[str, float] = field(default_factory=dict)
    missing: int = 0
    """Entries of other parts of the table that are not held."""
    error: str | None = None


def process_count(options: RunOptions, *, studies: int, cores: int) -> int:
    """How many processes work; one a GPU unless told otherwise, since each holds the network on its own."""
    usual = len(options.devices) if options.device.startswith("cuda") else cores
    return min(usual if options.jobs is None else options.jobs, max(1, studies))


def _start_record(config: ExtractConfig, views: Mapping[str, str], studies: int, options: RunOptions) -> bytes:
    ids, settings = options.ids, config.model_dump(mode="json")
    # The digest in the view says which weights; where they lie says who keeps them there.
    settings["weights"] = _named(config.weights)
    settings["baseline_weights"] = {name: _named(place) for name, place in config.baseline_weights.items()}
    record = {
        "started_at": datetime.now(UTC).isoformat(),
        "settings": settings,
        "views": dict(views),
        "studies": studies,
        "shard": None if options.shard is None else str(options.shard),
        "patients": ids.rule.patients,
        "key_fingerprint": ids.rule.key_fingerprint,
        "engram": version("engram"),
    }
    return json.dumps(record, indent=2).encode()


def _named(weights: str | None) -> str | None:
    """Weights without the folder or address where they lie."""
    return name_of(weights) if weights is not None and ("/" in weights or is_remote(weights)) else weights


def _without_work(plan: Sequence[PlanItem], to_do: set[str]) -> list[ItemOutcome]:
    """Outcomes of items that no worker sees: refused by the plan, withdrawn, or of a study that is done altogether."""
    results = {"refused": "failed", "withdrawn": "withdrawn", "done": "done"}
    return [
        ItemOutcome(item.patient, item.modality, item.roi, item.layout, results[item.state], item.reason, item.number)  # type: ignore[arg-type]
        for item in plan
        if item.patient not in to_do or item.state in LEFT_ALONE
    ]
