"""A Parquet file of embeddings holds the very values, and says what they are."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

from store_schema import Entry, EntryKey, Snapshot, Store, create_store, make_pack
from store_schema.errors import NotCommittedError, ObjectAlteredError, StoreError, UsageError
from store_schema.exporting import export_embeddings
from store_schema.testing import digest_of, example_entry, example_view

KEYS = [EntryKey("P1", "CT", "skeleton"), EntryKey("P1", "PET", "spine"), EntryKey("P2.later", "CT", "spine")]


@pytest.fixture
def pinned(tmp_path: Path) -> Snapshot:
    """Three entries; the second is pinned to its second commit."""
    store = create_store(tmp_path / "store")
    view = store.put_view(example_view())
    store.publish(view, KEYS[1], example_entry(99), input_sha256=digest_of("old"))
    for i, key in enumerate(KEYS):
        store.publish(view, key, example_entry(i), input_sha256=digest_of(str(i)))
    return store.snapshot(store.make_snapshot(view))


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """Where to export to; nothing unfinished is left beside it."""
    (tmp_path / "out").mkdir()
    yield tmp_path / "out" / "embeddings.parquet"
    assert [one.name for one in (tmp_path / "out").iterdir() if one.name != "embeddings.parquet"] == []


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("array", ["mean_map", "memory"])
def test_table_has_the_very_values_and_says_what_they_are(
    pinned: Snapshot, path: Path, array: str, packed: bool
) -> None:
    if packed:
        make_pack(pinned, array)
    assert export_embeddings(pinned, path, array=array) == len(KEYS)
    told = json.loads(pyarrow.parquet.read_schema(path).metadata[b"engram"])
    expected = example_entry(0).arrays[array]
    assert told == {
        "store": pinned.content.header.store_id,
        "view": pinned.view_id,
        "snapshot": pinned.id,
        "array": array,
        "dtype": str(expected.dtype),
        "shape": list(expected.shape),
        "axes": ["row", "column"] if array == "mean_map" else ["memory_layer", "channel", "row", "column"],
    }
    frame = pd.read_parquet(path)
    assert [EntryKey(*names) for names in zip(frame["patient"], frame["modality"], frame["roi"], strict=True)] == KEYS
    assert list(frame["number"]) == [0, 1, 0]
    assert list(frame["commit_sha256"]) == [row.commit_sha256 for row in pinned.rows]
    for i, values in enumerate(frame[array]):
        expected = example_entry(i).arrays[array]
        assert values.dtype == expected.dtype
        assert values.reshape(told["shape"]).tobytes() == expected.tobytes()
    assert [list(valid) for valid in frame.get("valid_layers", [])] == [[True, True]] * (3 if array == "memory" else 0)


def test_rows_come_in_groups_and_progress_is_told(
    pinned: Snapshot, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store_schema.exporting.GROUP_ROWS", 2)
    seen: list[tuple[int, int]] = []
    export_embeddings(pinned, path, told=lambda *where: seen.append(where))
    file = pyarrow.parquet.ParquetFile(path)
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [2, 1]
    assert seen == [(2, 3), (3, 3)]
    values = file.read()["mean_map"].combine_chunks().flatten().to_numpy().reshape(3, -1)
    assert np.array_equal(values, [example_entry(i).arrays["mean_map"].reshape(-1) for i in range(3)])


def test_vectors_are_exported_as_memories(store: Store, path: Path) -> None:
    view = store.put_view(example_view(name="vectors", shape=(1, 7, 1, 1)))
    vector = np.arange(7, dtype=np.float16)
    store.publish(view, KEYS[0], Entry({"memory": vector.reshape(1, 7, 1, 1)}, {}), input_sha256=digest_of("a"))
    pinned = store.snapshot(store.make_snapshot(view))
    export_embeddings(pinned, path, array="memory")
    (row,) = pd.read_parquet(path).to_dict("records")
    assert np.array_equal(row["memory"], vector)
    assert row["valid_layers"] is None
    with pytest.raises(NotCommittedError, match="has no array"):
        export_embeddings(pinned, path, overwrite=True)
    assert len(pd.read_parquet(path)) == 1


def test_file_that_is_there_is_replaced_only_on_request_and_only_by_a_whole_one(pinned: Snapshot, path: Path) -> None:
    path.write_text("mine")
    with pytest.raises(UsageError, match="--force"):
        export_embeddings(pinned, path)
    commit = pinned.commit(KEYS[2])
    damaged = Path(pinned.url, commit.folder, "mean_map/c/0/0")
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1])
    with pytest.raises(ObjectAlteredError):
        export_embeddings(pinned, path, overwrite=True)
    assert path.read_text() == "mine"
    damaged.write_bytes(whole)
    export_embeddings(pinned, path, overwrite=True)
    assert len(pd.read_parquet(path)) == len(KEYS)


def test_what_cannot_be_exported_is_told(
    pinned: Snapshot, store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = store.snapshot(store.make_snapshot(store.put_view(example_view(name="empty"))))
    with pytest.raises(NotCommittedError, match="nothing to export"):
        export_embeddings(empty, path)
    with pytest.raises(UsageError, match="no embedding"):
        export_embeddings(pinned, path, array="mask")
    with pytest.raises(UsageError, match="make it first"):
        export_embeddings(pinned, path.parent / "no" / "x.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match=r"needs pyarrow: install engram\[extractor\]"):
        export_embeddings(pinned, path)
    assert not path.exists()


def test_file_that_cannot_be_written_is_told(pinned: Snapshot, path: Path) -> None:
    with pytest.raises(StoreError, match="could not be written: File name too long"):
        export_embeddings(pinned, path.with_name("x" * 300))
    path.mkdir()
    with pytest.raises(StoreError, match="could not be written: Is a directory"):
        export_embeddings(pinned, path, overwrite=True)
