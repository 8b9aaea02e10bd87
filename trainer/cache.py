"""Keeps what was made, up to a bound of memory, for all threads of a process; knows nothing of stores or of what is kept."""

from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock
from typing import Protocol


class Sized(Protocol):
    """What can be kept."""

    @property
    def nbytes(self) -> int:
        """What it takes in memory now; it may grow."""


class Cache[V: Sized]:
    """Values by key, of which those used longest ago go first.

    Threads that ask for one key at the same time get one value, which one of them makes. A value that could not be made is not
    remembered: the next who asks makes it.

    Parameters
    ----------
    limit_bytes
        Bound of all values together. One that is larger is given and not kept; with 0 nothing is.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._lock = Lock()
        self._values: dict[Hashable, V] = {}
        """Used longest ago first."""
        self._making: dict[Hashable, Future[V]] = {}

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """The value of a key, made where it is not kept.

        Raises
        ------
        Exception
            Whatever making it raises, in every thread that waits for it.
        """
        with self._lock:
            if key in self._values:
                self._values[key] = self._values.pop(key)
                return self._values[key]
            waiting = self._making.get(key)
            mine = self._making.setdefault(key, Future())
        return self._made(key, make, mine) if waiting is None else waiting.result()

    def __contains__(self, key: Hashable) -> bool:
        """Whether a value is kept now."""
        with self._lock:
            return key in self._values

    def bound(self, limit_bytes: int) -> None:
        """Keep so much from now on."""
        with self._lock:
            self._limit_bytes = limit_bytes
            self._shrink()

    @property
    def limit_bytes(self) -> int:
        """Bound of all values together."""
        return self._limit_bytes

    @property
    def room_bytes(self) -> int:
        """What can be kept besides, before anything has to go."""
        with self._lock:
            return max(0, self._limit_bytes - self._size_bytes())

    @property
    def size_bytes(self) -> int:
        """Of all that is kept."""
        with self._lock:
            return self._size_bytes()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._values.clear()

    def _made(self, key: Hashable, make: Callable[[], V], told: Future[V]) -> V:
        try:
            value = make()
        except BaseException as error:
            with self._lock:
                del self._making[key]
            told.set_exception(error)
            raise
        with self._lock:
            del self._making[key]
            if value.nbytes <= self._limit_bytes:
                self._values[key] = value
            self._shrink()
        told.set_result(value)
        return value

    def _shrink(self) -> None:
        while self._values and (not self._limit_bytes or self._size_bytes() > self._limit_bytes):
            del self._values[next(iter(self._values))]

    def _size_bytes(self) -> int:
        return sum(value.nbytes for value in self._values.values())
