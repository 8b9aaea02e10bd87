"""Small entries, hypothesis strategies and locations that fail on purpose, for tests of stores; knows no test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from threading import Lock
from typing import Any, Literal

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from store_schema.arrays import Entry
from store_schema.errors import BackendError
from store_schema.keys import ID_PATTERN, MAX_ID_LENGTH, RESERVED, EntryKey
from store_schema.location import Location, ObjectInfo
from store_schema.location.base import Pin
from store_schema.records import Encoder, Intensity, Layout, Prompt, ViewSpec, sha256
from store_schema.store import Store

MAX_FLOAT32 = float(np.finfo(np.float32).max)
SHAPE = (2, 3, 4, 4)
"""Memory layer, channel, row, column of the example view: small, so that a test may change every byte."""


def example_view(*, name: str = "example", shape: tuple[int, ...] = SHAPE, recipe: int = 1) -> ViewSpec:
    """A valid view; views of other recipes have other ids."""
    return ViewSpec(
        name=name,
        encoder=Encoder(name="mini", image_size=64, weights_sha256=sha256(b"weights"), trained=False),
        intensity={"CT": Intensity(unit="HU", low=-500, high=1300, outside=-1024)},
        prompt=Prompt(kind="box", mode="sequential", stride=1),
        layout=Layout(name="paper", shape=shape),
        flags={"fill_hole_area": 0},
        precision="float32",
        recipe=recipe,
        grid="ct",
    )


def example_entry(seed: int = 0, *, shape: tuple[int, ...] = SHAPE) -> Entry:
    """An entry with all four arrays; other seeds give other values."""
    rng = np.random.default_rng(seed)
    memory = rng.normal(size=shape).astype(np.float16)
    arrays = {
        "memory": memory,
        "mean_map": memory.astype(np.float32).mean((0, 1)),
        "mask": (rng.random((5, 6, 7)) < 0.3).astype(np.uint8),
        "preview": rng.integers(0, 256, (4, 5, 3), dtype=np.uint8),
    }
    return Entry(arrays, {"boxes_xyxy": [[0, 1, 2, 3]], "kept_slices_z": [4, 3], "valid_layers": [True, True]})


def content_digests(store: Store) -> dict[str, str]:
    """Content digest of every current entry, by view and key: equal ones are what 'identical stores' means."""
    return {
        f"{view}/{key}": commit.content_sha256
        for view in store.view_ids()
        for key in store.keys(view)
        if (commit := store.current(view, key)) is not None
    }


def digest_of(text: str) -> str:
    """An input digest for a test."""
    return sha256(text.encode())


# Strategies


def ids() -> st.SearchStrategy[str]:
    """Every id that may stand in a key."""
    valid = st.from_regex(ID_PATTERN, fullmatch=True)
    return valid.filter(lambda text: len(text) <= MAX_ID_LENGTH and text.casefold() not in RESERVED)


def keys() -> st.SearchStrategy[EntryKey]:
    """Every key of an entry."""
    return st.builds(EntryKey, ids(), ids(), ids())


def json_values() -> st.SearchStrategy[Any]:
    """Values that attributes may hold, nested a little."""
    leaves = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    return st.recursive(
        leaves | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc é", max_size=4), inner, max_size=3),
        max_leaves=6,
    )


@st.composite
def entries(draw: st.DrawFn, shape: tuple[int, ...] = SHAPE) -> Entry:
    """Entries of a view with this memory shape: any finite values, all zero among them, with or without the other arrays."""
    # With its bounds given, nothing is drawn that the width cannot hold, for which a whole entry would be thrown away.
    finite16, finite32 = st.floats(-65504.0, 65504.0, width=16), st.floats(-MAX_FLOAT32, MAX_FLOAT32, width=32)
    sides = st.integers(1, 5)
    optional = {
        "mean_map": hnp.arrays(np.float32, shape[2:], elements=finite32),
        "mask": hnp.arrays(np.uint8, st.tuples(sides, sides, sides)),
        "preview": hnp.arrays(np.uint8, st.tuples(sides, sides, st.just(3))),
    }
    arrays = {"memory": draw(hnp.arrays(np.float16, shape, elements=finite16))}
    arrays |= {name: draw(strategy) for name, strategy in optional.items() if draw(st.booleans())}
    return Entry(arrays, draw(st.dictionaries(st.text("abc", min_size=1, max_size=4), json_values(), max_size=3)))


# Locations that fail on purpose


class WrappedLocation(Location):
    """Another location, operation by operation; tests override what they want to go wrong."""

    def __init__(self, inner: Location) -> None:
        self.inner = inner
        self.url = inner.url
        self.can_list = inner.can_list
        self.can_write = inner.can_write
        self.can_delete = inner.can_delete
        self.gives_addresses = inner.gives_addresses
        self.parallel = inner.parallel
        self.part_bytes = inner.part_bytes

    def get(self, path: str) -> bytes:
        """See `Location.get`."""
        return self.inner.get(path)

    def get_part(self, path: str, *, start: int = 0, end: int | None = None) -> bytes:
        """See `Location.get_part`."""
        return self.inner.get_part(path, start=start, end=end)

    def put(self, path: str, data: bytes) -> None:
        """See `Location.put`."""
        self.inner.put(path, data)

    def create(self, path: str, data: bytes) -> None:
        """See `Location.create`."""
        self.inner.create(path, data)

    def delete(self, path: str) -> None:
        """See `Location.delete`."""
        self.inner.delete(path)

    def size_bytes(self, path: str) -> int | None:
        """See `Location.size_bytes`."""
        return self.inner.size_bytes(path)

    def objects(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Location.objects`."""
        return self.inner.objects(prefix)

    def paths(self, prefix: str) -> list[str]:
        """See `Location.paths`."""
        return self.inner.paths(prefix)

    def children(self, prefix: str) -> list[str]:
        """See `Location.children`."""
        return self.inner.children(prefix)

    def now(self) -> datetime:
        """See `Location.now`."""
        return self.inner.now()

    def leftovers(self) -> Iterator[ObjectInfo]:
        """See `Location.leftovers`."""
        return self.inner.leftovers()

    def delete_leftover(self, path: str) -> None:
        """See `Location.delete_leftover`."""
        self.inner.delete_leftover(path)

    def make_snapshot(
        self, view_id: str, pins: Sequence[Pin] | None, *, where: Sequence[str] = (), base: str | None = None
    ) -> str | None:
        """See `Location.make_snapshot`."""
        return self.inner.make_snapshot(view_id, pins, where=where, base=base)

    def make_pack(self, snapshot_id: str, kind: str) -> bool:
        """See `Location.make_pack`."""
        return self.inner.make_pack(snapshot_id, kind)

    def addresses(self, snapshot_id: str, names: Sequence[str]) -> Mapping[str, str] | None:
        """See `Location.addresses`."""
        return self.inner.addresses(snapshot_id, names)

    def get_at(self, address: str, size_bytes: int) -> bytes | None:
        """See `Location.get_at`."""
        return self.inner.get_at(address, size_bytes)

    def reachable(self) -> bool:
        """As the other location."""
        return self.inner.reachable()


