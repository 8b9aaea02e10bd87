"""Several processes at one address: they share the work and the counts, outlive one that dies, and end well."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from store_schema import create_store

FEATURE_STORE = Path(sys.executable).with_name("feature-store")


def started(folder, *options):
    """A service, its address, and the key of its first project."""
    command = [str(FEATURE_STORE), "serve", "--port", "0", "--data", str(folder), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    key = process.stdout.readline().strip()
    url = process.stdout.readline().split()[2]
    wait_for(url)
    return process, url, key


@pytest.fixture
def served(tmp_path):
    process, url, _ = started(tmp_path / "data", "--processes", "2", "--reconcile-s", "1")
    yield process, url
    process.kill()
    process.communicate()


def get(url):
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.read().decode()


def wait_for(url):
    until = time.monotonic() + 60
    while True:
        try:
            return get(f"{url}/readyz")
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.1)


def workers(parent):
    """Processes that answer requests."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (folder / "stat").exists():
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(stat[1]) == parent and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


@pytest.mark.timeout(300)
def test_they_count_together_outlive_one_and_end_well(served):
    process, url = served
    until = time.monotonic() + 180
    while len(workers(process.pid)) < 2:
        assert time.monotonic() < until
        time.sleep(0.1)
    for _ in range(40):
        assert get(f"{url}/healthz") == '{"status":"ok"}'
    # Whichever process answers tells the sum.
    counts = {
        re.search(r'engram_requests_total\{.*route="/healthz".*\} ([0-9.]+)', get(f"{url}/metrics"))[1]
        for _ in range(10)
    }
    assert counts == {"40.0"}
    before = workers(process.pid)
    os.kill(before[0], signal.SIGKILL)
    for _ in range(20):
        wait_for(url)
    until = time.monotonic() + 180
    while len(workers(process.pid)) < 2:
        assert time.monotonic() < until
        time.sleep(0.1)
    wait_for(url)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_what_is_under_way_is_answered_before_the_end(tmp_path):
    """SIGTERM in the middle of a large answer: the rest of it comes, nothing new is taken, and the end is a good one."""
    store = create_store(tmp_path / "data" / "stores" / "default")
    data = os.urandom(64 * 2**20)
    store.put_run("run-1", "large.bin", data)
    process, url, key = started(tmp_path / "data")
    try:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            head = (
                f"GET /v1/projects/default/runs/run-1/large.bin HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
            )
            connection.sendall(f"{head}Connection: close\r\n\r\n".encode())
            received = connection.recv(2**16)
            process.send_signal(signal.SIGTERM)
            time.sleep(1)
            assert process.poll() is None
            with pytest.raises(OSError, match="refused"):
                get(f"{url}/healthz")
            parts = [received]
            while part := connection.recv(2**20):
                parts.append(part)
        assert b"".join(parts).partition(b"\r\n\r\n")[2] == data
        process.communicate(timeout=60)
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


def test_the_service_loads_neither_torch_nor_another_program():
    code = "import sys, services.server, services.admin_commands; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "fastapi" in loaded
    assert not {"torch", "dask", "distributed", "extractor", "trainer", "pandas", "sksurv"} & set(loaded)
    lock = (Path(__file__).parents[2] / "requirements" / "service.txt").read_text()
    names = {line.partition("==")[0] for line in lock.splitlines() if "==" in line and not line.startswith((" ", "#"))}
    assert {"fastapi", "sqlalchemy", "alembic", "psycopg"} <= {name.partition("[")[0] for name in names}
    assert not {"torch", "dask", "distributed", "sam2", "scikit-survival", "simpleitk"} & names
