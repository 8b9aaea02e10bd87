"""Reads objects of a snapshot from the bucket itself, where the place gives addresses there; checks nothing that it reads.

A service that is asked for thousands of objects gives addresses that are good for some minutes, many at once. Where it gives none,
where the bucket is out of reach, and for whatever an address does not give, the place itself is read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from store_schema.errors import EngramError, StoreError
from store_schema.records import CommitRecord
from store_schema.snapshot import Snapshot

BATCH = 64
"""Entries whose objects are signed at once."""
MOST_SIGNED = 1000

log = logging.getLogger(__name__)

type Found = CommitRecord | EngramError
"""A commit, or why there is none."""


@dataclass(frozen=True)
class Addressed:
    """A commit, and where its objects can be read, by their paths within it."""

    commit: Found
    addresses: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass
class DirectReader:
    """Gives and reads addresses until the first sign that it is of no use; for many threads."""

    snapshot: Snapshot
    arrays: Sequence[str]
    least_bytes: int
    """Of an object that is worth an address of its own."""
    _off: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._off = not self.snapshot.location.gives_addresses

    def addressed(self, commits: Iterable[Found]) -> Iterator[Addressed]:
        """Each commit with the addresses of its arrays' chunks, in order; without any where they are of no use."""
        rest = iter(commits)
        while batch := list(islice(rest, 1 if self._off else BATCH)):
            signed = self._signed({name for commit in batch for name in self._names(commit).values()})
            for commit in batch:
                names = self._names(commit).items() if signed else ()
                yield Addressed(commit, {path: signed[name] for path, name in names if name in signed})

    def get(self, one: Addressed, path: str, size_bytes: int) -> bytes | None:
        """The bytes of one object as its address gives them; None where they are to be read from the place itself."""
        address = None if self._off else one.addresses.get(path)
        if address is None:
            return None
        try:
            return self.snapshot.location.get_at(address, size_bytes)
        except StoreError as error:
            self._turn_off(error)
            return None

    def _names(self, commit: Found) -> dict[str, str]:
        """Names within the snapshot of the chunks of a commit that are worth it, by their paths."""
        if isinstance(commit, EngramError):
            return {}
        prefixes = tuple(f"{name}/c" for name in self.arrays)
        return {
            path: f"{commit.key}/{path}"
            for path, one in commit.objects.items()
            if path.startswith(prefixes) and one.size_bytes >= self.least_bytes
        }

    def _signed(self, names: set[str]) -> Mapping[str, str]:
        if self._off or not names:
            return {}
        try:
            signed = self.snapshot.location.addresses(self.snapshot.id, sorted(names)[:MOST_SIGNED])
        except StoreError as error:
            self._turn_off(error)
            return {}
        if signed is None:
            self._off = True
        return signed or {}

    def _turn_off(self, error: StoreError) -> None:
        if not self._off:
            log.info("nothing is read from the bucket itself: %s", error)
        self._off = True
