"""The service under load beside nginx that serves the same files from disk, in one run; and its memory meanwhile."""

import importlib.util
import os
import re
import signal
import statistics
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest

from store_schema import Entry, EntryKey, create_store
from store_schema.testing import digest_of, example_view

PATIENTS = int(os.environ.get("ENGRAM_BENCH_PATIENTS", "227"))
SECONDS = int(os.environ.get("ENGRAM_BENCH_SECONDS", "60"))
ROUNDS = int(os.environ.get("ENGRAM_BENCH_ROUNDS", "1"))
PROCESSES, CACHE_MIB = (
    int(os.environ.get("ENGRAM_BENCH_PROCESSES", "2")),
    os.environ.get("ENGRAM_BENCH_CACHE_MIB", "1024"),
)
WARM_S = 20
BIN = Path(sys.executable).parent


def load_module():
    spec = importlib.util.spec_from_file_location("engram_load", Path(__file__).parents[1] / "servers" / "load.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cohort(url):
    """A store of memories of the paper's size, and its snapshot."""
    store, rng = create_store(url), np.random.default_rng(0)
    spec = example_view()
    shape = (2, 32, 64, 64)
    view = store.put_view(spec.model_copy(update={"layout": spec.layout.model_copy(update={"shape": shape})}))
    for patient in range(PATIENTS):
        for modality in ("CT", "PET"):
            for roi in ("skeleton", "spine"):
                memory = rng.standard_normal(shape).astype(np.float16)
                arrays = {"memory": memory, "mean_map": memory.mean((0, 1), dtype=np.float32)}
                key = EntryKey(f"P{patient:04d}", modality, roi)
                store.publish(view, key, Entry(arrays, {}), input_sha256=digest_of(str(key)))
    return store, store.make_snapshot(view)


def resident_mib(pid):
    """Of a process and those that it started."""
    text = Path(f"/proc/{pid}/status").read_text()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024 + sum(resident_mib(child) for child in children)


@contextmanager
def served(data, port):
    """A running service over the data, and the key of its project."""
    command = [str(BIN / "feature-store"), "serve", "--port", str(port)]
    command += ["--processes", str(PROCESSES), "--cache-mib", CACHE_MIB]
    environment = os.environ | {"ENGRAM_SERVICE_DATA": str(data)}
    with (data.parent / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        told = [server.stdout.readline(), server.stdout.readline()]
        assert told[1].startswith("Serving at")
        yield server, {"Authorization": f"Bearer {told[0].strip()}"}
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=40)
    assert server.returncode == 0


class Memory(Thread):
    """Looks at a process's memory every second until it is stopped."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.seen, self.over = pid, [], Event()
        self.start()

    def run(self):
        while not self.over.wait(1):
            self.seen.append(resident_mib(self.pid))

    def stop(self):
        self.over.set()
        self.join()
        return self.seen


def tell(name, who, one):
    """A line of what came of one load."""
    errors = sum(one[kind] for kind in ("connect", "read", "write", "status", "timeout"))
    print(
        f"{name:9s} {who:8s} {one['requests'] / one['us'] * 1e6:8.0f} requests/s {one['bytes'] / one['us']:8.1f} MB/s "
        f"p50 {one['p50_ms']:7.1f} ms  p99 {one['p99_ms']:7.1f} ms  errors {errors}"
    )
    assert not errors


@pytest.mark.bench
@pytest.mark.timeout(1800)
def test_load_beside_nginx(tmp_path):
    load = load_module()
    if not load.installed():
        pytest.skip("wrk or nginx is not installed (`python tests/servers/load.py install`, as root, on Debian)")
    root = tmp_path / "data" / "stores" / "default"
    store, snapshot_id = cohort(root)
    snapshot, port = store.snapshot(snapshot_id), load.free_port()
    commits = [snapshot.commit(one) for one in snapshot.keys]
    memory, mean_map = "memory/c/0/0/0/0", "mean_map/c/0/0"
    url, base = f"http://127.0.0.1:{port}", f"/v1/projects/default/snapshots/{snapshot_id}/zarr"
    with served(tmp_path / "data", port) as (server, headers), load.nginx(root, tmp_path / "nginx") as beside:
        for name, wanted in (("cohort", (memory, mean_map)), ("memories", (memory,)), ("mean maps", (mean_map,))):
            zarr = [f"{base}/{one.key}/{chunk}" for one in commits for chunk in wanted]
            files = [f"/{one.folder}/{chunk}" for one in commits for chunk in wanted]
            # Every object is read and checked once before anything is measured.
            load.wrk(url, zarr, tmp_path / "warm", seconds=WARM_S, headers=headers)
            seconds, ratios = SECONDS if name == "cohort" else max(1, SECONDS // 3), []
            for _ in range(ROUNDS):
                watch = Memory(server.pid)
                ours = load.wrk(url, zarr, tmp_path / "ours", seconds=seconds, headers=headers)
                seen = watch.stop()
                theirs = load.wrk(beside, files, tmp_path / "theirs", seconds=seconds)
                tell(name, "service", ours)
                tell(name, "nginx", theirs)
                ratios.append((ours["bytes"] / ours["us"]) / (theirs["bytes"] / theirs["us"]))
                print(
                    f"{name:9s} ratio {ratios[-1]:.2f}  resident {min(seen):.0f} to {max(seen):.0f} MiB, at the end {seen[-1]:.0f}"
                )
            print(f"{name:9s} median ratio {statistics.median(ratios):.2f}")
