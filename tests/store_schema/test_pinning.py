"""Snapshots are made from one listing and what is new, and give the same id whatever they were built on."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from store_schema import EntryKey, Snapshot, Store, create_store, open_snapshot
from store_schema.cli import main
from store_schema.errors import EntryWithdrawnError, NotCommittedError, UsageError
from store_schema.location import Location, MemoryLocation, ObjectInfo
from store_schema.pinning import LISTED_KEYS, TOLD_EVERY
from store_schema.records import canonical_json
from store_schema.snapshot import MARKERS, compress, newest_snapshots
from store_schema.testing import BlindLocation, WrappedLocation, digest_of, example_entry, example_view
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

    def objects(self, prefix: str) -> Iterator[ObjectInfo]:
        self.asked["list"].append(prefix)
        return self.inner.objects(prefix)

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


def requests(counted: Counting) -> tuple[list[str], list[str]]:
    """Commits read, and listings of commits."""
    commits = [path for path in counted.asked["get"] if path.startswith("commits/")]
    return commits, [path for path in counted.asked["list"] if path.startswith("commits")]


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
    assert requests(counted) == (
        [f"commits/{view}/{key(2)}/000001.json", f"commits/{view}/{key(6)}/000000.json"],
        [f"commits/{view}"],
    )
    difference = store.diff(first, second)
    assert [row.key for row in difference.added] == [key(6)]
    assert [(old.number, new.number) for old, new in difference.changed] == [(0, 1)]
    assert difference.removed == ()
    assert store.diff(second, first).removed == difference.added


def test_unchanged_entries_cost_the_same_requests_however_many_they_are(memory: Store) -> None:
    costs = []
    for count in (3, 30):
        view = memory.put_view(example_view(name=f"of-{count}"))
        for i in range(count):
            publish(memory, view, key(i), "a")
        made = memory.make_snapshot(view)
        counted = Counting(memory.location)
        assert Store(counted, memory.record).make_snapshot(view) == made
        assert requests(counted) == ([], [f"commits/{view}"])
        costs.append((len(counted.asked["get"]), len(counted.asked["list"])))
    assert costs[0] == costs[1]


def test_entries_asked_for_by_key_are_not_read_again(memory: Store) -> None:
    """A few are looked up one by one, many by one listing."""
    view = memory.put_view(example_view())
    keys = [key(i) for i in range(3)]
    for one in keys:
        publish(memory, view, one, "a")
    made = memory.make_snapshot(view)
    counted = Counting(memory.location)
    assert Store(counted, memory.record).make_snapshot(view, keys) == made
    assert requests(counted) == ([], [f"commits/{view}/{one}" for one in keys])
    absent = [key(i, "CT") for i in range(LISTED_KEYS)]
    counted = Counting(memory.location)
    with pytest.raises(NotCommittedError, match="has no commit of"):
        Store(counted, memory.record).make_snapshot(view, [*keys, *absent])
    assert requests(counted)[1][0] == f"commits/{view}"
    assert not set(requests(counted)[1]) & {f"commits/{view}/{one}" for one in keys}


def test_snapshot_of_few_entries_does_not_hide_the_one_of_all(memory: Store) -> None:
    view = memory.put_view(example_view())
    for i in range(9):
        publish(memory, view, key(i), "a")
    whole = memory.make_snapshot(view)
    memory.make_snapshot(view, where=["patient=P001"])
    counted = Counting(memory.location)
    assert Store(counted, memory.record).make_snapshot(view) == whole
    assert requests(counted)[0] == []


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_snapshot_is_the_same_whatever_it_was_built_on(data: st.DataObject) -> None:
    """Any order of commits and of snapshots of any choice between them."""
    store = Store(MemoryLocation("memory://fresh"), create_store("memory://pinning-property").record)
    view_id = store.put_view(example_view())
    made = []
    for _ in range(data.draw(st.integers(1, 10))):
        at, text = key(data.draw(st.integers(0, 4))), data.draw(st.sampled_from("abc"))
        store.publish(view_id, at, example_entry(), input_sha256=digest_of(text), make_current=True)
        if data.draw(st.booleans()):
            chosen = [one for one in store.keys(view_id) if data.draw(st.booleans())]
            made.append(store.make_snapshot(view_id, data.draw(st.sampled_from([chosen, None]))))
    incremental = store.make_snapshot(view_id, base=data.draw(st.sampled_from([*made, None])))
    for path in store.location.paths("snapshots"):
        store.location.delete(path)
    assert newest_snapshots(store.location, view_id) == []
    assert store.make_snapshot(view_id) == incremental
    assert store.make_snapshot(view_id, reversed(store.keys(view_id))) == incremental


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


def test_snapshot_of_another_store_is_no_base(memory: Store, tmp_path: Path) -> None:
    """Brought here by hand: nothing is taken from it."""
    view = memory.put_view(example_view())
    publish(memory, view, key(1), "a")
    expected = memory.make_snapshot(view)
    elsewhere = create_store(tmp_path / "elsewhere")
    elsewhere.put_view(example_view())
    publish(elsewhere, view, key(1), "b")
    foreign = elsewhere.make_snapshot(view)
    for path in elsewhere.location.paths("snapshots"):
        memory.location.put(path, elsewhere.location.get(path))
    assert newest_snapshots(memory.location, view)[0] == foreign
    assert memory.make_snapshot(view) == expected
    with pytest.raises(UsageError, match="is no base for it"):
        memory.make_snapshot(view, base=foreign[:9])


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


def test_withdrawn_entry_cannot_be_pinned_by_key_or_number(memory: Store) -> None:
    view = memory.put_view(example_view())
    for i in range(3):
        publish(memory, view, key(i), "a")
    withdraw(memory, patients=["P001"], reason="consent")
    for asked in ([key(0), key(1)], {key(1): 0}, {key(1): None}):
        with pytest.raises(EntryWithdrawnError, match="P001/PET/spine was withdrawn"):
            memory.make_snapshot(view, asked)


def test_entry_whose_withdrawal_is_under_way_is_left_out(memory: Store) -> None:
    """It has its tombstone and is not in the view's list yet."""
    view = memory.put_view(example_view())
    for i in range(3):
        publish(memory, view, key(i), "a")
    memory.make_snapshot(view)
    withdraw(memory, patients=["P001"], reason="consent")
    after = memory.make_snapshot(view)
    for path in (*memory.location.paths("withdrawn"), *memory.location.paths("snapshots")):
        memory.location.delete(path)
    assert memory.make_snapshot(view) == after
    with pytest.raises(EntryWithdrawnError):
        memory.make_snapshot(view, [key(1)])


def test_beginning_of_an_id_needs_a_place_that_lists(memory: Store) -> None:
    view = memory.put_view(example_view())
    publish(memory, view, key(1), "a")
    made = memory.make_snapshot(view)
    blind = Store(BlindLocation(memory.location), memory.record)
    assert blind.snapshot(made).keys == (key(1),)
    with pytest.raises(UsageError, match="give the whole id of one, 64 hex digits"):
        blind.snapshot(made[:12])


def test_progress_is_told_now_and_then_and_at_the_end(memory: Store) -> None:
    view = memory.put_view(example_view())
    entry, count = example_entry(), TOLD_EVERY + 3
    for i in range(count):
        memory.publish(view, key(i), entry, input_sha256=digest_of("a"))
    told: list[tuple[int, int]] = []
    memory.make_snapshot(view, told=lambda done, total: told.append((done, total)))
    assert told == [(TOLD_EVERY, count), (count, count)]


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
