"""Connects to a running Dask cluster, by TLS where its address says so, or starts local processes; sends nothing to them."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import dask
from distributed import Client, LocalCluster, Security

from store_schema.scheduler_client import connected_to
from store_schema.tls import Role, TlsFiles, files_for
from store_schema.worker_command import FEW_PROFILES


def checked_tls(address: str, tls: TlsFiles | None, role: Role = "worker") -> TlsFiles | None:
    """Files with which a process reaches the scheduler: those given, or those of Dask's settings; see `files_for`."""
    return files_for(address, tls, dask.config.get, role=role)


def connected(address: str, tls: TlsFiles | None, wait_s: float) -> AbstractContextManager[Client]:
    """A client of the cluster, once it has a worker; see `connected_to`."""
    files = checked_tls(address, tls, "client")
    connect = partial(Client, address, timeout=wait_s, security=_security(files))
    return connected_to(address, files, connect, wait_s=wait_s, program="trainer")


@contextmanager
def local_cluster(number: int, folder: str, resources: Mapping[str, int] | None) -> Iterator[LocalCluster]:
    """Local worker processes of one thread each that declare the resources; their scratch files go to the folder."""
    settings = {
        # spawn: a forked process would inherit torch's and the store's threads and locks
        "distributed.worker.multiprocessing-method": "spawn",
        # a worker that cannot answer for half a minute, as while torch is loaded from a slow disk, is not gone
        "distributed.comm.timeouts.tcp": "600s",
        "distributed.comm.timeouts.connect": "120s",
        "distributed.scheduler.worker-ttl": None,
        **FEW_PROFILES,
    }
    with dask.config.set(settings):
        cluster = LocalCluster(
            n_workers=number,
            threads_per_worker=1,
            processes=True,
            # without a dashboard Dask still opens its page server: on loopback, and on a port that nobody else can hold
            dashboard_address="127.0.0.1:0",
            local_directory=folder,
            resources=dict(resources or {}),
            # a limit would pause or kill fits that the machine can hold
            memory_limit=0,
            # as `trainer worker` does
            preload=["trainer.loaded"],
            # a worker that dies is told by its nanny as a warning, and its tasks are done again
            silence_logs=logging.ERROR,
        )
        with cluster:
            yield cluster


def _security(files: TlsFiles | None) -> Security | None:
    """What a client shows and believes; None leaves it to Dask's settings."""
    if files is None:
        return None
    return Security(require_encryption=True, tls_ca_file=files.ca, tls_client_cert=files.cert, tls_client_key=files.key)
