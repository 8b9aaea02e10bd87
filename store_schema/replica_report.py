"""What a copy did, or would do, as it is added up and reported; copies nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from store_schema.errors import BackendError
from store_schema.replica_entries import Copied

Told = Callable[[int, int, int], None]
"""Told how many of how many entries are done, and how many bytes were copied."""
MOST_FAILURES = 20
"""Entries in a row that a backend may fail before a copy stops: the place is gone, not the entry."""


@dataclass
class CopyReport:
    """What a copy did, or would do."""

    source: str
    target: str
    dry_run: bool
    entries: int = 0
    """Entries that the target has now with all their records, withdrawn ones among them."""
    commits: int = 0
    """Records of entries written now; those that were there are not counted."""
    objects: int = 0
    """Objects of data and packs written now."""
    size_bytes: int = 0
    """Of these objects."""
    repaired: int = 0
    """Those of them that an earlier copy had brought, and that were missing or wrong."""
    withdrawn: int = 0
    """Entries that are withdrawn: their records are copied, no data."""
    erased: int = 0
    """Objects erased at the target because their entry was withdrawn at the source."""
    snapshots: list[str] = field(default_factory=list)
    """Ids of the snapshots that the target has now."""
    packs: list[str] = field(default_factory=list)
    """Folders of the packs that the target has now."""
    runs: int = 0
    """Records of runs that the target has now."""
    problems: list[str] = field(default_factory=list)
    """What was not copied, and why; everything else was."""

    @property
    def ok(self) -> bool:
        """Whether everything was copied."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {"ok": self.ok, **asdict(self)}

    def fail(self, what: str, error: Exception) -> None:
        """Notes what was not copied."""
        self.problems.append(f"{what}: not copied, {type(error).__name__}: {error}")


@dataclass
class EntryCount:
    """Adds entries to a report, tells how far a copy is, and stops it where nothing succeeds any more."""

    report: CopyReport
    told: Told | None = None
    total: int = 0
    """Entries of all views that are known by now."""
    done: int = 0
    failed_in_a_row: int = 0

    def add(self, one: Copied, *, again: bool = False) -> None:
        """Takes what became of one entry.

        Parameters
        ----------
        again
            Whether the entry was counted before, and only more of it was copied.

        Raises
        ------
        BackendError
            If too many entries in a row could not be copied because a place did not answer.
        """
        self.report.commits += one.commits
        self.report.objects += one.objects
        self.report.size_bytes += one.size_bytes
        self.report.repaired += one.repaired
        self.report.withdrawn += one.ended
        if one.problem is not None:
            self.report.fail(str(one.series), one.problem)
        elif not again:
            self.report.entries += 1
        self.done += not again
        if self.told is not None:
            self.told(self.done, max(self.done, self.total), self.report.size_bytes)
        self._stop_if_gone(one)

    def _stop_if_gone(self, one: Copied) -> None:
        self.failed_in_a_row = self.failed_in_a_row + 1 if isinstance(one.problem, BackendError) else 0
        if self.failed_in_a_row == MOST_FAILURES:
            raise BackendError(
                f"the copy stopped: {MOST_FAILURES} entries in a row failed, the last: {one.problem} Run the same command again: "
                "it goes on where it stopped."
            )
