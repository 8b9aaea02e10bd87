"""Keeps arrays that are used again, up to a bound of memory; knows nothing of stores or of what the arrays mean."""

from collections.abc import Callable, Hashable

import numpy as np


class Kept:
    """Arrays by key, of which those used longest ago go first; for one thread.

    Parameters
    ----------
    limit_bytes
        Bound of all arrays together; one that is larger is kept alone.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._arrays: dict[Hashable, np.ndarray] = {}

    def get(self, key: Hashable, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The array of a key, made where it is not kept; not writable."""
        array = self._arrays.pop(key, None)
        if array is None:
            array = make()
            array.setflags(write=False)
        self._arrays[key] = array
        while len(self._arrays) > 1 and self.size_bytes > self._limit_bytes:
            del self._arrays[next(iter(self._arrays))]
        return array

    @property
    def size_bytes(self) -> int:
        """Of all that is kept."""
        return sum(array.nbytes for array in self._arrays.values())

    def clear(self) -> None:
        """Forget everything."""
        self._arrays.clear()
