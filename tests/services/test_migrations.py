"""Migrations: they make the very tables of the models, once, whoever starts at the same time."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError

from services.database import migrate as module
from services.database.engine import Database
from services.database.migrate import check_current, migrate
from services.database.models import Base
from store_schema.errors import UsageError

REVISIONS = ["0001"]


@pytest.fixture
def empty(database_url):
    database = Database(database_url, patience_s=5)
    yield database
    database.close()


def tables(database):
    return database.read(lambda session: set(inspect(session.connection()).get_table_names()))


def test_models_and_migrations_do_not_differ(empty):
    migrate(empty)
    options = {"compare_type": True, "compare_server_default": True}
    found = empty.read(
        lambda session: compare_metadata(MigrationContext.configure(session.connection(), opts=options), Base.metadata)
    )
    assert found == []


def test_migrations_make_what_the_models_alone_would_make(empty, tmp_path):
    """Autogenerate looks at neither primary keys nor the order of columns."""
    migrate(empty)
    made = Database(f"sqlite:///{tmp_path}/made.db")
    made.run(lambda session: Base.metadata.create_all(session.connection()))

    def described(session):
        looking = inspect(session.connection())
        return {
            name: (
                [(column["name"], column["nullable"]) for column in looking.get_columns(name)],
                looking.get_pk_constraint(name)["constrained_columns"],
                sorted(index["name"] for index in looking.get_indexes(name) if not index.get("duplicates_constraint")),
                sorted((*key["constrained_columns"], key["referred_table"]) for key in looking.get_foreign_keys(name)),
                [one["column_names"] for one in looking.get_unique_constraints(name)],
            )
            for name in looking.get_table_names()
            if name != "alembic_version"
        }

    assert empty.read(described) == made.read(described)
    made.close()


def test_every_constraint_has_a_name_so_that_a_later_step_can_change_it(empty):
    migrate(empty)

    def unnamed(session):
        looking = inspect(session.connection())
        for name in looking.get_table_names():
            found = [*looking.get_foreign_keys(name), *looking.get_unique_constraints(name)]
            yield from ((name, one) for one in found if one["name"] is None)

    assert empty.read(lambda session: list(unnamed(session))) == []


def test_a_second_migration_has_nothing_to_do(empty):
    assert migrate(empty) == REVISIONS
    assert migrate(empty) == []
    check_current(empty)


def test_tables_that_are_not_there_are_told_with_the_command_that_makes_them(empty):
    with pytest.raises(UsageError, match=r"no tables.*`feature-store admin migrate`") as caught:
        check_current(empty)
    assert "engram-test-password" not in str(caught.value)
    assert tables(empty) == set()


def test_older_tables_are_told_with_both_revisions(empty, monkeypatch):
    migrate(empty)
    empty.run(lambda session: session.execute(text("UPDATE alembic_version SET version_num = 'old'")))
    monkeypatch.setattr(module, "_script", Longer)
    with pytest.raises(UsageError, match=r"is at revision old, expected 0001: run `feature-store admin migrate`"):
        check_current(empty)


class Longer:
    """Steps of which the last is today's, with one before it."""

    def get_current_head(self):
        return REVISIONS[-1]

    def walk_revisions(self):
        return [type("Step", (), {"revision": name}) for name in (REVISIONS[-1], "old")]


def test_tables_of_a_newer_version_are_left_alone(empty):
    migrate(empty)
    empty.run(lambda session: session.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    for act in (check_current, migrate):
        with pytest.raises(UsageError, match=r"revision 9999.*newer") as caught:
            act(empty)
        assert "engram-test-password" not in str(caught.value)
    assert (
        empty.read(lambda session: session.execute(text("SELECT version_num FROM alembic_version")).scalar()) == "9999"
    )


def test_a_migration_that_fails_leaves_what_was(empty):
    empty.run(lambda session: session.execute(text("CREATE TABLE runs (mine INTEGER)")))
    with pytest.raises(DBAPIError):
        migrate(empty)
    assert tables(empty) == {"runs"}
    empty.run(lambda session: session.execute(text("DROP TABLE runs")))
    assert migrate(empty) == REVISIONS


START = """
import sys
from services.database.engine import Database
from services.database.migrate import check_current, migrate
database = Database(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(*migrate(database))
check_current(database)
"""


def test_replicas_that_start_at_once_migrate_once(database_url):
    root = os.fspath(Path(__file__).parents[2])
    replicas = [
        subprocess.Popen(
            [sys.executable, "-c", START, database_url],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=root,
        )
        for _ in range(4)
    ]
    for replica in replicas:
        assert replica.stdout.readline() == "ready\n"
    for replica in replicas:
        replica.stdin.write("go\n")
        replica.stdin.flush()
    said = sorted(replica.communicate(timeout=120)[0].strip() for replica in replicas)
    assert [replica.returncode for replica in replicas] == [0] * 4
    assert said == ["", "", "", " ".join(REVISIONS)]


def test_a_migration_waits_for_one_that_is_under_way_and_finds_nothing_left(empty, database_url):
    under_way, done, found = threading.Event(), threading.Event(), []
    other = Database(database_url)

    def first(session):
        found.append(module._upgrade(session.connection(), ""))
        under_way.set()
        assert done.wait(30)

    def second():
        found.append(migrate(other))

    threads = [threading.Thread(target=empty.run, args=(first,)), threading.Thread(target=second)]
    threads[0].start()
    assert under_way.wait(30)
    threads[1].start()
    time.sleep(0.5)
    assert found == [REVISIONS]
    done.set()
    for thread in threads:
        thread.join()
    assert found == [REVISIONS, []]
    other.close()


def test_the_steps_are_numbered_without_gaps_and_have_one_head():
    found = sorted(one.revision for one in module._script().walk_revisions())
    assert found == REVISIONS == [f"{number:04d}" for number in range(1, len(found) + 1)]
    assert len(module._script().get_heads()) == 1
