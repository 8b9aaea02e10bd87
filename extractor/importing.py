"""Brings a table of features into a store as a view of vectors: plan, write, snapshot, record; knows no image and no network.

Running the same command again resumes: a row that a commit holds is not written again.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np

from extractor.feature_table import FeatureRow, FeatureTable, read_feature_table
from extractor.opening import opened
from extractor.outcome import ItemOutcome, PlanItem, State, to_jsonl
from extractor.plan import Contents, contents
from store_schema import Encoder, Entry, EntryKey, Layout, Prompt, Source, Store, ViewSpec
from store_schema.errors import EngramError, EntryWithdrawnError, StoreError, TableError
from store_schema.files import Place, without_secret
from store_schema.folders import fingerprint_of
from store_schema.packs import make_pack
from store_schema.parallel import each
from store_schema.pseudonyms import PlainIds
from store_schema.vectors import MISSING
from store_schema.withdrawals import withdrawn

FEATURES_RECIPE = 1
"""Raised whenever our own code changes what is stored of a row."""
NO_WEIGHTS = hashlib.sha256(b"").hexdigest()
"""Stands in a view for the weights of a network that there is none of."""
RECORDED_VERSIONS = ("engram", "numpy", "pandas", "zarr")
REASONS: Mapping[State, str] = {
    "new": "no commit holds this entry",
    "done": "the current commit has this row",
    "superseded": "an earlier commit has this row and a later one replaced it; --make-current commits it again",
    "stale": "the row changed since the last commit",
    "withdrawn": "withdrawn from the store: it is neither read nor written",
}
HELD = ("committed", "done", "superseded")


@dataclass(frozen=True)
class ImportOptions:
    """What is imported, as what, and where to."""

    table: Place
    store_url: str
    name: str
    """Of the view."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """How the features were measured; part of the view."""
    leave_out: tuple[str, ...] = ()
    dry_run: bool = False
    make_current: bool = False
    pack: bool = True
    ids: PlainIds = field(default_factory=PlainIds)


@dataclass(frozen=True)
class ImportReport:
    """What was planned and done."""

    view_id: str
    features: int
    missing: int
    """Values that are not known, of all rows."""
    plan: tuple[PlanItem, ...]
    outcomes: tuple[ItemOutcome, ...] = ()
    snapshot: str | None = None
    """Exactly the table's entries that are committed."""
    error: str | None = None
    """Why the run's records or snapshot could not be written after the work; what was committed stands."""

    @property
    def failed(self) -> bool:
        """Whether a row was refused or not written, or the run could not be recorded."""
        bad = any(item.state == "refused" for item in self.plan) or any(o.result == "failed" for o in self.outcomes)
        return bad or self.error is not None


def features_view(name: str, names: Sequence[str], settings: Mapping[str, str]) -> ViewSpec:
    """The specification of a table's view: it is told from others by its features and the settings given with it."""
    return ViewSpec(
        name=name,
        encoder=Encoder(name="table", image_size=1, weights_sha256=NO_WEIGHTS, trained=True),
        intensity={},
        prompt=Prompt(kind="none", mode="table", stride=1),
        layout=Layout(
            name="features", shape=(1, len(names), 1, 1), dtype="float32", features=tuple(names), missing=MISSING
        ),
        flags=dict(settings),
        precision="float32",
        recipe=FEATURES_RECIPE,
        grid="ct",
    )


def import_features(options: ImportOptions) -> ImportReport:
    """Plans, and unless it is a dry run, writes what is new or stale and snapshots the table.

    Raises
    ------
    UsageError
        If table, name or options are wrong; nothing was done.
    StoreError
        If the store cannot be opened, or takes no record of the run's beginning; nothing was written.
    """
    return options.ids.filtered(lambda: _import(options))


def _import(options: ImportOptions) -> ImportReport:
    options.ids.know(places=[without_secret(options.table)])
    # Before the table is read: one that is replaced meanwhile is then another source.
    source = _source(options)
    table = read_feature_table(options.table, options.ids, leave_out=options.leave_out)
    view = features_view(options.name, table.names, options.settings)
    store = opened(options.store_url, options.ids, dry_run=options.dry_run)
    view_id = view.view_id if options.dry_run else store.put_view(view)
    work = _Import(options, table, store, view_id, source)
    plan = work.plan()
    report = ImportReport(view_id, len(table.names), table.missing, tuple(_cleaned(plan, options.ids.clean)))
    return report if options.dry_run else work.execute(plan, report)


def _source(options: ImportOptions) -> Source:
    place = without_secret(options.table)
    try:
        found = fingerprint_of(place)
    except OSError as error:
        raise TableError(f"{place} cannot be read as a feature table: {error}") from error
    return Source(
        role="features",
        path=options.ids.source(place),
        size_bytes=found.size_bytes,
        mtime_ns=found.mtime_ns,
        etag=found.etag,
    )


def _cleaned[T: (PlanItem, ItemOutcome)](items: Sequence[T], clean: Callable[[str], str]) -> list[T]:
    return [replace(item, reason=clean(item.reason)) for item in items]


def input_sha256(row: FeatureRow, view_id: str) -> str:
    """Digest of what is stored and as what: the view, then the row's values as little-endian float64, one NaN for all."""
    values = np.where(np.isnan(row.values), np.nan, row.values) + 0.0
    return hashlib.sha256(f"{view_id}\n".encode() + values.astype("<f8").tobytes()).hexdigest()


