"""`extractor worker`: starts the workers of this machine for a Dask cluster; computes nothing.

Heavy modules are imported inside the command, so that --help is instant.
"""

from __future__ import annotations

from typing import Any

import click

from store_schema.console import EngramCommand
from store_schema.worker_options import Program, start_workers, worker_options

PROGRAM = Program(preload=("extractor.loaded",), gpu_threads=3, least_bytes=2 * 2**30)
"""On a GPU one thread loads, one computes and one writes; a process takes 2 GiB: libraries, network, and a study."""


@click.command(cls=EngramCommand)
@worker_options
def worker(**given: Any) -> None:
    r"""Start the workers of this machine for `extractor run --scheduler ADDRESS`.

    ADDRESS is that of a running `dask scheduler`. How many workers there are follows from what this process may use, so that no
    number has to be chosen: cores (affinity, CPU quota of the container or job), memory (its limit, else the machine's), GPUs
    (CUDA_VISIBLE_DEVICES, NVIDIA_VISIBLE_DEVICES, nvidia-smi). On a processor there is one process a core, of one thread, and at
    least 2 GiB of memory each; with --device cuda one process a GPU, of three threads, that declares it (`--resources GPU=1`).
    A process that takes more than its share of memory is ended and started again; its study is done elsewhere.

    This command becomes `dask worker`: signals reach it, and it ends when its scheduler does. Let a batch system or Kubernetes
    start it again. Workers need the same version of engram as the client, credentials of the store in their own environment, and
    for pseudonymised runs the same ENGRAM_PSEUDONYM_KEY.

    Whoever reaches a scheduler or worker runs code there: on a network that others share, give every process a certificate of one
    CA of your own, which is then needed to say anything. Names in certificates are not compared with hosts.

    \b
      dask scheduler --host 10.0.0.1 --tls-ca-file ca.pem --tls-cert cert.pem --tls-key key.pem
      extractor worker tls://10.0.0.1:8786 --device cuda --tls-ca ca.pem --tls-cert cert.pem --tls-key key.pem
      extractor worker tls://10.0.0.1:8786 --print        (with ENGRAM_TLS_CA, …_CERT and …_KEY: prints the command)
      extractor worker tcp://127.0.0.1:8786 -- --worker-port 3000:3010 --nanny-port 3011:3021
    """
    from extractor.cluster import checked_tls  # noqa: PLC0415

    start_workers(PROGRAM, given, checked=checked_tls)
