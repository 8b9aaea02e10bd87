"""Exports hold the very values, in forms that the tools they are for read."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from click.testing import CliRunner
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader

from store_schema import Entry, EntryKey, Snapshot, create_store
from store_schema.cli import main
from store_schema.errors import NotCommittedError, StoreError, UsageError
from store_schema.exporting import export_embeddings, export_masks
from store_schema.testing import digest_of, example_entry, example_view

KEYS = [EntryKey("P1", "CT", "skeleton"), EntryKey("P1", "CT", "spine"), EntryKey("P2", "CT", "spine")]
GRID = {"spacing_xyz_mm": [0.98, 0.99, 3.27], "origin_xyz_mm": [1.0, 2.0, 3.0]}


def entry(i: int, **attributes: object) -> Entry:
    rng = np.random.default_rng(7 if i < 2 else i)
    mask = (rng.random((9, 20, 30)) < 0.1 * (i + 1)).astype(np.uint8)
    return Entry({**example_entry(i).arrays, "mask": mask}, {"grid": GRID} | attributes)


@pytest.fixture
def pinned(tmp_path: Path) -> Snapshot:
    store = create_store(tmp_path / "store")
    view = store.put_view(example_view())
    for i, key in enumerate(KEYS):
        store.publish(view, key, entry(i), input_sha256=digest_of(str(i)))
    return store.snapshot(store.make_snapshot(view))


@pytest.mark.parametrize("array", ["mean_map", "memory"])
def test_embeddings_are_read_by_pandas_and_pyarrow(pinned: Snapshot, tmp_path: Path, array: str) -> None:
    path = tmp_path / "embeddings.parquet"
    assert export_embeddings(pinned, path, array=array) == len(KEYS)
    table = pyarrow.parquet.read_table(path)
    told = json.loads(table.schema.metadata[b"engram"])
    assert (told["snapshot"], told["view"], told["array"]) == (pinned.id, pinned.view_id, array)
    frame = pd.read_parquet(path)
    assert list(frame["patient"]) == ["P1", "P1", "P2"]
    assert list(frame["roi"]) == ["skeleton", "spine", "spine"]
    assert list(frame["commit_sha256"]) == [row.commit_sha256 for row in pinned.rows]
    for i, values in enumerate(frame[array]):
        expected = entry(i).arrays[array]
        assert np.asarray(values).dtype == expected.dtype
        assert np.array_equal(np.asarray(values).reshape(told["shape"]), expected)
    assert [child.name for child in tmp_path.iterdir() if child.name.startswith(".")] == []


def test_masks_are_labels_that_ome_zarr_reads(pinned: Snapshot, tmp_path: Path) -> None:
    assert export_masks(pinned, tmp_path / "masks") == 3
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["P1-CT.ome.zarr", "P2-CT.ome.zarr"]
    place = parse_url(tmp_path / "masks" / "P1-CT.ome.zarr", mode="r")
    assert place is not None
    nodes = list(Reader(place)())
    union = np.asarray(nodes[0].data[0])
    assert np.array_equal(union, (entry(0).arrays["mask"] | entry(1).arrays["mask"]))
    labels = {
        Path(str(node.zarr)).name if "/labels/" not in str(node.zarr) else str(node.zarr).rpartition("/")[2]: node
        for node in nodes
    }
    found = {name.rstrip("]/ "): node for name, node in labels.items()}
    for i, roi in enumerate(("skeleton", "spine")):
        node = next(node for name, node in found.items() if roi in name)
        assert np.array_equal(np.asarray(node.data[0]), entry(i).arrays["mask"])
        assert node.metadata["coordinateTransformations"][0][0]["scale"] == [3.27, 0.99, 0.98]
        assert [axis["unit"] for axis in node.metadata["axes"]] == ["millimeter"] * 3


def test_what_is_there_is_replaced_only_on_request(pinned: Snapshot, tmp_path: Path) -> None:
    path = tmp_path / "embeddings.parquet"
    path.write_text("mine")
    with pytest.raises(UsageError, match="--force"):
        export_embeddings(pinned, path)
    assert path.read_text() == "mine"
    export_embeddings(pinned, path, overwrite=True)
    export_masks(pinned, tmp_path / "masks")
    with pytest.raises(UsageError, match="--force"):
        export_masks(pinned, tmp_path / "masks")
    assert export_masks(pinned, tmp_path / "masks", overwrite=True) == 3


def test_what_cannot_be_exported_is_told(pinned: Snapshot, tmp_path: Path) -> None:
    store = create_store(tmp_path / "other")
    view = store.put_view(example_view())
    empty = store.snapshot(store.make_snapshot(view))
    with pytest.raises(NotCommittedError, match="nothing to export"):
        export_embeddings(empty, tmp_path / "x.parquet")
    with pytest.raises(NotCommittedError, match="has a mask"):
        export_masks(empty, tmp_path / "masks")
    with pytest.raises(UsageError, match="no embedding"):
        export_embeddings(pinned, tmp_path / "x.parquet", array="mask")
    with pytest.raises(UsageError, match="make it first"):
        export_embeddings(pinned, tmp_path / "no" / "x.parquet")
    store.publish(view, KEYS[0], Entry(entry(0).arrays, {}), input_sha256=digest_of("0"))
    with pytest.raises(StoreError, match="has no spacing"):
        export_masks(store.snapshot(store.make_snapshot(view)), tmp_path / "masks")
    assert not (tmp_path / "masks").exists() or list((tmp_path / "masks").iterdir()) == []


def test_commands_export(pinned: Snapshot, tmp_path: Path) -> None:
    for arguments, line in (
        (["export", "masks", pinned.url, pinned.id[:9], str(tmp_path / "m")], "3 labels"),
        (["export", "embeddings", pinned.url, pinned.id[:9], str(tmp_path / "e.parquet")], "3 rows"),
    ):
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, done.output
        assert done.stdout.startswith(line)
