"""Does one thing for many items with several threads, in order and with little waiting in memory; knows nothing of a store."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

AHEAD = 4
"""Items per thread that are at work or wait for their turn to be taken, where nothing else is asked."""


def _nothing(_item: object) -> int:
    return 0


def each[A, B](
    act: Callable[[A], B],
    items: Iterable[A],
    *,
    parallel: int,
    window: int | None = None,
    weigh: Callable[[A], int] = _nothing,
    limit: int = 0,
) -> Generator[B, None, None]:
    """What a function gives for each item, in the items' order.

    The first error is raised in its item's turn; then, and when the caller stops early, what has not begun is dropped, and
    what has begun is waited for.

    Parameters
    ----------
    window
        Items at work or waiting for their turn, at most; `AHEAD` for each thread by default.
    weigh, limit
        Weight of an item, and of all items at work or waiting, at most; one item that weighs more than the limit goes alone.
    """
    if parallel <= 1:
        yield from map(act, items)
        return
    window = parallel * AHEAD if window is None else max(1, window)
    waiting: deque[tuple[Future[B], int]] = deque()
    held = 0
    pool = ThreadPoolExecutor(parallel)
    try:
        for item in items:
            weight = weigh(item)
            while waiting and (len(waiting) >= window or held + weight > limit):
                first, freed = waiting.popleft()
                held -= freed
                yield first.result()
            waiting.append((pool.submit(act, item), weight))
            held += weight
        while waiting:
            yield waiting.popleft()[0].result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
