"""Several processes at one address: they share the work and the counts, outlive one that dies, and end well."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

FEATURE_STORE = Path(sys.executable).with_name("feature-store")


@pytest.fixture
def served(tmp_path):
    command = [
        str(FEATURE_STORE),
        "serve",
        "--port",
        "0",
        "--data",
        str(tmp_path / "data"),
        "--processes",
        "2",
        "--reconcile-s",
        "1",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = next(line for line in process.stdout if "Serving at" in line)
    url = line.split()[2]
    wait_for(url)
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
    until = time.monotonic() + 60
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
    until = time.monotonic() + 60
    while len(workers(process.pid)) < 2:
        assert time.monotonic() < until
        time.sleep(0.1)
    wait_for(url)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