@dataclass(frozen=True)
class _Import:
    """A table on its way into a store."""

    options: ImportOptions
    table: FeatureTable
    store: Store
    view_id: str
    source: Source

    def plan(self) -> list[PlanItem]:
        """What stands before each row."""
        there = contents(self.store)
        return list(each(lambda row: self._planned(row, there), self.table.rows, parallel=self.store.location.parallel))

    def _planned(self, row: FeatureRow, there: Contents) -> PlanItem:
        state, reason = self._judged(row, there)
        return PlanItem(*_names(row.key), self.options.name, state, reason)

    def _judged(self, row: FeatureRow, there: Contents) -> tuple[State, str]:
        numbers = there.numbers.get(self.view_id)
        if row.key in there.withdrawn.get(self.view_id, ()):
            return "withdrawn", REASONS["withdrawn"]
        if refusal := row.problem or there.refusal(row.key):
            return "refused", refusal
        if numbers is not None and row.key not in numbers:
            return "new", REASONS["new"]
        try:
            state = self.store.state(self.view_id, row.key, input_sha256(row, self.view_id))
        except EngramError as error:
            return "refused", f"{type(error).__name__}: {error}"
        return state, REASONS[state]

    def execute(self, plan: Sequence[PlanItem], report: ImportReport) -> ImportReport:
        """Writes what the plan says, and records it before and after."""
        run_id, ids = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}", self.options.ids
        self.store.put_run(run_id, "start.json", self._start_record())
        self.store.put_run(run_id, "plan.jsonl", to_jsonl(_cleaned(plan, ids.recorded)))
        pairs = list(zip(self.table.rows, plan, strict=True))
        outcomes = list(each(lambda pair: self._outcome(*pair), pairs, parallel=self.store.location.parallel))
        snapshot, error = self._record(run_id, outcomes)
        return replace(
            report,
            outcomes=tuple(_cleaned(outcomes, ids.clean)),
            snapshot=snapshot,
            error=None if error is None else ids.clean(error),
        )

    def _outcome(self, row: FeatureRow, item: PlanItem) -> ItemOutcome:
        names = (*_names(row.key), self.options.name)
        if item.state == "refused":
            return ItemOutcome(*names, "failed", item.reason)
        if item.state == "withdrawn":
            return ItemOutcome(*names, "withdrawn", item.reason)
        try:
            published = self.store.publish(
                self.view_id,
                row.key,
                self._entry(row),
                input_sha256=input_sha256(row, self.view_id),
                sources=[self.source],
                versions={name: version(name) for name in RECORDED_VERSIONS},
                make_current=self.options.make_current,
            )
        except EntryWithdrawnError:
            return ItemOutcome(*names, "withdrawn", REASONS["withdrawn"])
        except (EngramError, OSError) as error:
            return ItemOutcome(*names, "failed", f"{type(error).__name__}: {error}")
        number = self._number(row, published.commit.number, superseded=published.outcome == "superseded")
        return ItemOutcome(*names, published.outcome, item.reason, number)

    def _number(self, row: FeatureRow, current: int, *, superseded: bool) -> int:
        """The commit that holds this row."""
        if not superseded:
            return current
        digest, history = input_sha256(row, self.view_id), self.store.history(self.view_id, row.key)
        return max(commit.number for commit in history if commit.input_sha256 == digest)

    def _entry(self, row: FeatureRow) -> Entry:
        names = [name for name, value in zip(self.table.names, row.values, strict=True) if np.isnan(value)]
        return Entry({"memory": row.vector}, {"valid_layers": [True], "missing": names})

    def _start_record(self) -> bytes:
        record = {
            "started_at": datetime.now(UTC).isoformat(),
            "settings": {"name": self.options.name, **self.options.settings},
            "views": {self.options.name: self.view_id},
            "entries": len(self.table.rows),
            "patients": self.options.ids.rule.patients,
            "key_fingerprint": self.options.ids.rule.key_fingerprint,
            "engram": version("engram"),
        }
        return json.dumps(record, indent=2).encode()

    def _record(self, run_id: str, outcomes: Sequence[ItemOutcome]) -> tuple[str | None, str | None]:
        """The snapshot, and why not all could be written."""
        snapshot = None
        try:
            self.store.put_run(run_id, "outcomes.jsonl", to_jsonl(_cleaned(outcomes, self.options.ids.recorded)))
            gone = withdrawn(self.store.location, self.view_id)
            held = {EntryKey(o.patient, o.modality, o.roi): o.number for o in outcomes if o.result in HELD}
            if pinned := {key: number for key, number in held.items() if key not in gone}:
                snapshot = self.store.make_snapshot(self.view_id, pinned)
            failed = sum(o.result == "failed" for o in outcomes)
            finish = {"snapshots": {self.options.name: snapshot} if snapshot else {}, "failed": failed}
            self.store.put_run(run_id, "finish.json", json.dumps(finish).encode())
            if snapshot and self.options.pack:
                make_pack(self.store.snapshot(snapshot), "memory")
        except StoreError as error:
            return snapshot, f"{type(error).__name__}: {error}"
        return snapshot, None


def _names(key: EntryKey) -> tuple[str, str, str]:
    return key.patient, key.modality, key.roi
