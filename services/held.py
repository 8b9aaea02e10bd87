"""A bounded memory of what was read, for many threads; knows no store."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from store_schema import CommitRecord

COMMITS_BYTES = 64 * 2**20
"""Of parsed commits that are held, about."""
MAX_PART = 16
"""What takes more than one such part of a memory is not held: a few large things would drive out all others."""


class Held[K, V]:
    """A bounded memory of what was read, the longest unused dropped first; for many threads."""

    def __init__(self, limit: int, weigh: Callable[[V], int] = lambda _: 1, *, parts: int = MAX_PART) -> None:
        self._limit, self._weigh, self._parts = limit, weigh, parts
        self._weight = 0
        self._items: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """What is held, if it is."""
        with self._lock:
            if key not in self._items:
                return None
            self._items.move_to_end(key)
            return self._items[key]

    def put(self, key: K, value: V) -> V:
        """Holds it, and gives it back."""
        weight = self._weigh(value)
        with self._lock:
            if key not in self._items and weight * self._parts <= max(self._limit, self._parts):
                self._items[key] = value
                self._weight += weight
                while self._weight > self._limit:
                    self._weight -= self._weigh(self._items.popitem(last=False)[1])
        return value

    def replace(self, key: K, value: V) -> V:
        """Holds it instead of what was there."""
        with self._lock:
            before = self._items.pop(key, None)
            if before is not None:
                self._weight -= self._weigh(before)
        return self.put(key, value)

    def drop(self, unwanted: Callable[[K], bool]) -> None:
        """Forgets what is under these keys."""
        with self._lock:
            for key in [key for key in self._items if unwanted(key)]:
                self._weight -= self._weigh(self._items.pop(key))


def weight(commit: CommitRecord) -> int:
    """Bytes that a parsed commit takes in memory, about."""
    return 4000 + 600 * len(commit.objects) + 8 * len(str(commit.attributes))
