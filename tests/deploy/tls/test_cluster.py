"""Scheduler, worker and client of Dask over TLS, by the certificates of make-certs.sh and the compose file's own command line."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from distributed import Client
from distributed.security import Security

ROOT = Path(__file__).resolve().parents[3]
PROGRAMS = Path(sys.executable).parent
WAIT_S = 120.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def make_certs(folder: Path) -> Path:
    subprocess.run(["sh", str(ROOT / "deploy/tls/make-certs.sh"), str(folder)], check=True, capture_output=True)
    return folder


def security(folder: Path) -> Security:
    files = {
        "tls_ca_file": folder / "ca.pem",
        "tls_client_cert": folder / "cert.pem",
        "tls_client_key": folder / "key.pem",
    }
    return Security(require_encryption=True, **{name: str(path) for name, path in files.items()})


@contextmanager
def started(*command: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program of Dask's, ended by SIGTERM."""
    log = (folder / f"{command[1]}.log").open("wb")
    with log, subprocess.Popen([*command], stdout=log, stderr=log, cwd=folder, env=os.environ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def told(log: Path, pattern: str) -> str:
    """What a program's log says, once it does."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        if log.exists() and (found := re.search(pattern, log.read_text())):
            return found[0]
        time.sleep(0.1)
    raise AssertionError(f"{pattern} was not said within {WAIT_S:g} s:\n{log.read_text()}")


def scheduler_command(certs: Path, port: int, dashboard: int) -> list[str]:
    """The compose file's, with its folder of certificates, address and ports put in place."""
    document = yaml.safe_load((ROOT / "deploy/compose/compose.yaml").read_text())
    one = document["services"]["train-scheduler"]
    program, *rest = [*one["entrypoint"], *one["command"]]
    moved = [
        word.replace("/etc/engram/tls", str(certs))
        .replace("0.0.0.0:8787", f"127.0.0.1:{dashboard}")
        .replace("0.0.0.0", "127.0.0.1")
        .replace("=8786", f"={port}")
        for word in rest
    ]
    return [str(PROGRAMS / program), *moved]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[SimpleNamespace]:
    folder = tmp_path_factory.mktemp("cluster")
    certs, port, dashboard = make_certs(folder / "tls"), free_port(), free_port()
    address = f"tls://127.0.0.1:{port}"
    files = [f"--tls-ca-file={certs / 'ca.pem'}", f"--tls-cert={certs / 'cert.pem'}", f"--tls-key={certs / 'key.pem'}"]
    worker = [
        str(PROGRAMS / "dask"),
        "worker",
        address,
        *files,
        "--nworkers=1",
        "--nthreads=1",
        "--no-dashboard",
        "--no-nanny",
    ]
    with started(*scheduler_command(certs, port, dashboard), folder=folder):
        told(folder / "scheduler.log", rf"tls://127\.0\.0\.1:{port}")
        with started(*worker, folder=folder):
            yield SimpleNamespace(address=address, certs=certs, folder=folder, dashboard=dashboard, port=port)


def test_work_is_done_between_those_who_hold_a_certificate(cluster):
    with Client(cluster.address, security=security(cluster.certs), timeout=WAIT_S, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=WAIT_S)
        assert client.submit(pow, 3, 4).result(timeout=WAIT_S) == 81
        assert all(address.startswith("tls://") for address in client.scheduler_info()["workers"])


def test_another_certificate_of_the_same_authority_is_taken(cluster, tmp_path):
    command = ["sh", str(ROOT / "deploy/tls/make-certs.sh"), "--ca", str(cluster.certs), str(tmp_path / "second")]
    subprocess.run(command, check=True, capture_output=True)
    with Client(
        cluster.address, security=security(tmp_path / "second"), timeout=WAIT_S, set_as_default=False
    ) as client:
        assert client.submit(pow, 2, 5).result(timeout=WAIT_S) == 32


def test_a_certificate_of_another_authority_is_refused(cluster, tmp_path):
    other = make_certs(tmp_path / "other")
    (tmp_path / "both").mkdir()
    for name, source in (("ca.pem", cluster.certs), ("cert.pem", other), ("key.pem", other)):
        (tmp_path / "both" / name).write_bytes((source / name).read_bytes())
    with pytest.raises(OSError):  # noqa: PT011 - what it says depends on who closes first
        Client(cluster.address, security=security(tmp_path / "both"), timeout=5, set_as_default=False)


def test_who_has_no_certificate_is_refused(cluster):
    with pytest.raises(OSError):  # noqa: PT011
        Client(cluster.address.replace("tls", "tcp"), timeout=5, set_as_default=False)


def test_the_schedulers_health_check_asks_what_it_answers(cluster):
    """The compose file's check, at the port of this scheduler; it fails where nobody answers."""
    document = yaml.safe_load((ROOT / "deploy/compose/compose.yaml").read_text())
    _, _, flag, code = document["services"]["train-scheduler"]["healthcheck"]["test"]
    for port, status in ((cluster.dashboard, 0), (free_port(), 1)):
        command = [sys.executable, flag, code.replace("8787", str(port))]
        assert subprocess.run(command, check=False, capture_output=True).returncode == status
    with urllib.request.urlopen(f"http://127.0.0.1:{cluster.dashboard}/health", timeout=10) as answer:
        assert answer.status == 200


def test_a_worker_that_has_a_scheduler_counts_as_connected(cluster):
    script = ROOT / "deploy/compose/scripts/connected.py"
    for port, status in ((cluster.port, 0), (free_port(), 1)):
        assert subprocess.run([sys.executable, str(script), str(port)], check=False).returncode == status
