"""Snapshots are made from one listing and what is new, and give the same id whatever they were built on."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from store_schema import EntryKey, Snapshot, Store, create_store, open_snapshot
from store_schema.cli import main
from store_schema.errors import EntryWithdrawnError, NotCommittedError, UsageError
from store_schema.location import Location, MemoryLocation
from store_schema.records import canonical_json
from store_schema.snapshot import MARKERS, compress, newest_snapshot
from store_schema.testing import WrappedLocation, digest_of, example_entry, example_view
from store_schema.where import where
from store_schema.withdraw import withdraw


class Counting(WrappedLocation):
    """Counts requests by name."""

    def __init__(self, inner: Location) -> None:
        super().__init__(inner)
        self.asked: dict[str, list[str]] = {"get": [], "list": []}

    def get(self, path: str) -> bytes:
        self.asked["get"].append(path)
        return self.inner.get(path)

    def paths(self, prefix: str) -> list[str]:
        self.asked["list"].append(prefix)
        return self.inner.paths(prefix)

    def children(self, prefix: str) -> list[str]:
        self.asked["list"].append(prefix)
        return self.inner.children(prefix)


def key(i: int, modality: str = "PET") -> EntryKey:
    return EntryKey(f"P{i:03d}", modality, "spine")


def publish(store: Store, view: str, at: EntryKey, text: str) -> None:
    store.publish(view, at, example_entry(len(text)), input_sha256=digest_of(text))


@pytest.fixture
def memory() -> Store:
    store = create_store("memory://pinning")
    assert isinstance(store.location, MemoryLocation)
    store.location._objects.clear()
    return create_store("memory://pinning")


def test_unchanged_entries_are_not_read_again(memory: Store) -> None:
    view = memory.put_view(example_view())
    for i in range(6):
        publish(memory, view, key(i), "a")
    first = memory.make_snapshot(view)
    publish(memory, view, key(2), "b")
    publish(memory, view, key(6), "a")
    counted = Counting(memory.location)
    store = Store(counted, memory.record)
    second = store.make_snapshot(view)
    commits = [path for path in counted.asked["get"] if path.startswith("commits/")]
    assert commits == [f"commits/{view}/{key(2)}/000001.json", f"commits/{view}/{key(6)}/000000.json"]
    assert [path for path in counted.asked["list"] if path.startswith("commits")] == [f"commits/{view}"]
    difference = store.diff(first, second)
    assert [row.key for row in difference.added] == [key(6)]
    assert [(old.number, new.number) for old, new in difference.changed] == [(0, 1)]
    assert difference.removed == ()
    assert store.diff(second, first).removed == difference.added


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from("abc")), min_size=1, max_size=12), st.integers(0, 11))
def test_snapshot_is_the_same_whatever_it_was_built_on(steps: list[tuple[int, str]], cut: int) -> None:
    store = Store(MemoryLocation("memory://fresh"), create_store("memory://pinning-property").record)
    view_id = store.put_view(example_view())
    for step, (i, text) in enumerate(steps):
        store.publish(view_id, key(i), example_entry(), input_sha256=digest_of(text), make_current=True)
        if step == cut:
            store.make_snapshot(view_id)
    incremental = store.make_snapshot(view_id)
    for path in store.location.paths("snapshots"):
        store.location.delete(path)
    assert newest_snapshot(store.location, view_id) is None
    assert store.make_snapshot(view_id) == incremental


def test_damaged_base_only_costs_reading(memory: Store) -> None:
    view = memory.put_view(example_view())
    publish(memory, view, key(1), "a")
    first = memory.make_snapshot(view)
    memory.location.put(f"snapshots/{first}.jsonl.zst", b"damaged")
    publish(memory, view, key(2), "a")
    second = memory.make_snapshot(view)
    assert len(memory.snapshot(second)) == 2


def test_base_of_another_view_is_refused(memory: Store) -> None:
    view, other = memory.put_view(example_view()), memory.put_view(example_view(name="other"))
    publish(memory, view, key(1), "a")
    made = memory.make_snapshot(view)
    with pytest.raises(UsageError, match="is no base for it"):
        memory.make_snapshot(other, base=made)
    publish(memory, other, key(1), "a")
    of_other = memory.make_snapshot(other)
    with pytest.raises(UsageError, match="two views"):
        memory.diff(made, of_other)


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ([], ["P1/PET/spine", "P1/CT/spine", "P2/PET/lung", "p1/PET/spine"]),
        (["patient=P*"], ["P1/PET/spine", "P1/CT/spine", "P2/PET/lung"]),
        (["modality!=CT"], ["P1/PET/spine", "P2/PET/lung", "p1/PET/spine"]),
        (["patient=P1,p1", "roi=sp?ne", "modality=PET"], ["P1/PET/spine", "p1/PET/spine"]),
        (["patient=P[2-9]"], ["P2/PET/lung"]),
        (["roi!=spine,lung"], []),
    ],
)
def test_filter_takes_what_passes_every_term(terms: list[str], expected: list[str]) -> None:
    keys = [EntryKey.parse(text) for text in ("P1/PET/spine", "P1/CT/spine", "P2/PET/lung", "p1/PET/spine")]
    assert [str(one) for one in filter(where(terms), keys)] == expected


@pytest.mark.parametrize(
    "term", ["", "patient", "patient=", "=x", "study=x", "patient==", "patient=a,,b", "PATIENT=x", "roi~x"]
)
def test_filter_that_says_nothing_is_refused(term: str) -> None:
    if term == "patient==":
        assert not where([term])(key(1))
        return
    with pytest.raises(UsageError, match="is no filter"):
        where([term])


def test_filter_that_nothing_passes_is_told(memory: Store) -> None:
    view = memory.put_view(example_view())
    publish(memory, view, key(1), "a")
    with pytest.raises(NotCommittedError, match="none of 1 entries"):
        memory.make_snapshot(view, where=["patient=Q*"])


def test_withdrawn_entries_are_left_out_and_older_snapshots_refuse(memory: Store) -> None:
    view = memory.put_view(example_view())
    for i in range(3):
        publish(memory, view, key(i), "a")
    before = memory.make_snapshot(view)
    withdraw(memory, patients=["P001"], reason="consent")
    with pytest.raises(EntryWithdrawnError, match="make a new one with `store-schema snapshot"):
        memory.snapshot(before)
    with pytest.raises(EntryWithdrawnError):
        open_snapshot(memory.url, before)
    after = memory.make_snapshot(view)
    assert memory.snapshot(after).keys == (key(0), key(2))
    assert [row.key for row in memory.diff(before, after).removed] == [key(1)]


def test_snapshots_without_markers_open_and_serve_as_before(memory: Store) -> None:
    """Stores written before markers existed."""
    view = memory.put_view(example_view())
    publish(memory, view, key(1), "a")
    made = memory.make_snapshot(view)
    memory.location.delete(f"{MARKERS}/{view}/{made}")
    assert memory.snapshot(made).keys == (key(1),)
    assert memory.snapshot_ids() == [made]
    assert memory.make_snapshot(view) == made
    assert memory.location.exists(f"{MARKERS}/{view}/{made}")


def test_four_hundred_thousand_rows_take_less_than_20_mb() -> None:
    """Digests do not compress; a tenth of the rows is measured, which is less favourable."""
    rows = [[f"MM_{i:06d}", m, "spine_dilated", 0, digest_of(f"{i}{m}")] for i in range(20_000) for m in ("CT", "PET")]
    size = len(compress(b"\n".join(map(canonical_json, rows))))
    assert size * 10 <= 20_000_000


def test_commands_pin_filter_pack_and_compare(store: Store, view: str, snapshot: Snapshot, tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, list[str]]:
        done = CliRunner().invoke(main, arguments)
        return done.exit_code, done.stdout.splitlines()

    status, lines = run("snapshot", store.url, "example", "--where", "patient=a", "--pack")
    assert status == 0
    chosen, packed = lines
    assert packed.startswith("pack mean_map of 2 entries")
    status, lines = run("diff", store.url, snapshot.id[:10], chosen[:10])
    assert (status, lines) == (1, ["- b.2/CT/skeleton 0", "0 added, 1 removed, 0 changed"])
    status, lines = run("diff", store.url, chosen, snapshot.id, "--json")
    assert json.loads("\n".join(lines)) == {
        "added": [{"key": "b.2/CT/skeleton", "number": 0}],
        "removed": [],
        "changed": [],
    }
    assert run("diff", store.url, chosen, chosen) == (0, ["0 added, 0 removed, 0 changed"])
    assert run("snapshot", store.url, "example", "--where", "nothing=x")[0] == 2
    status, lines = run("pack", store.url, chosen[:12], "--kind", "memory")
    assert status == 0
    assert lines[0].startswith("pack memory of 2 entries")
