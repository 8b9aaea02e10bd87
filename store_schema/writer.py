"""Writes an entry: all its data under a new attempt first, then one commit that makes it visible; decides nothing by a clock."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from pydantic import ValidationError

from store_schema.arrays import Entry, StagedEntry, stage
from store_schema.commits import append_commit, current_commit, state_of
from store_schema.errors import StoreError, UsageError
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


@dataclass(frozen=True)
class Writer:
    """Publishes entries of one view."""

    location: Location
    view: ViewSpec
    clock: Callable[[], str] = utc_now
    new_attempt: Callable[[], str] = uuid4_hex

    def publish(
        self, key: EntryKey, entry: Entry, *, input_sha256: str, provenance: Provenance, make_current: bool = False
    ) -> Publication:
        """Writes the entry unless a commit has its input already; see `Store.publish`."""
        current = current_commit(self.location, self.view.view_id, key)
        state = state_of(current, input_sha256)
        if current is not None and state == "done":
            return Publication("done", current)
        if current is not None and state == "superseded" and not make_current:
            return Publication("superseded", current)
        staged = stage(entry)
        _check_layout(staged, self.view, key)
        draft = self._draft(key, staged, input_sha256, provenance)
        self._put(draft.folder, staged.objects)
        return Publication(*append_commit(self.location, draft, after=current, make_current=make_current))

    def _put(self, folder: str, objects: Mapping[str, bytes]) -> None:
        """Writes all objects of an attempt at once: each waits for its own sync or answer; all are durable at the end."""
        with ThreadPoolExecutor(len(objects)) as pool:
            for done in [pool.submit(self.location.put, f"{folder}/{path}", data) for path, data in objects.items()]:
                done.result()

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
    """One view has one layout: every memory in it has the same shape."""
    shape = tuple(staged.metadata["memory"]["shape"])
    if shape != view.layout.shape:
        raise StoreError(
            f"{key} was not written: its memory has shape {shape}, view {view.view_id} declares {view.layout.shape} "
            "(memory layer, channel, row, column)."
        )
