"""Connects to a running Dask cluster, by TLS where its address says so; sends nothing to it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import dask
from distributed import Client, Security

from store_schema.scheduler_client import connected_to
from store_schema.tls import Role, TlsFiles, files_for


@dataclass(frozen=True)
class Cluster:
    """A running Dask cluster, whose workers reach the store, the images and the weights by the same addresses as this process."""

    address: str
    """Of its scheduler, such as tls://host:8786."""
    wait_s: float = 60.0
    """How long the scheduler, its first worker, and another one when all are gone, are waited for."""
    tls: TlsFiles | None = None
    """None takes Dask's own settings where the address asks for TLS."""


def checked_tls(address: str, tls: TlsFiles | None, role: Role = "worker") -> TlsFiles | None:
    """Files with which a process reaches the scheduler: those given, or those of Dask's settings; see `files_for`."""
    return files_for(address, tls, dask.config.get, role=role)


def connected(cluster: Cluster) -> AbstractContextManager[Client]:
    """A client of the cluster, once it has a worker; see `connected_to`."""
    files = checked_tls(cluster.address, cluster.tls, "client")
    connect = partial(Client, cluster.address, timeout=cluster.wait_s, security=_security(files), set_as_default=False)
    return connected_to(cluster.address, files, connect, wait_s=cluster.wait_s, program="extractor")


def _security(files: TlsFiles | None) -> Security | None:
    """What a client shows and believes; None leaves it to Dask's settings."""
    if files is None:
        return None
    return Security(require_encryption=True, tls_ca_file=files.ca, tls_client_cert=files.cert, tls_client_key=files.key)
