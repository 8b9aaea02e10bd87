#!/usr/bin/env python3
r"""Runs a command of the trainer on Dask workers that are jobs of Slurm, every connection over TLS; fits nothing itself.

\b
  python train.py --jobs 8 --cores 16 --memory 64GiB -- cv --store URL --clinical FILE --config cv.yaml --out RUN
  python train.py --jobs 4 --cores 4 --memory 32GiB --gpus 1 -- cv … --device cuda
  python train.py --jobs 8 --cores 16 --memory 64GiB --print        prints the job, submits nothing

The scheduler runs in this process, so that it has to live as long as the run: in tmux on a head node, or as a small job of its own.
Each job runs `trainer worker`, which derives processes, threads and memory from what Slurm gives the job. The number of jobs is
fixed: clusters that grow and shrink by themselves lose work. The exit status is that of the trainer; a rerun resumes.
ENGRAM_ENVIRONMENT may name a file of NAME=VALUE lines that its owner alone can read: jobs and trainer take credentials from there.
"""

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click
from dask_jobqueue.slurm import SLURMCluster, SLURMJob
from distributed import Security

PASSED_ON = ("PATH", "HOME", "USER", "ENGRAM_ENVIRONMENT", "ENGRAM_CACHE", "ENGRAM_LOG_FORMAT")
"""What jobs get of the environment: no secret, since Slurm's controller keeps what is submitted."""
PROLOGUE = (
    "set -euo pipefail",
    'if [ -n "${ENGRAM_ENVIRONMENT:-}" ]; then',
    '  if [ -n "$(find "$ENGRAM_ENVIRONMENT" -maxdepth 0 -perm /077)" ]; then',
    '    echo "others can read $ENGRAM_ENVIRONMENT, and it holds credentials: chmod 600" >&2',
    "    exit 2",
    "  fi",
    '  set -a; . "$ENGRAM_ENVIRONMENT"; set +a',
    "fi",
)
IN_ENVIRONMENT = "\n".join((*PROLOGUE, 'exec "$@"'))
"""Becomes the program that it is given, with what the file of credentials says."""
LOOK_S = 30.0
"""How often the queue is looked at while no worker is there."""


@dataclass(frozen=True)
class Certificates:
    """Files of a CA, and of a certificate and its key that scheduler, workers and client share."""

    ca: Path
    cert: Path
    key: Path

    def options(self) -> list[str]:
        """What they are called on the trainer's command line."""
        return [f"--tls-ca={self.ca}", f"--tls-cert={self.cert}", f"--tls-key={self.key}"]

    def security(self) -> Security:
        """What Dask is told: nobody without a certificate of this CA is spoken to."""
        pair = {
            f"tls_{role}_{kind}": str(file) for role in ("scheduler", "worker", "client") for kind, file in self._pair()
        }
        return Security(tls_ca_file=str(self.ca), require_encryption=True, **pair)

    def _pair(self) -> tuple[tuple[str, Path], ...]:
        return ("cert", self.cert), ("key", self.key)


class WorkerJob(SLURMJob):  # type: ignore[misc]
    """A job that runs `trainer worker` instead of `dask worker` with flags from where it was submitted."""

    def __init__(self, scheduler: str, name: str, *, worker: Sequence[str], **job: Any) -> None:
        super().__init__(scheduler, name, **job)
        # srun hands on what sbatch was given alone, unless told otherwise, and takes one core unless told otherwise.
        step = ["srun", "--export=ALL", f"--cpus-per-task={self.worker_cores}"]
        self._command_template = shlex.join([*step, *worker[:2], scheduler, f"--name={name}", *worker[2:]])


class WorkerCluster(SLURMCluster):  # type: ignore[misc]
    """A scheduler in this process, and jobs of Slurm with its workers."""

    job_cls = WorkerJob


@contextmanager
def certificates(ca: Path | None, cert: Path | None, key: Path | None, shared: Path) -> Iterator[Certificates]:
    """The files that were given, or new ones in a folder that the owner alone can read and that jobs see."""
    if ca and cert and key:
        yield Certificates(ca.absolute(), cert.absolute(), key.absolute())
        return
    if ca or cert or key:
        raise click.UsageError(
            "--tls-ca, --tls-cert and --tls-key belong together: give all three, or none for new ones"
        )
    made = Security.temporary()
    with tempfile.TemporaryDirectory(prefix=".engram-tls-", dir=shared) as folder:
        files = Certificates(Path(folder, "ca.pem"), Path(folder, "cert.pem"), Path(folder, "key.pem"))
        for file, text in (
            (files.ca, made.tls_ca_file),
            (files.cert, made.tls_client_cert),
            (files.key, made.tls_client_key),
        ):
            file.touch(mode=0o600)
            file.write_text(text)
        yield files


def cluster_of(asked: dict[str, Any], files: Certificates) -> WorkerCluster:
    """The cluster as it was asked for; its scheduler runs from now on, its jobs are not submitted yet."""
    gpus = asked["gpus"]
    directives = [f"--export={','.join(name for name in PASSED_ON if name in os.environ)}", *asked["directives"]]
    worker = [str(Path(sys.executable).with_name("trainer")), "worker", *files.options(), "--local-directory=/tmp"]
    return WorkerCluster(
        cores=asked["cores"],
        memory=asked["memory"],
        # How many workers a job brings, for the count alone: a GPU or a core each.
        processes=gpus or asked["cores"],
        walltime=asked["walltime"],
        queue=asked["partition"],
        account=asked["account"],
        job_name="engram-worker",
        log_directory=asked["logs"],
        job_extra_directives=[*directives, *([f"--gres=gpu:{gpus}"] if gpus else [])],
        job_script_prologue=list(PROLOGUE),
        worker=[*worker, *(["--device=cuda"] if gpus else [])],
        security=files.security(),
        scheduler_options={"dashboard_address": "127.0.0.1:0", **({"host": asked["host"]} if asked["host"] else {})},
    )


