"""Engram over several hosts: an S3 server, a Dask scheduler, two workers, a service and a client; knows no test.

How workers are started and how clients are told of their certificates stands here alone.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError

import radosgw
from distributed import Client
from distributed.security import Security

from .certificates import Identity, make_identity
from .netns import Network, until

HOSTS = ("s3", "scheduler", "worker-1", "worker-2", "service", "client")
WORKERS = ("worker-1", "worker-2")
BUCKET = "engram"
SERVED = f"s3://{BUCKET}/served"
"""The store behind the service."""
SCHEDULER_PORT, SERVICE_PORT = 8786, 8000
PATIENCE = {
    # A peer that acknowledges nothing is given up after so long: the least that Dask takes, and 30 s by default.
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "11s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "10s",
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "60s",
}
BIN = Path(sys.executable).parent
_KEY = re.compile(r"engram_[0-9a-f]{12}_[A-Za-z0-9_-]{43}")


@dataclass
class World:
    """Everything that runs, and where its files are."""

    network: Network
    folder: Path
    identities: Mapping[str, Identity] = field(default_factory=dict)
    store: radosgw.S3Server | None = None
    key: str = ""
    """Of the service: a writer's."""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    """The service, the scheduler and the workers, by host."""

    def __post_init__(self) -> None:
        self.identities = make_identity(self.folder / "tls", "scheduler", "worker", "client")

    # Who is told what

    @property
    def _plain(self) -> dict[str, str]:
        """The environment of every program here: nothing of this user's clouds and clusters, one thread, and the S3 server."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "DASK_", "ENGRAM_"))}
        assert self.store is not None
        return inherited | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} | PATIENCE | self.store.environment

    def environment(self, role: str) -> dict[str, str]:
        """What a scheduler, worker or client finds in its environment: addresses, credentials and, for a client, certificates."""
        mine = self._plain | {"ENGRAM_API_KEY": self.key, "ENGRAM_ALLOW_HTTP": "1"}
        return mine | tls_settings(self.identities["client"]) if role == "client" else mine

    @property
    def scheduler(self) -> str:
        """Address for clients and workers."""
        return f"tls://{self.network.hosts['scheduler'].address}:{SCHEDULER_PORT}"

    @property
    def service_url(self) -> str:
        """Where the service answers."""
        return f"http://{self.network.hosts['service'].address}:{SERVICE_PORT}"

    def log(self, name: str) -> str:
        """The end of what a host's programs wrote."""
        path = self.folder / f"{name}.log"
        return path.read_text()[-4000:] if path.exists() else ""

    # What runs

    def start_s3(self) -> radosgw.S3Server:
        """An S3 server that listens at its host's address."""
        host, folder = self.network.hosts["s3"], self.folder / "s3"
        command = [sys.executable, radosgw.__file__, "start", str(folder), host.address]
        starting = host.start(command, log=self.folder / "s3.log", environment=os.environ)
        assert starting.wait() == 0, self.log("s3")
        self.store = radosgw.running(folder)
        return self.store

    def start_scheduler(self) -> None:
        """A new scheduler at the same address."""
        host = self.network.hosts["scheduler"]
        options = ["--host", host.address, "--port", str(SCHEDULER_PORT), "--protocol", "tls", "--no-dashboard"]
        command = [str(BIN / "dask"), "scheduler", *options, *tls_options(self.identities["scheduler"])]
        self._start("scheduler", command, self.environment("scheduler"))

    def start_worker(self, name: str) -> None:
        """A worker process with one thread, for either program: one core is all that this host may use."""
        host, mine = self.network.hosts[name], self.identities["worker"]
        cores = sorted(os.sched_getaffinity(0))
        core = cores[WORKERS.index(name) % len(cores)]
        words = ["--name", name, "--host", host.address, "--local-directory", str(self.folder / name)]
        words += ["--tls-ca", str(mine.ca), "--tls-cert", str(mine.cert), "--tls-key", str(mine.key)]
        command = ["taskset", "--cpu-list", str(core), str(BIN / "trainer"), "worker", self.scheduler, *words]
        self._start(name, command, self.environment("worker"))

    def rejoin(self, name: str) -> None:
        """A worker that lost its scheduler ends, and another one is started in its place, as what supervises workers does."""
        assert self.processes[name].wait(300) is not None
        self.start_worker(name)

    def start_service(self) -> None:
        """A service with one project, whose store lies on the S3 server, and a writer's key, which workers find when they start."""
        host, environment = self.network.hosts["service"], self.environment("service")
        data = ["--data", str(self.folder / "service")]
        for words in (
            ["migrate"],
            ["projects", "create", "shared", "--store", SERVED],
            ["keys", "create", "shared", "--label", "hosts", "--scope", "write"],
        ):
            told = self._told_by(host.namespace, [str(BIN / "feature-store"), "admin", *words, *data], environment)
        self.key = _KEY.findall(told)[0]
        options = ["--host", host.address, "--port", str(SERVICE_PORT), "--reconcile-s", "0"]
        self._start("service", [str(BIN / "feature-store"), "serve", *data, *options], environment)
        until(self._service_answers, "the service to answer")

    def _service_answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.service_url}/readyz", timeout=5) as answer:
                return answer.status == 200
        except (URLError, OSError):
            return False

    def _told_by(self, namespace: str, command: list[str], environment: Mapping[str, str]) -> str:
        inside = ["ip", "netns", "exec", namespace, *command]
        done = subprocess.run(inside, env=dict(environment), capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _start(self, name: str, command: list[str], environment: Mapping[str, str]) -> None:
        host = self.network.hosts[name]
        self.processes[name] = host.start(command, log=self.folder / f"{name}.log", environment=environment)

    def client(self, name: str, *command: str, environment: Mapping[str, str] | None = None) -> Running:
        """Starts a program on the client's host; its name tells its log from others."""
        host, log = self.network.hosts["client"], self.folder / f"client-{name}.log"
        program = [str(BIN / command[0]), *command[1:]]
        given = self.environment("client") if environment is None else environment
        return Running(host.start(program, log=log, environment=given), log)

    # What is known of it

    @contextmanager
    def asking(self) -> Iterator[Asking]:
        """Questions to the scheduler, from this machine."""
        mine = self.identities["client"]
        names = {"tls_ca_file": mine.ca, "tls_client_cert": mine.cert, "tls_client_key": mine.key}
        security = Security(require_encryption=True, **{name: str(path) for name, path in names.items()})
        with Client(self.scheduler, security=security, set_as_default=False, timeout=60) as client:
            yield Asking(client)

    def until_workers(self, *names: str) -> None:
        """Returns once exactly these workers are there."""
        with self.asking() as scheduler:
            until(lambda: set(scheduler.held()) == set(names), f"the workers {names} to be all there are")


@dataclass
class Asking:
    """A connection to the scheduler that gives it no work."""

    client: Client

    def held(self) -> dict[str, list[str]]:
        """Tasks that the scheduler has given to each worker and that are not done, by the worker's name."""
        present = self.client.sync(self.client.scheduler.identity, n_workers=-1)["workers"]
        held = self.client.processing()
        return {about["name"]: [str(key) for key in held.get(address, ())] for address, about in present.items()}

    def ended(self) -> list[str]:
        """Keys of the tasks that this scheduler saw end."""
        log = self.client.run_on_scheduler(
            lambda dask_scheduler: [tuple(one)[:3] for one in dask_scheduler.transition_log]
        )
        return [str(key) for key, _, to in log if to == "memory"]


@dataclass
class Running:
    """A program on the client's host."""

    process: subprocess.Popen[bytes]
    path: Path

    def told(self) -> str:
        """What it wrote so far."""
        return self.path.read_text()

    def lives(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def ended(self, *, status: int = 0, patience_s: float = 300.0) -> str:
        """What it wrote, once it has ended as it should."""
        assert self.process.wait(patience_s) == status, self.told()[-4000:]
        return self.told()


def tls_options(mine: Identity) -> list[str]:
    """For the command line of Dask's own scheduler."""
    return ["--tls-ca-file", str(mine.ca), "--tls-cert", str(mine.cert), "--tls-key", str(mine.key)]


def tls_settings(mine: Identity) -> dict[str, str]:
    """For a client, in its environment."""
    return {"ENGRAM_TLS_CA": str(mine.ca), "ENGRAM_TLS_CERT": str(mine.cert), "ENGRAM_TLS_KEY": str(mine.key)}
