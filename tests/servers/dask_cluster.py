"""Schedulers and workers of Dask as an operator starts them, in processes of their own; for tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PATIENCE_S = 180
ROOT = Path(__file__).resolve().parents[2]
DASK = (sys.executable, "-P", "-m", "dask")


@contextmanager
def scheduler(folder: Path, tls: Sequence[str] | None = None) -> Iterator[str]:
    """A scheduler on loopback, with CA, certificate and key where given; gives its address."""
    file = folder / "scheduler.json"
    command = [
        *DASK,
        "scheduler",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--no-dashboard",
        "--scheduler-file",
        str(file),
    ]
    if tls is not None:
        command += ["--tls-ca-file", tls[0], "--tls-cert", tls[1], "--tls-key", tls[2], "--protocol", "tls"]
    with running(folder / "scheduler.log", command):
        until = time.monotonic() + PATIENCE_S
        while not file.exists() or not file.read_text():
            assert time.monotonic() < until, (folder / "scheduler.log").read_text()
            time.sleep(0.05)
        yield json.loads(file.read_text())["address"]


@contextmanager
def running(log: Path, command: Sequence[str], **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program until the block ends; what it says is in the log."""
    with log.open("wb") as said:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(30)


def options(tls: Sequence[str]) -> list[str]:
    """The files of TLS as options of our own commands."""
    return ["--tls-ca", tls[0], "--tls-cert", tls[1], "--tls-key", tls[2]]


def call(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command of ours as a user calls it."""
    return subprocess.run(
        [ours(program), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def ours(program: str) -> str:
    """Path of a program of ours."""
    return str(Path(sys.executable).with_name(program))


def edited(folder: Path, *packages: str) -> str:
    """A folder with these packages as they are here but for one more comment: the same version, and other code."""
    for package in packages:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
        with (folder / package / "__init__.py").open("a") as file:
            file.write("\n# edited\n")
    return str(folder)
