"""Snapshots: their bytes as SPEC.md says, read here with json, hashlib and numcodecs alone."""

import hashlib
import json
from pathlib import Path

import pytest
from numcodecs import Zstd

from store_schema import Snapshot, Store, create_store, open_snapshot
from store_schema.errors import NotCommittedError, ObjectAlteredError, SchemaError
from store_schema.records import canonical_json, sha256
from store_schema.snapshot import compress, parse_list, resolve_id


def test_snapshot_file_is_as_the_specification_says(store: Store, view: str, snapshot: Snapshot, keys) -> None:
    lines = Zstd().decode(Path(store.url, "snapshots", f"{snapshot.id}.jsonl.zst").read_bytes())
    assert hashlib.sha256(lines).hexdigest() == snapshot.id
    header, *rows = map(json.loads, lines.decode().splitlines())
    assert header == {
        "schema": 1,
        "store_id": store.store_id,
        "view": view,
        "view_sha256": store.view(view).digest,
        "rows": 3,
    }
    for row, key in zip(rows, keys, strict=True):
        commit = Path(store.url, "commits", view, str(key), "000000.json").read_bytes()
        assert row == [key.patient, key.modality, key.roi, 0, hashlib.sha256(commit).hexdigest()]


def test_snapshot_of_another_store_is_refused(store: Store, view: str, snapshot: Snapshot, tmp_path: Path) -> None:
    other = create_store(tmp_path / "other")
    other.location.put(f"snapshots/{snapshot.id}.jsonl.zst", compress(snapshot.content.lines))
    with pytest.raises(SchemaError, match="was made in store"):
        other.snapshot(snapshot.id)


def test_snapshot_is_found_by_url_and_beginning(store: Store, snapshot: Snapshot) -> None:
    assert open_snapshot(store.url, snapshot.id[:10]).content == snapshot.content


def test_beginning_that_means_several_is_refused() -> None:
    ids = ["a" * 64, "ab" + "c" * 62]
    assert resolve_id("ab", lambda: ids) == ids[1]
    with pytest.raises(NotCommittedError, match="begins 2 snapshot ids"):
        resolve_id("a", lambda: ids)


def test_view_replaced_under_a_snapshot_is_refused(store: Store, view: str, snapshot: Snapshot) -> None:
    """The name of a view is 16 digits of its digest: the snapshot holds the whole."""
    header = json.loads(snapshot.content.lines.splitlines()[0])
    lines = snapshot.content.lines.replace(header["view_sha256"].encode(), b"0" * 64)
    store.location.put(f"snapshots/{sha256(lines)}.jsonl.zst", compress(lines))
    with pytest.raises(ObjectAlteredError, match="is not the one that snapshot"):
        _ = store.snapshot(sha256(lines)).view
    assert [finding.kind for finding in store.verify().findings] == ["altered"]


ROW = ["a", "CT", "x", 0, "0" * 64]
HEADER = {"schema": 1, "store_id": "0" * 32, "view": "v-0123456789abcdef", "view_sha256": "0" * 64}


@pytest.mark.parametrize(
    "rows",
    [[ROW, ROW], [["b", *ROW[1:]], ROW], [ROW[:4]], [["..", *ROW[1:]]], [5], [[1, *ROW[1:]]]],
    ids=["twice", "unsorted", "short", "bad id", "no list", "id of another type"],
)
def test_rows_that_no_writer_makes_are_refused(rows: list[object]) -> None:
    lines = b"".join(canonical_json(line) + b"\n" for line in [{**HEADER, "rows": len(rows)}, *rows])
    with pytest.raises(SchemaError):
        parse_list(compress(lines), snapshot_id=sha256(lines))


def test_count_of_rows_must_be_that_of_the_header() -> None:
    lines = b"".join(canonical_json(line) + b"\n" for line in [{**HEADER, "rows": 2}, ROW])
    with pytest.raises(SchemaError, match="1 rows: expected 2"):
        parse_list(compress(lines), snapshot_id=sha256(lines))


def test_snapshot_of_nothing_is_legal(store: Store, view: str) -> None:
    empty = store.snapshot(store.make_snapshot(view, []))
    assert (len(empty), empty.keys) == (0, ())
