"""Runs the service on a port until it is told to stop; knows no route.

SIGTERM and SIGINT let requests that are under way end, for at most `GRACE_S` seconds; then what was counted is written.
"""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from functools import partial
from types import FrameType

import click
import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from services import logs
from services.app import create_app
from services.database.migrate import check_current
from services.metrics import SHARED_COUNTS
from services.protocol import Protocol
from services.service import Service
from services.settings import Settings
from store_schema.errors import UsageError

GRACE_S = 30
BACKLOG = 1024


def run(settings: Settings, *, host: str, port: int, plain_logs: bool, processes: int = 1) -> None:
    """Serves until a signal comes.

    Parameters
    ----------
    processes
        That answer requests at the same address; the memory for objects is shared out among them.

    Raises
    ------
    UsageError
        If the address is taken or is not this machine's.
    """
    logs.configure(plain=plain_logs)
    each = settings.model_copy(update={"cache_bytes": settings.cache_bytes // processes})
    with _bound(host, port) as listening, tempfile.TemporaryDirectory(prefix="engram-metrics-") as counts:
        config = uvicorn.Config(
            partial(_application, each, plain_logs=plain_logs), factory=True, workers=processes, http=Protocol, loop="uvloop",
            ws="none", log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=GRACE_S, backlog=BACKLOG,
            lifespan="on",
        )  # fmt: skip
        url = _url(host, listening.getsockname()[1])
        click.echo(f"Serving at {url}  (Ctrl-C stops)")
        logs.log().info("listening", extra={"url": url})
        if processes > 1:
            # Read by prometheus_client when a process imports it: each adds to files of its own there.
            os.environ[SHARED_COUNTS] = counts
            Multiprocess(config, sockets=[listening]).run()
            return
        server = uvicorn.Server(config)
        _end_well(server)
        server.run(sockets=[listening])


def _application(settings: Settings, *, plain_logs: bool) -> FastAPI:
    """The application of one process, over a database that is of this version."""
    logs.configure(plain=plain_logs)
    service = Service.open(settings)
    check_current(service.database)
    return create_app(service)


def _end_well(server: uvicorn.Server) -> None:
    """Makes an asked end a good one: uvicorn raises the signal that stopped it once more, when all is done."""

    def heard(number: int, frame: FrameType | None) -> None:
        if not server.started:
            raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, heard)


def _bound(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=False)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot listen on {host} port {port}: {reason}. Give another --host or --port.") from None


def _url(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 - compared
    return f"http://{shown}:{port}"
