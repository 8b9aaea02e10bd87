"""Opens the database, runs transactions and waits out a restart of the server; knows no table."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.orm import Session

from services.errors import Refusal

BUSY_S = 20
"""How long SQLite waits for another writer."""
PATIENCE_S = 15.0
"""How long a transaction is tried again while the server is away or restarting."""
_log = logging.getLogger("engram.service")


class Database:
    """One database, by SQLAlchemy; used by many threads."""

    def __init__(self, url: str, *, patience_s: float = PATIENCE_S) -> None:
        self.url = make_url(url)
        self.patience_s = patience_s
        self.engine = _engine(url)

    @property
    def shown(self) -> str:
        """The address without its password."""
        return self.url.render_as_string(hide_password=True)

    def run[T](self, work: Callable[[Session], T]) -> T:
        """What a transaction gives; it is tried again where the connection was lost, so it must be the whole of its work.

        Raises
        ------
        Refusal
            503, if the database stayed away.
        """
        until = time.monotonic() + self.patience_s
        wait = 0.05
        while True:
            try:
                with Session(self.engine, expire_on_commit=False) as session, session.begin():
                    return work(session)
            except DBAPIError as error:
                if not _passing(error):
                    raise
                if time.monotonic() + wait > until:
                    _log.error("database unavailable", extra={"error": type(error).__name__})
                    raise away() from None
            time.sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311 - spreads clients
            wait = min(1.0, wait * 2)

    def ready(self) -> bool:
        """Whether the database answers now."""
        try:
            with self.engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        except DBAPIError:
            return False
        return True

    def close(self) -> None:
        """Gives back all connections."""
        self.engine.dispose()


def away() -> Refusal:
    """503: the database cannot be asked."""
    return Refusal(
        503,
        "database_unavailable",
        "the service's database does not answer: try again in a moment.",
        {"Retry-After": "2"},
    )


def _passing(error: DBAPIError) -> bool:
    """Whether the same transaction may succeed in a moment: a lost connection, a server starting, a lock, a lost race."""
    if error.connection_invalidated or isinstance(error, InterfaceError):
        return True
    said = str(error.orig)
    state = getattr(error.orig, "sqlstate", None) or ""
    # 40: serialization failure and deadlock; 57P: shutdown and starting up; 08: connection; 53: out of connections.
    if state:
        return state.startswith(("40", "57P", "08", "53"))
    return isinstance(error, OperationalError) and not any(one in said for one in ("no such", "has no column"))


def _engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(
            url,
            pool_size=8,
            max_overflow=16,
            pool_pre_ping=True,
            pool_recycle=1800,
            connect_args={"connect_timeout": 5},
        )
    if parsed.database and parsed.database != ":memory:":
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_S, "check_same_thread": False})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_immediate)
    return engine


def _prepare_sqlite(connection: Any, _: Any) -> None:
    """WAL lets readers go on while one writes; FULL keeps what was answered through a power cut."""
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_S * 1000}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: Any) -> None:
    """A transaction that first reads and then writes would fail, not wait, if another wrote between."""
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes", True) else "BEGIN")
