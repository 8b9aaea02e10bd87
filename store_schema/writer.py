"""Writes an entry: all its data under a new attempt first, then one commit that makes it visible; knows no order by clocks."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from pydantic import ValidationError

from store_schema.arrays import Entry, StagedEntry, dtype_in, stage
from store_schema.commits import FRESH_S, Numbered, append_commit, current_record, settled
from store_schema.errors import BackendError, EntryWithdrawnError, StoreError, UsageError
from store_schema.keys import EntryKey
from store_schema.location import Location
from store_schema.records import CommitRecord, ObjectRecord, Source, ViewSpec, sha256


@dataclass(frozen=True)
class Publication:
    """What became of an attempt."""

    outcome: Literal["committed", "done", "superseded"]
    """`done`: the current commit has this input; `superseded`: an earlier one has it."""
    commit: CommitRecord
    """The commit made, or the current one."""


@dataclass(frozen=True)
class Provenance:
    """How an entry came to be; recorded in its commit, never in its attributes."""

    sources: Sequence[Source] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    timings_s: Mapping[str, float] = field(default_factory=dict)


def utc_now() -> str:
    """The writer's clock as a commit records it: UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def uuid4_hex() -> str:
    """A new attempt's name."""
    return uuid.uuid4().hex


def seconds_passed() -> float:
    """A clock that only goes forward and counts the time that the machine slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


MAX_RESTAGES = 3
"""Attempts that may grow too old before a writer gives up."""


@dataclass(frozen=True)
class Writer:
    """Publishes entries of one view."""

    location: Location
    view: ViewSpec
    clock: Callable[[], str] = utc_now
    new_attempt: Callable[[], str] = uuid4_hex
    passed: Callable[[], float] = seconds_passed
    """Seconds since some moment: how old an attempt is."""

    def publish(
        self, key: EntryKey, entry: Entry, *, input_sha256: str, provenance: Provenance, make_current: bool = False
    ) -> Publication:
        """Writes the entry unless a commit has its input already; see `Store.publish`."""
        for _ in range(MAX_RESTAGES):
            current = current_record(self.location, self.view.view_id, key)
            if found := settled(current, input_sha256, make_current=make_current):
                return Publication(*found)
            staged = stage(entry)
            _check_layout(staged, self.view, key)
            draft = self._draft(key, staged, input_sha256, provenance)
            began = self.passed()
            self._put(draft.folder, staged.objects)
            appended = self._commit(draft, after=current, make_current=make_current, began=began)
            if appended is not None:
                return appended
        raise BackendError(
            f"{key} was not written: {MAX_RESTAGES} times its data took over {FRESH_S / 3600:.0f} hours to write, and `gc` may "
            "take older data for a dead writer's. Check the connection and run it again."
        )

    def _put(self, folder: str, objects: Mapping[str, bytes]) -> None:
        """Writes all objects of an attempt at once: each waits for its own sync or answer; all are durable at the end."""
        with ThreadPoolExecutor(min(len(objects), self.location.parallel)) as pool:
            for done in [pool.submit(self.location.put, f"{folder}/{path}", data) for path, data in objects.items()]:
                done.result()

    def _commit(
        self, draft: CommitRecord, *, after: Numbered | None, make_current: bool, began: float
    ) -> Publication | None:
        """Makes the attempt visible; None where it grew too old for that and must be written anew."""
        try:
            appended = append_commit(
                self.location,
                draft,
                after=after,
                make_current=make_current,
                fresh=lambda: self.passed() - began < FRESH_S,
            )
        except EntryWithdrawnError:
            # Withdrawn while its data was being written: the data must go too, and this writer knows it first.
            self._erase(draft)
            raise
        return None if appended is None else Publication(*appended)

    def _erase(self, draft: CommitRecord) -> None:
        """Erases an attempt that was not committed; what stays where that fails, or nobody may delete, is left to `gc`."""
        with contextlib.suppress(StoreError):
            for path in draft.objects:
                self.location.delete(f"{draft.folder}/{path}")

    def _draft(self, key: EntryKey, staged: StagedEntry, input_sha256: str, provenance: Provenance) -> CommitRecord:
        """The commit to be; it gets its number when it is created."""
        try:
            return CommitRecord(
                view=self.view.view_id,
                patient=key.patient,
                modality=key.modality,
                roi=key.roi,
                number=0,
                attempt=self.new_attempt(),
                input_sha256=input_sha256,
                content_sha256=staged.content_sha256,
                objects={p: ObjectRecord(size_bytes=len(d), sha256=sha256(d)) for p, d in staged.objects.items()},
                arrays=dict(staged.metadata),
                attributes=dict(staged.attributes),
                sources=tuple(provenance.sources),
                versions=dict(provenance.versions),
                timings_s=dict(provenance.timings_s),
                written_at=self.clock(),
            )
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise UsageError(f"{key} was not written: {place} {ascii(first['input'])[:80]}: {first['msg']}.") from error


def _check_layout(staged: StagedEntry, view: ViewSpec, key: EntryKey) -> None:
    """One view has one layout: every memory in it has the same shape and dtype."""
    memory = staged.metadata["memory"]
    shape, dtype = tuple(memory["shape"]), dtype_in(view.layout, "memory")
    if shape != view.layout.shape or memory["data_type"] != dtype:
        raise StoreError(
            f"{key} was not written: its memory has shape {shape}, view {view.view_id} declares {view.layout.shape} "
            f"(memory layer, channel, row, column), and is {memory['data_type']}, expected {dtype}."
        )
