"""Who did what, when: acts are written at once, reads are counted and written every few seconds; knows no route.

A row of reads stands for one key's reads of one view, snapshot or run within a flush. What a killed process had not written is
lost: at most the last `FLUSH_S` seconds of reads and denials, never an act.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from services.access import Principal
from services.database.engine import Database, away
from services.database.models import AuditRow
from services.errors import Refusal

FLUSH_S = 2.0
MAX_HELD = 10_000
"""Kinds of reads counted between two flushes; above it they are written at once."""


@dataclass(frozen=True)
class Act:
    """What is to be recorded."""

    action: str
    """read, sign, publish, snapshot, key, grant, revoke, login, project."""
    target: str
    """View, snapshot, run, key or grant; never an entry or a patient."""
    project: str | None
    principal: Principal | None
    outcome: str = "allowed"


@dataclass
class _Count:
    at: datetime
    until: datetime
    request_id: str
    requests: int = 0
    size_bytes: int = 0

    def add(self, later: _Count) -> None:
        """Takes in what was counted after it."""
        self.until = later.until
        self.requests, self.size_bytes = self.requests + later.requests, self.size_bytes + later.size_bytes


class Audit:
    """The audit log of one process."""

    def __init__(self, database: Database, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: dict[Act, _Count] = {}

    def write(self, act: Act, *, request_id: str, session: Session, requests: int = 1) -> None:
        """Records an act within the transaction that does it: neither stands without the other."""
        now = self._clock()
        session.add(_row(act, _Count(now, now, request_id, requests)))

    def count(self, act: Act, *, request_id: str, size_bytes: int = 0) -> None:
        """Counts a read or a denial; it is written with the next flush.

        Raises
        ------
        Refusal
            503, if as much as may be held waits for a database that stays away: what cannot be recorded is not served.
        """
        now = self._clock()
        if len(self._counts) >= MAX_HELD and act not in self._counts:
            self.flush()
        one = _Count(now, now, request_id, 1, size_bytes)
        with self._lock:
            held = self._counts.setdefault(act, one)
            if held is not one:
                held.add(one)

    def flush(self) -> int:
        """Writes what was counted, and says how many rows; where that fails the counts are kept for the next flush.

        A database that is lost while it commits may have kept rows that the next flush writes again: reads may be counted
        twice, and are never lost.

        Raises
        ------
        Refusal
            503, if the database stays away or does not take them.
        """
        with self._lock:
            counts, self._counts = self._counts, {}
        if not counts:
            return 0
        try:
            self._database.run(lambda session: session.add_all([_row(act, count) for act, count in counts.items()]))
        except Refusal:
            self._keep(counts)
            raise
        except SQLAlchemyError as error:
            self._keep(counts)
            raise away() from error
        return len(counts)

    def _keep(self, counts: dict[Act, _Count]) -> None:
        """Puts back what could not be written, before what was counted since."""
        with self._lock:
            for act, later in self._counts.items():
                if counts.setdefault(act, later) is not later:
                    counts[act].add(later)
            self._counts = counts


def _row(act: Act, count: _Count) -> AuditRow:
    who = act.principal
    return AuditRow(
        at=count.at,
        until=count.until,
        key_id=None if who is None else who.key_id,
        key_project=None if who is None else who.project or None,
        project=None if act.project is None else _text(act.project, 81),
        action=act.action,
        target=_text(act.target, 200),
        outcome=act.outcome,
        requests=count.requests,
        size_bytes=count.size_bytes,
        request_id=_text(count.request_id, 64),
    )


def _text(said: str, length: int) -> str:
    """What a column holds of a text that anybody may have sent: PostgreSQL takes neither a NUL nor a longer one."""
    return "".join(one if one.isprintable() else "?" for one in said[:length])
