"""Publishes a finished run into a store as records that everybody of the project may read; knows no service and fits nothing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from store_schema import Store, open_store
from store_schema.errors import AlreadyExistsError, NotCommittedError, UsageError
from store_schema.keys import check_id
from store_schema.published import SUMMARY, PublishedRun
from store_schema.records import sha256
from store_schema.writer import utc_now
from trainer.patient_free import ids_of, refuse_named, without_gates, without_patients
from trainer.published_records import command_of, drawings_of, facts_of, summary_of
from trainer.report.figures import draw_all
from trainer.report.page import keep_report
from trainer.report.reading import FinishedRun, read_run
from trainer.run_folder import REPORT, RESULTS, RUN, RunFolder

ID_DIGITS = 16


@dataclass(frozen=True)
class Publication:
    """Where a run was published."""

    run_id: str
    url: str
    """Of the store."""
    before: bool
    """Whether it was there already."""


def publishing_store(url: str) -> Store:
    """The store at an address, if runs can be published there.

    Raises
    ------
    UsageError
        If it can only be read.
    StoreError
        If there is none, or it cannot be reached.
    """
    store = open_store(url)
    if not store.location.can_write:
        raise UsageError(f"{store.url} can only be read: publish with a key of the write scope, or into another store")
    return store


def publish_run(
    run_url: str, store: Store, *, run_id: str | None = None, clock: Callable[[], str] = utc_now
) -> Publication:
    """Publish a finished run; published again, or after a lost answer, it is the same records under the same id.

    A run folder without a report gets one. Nothing that tells of single patients is published: see `trainer.patient_free`.

    Parameters
    ----------
    run_url
        Run folder.
    store
        Where to; the run may have read another one.
    run_id
        Name of the published run; by default its command and a digest of what it is.
    clock
        Gives `published_at`.

    Raises
    ------
    NotCommittedError
        If the folder holds no finished run.
    UsageError
        If the run is incomplete, a record would name a patient, or the id cannot be one.
    AlreadyExistsError
        If another run has the id.
    StoreError
        If run or store cannot be read, or the store not be written.
    """
    folder = RunFolder.open(run_url)
    run = read_run(folder)
    _refuse_incomplete(run, folder)
    named = run_id_of(run, folder) if run_id is None else check_id("run", run_id)
    public, ids = without_patients(run), ids_of(run)
    facts = facts_of(public)
    refuse_named(facts, ids)
    if _is_there(store, named, facts):
        return Publication(named, store.url, before=True)
    summary = _keep_all(store, named, _Drawing(folder, run, public, ids), facts, clock())
    try:
        store.put_run(named, SUMMARY, summary.to_bytes())
    except AlreadyExistsError:
        # somebody else published the same run in the meantime, at another time of day
        return Publication(named, store.url, before=_is_there(store, named, facts))
    return Publication(named, store.url, before=False)


def run_id_of(run: FinishedRun, folder: RunFolder) -> str:
    """The same for the same run, and for no other."""
    told = (folder.read(RESULTS) or b"") + (folder.read(RUN) or b"")
    return f"{command_of(run)}-{sha256(told)[:ID_DIGITS]}"


@dataclass(frozen=True)
class _Drawing:
    """What the page and the figures of a run are drawn from."""

    folder: RunFolder
    run: FinishedRun
    public: FinishedRun
    """The run without patients."""
    ids: frozenset[str]


def _keep_all(
    store: Store, run_id: str, drawing: _Drawing, facts: Mapping[str, bytes], published_at: str
) -> PublishedRun:
    """Write every record but the summary, which it gives."""
    figures = draw_all(drawing.run)
    if drawing.folder.read(REPORT) is None:
        keep_report(drawing.folder, drawing.run, figures)
    drawn = drawings_of(drawing.public, without_gates(figures))
    refuse_named(drawn.records, drawing.ids)
    planned = summary_of(drawing.public, drawn.figures, {**facts, **drawn.records}, published_at=published_at)
    refuse_named({SUMMARY: planned.to_bytes()}, drawing.ids)
    for name, data in facts.items():
        store.put_run(run_id, name, data)
    kept = {name: _kept(store, run_id, name, data) for name, data in drawn.records.items()}
    return summary_of(drawing.public, drawn.figures, {**facts, **kept}, published_at=published_at)


def _kept(store: Store, run_id: str, name: str, data: bytes) -> bytes:
    """The drawing that now lies there: one of a call that did not end stays, though another library draws it otherwise."""
    try:
        store.put_run(run_id, name, data)
    except AlreadyExistsError:
        return store.read_run(run_id, name)
    return data


def _is_there(store: Store, run_id: str, facts: Mapping[str, bytes]) -> bool:
    """Whether these very facts are published under the id.

    Raises
    ------
    AlreadyExistsError
        If others are.
    """
    try:
        data = store.read_run(run_id, SUMMARY)
    except NotCommittedError:
        return False
    there = PublishedRun.parse(data, where=f"{store.url}/runs/{run_id}/{SUMMARY}")
    digests = {name: record.sha256 for name, record in there.records.items() if name in facts}
    if digests != {name: sha256(body) for name, body in facts.items()}:
        raise AlreadyExistsError(
            f"{store.url} has another run of the id {run_id}: published runs never change. Give another one with --run-id"
        )
    return True


def _refuse_incomplete(run: FinishedRun, folder: RunFolder) -> None:
    if not run.results.complete:
        raise UsageError(
            f"{folder.url} is incomplete ({len(run.results.failures)} failures), and only complete runs are published. Mend the "
            "cause and run the same command again: it does what is missing"
        )
