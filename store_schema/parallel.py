"""Does one thing for many items with several threads, in order and with little waiting in memory; knows nothing of a store."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from types import TracebackType

from store_schema.errors import BackendError

AHEAD = 4
"""Items per thread that are at work or wait for their turn to be taken, where nothing else is asked."""


class Guard:
    """A lock that a forked child finds open, whoever held it in the process that was forked."""

    def __init__(self) -> None:
        self._held = (os.getpid(), Lock())

    def __enter__(self) -> None:
        if self._held[0] != os.getpid():
            self._held = (os.getpid(), Lock())
        self._held[1].acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._held[1].release()


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

    Raises
    ------
    BackendError
        If it is gone on with in a forked child, where the threads that do the work are not.
    """
    if parallel <= 1:
        yield from map(act, items)
        return
    window = parallel * AHEAD if window is None else max(1, window)
    waiting: deque[tuple[Future[B], int]] = deque()
    held, process = 0, os.getpid()
    pool = ThreadPoolExecutor(parallel)
    try:
        for item in items:
            weight = weigh(item)
            while waiting and (len(waiting) >= window or held + weight > limit):
                held -= waiting[0][1]
                yield waiting.popleft()[0].result()
                _refuse_fork(process)
            waiting.append((pool.submit(act, item), weight))
            held += weight
        while waiting:
            yield waiting.popleft()[0].result()
            _refuse_fork(process)
    finally:
        if os.getpid() == process:
            pool.shutdown(wait=True, cancel_futures=True)


def _refuse_fork(process: int) -> None:
    """Whoever waited in a forked child for threads of its parent would wait for ever."""
    if os.getpid() != process:
        raise BackendError(
            "reading was begun before this process was forked, and its threads do not survive a fork: begin it in the child, or "
            "start workers by spawn (multiprocessing.get_context('spawn'))."
        )
