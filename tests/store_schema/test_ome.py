"""Exported masks are OME-Zarr 0.5: its models accept them, ome-zarr-py reads the voxels, and they lie where they should."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Node, Reader
from ome_zarr_models import v05

from store_schema import Entry, EntryKey, Snapshot, Store, create_store
from store_schema.errors import NotCommittedError, ObjectAlteredError, StoreError, UsageError
from store_schema.ome import export_masks
from store_schema.testing import digest_of, example_entry, example_view

KEYS = [EntryKey("P1", "CT", "skeleton"), EntryKey("P1", "CT", "spine"), EntryKey("P1-CT", "CT", "spine")]
SHAPE = (9, 20, 30)
GRID = {
    "size_xyz": [30, 20, 9],
    "origin_xyz_mm": [-250.5, -240.25, -900.0],
    "spacing_xyz_mm": [0.98, 0.99, 3.27],
    "direction": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
}


def mask(i: int) -> np.ndarray:
    return (np.random.default_rng(i).random(SHAPE) < 0.1 * (i + 1)).astype(np.uint8)


def entry(i: int, grid: object = GRID, *, values: np.ndarray | None = None) -> Entry:
    return Entry({**example_entry(i).arrays, "mask": mask(i) if values is None else values}, {"grid": grid})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return create_store(tmp_path / "store")


def pinned(store: Store, *entries: Entry) -> Snapshot:
    view = store.put_view(example_view())
    for i, (key, one) in enumerate(zip(KEYS, entries, strict=False)):
        store.publish(view, key, one, input_sha256=digest_of(str(i)))
    return store.snapshot(store.make_snapshot(view))


@pytest.fixture
def snapshot(store: Store) -> Snapshot:
    return pinned(store, *map(entry, range(3)))


def opened(place: Path) -> dict[str, Node]:
    """Everything that ome-zarr-py finds, by the end of its path."""
    found = parse_url(place, mode="r")
    assert found is not None
    return {node.zarr.basename(): node for node in Reader(found)()}


def voxels(node: Node) -> np.ndarray:
    (level,) = node.data
    return np.asarray(level)


def transformations(place: Path) -> list[dict[str, Any]]:
    ome: Any = zarr.open_group(place, mode="r").attrs["ome"]
    return list(ome["multiscales"][0]["datasets"][0]["coordinateTransformations"])


def test_ome_zarr_py_reads_the_masks_where_they_lie(snapshot: Snapshot, tmp_path: Path) -> None:
    done = export_masks(snapshot, tmp_path / "masks")
    assert (done.images, done.labels, done.without) == (2, 3, ())
    place = tmp_path / "masks" / "P1" / "CT.ome.zarr"
    nodes = opened(place)
    assert np.array_equal(voxels(nodes["CT.ome.zarr"]), mask(0) | mask(1))
    for i, roi in enumerate(("skeleton", "spine")):
        (label,) = (node for name, node in opened(place / "labels" / roi).items() if name == roi)
        assert np.array_equal(voxels(label), mask(i))
        assert voxels(label).dtype == np.uint8
        assert [(axis["name"], axis["unit"]) for axis in label.metadata["axes"]] == [(n, "millimeter") for n in "zyx"]
        assert label.metadata["coordinateTransformations"] == [
            [
                {"type": "scale", "scale": [3.27, 0.99, 0.98]},
                {"type": "translation", "translation": [-900.0, -240.25, -250.5]},
            ]
        ]
        assert label.metadata["properties"] == {1: {"name": roi}}
    assert set(opened(place / "labels")) >= {"skeleton", "spine"}
    other = tmp_path / "masks" / "P1-CT" / "CT.ome.zarr"
    assert np.array_equal(voxels(opened(other)["CT.ome.zarr"]), mask(2))


def test_groups_are_valid_by_the_models_of_the_format(snapshot: Snapshot, tmp_path: Path) -> None:
    export_masks(snapshot, tmp_path)
    group = zarr.open_group(tmp_path / "P1" / "CT.ome.zarr", mode="r")
    image = v05.Image.from_zarr(group)
    assert image.labels is not None
    assert image.labels.label_paths == ["skeleton", "spine"]
    for roi in image.labels.label_paths:
        label = v05.ImageLabel.from_zarr(group[f"labels/{roi}"])  # type: ignore[arg-type]
        assert label.ome_attributes.image_label is not None


def test_geometry_and_origin_stand_in_the_attributes(snapshot: Snapshot, tmp_path: Path) -> None:
    export_masks(snapshot, tmp_path)
    label = zarr.open_group(tmp_path / "P1" / "CT.ome.zarr" / "labels" / "spine", mode="r")
    told: Any = label.attrs["engram"]
    grid = {name: GRID[name] for name in ("spacing_xyz_mm", "origin_xyz_mm", "direction")}
    assert told == {
        "store": snapshot.content.header.store_id,
        "view": snapshot.view_id,
        "snapshot": snapshot.id,
        "space": "LPS",
        "grid": grid,
        "entry": str(KEYS[1]),
        "commit": 0,
        "commit_sha256": snapshot.row(KEYS[1]).commit_sha256,
    }


@pytest.mark.parametrize(
    ("changes", "translated"),
    [
        ({}, True),
        ({"direction": [1, 1e-6, 0, -1e-6, 1, 0, 0, 0, 1]}, True),
        ({"direction": [0.98, -0.199, 0, 0.199, 0.98, 0, 0, 0, 1]}, False),
        ({"direction": None}, False),
        ({"origin_xyz_mm": None}, False),
    ],
)
def test_origin_is_a_translation_only_along_the_patients_axes(
    store: Store, tmp_path: Path, changes: dict[str, object], translated: bool
) -> None:
    export_masks(pinned(store, entry(0, GRID | changes)), tmp_path)
    kinds = [one["type"] for one in transformations(tmp_path / "P1" / "CT.ome.zarr")]
    assert kinds == ["scale", *(["translation"] if translated else [])]


def test_empty_mask_is_a_label_without_values(store: Store, tmp_path: Path) -> None:
    export_masks(pinned(store, entry(0, values=np.zeros(SHAPE, np.uint8))), tmp_path)
    place = tmp_path / "P1" / "CT.ome.zarr" / "labels" / "skeleton"
    v05.ImageLabel.from_zarr(zarr.open_group(place, mode="r"))
    assert not voxels(opened(place)["skeleton"]).any()


def test_entries_without_a_mask_are_named(store: Store, tmp_path: Path) -> None:
    bare = Entry({"memory": example_entry().arrays["memory"]}, {})
    done = export_masks(pinned(store, entry(0), bare), tmp_path / "masks")
    assert (done.images, done.labels, done.without) == (1, 1, (KEYS[1],))
    other = create_store(tmp_path / "other")
    with pytest.raises(NotCommittedError, match="has a mask"):
        export_masks(pinned(other, bare), tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "grid", [None, {}, {"spacing_xyz_mm": [1, 1]}, {"spacing_xyz_mm": [1, 1, 0]}, {"spacing_xyz_mm": "abc"}]
)
def test_mask_that_cannot_be_placed_is_refused_and_leaves_nothing(store: Store, tmp_path: Path, grid: object) -> None:
    with pytest.raises(StoreError, match="P1/CT/skeleton has no spacing"):
        export_masks(pinned(store, entry(0, grid)), tmp_path / "masks")
    assert list((tmp_path / "masks" / "P1").iterdir()) == []


@pytest.mark.parametrize(
    "second",
    [
        entry(1, GRID | {"origin_xyz_mm": [0, 0, 0]}),
        entry(1, GRID | {"spacing_xyz_mm": [1, 1, 1]}),
        entry(1, values=np.ones((9, 20, 31), np.uint8)),
    ],
)
def test_labels_of_one_image_lie_on_one_grid(store: Store, tmp_path: Path, second: Entry) -> None:
    with pytest.raises(StoreError, match=r"P1/CT/spine has a mask of .* lie on one grid"):
        export_masks(pinned(store, entry(0), second), tmp_path)


def test_rounding_of_a_file_format_is_no_other_grid(store: Store, tmp_path: Path) -> None:
    nearly = GRID | {"spacing_xyz_mm": [float(np.float32(0.98)), float(np.float32(0.99)), float(np.float32(3.27))]}
    assert export_masks(pinned(store, entry(0), entry(1, nearly)), tmp_path).labels == 2


def test_images_that_are_there_are_replaced_only_on_request_and_only_by_whole_ones(
    snapshot: Snapshot, tmp_path: Path
) -> None:
    out = tmp_path / "masks"
    export_masks(snapshot, out)
    shutil.rmtree(out / "P1")
    with pytest.raises(UsageError, match=r"P1-CT.CT\.ome\.zarr exists.*--force"):
        export_masks(snapshot, out)
    assert not (out / "P1").exists()
    damaged = next(Path(snapshot.url, snapshot.commit(KEYS[2]).folder, "mask").rglob("c/0/0/0"))
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1])
    with pytest.raises(ObjectAlteredError):
        export_masks(snapshot, out, overwrite=True)
    assert np.array_equal(voxels(opened(out / "P1-CT" / "CT.ome.zarr")["CT.ome.zarr"]), mask(2))
    damaged.write_bytes(whole)
    assert export_masks(snapshot, out, overwrite=True).labels == 3
    assert sorted(one.name for one in out.rglob("*.ome.zarr*")) == ["CT.ome.zarr", "CT.ome.zarr"]


def test_progress_is_told(snapshot: Snapshot, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    export_masks(snapshot, tmp_path, told=lambda *where: seen.append(where))
    assert seen == [(1, 2), (2, 2)]
