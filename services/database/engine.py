"""Opens the database, runs transactions and waits out a restart of the server; knows no table."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from services.database.turns import Turns
from services.errors import Refusal
from store_schema.errors import ConfigError

BUSY_S = 20
"""How long SQLite waits for another writer."""
FIRST_WAIT_S = 0.05
PATIENCE_S = 15.0
"""How long a transaction is tried again while the server is away or restarting."""
KEPT = 8
"""Connections that stay open."""
MORE, MORE_OF_SQLITE = 16, 32
"""Connections beside them while many threads ask at once. Writers of SQLite wait for each other with a connection in hand, and
must not take the last one from readers; a server has few to share between replicas."""
_ANSWERS_S = 15
"""A server that takes no byte for so long is gone, although nothing closed the connection."""
_SQLITE_PASSES = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_CANTOPEN")
_log = logging.getLogger("engram.service")


class Database:
    """One database, by SQLAlchemy; used by many threads."""

    def __init__(self, url: str, *, patience_s: float = PATIENCE_S) -> None:
        self.url = make_url(url)
        self.patience_s = patience_s
        self.engine = _engine(self.url, patience_s)
        self._reader = self.engine.execution_options(reads=True, postgresql_readonly=True)
        self._writers = Turns() if self.url.get_backend_name() == "sqlite" else None

    @property
    def shown(self) -> str:
        """The address without its password."""
        hidden = dict.fromkeys((name for name in self.url.query if "password" in name), "hidden")
        return self.url.update_query_dict(hidden).render_as_string(hide_password=True)

    def run[T](self, work: Callable[[Session], T]) -> T:
        """What a transaction gives; it is tried again where the connection was lost, so it must be the whole of its work.

        A connection that is lost while it commits tells not whether it did: work that must not be done twice draws its ids
        beforehand and looks first whether they are there.

        Raises
        ------
        Refusal
            503, if the database stayed away.
        """
        if self._writers is None:
            return self._tried(self.engine, work)
        with self._writers.taken(self.patience_s) as mine:
            if not mine:
                raise _lasting("its other writers take too long")
            return self._tried(self.engine, work)

    def read[T](self, work: Callable[[Session], T]) -> T:
        """What a transaction gives that writes nothing; it waits for no writer. See `run`."""
        return self._tried(self._reader, work)

    def _tried[T](self, engine: Engine, work: Callable[[Session], T]) -> T:
        until = time.monotonic() + self.patience_s
        wait = FIRST_WAIT_S
        while True:
            try:
                with Session(engine, expire_on_commit=False) as session, session.begin():
                    return work(session)
            except PoolTimeoutError as error:
                raise _lasting("every connection is busy") from error
            except DBAPIError as error:
                if not _passing(error):
                    raise
                if time.monotonic() + wait > until:
                    raise _lasting(reason(error)) from error
                if wait == FIRST_WAIT_S:
                    _log.warning("a transaction is tried again: %s", reason(error))
            time.sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311 - spreads clients
            wait = min(1.0, wait * 2)

    def ready(self) -> bool:
        """Whether the database answers now."""
        try:
            with self._reader.connect() as connection:
                connection.execute(text("SELECT 1"))
        except (DBAPIError, PoolTimeoutError):
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


def _lasting(why: str) -> Refusal:
    _log.error("database unavailable: %s", why)
    return away()


def reason(error: DBAPIError) -> str:
    """What the database said, in one line; the lines after it repeat values, which may name a patient."""
    return str(error.orig).partition("\n")[0][:300]


def _passing(error: DBAPIError) -> bool:
    """Whether the same transaction may succeed in a moment: a lost connection, a server starting, a lock, a lost race."""
    if error.connection_invalidated or isinstance(error, InterfaceError):
        return True
    if name := getattr(error.orig, "sqlite_errorname", ""):
        return str(name).startswith(_SQLITE_PASSES)
    if state := getattr(error.orig, "sqlstate", None) or "":
        # 40: serialization failure and deadlock; 57P: shutdown and starting up; 08: connection; 53: out of connections.
        return str(state).startswith(("40", "57P", "08", "53"))
    return isinstance(error, OperationalError)


def _engine(url: URL, patience_s: float) -> Engine:
    """Errors show no value of a statement: one may be a digest of a key, or a patient."""
    if url.get_backend_name() != "sqlite":
        connect = {
            "connect_timeout": 5,
            "keepalives_idle": _ANSWERS_S,
            "tcp_user_timeout": _ANSWERS_S * 1000,
            "application_name": "feature-store",
        }
        return create_engine(
            url,
            pool_size=KEPT,
            max_overflow=MORE,
            pool_timeout=patience_s,
            pool_pre_ping=True,
            pool_recycle=1800,
            hide_parameters=True,
            connect_args=connect,
        )
    if url.database in {None, "", ":memory:"}:
        raise ConfigError("a database in memory is another one for each thread: expected sqlite:///PATH.")
    Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        url,
        pool_size=KEPT,
        max_overflow=MORE_OF_SQLITE,
        pool_timeout=patience_s,
        hide_parameters=True,
        connect_args={"timeout": BUSY_S, "check_same_thread": False},
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _: Any) -> None:
    """WAL lets readers go on while one writes; FULL keeps what was answered through a power cut."""
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (f"busy_timeout={BUSY_S * 1000}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Any) -> None:
    """Takes the one write lock at once, or none: a reader that came to write would fail, not wait, if another wrote between."""
    reads = connection.get_execution_options().get("reads", False)
    connection.exec_driver_sql(f"PRAGMA query_only={'ON' if reads else 'OFF'}")
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
