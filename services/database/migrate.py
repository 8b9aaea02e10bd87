"""Brings the tables of a database to what this version expects, and says whether they are; knows no table itself.

A new revision is written by `python -m services.database.migrate "what it changes"`, from the difference between the revisions and
the models, and then read and mended by hand.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from services.database.engine import Database
from store_schema.errors import UsageError

FOLDER = Path(__file__).parent / "migrations"
LOCK = 0x656E6772616D
"""Name of the lock that replicas which start at once take in turn: `engram` in ASCII."""


def migrate(database: Database) -> list[str]:
    """Revisions that were applied, oldest first; none where the tables are current.

    All of them are one transaction: another replica waits for it and then finds nothing to do, and one that fails leaves what was.

    Raises
    ------
    UsageError
        If the database was written by a newer version.
    Refusal
        503, if the database stays away.
    """
    return database.run(lambda session: _upgrade(session.connection(), database.shown))


def check_current(database: Database) -> None:
    """Passes where the tables are those that this version expects.

    Raises
    ------
    UsageError
        If they are older or newer.
    Refusal
        503, if the database stays away.
    """
    found = database.read(lambda session: _revision(session.connection(), database.shown))
    head = _script().get_current_head()
    if found != head:
        what = "has no tables of the service yet" if found is None else f"is at revision {found}, expected {head}"
        raise UsageError(
            f"the database {database.shown} {what}: run `feature-store admin migrate` with the same --data or --database-url."
        )


def _upgrade(connection: Connection, shown: str) -> list[str]:
    """SQLite has begun with its write lock; PostgreSQL needs one of our own."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    _revision(connection, shown)
    applied: list[str] = []
    command.upgrade(_config(connection=connection, applied=applied), "head")
    return applied


def _revision(connection: Connection, shown: str) -> str | None:
    """What the tables are at; None before the first step."""
    found = MigrationContext.configure(connection).get_current_revision()
    if found is not None and found not in {one.revision for one in _script().walk_revisions()}:
        raise UsageError(
            f"the database {shown} is at revision {found}, which this version of Engram does not know: it was migrated by a newer "
            "one. Use that version, or restore a copy from before."
        )
    return found


def _script() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _config(**attributes: Any) -> Config:
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("file_template", "r%%(rev)s_%%(slug)s")
    config.attributes.update(attributes)
    return config


def _write_revision(message: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/fresh.db")
        migrate(database)
        number = f"{len(list(_script().walk_revisions())) + 1:04d}"
        with database.engine.connect() as connection:
            command.revision(_config(connection=connection), message, autogenerate=True, rev_id=number)
        database.close()


if __name__ == "__main__":
    _write_revision(sys.argv[1])
