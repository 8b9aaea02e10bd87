"""Counting: every object once, by what commits say of it."""

import dataclasses
import json

from store_schema import Store
from store_schema.commits import commit_path
from store_schema.location import TEMPORARY
from store_schema.testing import WrappedLocation, digest_of, example_entry, example_view
from store_schema.usage import usage
from store_schema.withdraw import withdraw

ATTEMPT = "a" * 32


def _rows(store: Store) -> dict[tuple[str, str, str], int]:
    return {(row.kind, row.view, row.state): row.objects for row in usage(store).rows}


def test_data_is_counted_by_what_the_commits_say(store: Store, view: str, keys) -> None:
    other = store.put_view(example_view(recipe=2))
    store.publish(other, keys[0], example_entry(), input_sha256=digest_of("x"))
    store.publish(view, keys[0], example_entry(9), input_sha256=digest_of("x"))
    store.location.put(f"data/{view}/{keys[0]}/{ATTEMPT}/zarr.json", b"x")
    assert _rows(store) == {
        ("engram.json", "", ""): 1,
        ("views", "", ""): 2,
        ("commits", view, ""): 4,
        ("commits", other, ""): 1,
        ("data", view, "live"): 27,
        ("data", view, "superseded"): 9,
        ("data", view, "orphaned"): 1,
        ("data", other, "live"): 9,
    }


def test_superseded_input_that_is_current_again_is_live(store: Store, view: str, keys) -> None:
    for text in ("x", str(keys[0])):
        store.publish(view, keys[0], example_entry(), input_sha256=digest_of(text), make_current=True)
    rows = _rows(store)
    assert (rows["data", view, "live"], rows["data", view, "superseded"]) == (27, 18)


def test_data_that_a_withdrawal_left_is_counted_as_withdrawn(store: Store, view: str, keys) -> None:
    withdraw(store, keys=[keys[0]], reason="test")
    store.location.put(f"data/{view}/{keys[0]}/{ATTEMPT}/zarr.json", b"x")
    rows = _rows(store)
    assert (rows["data", view, "live"], rows["data", view, "withdrawn"], rows["withdrawn", view, ""]) == (18, 1, 1)


def test_data_of_an_entry_with_a_damaged_commit_is_unknown(store: Store, view: str, keys) -> None:
    store.location.put(f"data/{view}/{keys[0]}/{ATTEMPT}/zarr.json", b"x")
    store.location.put(commit_path(view, keys[0], 0), b"{}")
    assert (_rows(store)["data", view, "unknown"], _rows(store)["data", view, "live"]) == (10, 18)


def test_data_of_an_entry_that_lost_a_commit_between_two_is_unknown(store: Store, view: str, keys) -> None:
    for text in "xy":
        store.publish(view, keys[0], example_entry(), input_sha256=digest_of(text))
    store.location.delete(commit_path(view, keys[0], 1))
    assert (_rows(store)["data", view, "unknown"], _rows(store)["data", view, "live"]) == (27, 18)


def test_entry_with_one_commit_and_one_attempt_is_counted_without_reading_it(store: Store, view: str, keys) -> None:
    """A large store is counted by listing it."""
    read = []

    class Counting(WrappedLocation):
        def get(self, path: str) -> bytes:
            read.append(path)
            return super().get(path)

    store.publish(view, keys[1], example_entry(), input_sha256=digest_of("x"))
    counted = usage(dataclasses.replace(store, location=Counting(store.location)))
    assert counted == usage(store)
    assert sorted(read) == [commit_path(view, keys[1], number) for number in (0, 1)]


def test_strays_are_counted_and_unfinished_files_are_not(store: Store, view: str) -> None:
    paths = ["notes.txt", "elsewhere/x", "data/stray", f"data/{view}/stray", f"data/{view}/a/stray", "commits/stray"]
    for path in [*paths, f"runs/r/{TEMPORARY}x"]:
        store.location.put(path, b"abc")
    report = usage(store)
    found = list(store.location.objects(""))
    assert (report.objects, report.size_bytes) == (len(found), sum(one.size_bytes for one in found))
    assert sum(row.objects for row in report.rows if row.state == "unknown") == 3
    assert "runs" not in {row.kind for row in report.rows}


def test_report_is_json(store: Store, view: str) -> None:
    values = json.loads(json.dumps(usage(store).to_dict()))
    assert values["objects"] == sum(row["objects"] for row in values["rows"])
    assert values["size_bytes"] == sum(row["size_bytes"] for row in values["rows"])


def test_empty_store_holds_its_record(store: Store) -> None:
    assert _rows(store) == {("engram.json", "", ""): 1}
