"""How often workers read each object of a store in a run of several models, and that the cache changes no number."""

import collections
import threading
from collections.abc import Callable

import pytest
from distributed import Client, LocalCluster

from store_schema.location.folder import FolderLocation
from trainer.dispatch import Workers
from trainer.features import CACHE_MIB, KEPT, keep_at_most

FOLDS = 5
IMAGE = {"kind": "network", "view": "tiny", "hidden": [4]}
MODELS = [
    {"name": "cox", "kind": "ridge_cox"},
    {"name": "pet", **IMAGE, "images": {"roi": "spine", "modalities": ["PET"]}},
    {"name": "both", **IMAGE, "images": {"roi": "spine"}, "head": "flatten"},
    {"name": "memory", **IMAGE, "images": {"roi": "spine"}, "head": "attention"},
]


def counter() -> tuple[Callable[[], None], Callable[[], dict[str, int]]]:
    """Starts counting what a process reads of stores, and gives the counts; sent to workers by value."""

    def count() -> None:
        read, lock = FolderLocation.get, threading.Lock()
        FolderLocation.counts = collections.Counter()

        def counting(self, path: str) -> bytes:
            with lock:
                FolderLocation.counts[path] += 1
            return read(self, path)

        FolderLocation.get = counting

    return count, lambda: {path: n for path, n in FolderLocation.counts.items() if path.startswith("data/")}


@pytest.fixture
def counted_here(monkeypatch):
    """Counts what this process reads, whose cache is empty."""
    monkeypatch.setattr(FolderLocation, "get", FolderLocation.get)
    monkeypatch.setattr(FolderLocation, "counts", {}, raising=False)
    count, counts = counter()
    KEPT.clear()
    count()
    yield counts
    KEPT.clear()
    keep_at_most(CACHE_MIB)


def settings() -> dict:
    return {"models": MODELS, "splits": {"folds": FOLDS}, "permuted_control": {"models": ["pet", "both"], "repeats": 2}}


def test_this_process_reads_each_object_once_with_a_cache_and_once_a_task_without(cv, counted_here):
    with_cache = cv("kept", **settings())
    once = dict(counted_here())
    assert set(once.values()) == {1}
    KEPT.clear()
    without = cv("anew", workers=Workers(number=0, cache_mib=0), **settings())
    assert without.results == with_cache.results
    again = {path: n - once[path] for path, n in counted_here().items()}
    assert set(again) == set(once)
    assert {n for path, n in again.items() if "/memory/" in path} == {FOLDS}


def test_each_worker_of_a_cluster_reads_each_object_once_at_most(cv):
    here = cv("here", **settings())
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=40) as made:
        count, counts = counter()
        with Client(made) as client:
            client.run(count)
        there = cv("there", workers=Workers(scheduler=made.scheduler_address), **settings())
        with Client(made) as client:
            found = client.run(counts)
    assert there.results == here.results
    assert len(found) == 2
    for read in found.values():
        assert max(read.values()) == 1


def test_local_processes_give_the_same_numbers_with_and_without_a_cache(cv):
    kept, anew = (cv(f"of-{mib}", workers=Workers(number=2, cache_mib=mib), **settings()) for mib in (CACHE_MIB, 0))
    assert kept.results == anew.results
