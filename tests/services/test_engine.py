"""Transactions over SQLite and PostgreSQL: whole or not at all, tried again after a lost server, readers behind no writer."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from services.database.engine import KEPT, MORE, MORE_OF_SQLITE, Database, reason
from services.database.migrate import migrate
from services.database.models import Project
from services.errors import Refusal
from store_schema.errors import ConfigError

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def add(database, name, *, url="0"):
    """Adds a row, once, however often the transaction is tried."""

    def work(session):
        if session.get(Project, name) is None:
            session.add(Project(id=name, store_url=url, store_id=name[:32], created_at=NOW))

    database.run(work)


def names(database):
    return set(database.read(lambda session: session.scalars(select(Project.id)).all()))


def add_one(database):
    """Raises the number in a row by one: reads it, then writes it."""

    def work(session):
        row = session.get(Project, "counter", with_for_update=True)
        row.store_url = str(int(row.store_url) + 1)

    database.run(work)


def counter(database):
    return int(database.read(lambda session: session.get(Project, "counter")).store_url)


# Transactions


def test_a_transaction_is_whole_or_not_at_all(database):
    def work(session):
        session.add(Project(id="half", store_url="", store_id="half", created_at=NOW))
        session.flush()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        database.run(work)
    assert names(database) == set()
    add(database, "whole")
    assert names(database) == {"whole"}


def test_times_come_back_in_utc_to_the_microsecond(database):
    add(database, "a")
    found = database.read(lambda session: session.get(Project, "a")).created_at
    assert (found, found.tzinfo) == (NOW, UTC)


def test_rows_stay_readable_after_their_transaction(database):
    add(database, "a")
    assert database.run(lambda session: session.get(Project, "a")).store_id == "a"


def test_a_read_that_writes_is_refused_at_once(database):
    began = time.monotonic()
    with pytest.raises(DBAPIError, match=r"(?i)read-?only"):
        database.read(lambda session: session.execute(text("DELETE FROM projects")))
    assert time.monotonic() - began < 5
    add(database, "afterwards")
    assert names(database) == {"afterwards"}


def test_a_read_waits_for_no_writer_and_sees_what_was_before(database):
    add(database, "before")
    writing, done = threading.Event(), threading.Event()

    def work(session):
        session.add(Project(id="during", store_url="", store_id="during", created_at=NOW))
        session.flush()
        writing.set()
        assert done.wait(30)

    writer = threading.Thread(target=database.run, args=(work,))
    writer.start()
    assert writing.wait(30)
    try:
        began = time.monotonic()
        for _ in range(20):
            assert names(database) == {"before"}
        assert database.ready()
        assert time.monotonic() - began < 2
    finally:
        done.set()
        writer.join()
    assert names(database) == {"before", "during"}


def test_writers_in_threads_lose_nothing(database):
    add(database, "counter")
    with ThreadPoolExecutor(12) as pool:
        for done in [pool.submit(add_one, database) for _ in range(120)]:
            done.result()
    assert counter(database) == 120


WRITER = """
import sys
sys.path.insert(0, sys.argv[3])
from services.database.engine import Database
from services.database.models import Project
database = Database(sys.argv[1])

def work(session):
    row = session.get(Project, "counter", with_for_update=True)
    row.store_url = str(int(row.store_url) + 1)

for _ in range(int(sys.argv[2])):
    database.run(work)
