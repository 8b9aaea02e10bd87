"""Looks at the whole of every project's store from time to time, in one thread of one replica; knows not what a look compares."""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol, TextIO

from sqlalchemy import select, text
from sqlalchemy.exc import SQLAlchemyError

from services.catalogue.index import reindex
from services.catalogue.tally import IndexReport
from services.database.models import Project
from services.logs import log
from services.service import Service
from store_schema.errors import EngramError
from store_schema.pinning import Told

type Outcome = Literal["done", "failed", "elsewhere", "stopped"]
LOCK = int.from_bytes(b"engram")
"""Number of the advisory lock that one replica holds during a round."""
STOP_S = 30.0
"""How long a stop waits for what cannot be interrupted: a listing, or a database that is away."""


def _locked(file: TextIO) -> bool:
    """Whether this process got the lock of a file, which ends when it is closed, or the process is."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Reindex(Protocol):
    """Makes one project's catalogue agree with its store."""

    def __call__(self, service: Service, project: str, *, told: Told) -> IndexReport:
        """What became of it."""


@dataclass(frozen=True)
class Round:
    """One look at all stores."""

    began: datetime
    seconds: float
    outcome: Outcome
    """`failed`: not every project could be looked at; `elsewhere`: another replica is at it."""
    reports: Mapping[str, IndexReport] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    """Kind of the error by project, by an empty name where no project could be asked for; an error's words may name a patient."""


class _StoppedError(EngramError):
    """The service shuts down."""


class Reconciler:
    """Reindexes all projects every `settings.reconcile_s` seconds, from the start on; with 0 it never does.

    What fails is logged and tried again in the next round.
    """

    def __init__(self, service: Service, *, reindex: Reindex = reindex) -> None:
        self._service = service
        self._reindex = reindex
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.last: Round | None = None
        """The round that ended last; None before the first has."""
        self.reconciled_at: datetime | None = None
        """Since when the catalogue has agreed with every store, whichever replica looked; None before it has."""

    def start(self) -> None:
        """Begins with the first round at once."""
        if self._service.settings.reconcile_s > 0 and self._thread is None:
            # A daemon: a listing that hangs does not keep the process.
            self._thread = threading.Thread(target=self._work, name="reconcile", daemon=True)
            self._thread.start()

    def stop(self) -> bool:
        """Ends within the next few hundred records, and says whether it has."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(STOP_S)
        return not self.running

    @property
    def running(self) -> bool:
        """Whether the thread lives."""
        return self._thread is not None and self._thread.is_alive()

    def _work(self) -> None:
        while not self._stop.is_set():
            self.round()
            self._stop.wait(self._service.settings.reconcile_s)

    def round(self) -> Round:
        """Looks at every project once; whatever fails, the others are looked at."""
        began, at = datetime.now(UTC), time.monotonic()
        reports: dict[str, IndexReport] = {}
        failures: dict[str, str] = {}
        outcome: Outcome = "done"
        try:
            with self._alone() as alone:
                outcome = "done" if alone else "elsewhere"
                for project in self._projects() if alone else ():
                    self._one(project, reports, failures)
            self.reconciled_at = self._agreed(began)
        except _StoppedError:
            outcome = "stopped"
        except (EngramError, SQLAlchemyError) as error:
            self._failed("", error, failures)
        outcome = "failed" if failures and outcome != "stopped" else outcome
        self.last = Round(began, time.monotonic() - at, outcome, reports, failures)
        return self.last

    def _one(self, project: str, reports: dict[str, IndexReport], failures: dict[str, str]) -> None:
        try:
            self._check_stop(0, 0)
            reports[project] = self._reindex(self._service, project, told=self._check_stop)
        except _StoppedError:
            raise
        except (EngramError, SQLAlchemyError) as error:
            self._failed(project, error, failures)

    def _failed(self, project: str, error: Exception, failures: dict[str, str]) -> None:
        failures[project] = type(error).__name__
        log().error("catalogue not reconciled", extra={"project": project or None, "error": type(error).__name__})

    def _check_stop(self, _looked: int, _of: int) -> None:
        if self._stop.is_set():
            raise _StoppedError("the service shuts down.")

    def _projects(self) -> list[str]:
        chosen = select(Project.id).order_by(Project.id)
        return self._service.database.read(lambda session: list(session.scalars(chosen)))

    def _agreed(self, now: datetime) -> datetime | None:
        """When the project that was looked at longest ago was; None where one never was."""
        chosen = select(Project.indexed_at)
        times = self._service.database.read(lambda session: list(session.scalars(chosen)))
        known = [at for at in times if at is not None]
        return min(known, default=now) if len(known) == len(times) else None

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether no other replica, or process over the same file, is at it."""
        engine = self._service.database.engine
        if engine.dialect.name != "postgresql":
            with Path(f"{engine.url.database}.reconciling").open("w") as lock:
                yield _locked(lock)
            return
        # Outside of any transaction: one that stays open for minutes would keep the server from cleaning up.
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            held = bool(connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": LOCK}))
            try:
                yield held
            finally:
                if held:
                    # A connection that is lost has given up its lock with it.
                    connection.scalar(text("SELECT pg_advisory_unlock(:lock)"), {"lock": LOCK})
