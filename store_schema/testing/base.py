"""What the tests of a store stand on: a backend reached from outside, a fresh store, a few keys; knows no promise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

from store_schema.errors import StoreError
from store_schema.keys import EntryKey
from store_schema.records import CommitRecord
from store_schema.store import Store, create_store
from store_schema.testing.doubles import digest_of, example_entry, example_view
from store_schema.writer import Publication

KEY = EntryKey("P001", "PET", "skeleton")
OTHER = EntryKey("P002.followup", "CT", "spine_dilated")
A, B, C = (digest_of(text) for text in "ABC")
WRITERS = 6
"""Threads in a race."""


class Backend(ABC):
    """A backend as its owner sees it, and a fresh store on it; a subclass also gives a fixture `url` of an empty place."""

    @abstractmethod
    def raw_get(self, url: str, path: str) -> bytes:
        """An object's bytes, not through a location."""

    @abstractmethod
    def raw_set(self, url: str, path: str, data: bytes) -> None:
        """Overwrites an object, not through a location."""

    @abstractmethod
    def raw_delete(self, url: str, path: str) -> None:
        """Deletes an object, not through a location."""

    @abstractmethod
    def raw_paths(self, url: str) -> list[str]:
        """Paths of all objects, not through a location; empty where nothing was ever written."""

    def each_byte_changed(self, url: str, path: str) -> Iterator[None]:
        """The object with one bit of one byte after another changed, and whole again at the end."""
        data = self.raw_get(url, path)
        for i in range(len(data)):
            self.raw_set(url, path, data[:i] + bytes([data[i] ^ (1 << (i % 8))]) + data[i + 1 :])
            yield
        self.raw_set(url, path, data)

    def at_bucket(self, store: Store) -> Store:
        """The same store where its objects lie; another than `store` where that is reached through a service."""
        return store

    @pytest.fixture
    def store(self, url: str) -> Store:
        """A fresh store."""
        return create_store(url)

    @pytest.fixture
    def view(self, store: Store) -> str:
        """Id of a view in it."""
        return store.put_view(example_view())

    @pytest.fixture
    def commit(self, store: Store, view: str) -> CommitRecord:
        """An entry committed in it under `KEY` from input `A`."""
        return store.publish(view, KEY, example_entry(), input_sha256=A).commit


def publish(
    store: Store, view: str, digest: str, *, seed: int = 0, key: EntryKey = KEY, make_current: bool = False
) -> Publication:
    """Publishes the example entry of a seed."""
    return store.publish(view, key, example_entry(seed), input_sha256=digest, make_current=make_current)


def is_example(store: Store, view: str, *, key: EntryKey = KEY, seed: int = 0, number: int | None = None) -> bool:
    """Whether the entry that is read is the example of a seed, bit by bit."""
    read, entry = store.read(view, key, number=number), example_entry(seed)
    same = [read.arrays[n].dtype == v.dtype and np.array_equal(read.arrays[n], v) for n, v in entry.arrays.items()]
    return all(same) and set(read.arrays) == set(entry.arrays) and read.attributes == entry.attributes


def check_history(store: Store, view: str, inputs: list[str]) -> None:
    """Asserts that the chain of `KEY` is these inputs in order, and that all of the store is sound."""
    history = store.history(view, KEY)
    assert [commit.input_sha256 for commit in history] == inputs
    assert [commit.number for commit in history] == list(range(len(inputs)))
    assert [commit.earlier_inputs for commit in history] == [tuple(inputs[:n]) for n in range(len(inputs))]
    assert store.verify().findings == ()


def at_once[T](act: Callable[[int], T]) -> list[T | StoreError]:
    """What several threads that start together get, an error of the store as its value."""
    barrier = Barrier(WRITERS)

    def run(i: int) -> T | StoreError:
        barrier.wait()
        try:
            return act(i)
        except StoreError as error:
            return error

    with ThreadPoolExecutor(WRITERS) as pool:
        return list(pool.map(run, range(WRITERS)))
