"""The look at all stores goes on whatever fails, is taken by one replica at a time, and ends when it is told to."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from services.catalogue.index import IndexReport, reindex
from services.catalogue.reconciling import Reconciler
from services.catalogue.tally import Tally
from services.errors import Refusal
from services.service import Service
from services.settings import Settings
from store_schema.errors import BackendError

from .catalogue_help import KEYS, PROJECT, add_project, entry_rows, fill, publish

SOON_S = 20.0
"""For what takes milliseconds on an idle machine."""


def until(test: Callable[[], object]) -> None:
    end = time.monotonic() + SOON_S
    while not test():
        assert time.monotonic() < end
        time.sleep(0.01)


def often(service: Service, every_s: float = 0.02) -> Service:
    """The same service that looks often."""
    service.settings = service.settings.model_copy(update={"reconcile_s": every_s})
    return service


@pytest.fixture
def started(service: Service) -> Iterator[Callable[..., Reconciler]]:
    """Starts reconcilers that are stopped at the end."""
    made: list[Reconciler] = []

    def start(**options: Any) -> Reconciler:
        made.append(Reconciler(often(service), **options))
        made[-1].start()
        return made[-1]

    yield start
    assert all(one.stop() for one in made)


def report_of(project: str) -> IndexReport:
    return Tally().report(project)


def test_first_round_comes_at_once_and_others_find_what_is_new(
    service: Service, started: Callable[..., Reconciler]
) -> None:
    store = add_project(service)
    view = fill(store, KEYS[:2])
    reconciler = started()
    until(lambda: len(entry_rows(service)) == 2)
    publish(store, view, KEYS[5], "A")
    until(lambda: len(entry_rows(service)) == 3)
    until(lambda: reconciler.last is not None)
    assert reconciler.last.outcome == "done"
    assert reconciler.last.reports.keys() == {PROJECT}
    assert reconciler.reconciled_at is not None


@pytest.mark.parametrize(
    "error", [BackendError("a/b"), Refusal(503, "away", "away"), OperationalError("SELECT", {}, Exception("MM_001"))]
)
def test_project_that_fails_is_told_and_the_others_are_looked_at(
    service: Service, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    for project in ("a", "b", "c"):
        add_project(service, project)

    def failing(service: Service, project: str, *, told: Any) -> IndexReport:
        if project == "b":
            raise error
        return reindex(service, project, told=told)

    reconciler = Reconciler(service, reindex=failing)
    done = reconciler.round()
    assert (done.outcome, done.reports.keys(), done.failures) == ("failed", {"a", "c"}, {"b": type(error).__name__})
    assert reconciler.reconciled_at is None
    assert "not reconciled" in caplog.text
    assert "MM_001" not in caplog.text
    assert "a/b" not in caplog.text


def test_rounds_go_on_after_a_failure(service: Service, started: Callable[..., Reconciler]) -> None:
    add_project(service)
    calls: list[str] = []

    def failing(service: Service, project: str, *, told: Any) -> IndexReport:
        calls.append(project)
        if len(calls) < 3:
            raise BackendError("away")
        return reindex(service, project, told=told)

    reconciler = started(reindex=failing)
    until(lambda: reconciler.last is not None and reconciler.last.outcome == "done")
    assert len(calls) >= 3


def test_database_that_is_away_is_told_and_waited_for(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(work: Any) -> Any:
        raise Refusal(503, "database_unavailable", "away")

    reconciler = Reconciler(service)
    monkeypatch.setattr(service.database, "read", away)
    assert (reconciler.round().outcome, reconciler.last.failures) == ("failed", {"": "Refusal"})
    monkeypatch.undo()
    assert reconciler.round().outcome == "done"


def test_agreement_is_as_old_as_the_project_looked_at_longest_ago(service: Service) -> None:
    before = datetime.now(UTC)
    reconciler = Reconciler(service)
    reconciler.round()
    assert reconciler.reconciled_at >= before
    add_project(service, "a")
    add_project(service, "b")
    reindex(service, "a")
    reconciler = Reconciler(service, reindex=lambda service, project, *, told: report_of(project))
    reconciler.round()
    assert reconciler.reconciled_at is None
    reindex(service, "b")
    middle = datetime.now(UTC)
    reindex(service, "a")
    reconciler.round()
    assert before < reconciler.reconciled_at < middle


def test_stop_ends_a_look_that_is_under_way(service: Service, started: Callable[..., Reconciler]) -> None:
    add_project(service)
    inside, calls = threading.Event(), []

    def endless(service: Service, project: str, *, told: Any) -> IndexReport:
        while True:
            inside.set()
            calls.append(1)
            told(0, 0)
            time.sleep(0.001)

    reconciler = started(reindex=endless)
    assert inside.wait(SOON_S)
    began = time.monotonic()
    assert reconciler.stop()
    assert time.monotonic() - began < SOON_S / 2
    assert (reconciler.last.outcome, reconciler.running) == ("stopped", False)


def test_stop_before_the_start_and_twice_is_fine(service: Service) -> None:
    reconciler = Reconciler(often(service, 3600))
    assert reconciler.stop()
    reconciler.start()
    assert reconciler.stop()
    assert reconciler.stop()


def test_stop_does_not_wait_for_the_next_round(service: Service) -> None:
    reconciler = Reconciler(often(service, 3600))
    reconciler.start()
    until(lambda: reconciler.last is not None)
    began = time.monotonic()
    assert reconciler.stop()
    assert time.monotonic() - began < SOON_S / 2


def test_without_an_interval_it_never_looks(service: Service) -> None:
    reconciler = Reconciler(service)
    reconciler.start()
    assert not reconciler.running
    assert reconciler.stop()


def test_one_replica_looks_at_a_time(service: Service, settings: Settings) -> None:
    add_project(service)
    other = Service.open(settings)
    inside, go_on = threading.Event(), threading.Event()

    def slow(service: Service, project: str, *, told: Any) -> IndexReport:
        inside.set()
        assert go_on.wait(SOON_S)
        return report_of(project)

    first, second = Reconciler(service, reindex=slow), Reconciler(other)
    thread = threading.Thread(target=first.round)
    thread.start()
    try:
        assert inside.wait(SOON_S)
        outcome = second.round().outcome
    finally:
        go_on.set()
        thread.join()
        after = second.round().outcome
        other.close()
    assert outcome == "elsewhere"
    assert (first.last.outcome, after) == ("done", "done")


def test_lock_is_given_back_after_a_round_that_failed(service: Service) -> None:
    add_project(service)

    def failing(service: Service, project: str, *, told: Any) -> IndexReport:
        raise BackendError("away")

    assert Reconciler(service, reindex=failing).round().outcome == "failed"
    assert Reconciler(service).round().outcome == "done"
