"""A cohort read by the bulk reader through the service beside reading the bucket directly, in turn in one run."""

import importlib.util
import os
import statistics
import time
from pathlib import Path

import pytest

from services.database.migrate import migrate
from services.operations import create_project, make_key
from services.service import Service
from services.settings import Settings
from store_schema import BulkReader, make_pack, open_store

ROUNDS = int(os.environ.get("ENGRAM_BENCH_ROUNDS", "3"))
HERE = Path(__file__).parent


def module(path):
    spec = importlib.util.spec_from_file_location(f"engram_{path.stem}", path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def seconds(url, snapshot_id, name, *, packed):
    """From opening the store to the last value, and the sum of all values."""
    began = time.perf_counter()
    snapshot = open_store(url).snapshot(snapshot_id)
    reader = BulkReader(snapshot, (name,))
    if packed:
        total = float(reader.stack(name, snapshot.keys).sum(dtype="f8"))
    else:
        total = sum(float(entry.arrays[name].sum(dtype="f8")) for entry in reader.read())
    return time.perf_counter() - began, total


@pytest.mark.bench
@pytest.mark.timeout(1800)
def test_reading_through_the_service(tmp_path, s3_url, monkeypatch):
    store, snapshot_id = module(HERE / "test_service_load.py").cohort(f"{s3_url}/project")
    service = Service.open(Settings(data=tmp_path, reconcile_s=0))
    migrate(service.database)
    create_project(service, "bench", store.url)
    monkeypatch.setenv("ENGRAM_API_KEY", make_key(service, "bench", label="bench", scope="read").text)
    print()
    for packed in (False, True):
        if packed:
            for kind in ("mean_map", "memory"):
                make_pack(store.snapshot(snapshot_id), kind)
        for name in ("mean_map", "memory"):
            compare(service, store.url, snapshot_id, name, packed=packed)


def compare(service, bucket, snapshot_id, name, *, packed):
    served = module(HERE.parent / "services" / "serving.py").apart
    ratios, times = [], []
    with served(service) as url:
        for _ in range(ROUNDS):
            direct, expected = seconds(bucket, snapshot_id, name, packed=packed)
            through, total = seconds(f"{url}/v1/projects/bench", snapshot_id, name, packed=packed)
            assert total == expected
            ratios.append(through / direct)
            times.append((direct, through))
    direct, through = (statistics.median(one) for one in zip(*times, strict=True))
    how = "pack" if packed else "entries"
    print(
        f"{name:9s} {how:8s} S3 {direct:6.2f} s  service {through:6.2f} s  ratio {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )
