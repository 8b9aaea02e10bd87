"""Made the golden store of schema 1, once: its bytes are pinned in `test_golden.py` and must stay readable for ever.

It is never run again for schema 1. A later schema gets a store of its own beside this one. It writes the folder that it is
given and refuses one that exists.
"""

import json
import sys
from itertools import count
from pathlib import Path

import numpy as np

from store_schema import Encoder, Entry, EntryKey, Intensity, Layout, Prompt, Source, Store, ViewSpec
from store_schema.location import open_location
from store_schema.packs import make_pack
from store_schema.records import StoreRecord
from store_schema.withdraw import withdraw

MAPS = ViewSpec(
    name="golden-maps",
    encoder=Encoder(name="mini", image_size=64, weights_sha256="5" * 64, trained=False),
    intensity={
        "CT": Intensity(unit="HU", low=-500.0, high=1300.0, outside=-1024.0),
        "PET": Intensity(unit="SUV", low=0.0, high=10.0, outside=0.0),
    },
    prompt=Prompt(kind="box", mode="sequential", stride=1),
    layout=Layout(name="paper", shape=(2, 2, 2, 2)),
    flags={"fill_hole_area": 0, "note": "Größe µ", "half": 0.5, "on": True},
    precision="float32",
    recipe=1,
    grid="ct",
    regions={"spine_dilated": {"close_mm": 10.0, "dilate_mm": 10}},
)
VECTORS = MAPS.model_copy(update={"name": "golden-vectors", "layout": Layout(name="vector", shape=(1, 5, 1, 1))})


def _memory(first: float) -> np.ndarray:
    return (np.arange(16, dtype=np.float32).reshape(2, 2, 2, 2) / 4 + first).astype(np.float16)


def _full(first: float) -> Entry:
    memory = _memory(first)
    mask = np.zeros((2, 3, 4), np.uint8)
    mask[1, 1:, 1:3] = 1
    preview = np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 20
    arrays = {"memory": memory, "mean_map": memory.astype(np.float32).mean((0, 1)), "mask": mask, "preview": preview}
    return Entry(arrays, {"kept_slices_z": [1], "boxes_xyxy": [[1, 1, 2, 2]], "spacing_xyz_mm": [1.5, 1.5, 3.0]})


def _plain(first: float) -> Entry:
    memory = _memory(first)
    return Entry({"memory": memory, "mean_map": memory.astype(np.float32).mean((0, 1))}, {"kept_slices_z": [0, 1]})


def main(folder: str) -> None:
    """Writes the store."""
    if Path(folder).exists():
        raise SystemExit(f"{folder} exists: the golden store is made once.")
    location = open_location(folder)
    record = StoreRecord(store_id="0123456789abcdef0123456789abcdef")
    location.create("engram.json", record.to_bytes())
    seconds, attempts = count(), count()
    store = Store(
        location, record, lambda: f"2026-01-02T03:04:{next(seconds):02d}+00:00", lambda: f"{next(attempts):032x}"
    )
    maps, vectors = store.put_view(MAPS), store.put_view(VECTORS)
    key, gone = EntryKey("P001", "PET", "skeleton"), EntryKey("P003", "PET", "skeleton")
    source = Source(role="PET", path="/data/p001/pet.nii.gz", size_bytes=12345, mtime_ns=1700000000000000001)
    remote = Source(role="CT", path="s3://bucket/p001/ct.nii.gz", size_bytes=678, etag="abc-1")
    store.publish(maps, key, _full(-1.0), input_sha256="a" * 64, sources=[source], versions={"numpy": "2"})
    store.publish(maps, key, _full(0.5), input_sha256="b" * 64, sources=[source, remote], timings_s={"encode": 0.25})
    store.publish(maps, EntryKey("P001", "CT", "skeleton"), _plain(-2.0), input_sha256="c" * 64)
    store.publish(maps, gone, _full(9.0), input_sha256="d" * 64)
    vector = np.array([0.0, -0.5, 65504.0, 6e-8, 1.0], np.float16).reshape(1, 5, 1, 1)
    followup = EntryKey("P002.followup", "PET", "spine_dilated")
    store.publish(vectors, followup, Entry({"memory": vector}, {}), input_sha256="e" * 64)
    store.make_snapshot(maps)
    store.put_run("run-1", "start.json", json.dumps({"program": "golden"}).encode())
    withdraw(store, patients=["P003"], reason="consent withdrawn")
    make_pack(store.snapshot(store.make_snapshot(maps)), "mean_map")
    store.make_snapshot(maps, {key: 0})
    store.make_snapshot(vectors)
    location.put(f"data/{maps}/{key}/{'f' * 32}/zarr.json", b"orphan")


if __name__ == "__main__":
    main(sys.argv[1])
