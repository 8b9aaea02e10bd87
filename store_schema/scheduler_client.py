"""How a program comes to a client of a running Dask scheduler, in one order and one set of words; knows no Dask."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from store_schema.errors import UsageError
from store_schema.tls import TlsFiles, unguarded
from store_schema.tls_probe import check_server

log = logging.getLogger(__name__)


class SchedulerClient(AbstractContextManager[Any], Protocol):
    """What is asked of Dask's client here."""

    def wait_for_workers(self, n_workers: int, timeout: float) -> object:
        """Return once there are so many workers; `TimeoutError` after so many seconds without."""


@contextmanager
def connected_to[C: SchedulerClient](
    address: str, files: TlsFiles | None, connect: Callable[[], C], *, wait_s: float, program: str
) -> Iterator[C]:
    """A client, once the scheduler has a worker.

    Parameters
    ----------
    address
        Of the scheduler.
    files
        With which it is reached; None where it speaks no TLS.
    connect
        Makes the client.
    wait_s
        How long the first worker is waited for.
    program
        Whose `worker` command starts workers.

    Raises
    ------
    UsageError
        If certificates and scheduler do not fit, the scheduler does not answer, or has no worker.
    """
    if (danger := unguarded(address)) is not None:
        log.warning("%s", danger)
    check_server(address, files)
    try:
        client = connect()
    except (OSError, ValueError, RuntimeError) as error:
        # it may have come after the first look
        check_server(address, files)
        raise UsageError(f"no Dask scheduler answers at {address}: {error}. Start one with `dask scheduler`") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=wait_s)
        except TimeoutError as error:
            raise UsageError(
                f"the scheduler at {address} has no worker: start some with `{program} worker {address}`"
            ) from error
        yield client
