"""Does one thing for many items with several threads, in order and with little waiting in memory; knows nothing of a store."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

AHEAD = 4
"""Items per thread that are at work or wait for their turn to be taken, where nothing else is asked."""


def each[A, B](act: Callable[[A], B], items: Iterable[A], *, parallel: int, window: int | None = None) -> Iterator[B]:
    """What a function gives for each item, in the items' order, with at most `window` items at work or waiting.

    The first error is raised in its item's turn; then, and when the caller stops early, what has not begun is dropped.
    """
    if parallel <= 1:
        yield from map(act, items)
        return
    window = parallel * AHEAD if window is None else max(1, window)
    rest = iter(items)
    waiting: deque[Future[B]] = deque()
    pool = ThreadPoolExecutor(parallel)
    try:
        while True:
            waiting.extend(pool.submit(act, item) for item in islice(rest, window - len(waiting)))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