"""


def test_writers_in_processes_lose_nothing(database, database_url):
    add(database, "counter")
    command = [sys.executable, "-c", WRITER, database_url, "30", os.fspath(Path(__file__).parents[2])]
    writers = [subprocess.Popen(command) for _ in range(2)]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    assert counter(database) == 60


def test_what_cannot_pass_is_raised_at_once(database):
    add(database, "a")
    calls = []

    def clash(session):
        calls.append(1)
        session.add(Project(id="b", store_url="", store_id="a", created_at=NOW))

    with pytest.raises(IntegrityError):
        database.run(clash)
    with pytest.raises(DBAPIError):
        database.run(lambda session: (calls.append(1), session.execute(text("SELECT * FROM nothing_here"))))
    assert len(calls) == 2


def test_a_refusal_from_within_ends_the_transaction(database):
    def work(session):
        session.add(Project(id="a", store_url="", store_id="a", created_at=NOW))
        session.flush()
        raise Refusal(409, "conflict", "no")

    with pytest.raises(Refusal, match="no"):
        database.run(work)
    assert names(database) == set()


def test_errors_show_no_value_of_a_statement(database):
    add(database, "patient-7")
    with pytest.raises(IntegrityError) as caught:
        database.run(
            lambda session: session.add(Project(id="patient-7", store_url="secret", store_id="x", created_at=NOW))
        )
    assert "secret" not in str(caught.value)
    assert "patient-7" not in reason(caught.value)


def test_a_transaction_that_gets_no_connection_is_refused_when_patience_ends(database_url):
    database = Database(database_url, patience_s=0.2)
    most = KEPT + (MORE_OF_SQLITE if database_url.startswith("sqlite") else MORE)
    held = [database.engine.connect() for _ in range(most)]
    try:
        with pytest.raises(Refusal) as caught:
            database.read(lambda session: session.execute(text("SELECT 1")))
        assert (caught.value.status, caught.value.code) == (503, "database_unavailable")
        assert not database.ready()
    finally:
        for connection in held:
            connection.close()
    assert database.ready()
    database.close()


# SQLite


@pytest.fixture
def sqlite(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/new/folder/service.db", patience_s=1)
    migrate(database)
    yield database
    database.close()


def test_sqlite_keeps_what_was_answered_and_checks_references(sqlite):
    asked = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
    found = sqlite.read(lambda session: [session.execute(text(f"PRAGMA {name}")).scalar() for name in asked])
    assert found == ["wal", 2, 1, 20_000]
    with pytest.raises(IntegrityError):
        sqlite.run(lambda session: session.execute(text("INSERT INTO views VALUES ('nobody', 'v', 'v', '{}')")))


def test_what_a_writer_read_nobody_changes_before_it_writes(sqlite):
    """Another process, which shares no turns; without the write lock from the start the first would have to begin again."""
    other = Database(str(sqlite.url), patience_s=30)
    add(sqlite, "counter")
    calls, read = [], threading.Event()

    def work(session):
        calls.append(1)
        row = session.get(Project, "counter")
        read.set()
        time.sleep(0.5)
        row.store_url = str(int(row.store_url) + 1)

    first = threading.Thread(target=sqlite.run, args=(work,))
    first.start()
    assert read.wait(30)
    add_one(other)
    first.join()
    assert (len(calls), counter(sqlite)) == (1, 2)
    other.close()


def test_a_writer_behind_one_that_takes_too_long_is_refused_and_can_write_later(sqlite):
    writing, done = threading.Event(), threading.Event()
    writer = threading.Thread(target=sqlite.run, args=(lambda _: (writing.set(), done.wait(30)),))
    writer.start()
    assert writing.wait(30)
    try:
        with pytest.raises(Refusal) as caught:
            add(sqlite, "late")
        assert caught.value.status == 503
        assert names(sqlite) == set()
    finally:
        done.set()
        writer.join()
    add(sqlite, "later")
    assert names(sqlite) == {"later"}


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url):
    with pytest.raises(ConfigError, match="expected sqlite:///PATH"):
        Database(url)


# PostgreSQL


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg://u:s3cr%40t@h:1/n", "postgresql+psycopg://u:***@h:1/n"),
        ("postgresql+psycopg://u@h/n?password=s3cret&sslmode=require", "u@h/n?password=hidden&sslmode=require"),
        ("postgresql+psycopg://u@h/n?sslpassword=s3cret", "u@h/n?sslpassword=hidden"),
        ("postgresql+psycopg://u@h/n", "postgresql+psycopg://u@h/n"),
        ("sqlite:////srv/service.db", "sqlite:////srv/service.db"),
    ],
)
def test_the_address_is_shown_without_a_password(url, shown, tmp_path):
    found = Database(url.replace("/srv", str(tmp_path))).shown
    assert found.endswith(shown.replace("/srv", str(tmp_path)))
    assert "s3cr" not in found


def test_two_that_wait_for_each_other_both_succeed(own_database):
    for name in ("one", "two"):
        add(own_database, name)
    meet = threading.Barrier(2, timeout=30)
    calls = []

    def take(first, second):
        def work(session):
            calls.append(first)
            session.get(Project, first, with_for_update=True)
            if len(calls) <= 2:
                meet.wait()
            session.get(Project, second, with_for_update=True).store_url = first

        own_database.run(work)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(take, "one", "two"), pool.submit(take, "two", "one")]:
            done.result()
    assert len(calls) == 3


def test_a_transaction_whose_connection_is_cut_is_done_again(own_database):
    calls = []

    def work(session):
        calls.append(1)
        session.add(Project(id="cut", store_url="", store_id="cut", created_at=NOW))
        session.flush()
        if len(calls) == 1:
            session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    own_database.run(work)
    assert (len(calls), names(own_database)) == (2, {"cut"})


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_restart_of_the_server_under_load_loses_nothing_and_is_no_error(
    own_database, own_server, postgres_server, end
):
    folder, stop, written, read = Path(own_server.folder), threading.Event(), [[] for _ in range(8)], []

    def write(number):
        while not stop.is_set():
            name = f"{number}-{len(written[number])}"
            add(own_database, name)
            written[number].append(name)

    def look():
        while not stop.is_set():
            read.append(len(names(own_database)))

    with ThreadPoolExecutor(9) as pool:
        running = [pool.submit(write, number) for number in range(8)] + [pool.submit(look)]
        try:
            for _ in range(2):
                time.sleep(1)
                getattr(postgres_server, end)(folder)
                at_the_end = sum(map(len, written))
                time.sleep(0.7)
                postgres_server.restart(folder)
                until = time.monotonic() + 20
                while sum(map(len, written)) < at_the_end + 50 and time.monotonic() < until:
                    time.sleep(0.05)
                assert sum(map(len, written)) >= at_the_end + 50
        finally:
            stop.set()
        for one in running:
            one.result()
    assert names(own_database) == {name for part in written for name in part}
    assert read == sorted(read)


def test_a_server_that_stays_away_is_a_503_that_says_when_to_come_back(own_server, postgres_server):
    folder = Path(own_server.folder)
    database = Database(own_server.url(), patience_s=1)
    assert database.ready()
    postgres_server.kill(folder)
    for ask in (database.run, database.read):
        began = time.monotonic()
        with pytest.raises(Refusal) as caught:
            ask(lambda session: session.execute(text("SELECT 1")))
        assert 0.2 < time.monotonic() - began < 10
        assert (caught.value.status, caught.value.code) == (503, "database_unavailable")
        assert caught.value.headers == {"Retry-After": "2"}
        assert own_server.password not in str(caught.value) + str(caught.value.__cause__)
    assert not database.ready()
    postgres_server.restart(folder)
    assert database.ready()
    assert database.read(lambda session: session.execute(text("SELECT 1")).scalar()) == 1
    database.close()
