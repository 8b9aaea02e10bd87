"""Counts what a look at a whole store finds and cannot read; knows no kind of record, and never the name of a patient."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from services.errors import Refusal
from store_schema.errors import BackendError, EngramError, StoreNotFoundError
from store_schema.pinning import Told

Problem = Literal["damaged", "unread"]
MAX_UNREAD = 100
"""Objects that the backend may fail to give before the store is taken to be away."""
_DAMAGE = (EngramError, ValueError, RecursionError, OverflowError)
"""What reading a record can raise: beside the store's own errors those of a JSON that was made to be no record."""


@dataclass(frozen=True)
class IndexReport:
    """What became of one project's catalogue."""

    project: str
    views: int
    """In the store, as the others are."""
    entries: int
    snapshots: int
    runs: int
    read: int
    """Records that were read."""
    written: int
    """Rows that were written; fewer where others had written newer ones meanwhile."""
    removed: int
    damaged: Mapping[str, int]
    """Objects that are not what they should be, by the folder of the store that they lie in: they have no row."""
    unread: Mapping[str, int]
    """Objects that the backend did not give, by folder: they have the row that they had."""
    seconds: float

    @property
    def complete(self) -> bool:
        """Whether the catalogue agrees with all of the store that can be agreed with."""
        return not self.unread

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {"complete": self.complete, **asdict(self)}


@dataclass
class Tally:
    """What was counted so far, by one thread."""

    told: Told | None = None
    found: Counter[str] = field(default_factory=Counter)
    damaged: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    read: int = 0
    written: int = 0
    removed: int = 0
    looked: int = 0
    """Records of entries that were looked at, of …"""
    to_look: int = 0
    """those that were listed so far."""
    started: float = field(default_factory=time.monotonic)

    def count(self, kind: str, problem: Problem | None) -> None:
        """Counts a record that was read, or could not be.

        Raises
        ------
        BackendError
            If so many could not be read that the store must be away.
        """
        if problem is None:
            self.read += 1
        elif problem == "damaged":
            self.damaged[kind] += 1
        else:
            self.unread[kind] += 1
            if self.unread.total() > MAX_UNREAD:
                raise BackendError(
                    f"more than {MAX_UNREAD} objects of the store could not be read: it is taken to be away. Look at its backend."
                )

    def tell(self, looked: int = 0) -> None:
        """Tells whoever waits how far it is."""
        self.looked += looked
        if self.told is not None:
            self.told(self.looked, self.to_look)

    def report(self, project: str) -> IndexReport:
        """What was found."""
        return IndexReport(
            project,
            self.found["views"],
            self.found["entries"],
            self.found["snapshots"],
            self.found["runs"],
            self.read,
            self.written,
            self.removed,
            dict(self.damaged),
            dict(self.unread),
            time.monotonic() - self.started,
        )


def tried[T](read: Callable[[], T]) -> tuple[T, None] | tuple[None, Problem]:
    """What reading a record gives, or what is wrong with it.

    Raises
    ------
    Refusal, StoreNotFoundError
        If the database or the store is away: that says nothing of the record.
    """
    try:
        return read(), None
    except (Refusal, StoreNotFoundError):
        raise
    except BackendError:
        return None, "unread"
    except _DAMAGE:
        return None, "damaged"
