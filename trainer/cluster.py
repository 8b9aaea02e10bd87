"""Connects to a running Dask cluster, by TLS where its address says so; sends nothing to it.

`extractor.cluster` is its twin: neither program knows the other, and what they share, `store_schema`, knows no Dask.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import dask
from distributed import Client, Security

from store_schema.errors import UsageError
from store_schema.tls import Role, TlsFiles, files_for, unguarded
from store_schema.tls_probe import check_server

log = logging.getLogger(__name__)


def checked_tls(address: str, tls: TlsFiles | None, role: Role = "worker") -> TlsFiles | None:
    """Files with which a process reaches the scheduler: those given, or those of Dask's settings; see `files_for`."""
    return files_for(address, tls, dask.config.get, role=role)


@contextmanager
def connected(address: str, tls: TlsFiles | None, wait_s: float) -> Iterator[Client]:
    """A client of the cluster, once it has a worker; the scheduler, and then its first worker, is waited for so long.

    Raises
    ------
    UsageError
        If certificates and scheduler do not fit, the scheduler does not answer, or has no worker.
    """
    files = checked_tls(address, tls, "client")
    if (danger := unguarded(address)) is not None:
        log.warning("%s", danger)
    check_server(address, files)
    try:
        client = Client(address, timeout=wait_s, security=_security(files))
    except (OSError, ValueError, RuntimeError) as error:
        # it may have come after the first look
        check_server(address, files)
        raise UsageError(f"no Dask scheduler answers at {address}: {error}. Start one with `dask scheduler`") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=wait_s)
        except TimeoutError as error:
            raise UsageError(
                f"the scheduler at {address} has no worker: start some with `trainer worker {address}`"
            ) from error
        yield client


def _security(files: TlsFiles | None) -> Security | None:
    """What a client shows and believes; None leaves it to Dask's settings."""
    if files is None:
        return None
    return Security(require_encryption=True, tls_ca_file=files.ca, tls_client_cert=files.cert, tls_client_key=files.key)
