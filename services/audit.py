"""Who did what, when: acts are written at once, reads are counted and written every few seconds; knows no route.

A row of reads stands for one key's reads of one view, snapshot or run within a flush. What a killed process had not written is
lost: at most the last `FLUSH_S` seconds of reads and denials, never an act.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy.orm import Session

from services.access import Principal
from services.database.engine import Database
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
        """Counts a read or a denial; it is written with the next flush."""
        now = self._clock()
        with self._lock:
            held = self._counts.setdefault(act, _Count(now, now, request_id))
            held.until, held.requests, held.size_bytes = now, held.requests + 1, held.size_bytes + size_bytes
            full = len(self._counts) > MAX_HELD
        if full:
            self.flush()

    def flush(self) -> int:
        """Writes what was counted, and says how many rows; where the database stays away the counts are kept for the next flush.

        Raises
        ------
        Refusal
            503, if the database stays away.
        """
        with self._lock:
            counts, self._counts = self._counts, {}
        if not counts:
            return 0
        try:
            self._database.run(lambda session: session.add_all([_row(act, count) for act, count in counts.items()]))
        except Refusal:
            with self._lock:
                for act, count in counts.items():
                    held = self._counts.setdefault(act, _Count(count.at, count.until, count.request_id))
                    held.at, held.requests = min(held.at, count.at), held.requests + count.requests
                    held.size_bytes += count.size_bytes
            raise
        return len(counts)


def _row(act: Act, count: _Count) -> AuditRow:
    who = act.principal
    return AuditRow(
        at=count.at,
        until=count.until,
        key_id=None if who is None else who.key_id,
        key_project=None if who is None else who.project,
        project=act.project,
        action=act.action,
        target=act.target[:200],
        outcome=act.outcome,
        requests=count.requests,
        size_bytes=count.size_bytes,
        request_id=count.request_id,
    )