class FailingLocation(WrappedLocation):
    """Fails for good at its n-th write, as when the disk fills up, the network goes, or the writer is killed."""

    def __init__(self, inner: Location, *, writes: int, when: Literal["before", "after"]) -> None:
        super().__init__(inner)
        self._left = writes
        self._when = when
        self._lock = Lock()

    def put(self, path: str, data: bytes) -> None:
        """Writes, or fails before or after it has written."""
        self._write(lambda: self.inner.put(path, data))

    def create(self, path: str, data: bytes) -> None:
        """Creates, or fails before or after it has created."""
        self._write(lambda: self.inner.create(path, data))

    def _write(self, write: Callable[[], None]) -> None:
        with self._lock:
            failing, first = self._left <= 0, self._left == 0
            self._left -= 1
        if not failing or (self._when == "after" and first):
            write()
        if failing:
            raise BackendError("could not write: failed on purpose.")


class HookedLocation(WrappedLocation):
    """Calls a function before every create, so that a test can let a rival in at the worst moment."""

    def __init__(self, inner: Location, before_create: Callable[[str, bytes], None]) -> None:
        super().__init__(inner)
        self._before_create = before_create

    def create(self, path: str, data: bytes) -> None:
        """Lets the rival in, then creates."""
        self._before_create(path, data)
        self.inner.create(path, data)


class BlindLocation(WrappedLocation):
    """A location that cannot list, as over HTTP."""

    def __init__(self, inner: Location) -> None:
        super().__init__(inner)
        self.can_list = False

    def objects(self, prefix: str) -> Iterator[ObjectInfo]:
        """Fails: this location cannot list."""
        raise BackendError(f"could not list {prefix}: this place cannot list.")

    def paths(self, prefix: str) -> list[str]:
        """Fails: this location cannot list."""
        raise BackendError(f"could not list {prefix}: this place cannot list.")

    def children(self, prefix: str) -> list[str]:
        """Fails: this location cannot list."""
        raise BackendError(f"could not list {prefix}: this place cannot list.")