def check_environment() -> None:
    """Refuses a file of credentials that is not there or that others can read, before jobs wait for hours to do so.

    Raises
    ------
    click.UsageError
        If ENGRAM_ENVIRONMENT names such a file.
    """
    if not (name := os.environ.get("ENGRAM_ENVIRONMENT")):
        return
    if not (file := Path(name)).is_file():
        raise click.UsageError(f"ENGRAM_ENVIRONMENT: there is no file {name}; make it, or unset the variable")
    if file.stat().st_mode & 0o077:
        raise click.UsageError(f"others can read {name}, and it holds credentials: chmod 600 {shlex.quote(name)}")


def in_queue(cluster: WorkerCluster) -> bool:
    """Whether a job waits or runs; where Slurm does not answer, they are taken to."""
    jobs = {str(job.job_id) for job in list(cluster.workers.values())}
    squeue = ["squeue", "--noheader", f"--user={os.getuid()}", "--format=%A"]
    asked = subprocess.run(squeue, capture_output=True, text=True, check=False)
    return asked.returncode != 0 or not jobs.isdisjoint(asked.stdout.split())


def wait_for_worker(cluster: WorkerCluster, logs: str) -> None:
    """Returns when the first worker is there, however long the queue is.

    Raises
    ------
    click.ClickException
        If every job has ended before that, or none could be submitted.
    """
    waiting = True
    while True:
        try:
            cluster.wait_for_workers(1, timeout=LOOK_S)
        except TimeoutError:
            if not waiting:
                raise click.ClickException(
                    f"no worker came, and none of the jobs is in Slurm's queue any more: their logs in {logs} and "
                    "`sacct --name=engram-worker` say why they ended"
                ) from None
            waiting = in_queue(cluster)
        else:
            return


def run(command: Sequence[str], cluster: WorkerCluster, files: Certificates, jobs: int, logs: str) -> int:
    """The trainer's exit status; it starts when the first worker is there."""
    cluster.scale(jobs=jobs)
    click.echo(
        f"{jobs} jobs are submitted; the scheduler is {cluster.scheduler_address}. Waiting for a worker.", err=True
    )
    wait_for_worker(cluster, logs)
    trainer = [str(Path(sys.executable).with_name("trainer")), *command]
    trainer += [f"--scheduler={cluster.scheduler_address}", *files.options()]
    client = subprocess.Popen(["bash", "-c", IN_ENVIRONMENT, "train.py", *trainer])
    try:
        return client.wait()
    finally:
        client.terminate()
        client.wait()


def _end(number: int, _: FrameType | None) -> NoReturn:
    """A signal that ends this process ends trainer and jobs too."""
    raise SystemExit(128 + number)


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, help=(__doc__ or "").replace(r"\b", "\b"))
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Jobs of Slurm.")
@click.option("--cores", type=click.IntRange(min=1), required=True, help="CPU cores of each job.")
@click.option("--memory", required=True, help="Of each job, such as 64GiB.")
@click.option("--gpus", type=click.IntRange(min=0), default=0, show_default=True, help="GPUs of each job.")
@click.option("--walltime", default="12:00:00", show_default=True, help="Time limit of each job.")
@click.option("--partition", help="Partition of Slurm.")
@click.option("--account", help="Account of Slurm.")
@click.option(
    "--directive", "directives", multiple=True, help="Another option of sbatch, such as --qos=long; repeatable."
)
@click.option("--host", help="Address of this machine that jobs reach, where it has several.")
@click.option("--logs", default="engram-logs", show_default=True, help="Folder of the jobs' logs.")
@click.option(
    "--shared", type=click.Path(exists=True, file_okay=False, path_type=Path), default=Path(), help="Folder that jobs see.",
)  # fmt: skip
@click.option("--tls-ca", type=click.Path(exists=True, path_type=Path), envvar="ENGRAM_TLS_CA", help="CA, in PEM.")
@click.option("--tls-cert", type=click.Path(exists=True, path_type=Path), envvar="ENGRAM_TLS_CERT", help="Certificate.")
@click.option("--tls-key", type=click.Path(exists=True, path_type=Path), envvar="ENGRAM_TLS_KEY", help="Its key.")
@click.option("--print", "show", is_flag=True, help="Print the job of a worker, and submit nothing.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def main(*, command: tuple[str, ...], show: bool, **asked: Any) -> None:
    """See the module's own words."""
    if not command and not show:
        raise click.UsageError("no command for the trainer: expected -- cv --store URL …")
    check_environment()
    tls = (asked.pop(name) for name in ("tls_ca", "tls_cert", "tls_key"))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    with certificates(*tls, asked["shared"].absolute()) as files, cluster_of(asked, files) as cluster:
        if show:
            click.echo(cluster.job_script(), nl=False)
            return
        status = run(command, cluster, files, asked["jobs"], asked["logs"])
    raise SystemExit(status)


if __name__ == "__main__":
    main()
