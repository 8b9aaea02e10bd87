"""Looks at the whole store that race with writers never bring back what is older."""

import threading
from typing import Any

from services.catalogue.index import note_run, reindex
from services.service import Service
from store_schema import EntryKey, Store
from store_schema.testing import WrappedLocation
from store_schema.withdraw import withdraw

from . import catalogue_help
from .catalogue_help import (
    KEYS,
    PROJECT,
    A,
    entry_rows,
    expected_rows,
    fill,
    note,
    publish,
    put_run,
    rows_of,
    through,
)

store = catalogue_help.store


def test_commit_that_is_noted_after_the_listing_stays(service: Service, store: Store) -> None:
    """The listing is older than the rows: what it does not explain is asked for once more."""
    view = fill(store, KEYS[:4])
    new = EntryKey("new", "CT", "spine")

    class Late(WrappedLocation):
        def paths(self, prefix: str) -> list[str]:
            found = self.inner.paths(prefix)
            if prefix == f"commits/{view}":
                publish(store, view, A, "B")
                note(service, store, view, A)
                publish(store, view, new, "A")
                note(service, store, view, new)
            return found

    through(service, store, Late(store.location))
    report = reindex(service, PROJECT)
    assert report.removed == 0
    assert rows_of(service)["entries"] == expected_rows(store)["entries"]


def test_run_that_gets_another_record_meanwhile_is_not_put_back(service: Service, store: Store) -> None:
    put_run(store, "run-1", start={"studies": 3})

    class Late(WrappedLocation):
        done = False

        def get(self, path: str) -> bytes:
            data = self.inner.get(path)
            if path.startswith("runs/") and not self.done:
                self.done = True
                put_run(store, "run-1", finish={"failed": 0})
                note_run(service, PROJECT, "run-1")
            return data

    through(service, store, Late(store.location))
    reindex(service, PROJECT)
    summary = rows_of(service)["runs"][0]["summary"]
    assert (summary["records"], summary["failed"]) == (["finish.json", "start.json"], 0)


class Race:
    """Writers, looks at the whole, and one who watches that no row ever goes back."""

    WRITERS = 3

    def __init__(self, service: Service, store: Store, view: str) -> None:
        self.service, self.store, self.view = service, store, view
        self.stop = threading.Event()
        self.errors: list[BaseException] = []
        self.seen: dict[EntryKey, tuple[bool, int]] = {}

    def run(self) -> None:
        looking = [self.thread(work) for work in (self.look, self.look, self.watch)]
        writing = [self.thread(lambda n=n: self.write(KEYS[n :: self.WRITERS])) for n in range(self.WRITERS)]
        for thread in looking + writing:
            thread.start()
        for thread in writing:
            thread.join()
        self.stop.set()
        for thread in looking:
            thread.join()

    def thread(self, work: Any) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001
                self.errors.append(error)
                self.stop.set()

        return threading.Thread(target=guarded)

    def write(self, keys: list[EntryKey]) -> None:
        for turn in range(6):
            for key in keys:
                publish(self.store, self.view, key, f"turn {turn}", seed=turn)
                if turn % 2:
                    note(self.service, self.store, self.view, key)
        withdraw(self.store, keys=keys[:1], reason="consent")

    def look(self) -> None:
        while not self.stop.is_set():
            assert reindex(self.service, PROJECT).damaged == {}

    def watch(self) -> None:
        while not self.stop.is_set():
            rows = entry_rows(self.service)
            assert self.seen.keys() <= {key for _, key in rows}
            for (_, key), row in rows.items():
                now = (row["withdrawn"], row["number"])
                assert now >= self.seen.get(key, (False, 0))
                self.seen[key] = now


def test_looks_that_race_with_writers_never_go_back_and_end_right(service: Service, store: Store) -> None:
    race = Race(service, store, fill(store))
    race.run()
    assert not race.errors
    reindex(service, PROJECT)
    assert rows_of(service)["entries"] == expected_rows(store)["entries"]
    assert sum(row["withdrawn"] for row in rows_of(service)["entries"]) == race.WRITERS
