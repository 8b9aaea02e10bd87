"""`trainer worker`: starts the workers of this machine for a Dask cluster; computes nothing.

Heavy modules are imported inside the command, so that --help is instant.
"""

from typing import Any

import click

from store_schema.console import EngramCommand
from store_schema.worker_options import Program, start_workers, worker_options

PROGRAM = Program(preload=("trainer.loaded",), gpu_threads=1, least_bytes=3 * 2**29)
"""A process takes 1.5 GiB: libraries, and the maps of some hundred patients."""


@click.command(cls=EngramCommand)
@worker_options
def worker(**given: Any) -> None:
    r"""Start the workers of this machine for `trainer cv --scheduler ADDRESS` and the other commands that fit.

    ADDRESS is that of a running `dask scheduler`. How many workers there are follows from what this process may use, so that no
    number has to be chosen: cores (affinity, CPU quota of the container or job), memory (its limit, else the machine's), GPUs
    (CUDA_VISIBLE_DEVICES, NVIDIA_VISIBLE_DEVICES, nvidia-smi). Every process has one thread; on a processor there is one a core,
    with at least 1.5 GiB of memory, with --device cuda one a GPU, which it declares (`--resources GPU=1`). A process that takes
    more than its share of memory is ended and started again; its task is done elsewhere.

    This command becomes `dask worker`: signals reach it, and it ends when its scheduler does. Let a batch system or Kubernetes
    start it again. Workers need the same version of engram as the client, and credentials of the store in their own environment.

    Whoever reaches a scheduler or worker runs code there: on a network that others share, give every process a certificate of one
    CA of your own, which is then needed to say anything. Names in certificates are not compared with hosts.

    \b
      dask scheduler --host 10.0.0.1 --tls-ca-file ca.pem --tls-cert cert.pem --tls-key key.pem
      trainer worker tls://10.0.0.1:8786 --tls-ca ca.pem --tls-cert cert.pem --tls-key key.pem
      trainer worker tls://10.0.0.1:8786 --device cuda --print    (with ENGRAM_TLS_CA, …_CERT and …_KEY: prints the command)
      trainer worker tcp://127.0.0.1:8786 -- --worker-port 3000:3010 --nanny-port 3011:3021
    """
    from trainer.cluster import checked_tls  # noqa: PLC0415

    start_workers(PROGRAM, given, checked=checked_tls)
