"""Where figures are read: at an address that Prometheus scrapes, and in a file for node_exporter's textfile collector."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server, write_to_textfile

from store_schema.errors import UsageError

EVERY_S = 10.0
"""From one state of the file to the next."""

log = logging.getLogger(__name__)


@contextmanager
def served(registry: CollectorRegistry, host: str, port: int) -> Iterator[int]:
    """Answers at http://HOST:PORT/metrics in the block, and gives the port, which is a free one where 0 is asked for.

    Raises
    ------
    UsageError
        If nothing can listen there.
    """
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise UsageError(
            f"--metrics-port {port}: nothing can listen on {host} there ({error.strerror}): choose another port (0 takes a free "
            "one), or another --metrics-host"
        ) from error
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def filed(registry: CollectorRegistry, path: Path, *, every_s: float = EVERY_S) -> Iterator[None]:
    """Keeps the figures in a file in the block, and leaves their last state; who reads it finds a whole state at any time.

    The file is written at the beginning, once in a while and at the end. One that cannot be written later on ends no work.

    Raises
    ------
    UsageError
        If the file cannot be written at the beginning.
    """
    try:
        write_to_textfile(str(path), registry)
    except OSError as error:
        raise UsageError(
            f"--metrics-file {path} cannot be written ({error.strerror}): its folder must be there, and yours to write"
        ) from error
    over = threading.Event()
    writer = threading.Thread(target=_keep_writing, args=(registry, path, every_s, over), name="metrics", daemon=True)
    writer.start()
    try:
        yield
    finally:
        over.set()
        writer.join()
        _write(registry, path)


def _keep_writing(registry: CollectorRegistry, path: Path, every_s: float, over: threading.Event) -> None:
    fine = True
    while not over.wait(every_s):
        # Of many failures in a row the first is told.
        fine = _write(registry, path, warn=fine)


def _write(registry: CollectorRegistry, path: Path, *, warn: bool = True) -> bool:
    """Replaces the file; says whether it could."""
    try:
        write_to_textfile(str(path), registry)
    except OSError as error:
        if warn:
            log.warning("the metrics file could not be written: %s", error.strerror)
        return False
    return True
