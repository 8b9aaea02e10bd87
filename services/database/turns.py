"""A lock that is given in the order in which it was asked for; knows no database.

SQLite's own waiting is a gamble: whoever just wrote finds the lock free again before those who wait for it look.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """One at a time, first come, first served."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        """Whose turn it is, and then those who wait."""

    @contextmanager
    def taken(self, patience_s: float) -> Iterator[bool]:
        """Gives whether the turn came in time; it lasts until the block ends.

        Who holds the turn and asks again waits for itself, until its patience ends.
        """
        mine = threading.Event()
        with self._guard:
            self._waiting.append(mine)
            self._waiting[0].set()
        try:
            yield mine.wait(patience_s)
        finally:
            with self._guard:
                self._waiting.remove(mine)
                if self._waiting:
                    self._waiting[0].set()
