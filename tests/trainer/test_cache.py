"""Values that are kept: made once, also by several threads, bounded in bytes, and no error among them."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from trainer.cache import Cache

SIZE = np.zeros(10).nbytes


def kept_of(cache, names):
    """Of these, those that need not be made again; asking changes the cache, so that each test asks once."""
    return [name for name in names if cache.get(name, lambda: np.ones(10))[0] == 0]


def test_a_value_is_made_once():
    cache, made = Cache(100), []
    first = cache.get("a", lambda: made.append(1) or np.zeros(2))
    assert cache.get("a", lambda: made.append(1) or np.zeros(2)) is first
    assert made == [1]


def test_those_used_longest_ago_go_when_the_bound_is_passed():
    cache = Cache(3 * SIZE)
    for name in "abc":
        cache.get(name, lambda: np.zeros(10))
    cache.get("a", lambda: np.zeros(10))
    cache.get("d", lambda: np.zeros(10))
    assert cache.size_bytes == 3 * SIZE
    assert kept_of(cache, "acd") == ["a", "c", "d"]
    assert kept_of(cache, "b") == []


def test_a_value_larger_than_the_bound_is_given_and_drives_nothing_out():
    cache = Cache(100)
    small = cache.get("small", lambda: np.zeros(4))
    assert cache.get("large", lambda: np.zeros(1000)).nbytes == 8000
    assert cache.size_bytes == 32
    assert cache.get("small", lambda: np.ones(4)) is small


def test_a_bound_of_nothing_keeps_nothing():
    cache = Cache(0)
    cache.get("a", lambda: np.zeros(10))
    cache.get("empty", lambda: np.zeros(0))
    assert kept_of(cache, ["a"]) == []
    assert cache.get("empty", lambda: np.ones(0)) is not cache.get("empty", lambda: np.ones(0))


def test_a_lower_bound_drives_out_what_does_not_fit():
    cache = Cache(3 * SIZE)
    for name in "abc":
        cache.get(name, lambda: np.zeros(10))
    cache.bound(2 * SIZE)
    assert (cache.limit_bytes, cache.size_bytes) == (2 * SIZE, 2 * SIZE)
    assert kept_of(cache, "bc") == ["b", "c"]


def test_what_grows_is_counted_as_it_is_now():
    class Growing:
        nbytes = 0

    cache, growing = Cache(100), Growing()
    cache.get("growing", lambda: growing)
    growing.nbytes = 90
    assert cache.size_bytes == 90
    cache.get("array", lambda: np.zeros(10))
    assert cache.size_bytes == SIZE


def test_threads_that_ask_for_one_key_at_once_have_it_made_once():
    cache, made, begun, go = Cache(1000), [], threading.Event(), threading.Event()

    def make():
        made.append(threading.current_thread())
        begun.set()
        assert go.wait(30)
        return np.zeros(10)

    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(cache.get, "a", make)
        assert begun.wait(30)
        others = [threads.submit(cache.get, "a", make) for _ in range(7)]
        # another key is not held up
        assert cache.get("b", lambda: np.ones(1))[0] == 1
        go.set()
        values = [one.result(30) for one in (first, *others)]
    assert len(made) == 1
    assert all(value is values[0] for value in values)


def test_an_error_reaches_every_thread_that_waits_and_is_not_kept():
    cache, begun, go = Cache(1000), threading.Event(), threading.Event()

    def fail():
        begun.set()
        assert go.wait(30)
        raise ValueError("unreadable")

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(cache.get, "a", fail)
        assert begun.wait(30)
        # it waits for the first, or comes too late and fails by itself: either way the error is told
        second = threads.submit(cache.get, "a", fail)
        go.set()
        for one in (first, second):
            with pytest.raises(ValueError, match="unreadable"):
                one.result(30)
    assert cache.size_bytes == 0
    assert cache.get("a", lambda: np.ones(1))[0] == 1


def test_many_threads_keep_within_the_bound():
    cache = Cache(5 * SIZE)

    def ask(number):
        name = number * 7 % 20
        assert cache.get(name, lambda: np.full(10, float(name)))[0] == name
        assert cache.size_bytes <= 5 * SIZE

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(2000)))
    cache.clear()
    assert cache.size_bytes == 0
