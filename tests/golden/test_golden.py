"""The store of schema 1 that was written once: it must read, value by value, with every later version, and never change."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from store_schema import EntryKey, SnapshotStore, Store, create_store, open_store, url
from store_schema.commits import parse_numbered
from store_schema.errors import EntryWithdrawnError
from store_schema.packs import PackRecord, open_pack
from store_schema.records import StoreRecord, TombstoneRecord, ViewSpec, WithdrawnRecord, parse_record, unseal
from store_schema.withdrawals import withdrawn

GOLDEN = Path(__file__).parent / "schema-1"
TREE = "707e0431c4840970cdb8408834639d47f6cf1bbed7b6156696c5c33c7b16c1f2"
"""Digest of every path and every byte below the folder."""
MAPS, VECTORS = "golden-maps-ff7be7bc160d5f9f", "golden-vectors-b41c3d1c76bea581"
PET, CT = EntryKey("P001", "PET", "skeleton"), EntryKey("P001", "CT", "skeleton")
GONE, FOLLOWUP = EntryKey("P003", "PET", "skeleton"), EntryKey("P002.followup", "PET", "spine_dilated")
CURRENT, PINNED, OLD, VECTOR = (
    "60e9172f86182dd550e450429615988c08409989bad95be6762a96016db85f69",
    "a354c573c50be8be91d5677c8febb16ecfef092e6868ffadb0e089a46fcbbf6b",
    "6c3b7a36c33c40c27754f0630c88b651ab8a4c61a5996709ecdf73c0aa1a3e45",
    "eaa9a1d625828342b9d8bfc44b1dd64434d9b7ffddabdb627e13d0f736666a92",
)
"""Snapshots: of what is there, of commit 0 of one entry, of what has been withdrawn since, of the vectors."""
ORPHAN = f"data/{MAPS}/P001/PET/skeleton/{'f' * 32}"

MASK = [[[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0]]]
PREVIEW = [[[0, 20, 40], [60, 80, 100]], [[120, 140, 160], [180, 200, 220]]]
FULL = {"boxes_xyxy": [[1, 1, 2, 2]], "kept_slices_z": [1], "spacing_xyz_mm": [1.5, 1.5, 3.0]}
ENTRIES = {
    (MAPS, PET, 0): (
        "a" * 64,
        "c19a683245d02818bb31579d53570d22380f54d5e4163c4c5309af9ebe560505",
        {
            "memory": [
                [[[-1.0, -0.75], [-0.5, -0.25]], [[0.0, 0.25], [0.5, 0.75]]],
                [[[1.0, 1.25], [1.5, 1.75]], [[2.0, 2.25], [2.5, 2.75]]],
            ],
            "mean_map": [[0.5, 0.75], [1.0, 1.25]],
            "mask": MASK,
            "preview": PREVIEW,
        },
        FULL,
    ),
    (MAPS, PET, 1): (
        "b" * 64,
        "4723d88963ee07f010b583514b3263b3ba44a91c9ef1a8bc5031a53c7d5fe45b",
        {
            "memory": [
                [[[0.5, 0.75], [1.0, 1.25]], [[1.5, 1.75], [2.0, 2.25]]],
                [[[2.5, 2.75], [3.0, 3.25]], [[3.5, 3.75], [4.0, 4.25]]],
            ],
            "mean_map": [[2.0, 2.25], [2.5, 2.75]],
            "mask": MASK,
            "preview": PREVIEW,
        },
        FULL,
    ),
    (MAPS, CT, 0): (
        "c" * 64,
        "cd506605e4d38f0842f687c5cd8d9798c3c055ec8654587e2af1df652440db5b",
        {
            "memory": [
                [[[-2.0, -1.75], [-1.5, -1.25]], [[-1.0, -0.75], [-0.5, -0.25]]],
                [[[0.0, 0.25], [0.5, 0.75]], [[1.0, 1.25], [1.5, 1.75]]],
            ],
            "mean_map": [[-0.5, -0.25], [0.0, 0.25]],
        },
        {"kept_slices_z": [0, 1]},
    ),
    (VECTORS, FOLLOWUP, 0): (
        "e" * 64,
        "ed97112b84befde2e2f65ede42b92d0e3688fca004448a9d8cfe8a402acef0f5",
        {"memory": [[[[0.0]], [[-0.5]], [[65504.0]], [[5.960464477539063e-08]], [[1.0]]]]},
        {},
    ),
}
"""Input digest, content digest, values and attributes by view, key and number."""
DTYPES = {"memory": "float16", "mean_map": "float32", "mask": "uint8", "preview": "uint8"}


def _tree_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(GOLDEN.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            digest.update(f"{path.relative_to(GOLDEN).as_posix()} {len(data)}\n".encode() + data)
    return digest.hexdigest()


@pytest.fixture
def store() -> Iterator[Store]:
    """The golden store, before and after looked at: reading it writes nothing into it."""
    assert _tree_digest() == TREE
    yield open_store(GOLDEN)
    assert _tree_digest() == TREE


def test_bytes_are_those_that_were_written_and_few() -> None:
    assert _tree_digest() == TREE
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()) < 200_000


def test_every_value_and_digest_is_what_was_written(store: Store) -> None:
    assert store.store_id == "0123456789abcdef0123456789abcdef"
    assert store.view_ids() == [MAPS, VECTORS]
    assert {(view, key) for view in store.view_ids() for key in store.keys(view)} == {(v, k) for v, k, _ in ENTRIES}
    for (view, key, number), (input_sha256, content_sha256, arrays, attributes) in ENTRIES.items():
        read = store.read(view, key, number=number)
        assert (read.commit.input_sha256, read.commit.content_sha256) == (input_sha256, content_sha256)
        assert {name: values.tolist() for name, values in read.arrays.items()} == arrays
        assert {name: values.dtype.name for name, values in read.arrays.items()} == {
            name: DTYPES[name] for name in arrays
        }
        assert read.attributes == attributes


def test_current_commits_and_states_are_what_they_were(store: Store) -> None:
    assert store.current_numbers(MAPS) == {CT: 0, PET: 1}
    assert [commit.attempt for commit in store.history(MAPS, PET)] == ["0" * 32, f"{'0' * 31}1"]
    assert [commit.written_at for commit in store.history(MAPS, PET)] == [
        "2026-01-02T03:04:00+00:00",
        "2026-01-02T03:04:01+00:00",
    ]
    states = {text: store.state(MAPS, PET, text * 64) for text in "abc"}
    assert states == {"a": "superseded", "b": "done", "c": "stale"}
    assert store.state(MAPS, GONE, "d" * 64) == "withdrawn"


def test_provenance_is_what_was_written(store: Store) -> None:
    first, second = store.history(MAPS, PET)
    assert (first.versions, second.timings_s) == ({"numpy": "2"}, {"encode": 0.25})
    assert [source.model_dump() for source in second.sources] == [
        {
            "role": "PET",
            "path": "/data/p001/pet.nii.gz",
            "size_bytes": 12345,
            "mtime_ns": 1700000000000000001,
            "etag": None,
        },
        {"role": "CT", "path": "s3://bucket/p001/ct.nii.gz", "size_bytes": 678, "mtime_ns": None, "etag": "abc-1"},
    ]


def test_view_is_what_was_written(store: Store) -> None:
    view = store.view("golden-maps")
    assert view.flags == {"fill_hole_area": 0, "note": "Größe µ", "half": 0.5, "on": True}
    assert (view.layout.shape, view.intensity["PET"].high, view.regions["spine_dilated"]["close_mm"]) == (
        (2, 2, 2, 2),
        10.0,
        10.0,
    )
    assert view.digest == "ff7be7bc160d5f9f17de6fc076db392b652aa00acb2ecf4a4ec8e12460c932df"


def test_snapshots_pin_what_they_pinned(store: Store) -> None:
    assert store.snapshot_ids() == sorted([CURRENT, PINNED, OLD, VECTOR])
    assert [(row.key, row.number) for row in store.snapshot(CURRENT).rows] == [(CT, 0), (PET, 1)]
    pinned = store.snapshot(PINNED)
    assert pinned.read(PET).arrays["mean_map"].tolist() == [[0.5, 0.75], [1.0, 1.25]]
    assert store.snapshot(VECTOR).keys == (FOLLOWUP,)
    assert pinned.view_id == MAPS


def test_withdrawn_entry_stays_withdrawn(store: Store) -> None:
    for number in (None, 0):
        with pytest.raises(EntryWithdrawnError, match="consent withdrawn"):
            store.read(MAPS, GONE, number=number)
    with pytest.raises(EntryWithdrawnError, match="P003/PET/skeleton"):
        store.snapshot(OLD)
    listed = withdrawn(store.location, MAPS)
    assert {key: len(digests) for key, digests in listed.items()} == {GONE: 9}


def test_pack_is_what_was_written(store: Store) -> None:
    pack = open_pack(store.snapshot(CURRENT), "mean_map")
    assert pack is not None
    expected = [[[-0.5, -0.25], [0.0, 0.25]], [[2.0, 2.25], [2.5, 2.75]]]
    assert pack.load().tolist() == expected
    assert pack.load([PET]).tolist() == expected[1:]
    with xr.open_zarr(pack.url, consolidated=False) as opened:
        assert opened["mean_map"].values.tolist() == expected
        assert opened["modality"].values.tolist() == ["CT", "PET"]


def test_plain_zarr_reads_it(store: Store) -> None:
    group = zarr.open_group(SnapshotStore(store.snapshot(PINNED)), mode="r")
    assert np.asarray(group["P001/PET/skeleton/mask"][...]).tolist() == MASK
    entry = zarr.open_group(url(store, "golden-maps", PET), mode="r")
    assert np.asarray(entry["preview"][...]).tolist() == PREVIEW


def test_runs_are_what_was_written(store: Store) -> None:
    assert (store.run_ids(), store.read_run("run-1", "start.json")) == (["run-1"], b'{"program": "golden"}')


def test_it_is_sound(store: Store) -> None:
    report = store.verify()
    assert report.findings == ()
    assert report.orphans == (ORPHAN,)
    assert (report.views, report.entries, report.commits, report.snapshots) == (2, 4, 4, 4)
    assert (report.packs, report.withdrawn, report.objects) == (1, 1, 26)


@pytest.mark.parametrize("kind", ["commits", "views", "withdrawn", "packs", "engram.json"])
def test_records_are_written_today_byte_for_byte_as_then(kind: str) -> None:
    """The canonical JSON of a record is part of the schema: ids, seals and snapshots rest on it."""
    records = [path for path in GOLDEN.rglob("*.json") if path.relative_to(GOLDEN).parts[0] == kind]
    records = [path for path in records if path.name != "zarr.json"]
    assert records
    for path in records:
        data, where = path.read_bytes(), path.relative_to(GOLDEN).as_posix()
        assert _parsed(kind, data, where).to_bytes() == data


def _parsed(kind: str, data: bytes, where: str):
    if kind == "commits":
        return parse_numbered(data, path=where)
    plain = {"views": ViewSpec, "engram.json": StoreRecord}
    if kind in plain:
        return parse_record(plain[kind], data, where=where)
    return parse_record(
        {"withdrawn": WithdrawnRecord, "packs": PackRecord}[kind], unseal(data, where=where), where=where
    )


def test_snapshot_of_the_same_commits_has_the_same_id_today(store: Store) -> None:
    """In a copy, since making one writes."""
    copy = create_store("memory://golden-copy")
    for one in store.location.objects(""):
        copy.location.put(one.path, store.location.get(one.path))
    again = open_store("memory://golden-copy")
    assert again.make_snapshot(MAPS) == CURRENT
    assert again.make_snapshot(MAPS, {PET: 0}) == PINNED
    assert again.make_snapshot(VECTORS) == VECTOR
    assert isinstance(
        parse_numbered(
            again.location.get(f"commits/{MAPS}/{GONE}/000001.json"), path=f"commits/{MAPS}/{GONE}/000001.json"
        ),
        TombstoneRecord,
    )
