"""`copy` and `export` on the command line: what they print, what they exit with, and that they say what they do."""

import json
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from store_schema import Entry, EntryKey, Snapshot, Store, create_store, open_store
from store_schema.cli import main
from store_schema.testing import digest_of, example_entry, example_view

GRID = {"spacing_xyz_mm": [1.0, 1.0, 2.0], "origin_xyz_mm": [0.0, 0.0, 0.0], "direction": [1, 0, 0, 0, 1, 0, 0, 0, 1]}


def called(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


@pytest.fixture
def placed(store: Store) -> Snapshot:
    """Two entries of view `placed`, one without a mask."""
    view = store.put_view(example_view(name="placed"))
    for i, roi in enumerate(("skeleton", "spine")):
        arrays = dict(example_entry(i).arrays)
        if roi == "spine":
            del arrays["mask"]
        store.publish(view, EntryKey("P1", "CT", roi), Entry(arrays, {"grid": GRID}), input_sha256=digest_of(roi))
    return store.snapshot(store.make_snapshot(view))


def test_copy_says_what_it_did_and_nothing_more_the_second_time(
    store: Store, view: str, keys: tuple[EntryKey, ...], tmp_path: Path
) -> None:
    store.make_snapshot(view)
    store.put_run("run-1", "record.json", b"{}")
    target = tmp_path / "copy"
    dry = called("copy", store.url, target, "--dry-run")
    assert (dry.exit_code, dry.stdout.startswith("would copy 3 commits, 27 objects, ")) == (0, True)
    assert not target.exists()
    done = called("copy", store.url, target, "--runs")
    assert done.exit_code == 0
    assert done.stdout.startswith("copied 3 commits, 27 objects, ")
    assert done.stdout.endswith(f" MiB to {target}, which has 3 entries (0 withdrawn), 1 snapshots, 0 packs\n")
    assert called("verify", target).exit_code == 0
    again = called("copy", store.url, target, "--runs", "--json")
    report = json.loads(again.stdout)
    assert (report["ok"], report["commits"], report["objects"], report["entries"], report["runs"]) == (True, 0, 0, 3, 1)
    (target / store.commit(view, keys[0]).folder / "zarr.json").unlink()
    mended = called("copy", store.url, target)
    assert mended.stdout.splitlines()[-1] == "of what an earlier copy brought: 1 objects mended, 0 erased as withdrawn"


def test_copy_of_a_view_by_its_name_and_of_a_snapshot_by_a_beginning(store: Store, view: str, tmp_path: Path) -> None:
    pinned = store.make_snapshot(view, where=["patient=a"])
    assert called("copy", store.url, tmp_path / "view", "--view", "example").exit_code == 0
    assert called("copy", store.url, tmp_path / "part", "--snapshot", pinned[:9]).exit_code == 0
    assert len(open_store(tmp_path / "part").keys(view)) == 2
    both = called("copy", store.url, tmp_path / "both", "--view", "example", "--snapshot", pinned)
    assert (both.exit_code, "exclude each other" in both.stderr) == (2, True)


def test_copy_with_a_damaged_object_names_it_and_fails(
    store: Store, view: str, keys: tuple[EntryKey, ...], tmp_path: Path
) -> None:
    path = f"{store.commit(view, keys[1]).folder}/mean_map/c/0/0"
    Path(store.url, path).write_bytes(b"altered")
    done = called("copy", store.url, tmp_path / "copy")
    assert done.exit_code == 1
    first, last = done.stdout.splitlines()
    assert first.startswith(
        f"problem    {view}/{keys[1]}: not copied, ObjectTruncatedError: {store.url}/{path} has 7 bytes"
    )
    assert "which has 2 entries" in last
    assert not open_store(tmp_path / "copy").location.paths(f"commits/{view}/{keys[1]}")


def test_copy_to_another_store_is_wrong_use(store: Store, tmp_path: Path) -> None:
    create_store(tmp_path / "other")
    done = called("copy", store.url, tmp_path / "other")
    assert (done.exit_code, "is another store than" in done.stderr, done.stdout) == (2, True, "")


def test_export_of_masks_names_what_has_none(placed: Snapshot, tmp_path: Path) -> None:
    done = called("export", "masks", placed.url, placed.id[:9], tmp_path / "masks")
    assert done.exit_code == 1
    assert done.stdout.splitlines() == ["no mask    P1/CT/spine", f"1 labels on 1 images in {tmp_path / 'masks'}"]
    assert (tmp_path / "masks" / "P1" / "CT.ome.zarr" / "labels" / "skeleton" / "zarr.json").is_file()
    again = called("export", "masks", placed.url, placed.id[:9], tmp_path / "masks")
    assert (again.exit_code, "--force" in again.stderr) == (2, True)
    assert called("export", "masks", placed.url, placed.id[:9], tmp_path / "masks", "--force").exit_code == 1


def test_export_of_embeddings(placed: Snapshot, tmp_path: Path) -> None:
    file = tmp_path / "maps.parquet"
    done = called("export", "embeddings", placed.url, placed.id[:9], file)
    assert (done.exit_code, done.stdout) == (0, f"2 rows in {file}\n")
    assert list(pd.read_parquet(file).columns)[-1] == "mean_map"
    assert called("export", "embeddings", placed.url, placed.id[:9], file, "--array", "memory").exit_code == 2
    assert called("export", "embeddings", placed.url, placed.id, file, "--array", "memory", "--force").exit_code == 0
    assert list(pd.read_parquet(file).columns)[-2:] == ["valid_layers", "memory"]


def test_help_says_what_travels_and_what_does_not() -> None:
    told = " ".join(called("copy", "--help").stdout.split())
    for words in ("An entry travels with all its commits", "is erased at TARGET", "Write to one of the two only"):
        assert words in told
