"""The audit: acts stand with what they record, reads are counted and none is lost while the database is away."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.exc import ProgrammingError

from services import audit as module
from services.access import Principal
from services.audit import Act, Audit
from services.database.engine import away
from services.database.models import AuditRow
from services.errors import Refusal

WHO = Principal("0123456789ab", "alpha", "read")
READ = Act("read", "view-1", "alpha", WHO)
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Clock:
    """A clock that goes on by a second each time it is looked at."""

    def __init__(self):
        self.now = START - timedelta(seconds=1)

    def __call__(self):
        self.now += timedelta(seconds=1)
        return self.now


class Flaky:
    """A database that fails when it is told to."""

    def __init__(self, database):
        self.database, self.error, self.tries = database, None, 0

    def run(self, work):
        self.tries += 1
        if self.error is not None:
            raise self.error
        return self.database.run(work)


def rows(database):
    return database.read(lambda session: list(session.scalars(select(AuditRow).order_by(AuditRow.id))))


@pytest.fixture
def flaky(database):
    return Flaky(database)


@pytest.fixture
def audit(flaky):
    return Audit(flaky, clock=Clock())


# Acts


def test_an_act_is_recorded_with_who_what_and_when(database, audit):
    database.run(lambda session: audit.write(Act("key", "key 1", "alpha", WHO), request_id="r1", session=session))
    (row,) = rows(database)
    assert (row.key_id, row.key_project, row.project) == ("0123456789ab", "alpha", "alpha")
    assert (row.action, row.target, row.outcome, row.request_id) == ("key", "key 1", "allowed", "r1")
    assert (row.at, row.until, row.requests, row.size_bytes) == (START, START, 1, 0)


def test_an_act_that_is_undone_leaves_no_row(database, audit):
    def work(session):
        audit.write(Act("key", "key 1", "alpha", WHO), request_id="r1", session=session)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        database.run(work)
    assert rows(database) == []


# Reads


def test_reads_of_one_kind_become_one_row(database, audit):
    for number in range(3):
        audit.count(READ, request_id=f"r{number}", size_bytes=10)
    audit.count(Act("read", "view-2", "alpha", WHO), request_id="other")
    assert audit.flush() == 2
    first, second = rows(database)
    assert (first.requests, first.size_bytes, first.request_id) == (3, 30, "r0")
    assert (first.at, first.until) == (START, START + timedelta(seconds=2))
    assert (second.target, second.requests) == ("view-2", 1)


def test_nothing_is_written_before_a_flush_and_nothing_twice(database, audit):
    audit.count(READ, request_id="r")
    assert rows(database) == []
    assert (audit.flush(), audit.flush()) == (1, 0)
    assert len(rows(database)) == 1


def test_allowed_and_denied_are_told_apart(database, audit):
    for outcome in ("allowed", "denied", "denied"):
        audit.count(Act("read", "view-1", "alpha", WHO, outcome), request_id="r")
    audit.flush()
    assert {row.outcome: row.requests for row in rows(database)} == {"allowed": 1, "denied": 2}


def test_a_denial_of_nobody_has_no_key(database, audit):
    audit.count(Act("read", "x", None, None, "denied"), request_id="r")
    audit.flush()
    (row,) = rows(database)
    assert (row.key_id, row.key_project, row.project) == (None, None, None)


@pytest.mark.parametrize("error", [away(), ProgrammingError("INSERT", None, Exception("no such table"))])
def test_counts_are_kept_while_they_cannot_be_written(database, audit, flaky, error):
    audit.count(READ, request_id="first", size_bytes=1)
    flaky.error = error
    for number in range(3):
        with pytest.raises(Refusal) as caught:
            audit.flush()
        assert caught.value.status == 503
        audit.count(READ, request_id=f"later{number}", size_bytes=10)
    audit.count(Act("read", "view-2", "alpha", WHO), request_id="new")
    flaky.error = None
    assert audit.flush() == 2
    first, second = rows(database)
    assert (first.requests, first.size_bytes, first.request_id) == (4, 31, "first")
    assert (first.at, first.until) == (START, START + timedelta(seconds=3))
    assert (second.target, second.request_id) == ("view-2", "new")


def test_what_is_counted_while_a_flush_fails_comes_behind_what_was(database, audit, flaky):
    """The time and request of a row are those of its first request."""

    class Slow(Flaky):
        def run(self, work):
            audit.count(READ, request_id="during")
            raise away()

    audit.count(READ, request_id="before")
    audit._database = Slow(database)
    with pytest.raises(Refusal):
        audit.flush()
    audit._database = flaky
    audit.flush()
    (row,) = rows(database)
    assert (row.requests, row.request_id, row.at) == (2, "before", START)


def test_threads_that_count_while_others_flush_lose_nothing(database, audit):
    stop = threading.Event()

    def count(number):
        for _ in range(2000):
            audit.count(Act("read", f"view-{number % 3}", "alpha", WHO), request_id="r", size_bytes=2)

    def flush():
        while not stop.is_set():
            audit.flush()

    counting = [threading.Thread(target=count, args=(number,)) for number in range(6)]
    flushing = threading.Thread(target=flush)
    for thread in (*counting, flushing):
        thread.start()
    for thread in counting:
        thread.join()
    stop.set()
    flushing.join()
    audit.flush()
    found = rows(database)
    assert sum(row.requests for row in found) == 12_000
    assert sum(row.size_bytes for row in found) == 24_000


# Bounds


def test_above_what_may_be_held_counts_are_written_at_once(database, audit, monkeypatch):
    monkeypatch.setattr(module, "MAX_HELD", 10)
    for number in range(25):
        audit.count(Act("read", f"view-{number}", "alpha", WHO), request_id="r")
    assert len(rows(database)) == 20
    audit.flush()
    assert len(rows(database)) == 25


def test_what_can_be_neither_held_nor_written_is_refused(audit, flaky, monkeypatch):
    monkeypatch.setattr(module, "MAX_HELD", 10)
    flaky.error = away()
    for number in range(10):
        audit.count(Act("read", f"view-{number}", "alpha", WHO), request_id="r")
    for number in range(50):
        with pytest.raises(Refusal) as caught:
            audit.count(Act("read", f"more-{number}", "alpha", WHO), request_id="r")
        assert caught.value.status == 503
    audit.count(Act("read", "view-3", "alpha", WHO), request_id="r")
    assert len(audit._counts) == 10


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("a\0b", "a?b"), ("a\nb\x1b[31m", "a?b?[31m"), ("x" * 5000, "x" * 200), ("\ud800", "?"), ("é漢", "é漢"), ("", "")],
)
def test_no_text_that_somebody_sends_can_spoil_a_flush(database, audit, sent, kept):
    audit.count(READ, request_id="good")
    audit.count(Act("read", sent, sent, None, "denied"), request_id=sent)
    assert audit.flush() == 2
    row = rows(database)[1]
    assert (row.target, row.project, row.request_id) == (kept, kept[:81], kept[:64])


# For real


def test_reads_that_are_counted_while_postgresql_is_down_are_written_when_it_is_back(
    own_database, own_folder, postgres_server
):
    audit, own_database.patience_s = Audit(own_database), 0.3
    audit.count(READ, request_id="before")
    postgres_server.kill(own_folder)
    with pytest.raises(Refusal):
        audit.flush()
    audit.count(READ, request_id="while")
    postgres_server.restart(own_folder)
    assert audit.flush() == 1
    (row,) = rows(own_database)
    assert (row.requests, row.request_id) == (2, "before")
