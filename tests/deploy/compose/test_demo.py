"""The compose file's services as processes of this machine, from certificates to the published run of its demo.

Commands and environments are the file's own; its volumes are folders here, and its hosts are ports of loopback. What only
containers can show is not shown: users, networks without a way out, memory and cores, files that cannot be written.
"""

import json
import os
import re
import shlex
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError
from uuid import uuid4

import daemons
import dask_cluster
import pytest

from .conftest import FILE

ROOT = FILE.parents[2]
BIN = Path(sys.executable).parent
PROGRAM = {"service": "feature-store", "extractor": "extractor", "trainer": "trainer"}
"""What each image starts."""
PATIENTS = 24
PATIENCE_S = 180.0

pytestmark = pytest.mark.timeout(1200)


@dataclass
class Compose:
    """Starts services of the file; each runs in the folder that its image names."""

    services: Mapping[str, dict[str, Any]]
    folder: Path
    hosts: Mapping[str, str]
    """What stands here for addresses of the file."""
    more: dict[str, str] = field(default_factory=dict)
    """Variables of every service, beside those that the file gives it."""

    def places(self, name: str) -> dict[str, str]:
        """Where what a container finds in a folder lies here."""
        found = {}
        for volume in self.services[name].get("volumes", []):
            source, target, *_ = volume.split(":")
            here = FILE.parent / source if source.startswith(".") else self.folder / "volumes" / source
            if not source.startswith("."):
                here.mkdir(parents=True, exist_ok=True)
            found[target] = str(here.resolve())
        cache = self.folder / "cache" / name
        cache.mkdir(parents=True, exist_ok=True)
        return {"/var/cache/engram": str(cache)} | found

    def here(self, name: str, text: str) -> str:
        """A word or variable of a service, with places and hosts of this machine."""
        for old, new in self.places(name).items():
            text = text.replace(old, new)
        for old, new in self.hosts.items():
            text = text.replace(old, new)
        return text

    def command(self, name: str) -> list[str]:
        """The program that a container of a service runs, and its words."""
        one = self.services[name]
        image = re.fullmatch(r"engram-(\w+):.*", one["image"])
        assert image is not None
        words = [*(one.get("entrypoint") or [PROGRAM[image[1]]]), *one.get("command", [])]
        return [self.here(name, word) for word in words]

    def environment(self, name: str) -> dict[str, str]:
        """All that a service finds in its environment."""
        ours = ("AWS_", "DASK_", "ENGRAM_", "PG")
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        given = self.services[name].get("environment") or {}
        mine = {key: self.here(name, str(value)) for key, value in given.items()}
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        return inherited | {"PATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} | mine | self.more

    def run(self, name: str, **environment: str) -> str:
        """What a service that ends says; it must end well."""
        given = self.environment(name) | environment
        command = self.command(name)
        done = subprocess.run(command, env=given, cwd=self.home(name), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{shlex.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def home(self, name: str) -> str:
        """The folder that an image starts in."""
        return self.places(name).get("/srv/engram", str(self.folder))

    def start(self, name: str, stack: ExitStack) -> Path:
        """Starts a service that stays, until the stack is left; gives its log."""
        log = self.folder / f"{name}.log"
        program, *words = self.command(name)
        command = ["env", "--ignore-environment", f"--chdir={self.home(name)}"]
        command += [f"{key}={value}" for key, value in self.environment(name).items()]
        stack.enter_context(dask_cluster.running(log, [*command, program, *words]))
        return log


def until(ready: Callable[[], bool], log: Path) -> None:
    """Returns once it is."""
    deadline = time.monotonic() + PATIENCE_S
    while not ready():
        assert time.monotonic() < deadline, log.read_text()[-4000:]
        time.sleep(0.2)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except (URLError, OSError):
        return False


@pytest.fixture(scope="module")
def compose(services, s3_server, postgres, tmp_path_factory) -> Iterator[Compose]:
    """The file's services, none of them started, over an S3 server and PostgreSQL of this machine."""
    folder, database = tmp_path_factory.mktemp("compose"), f"engram_{uuid4().hex}"
    postgres.make_database(database)
    ports = dict(zip(("extract", "train", "extract-look", "train-look", "service"), daemons.free_ports(5), strict=True))
    served = f"http://127.0.0.1:{ports['service']}"
    hosts = {
        "http://s3:8333": s3_server.endpoint,
        "//engram@postgres/engram": f"//{postgres.role}@127.0.0.1:{postgres.port}/{database}",
        "tls://extract-scheduler:8786": f"tls://127.0.0.1:{ports['extract']}",
        "tls://train-scheduler:8786": f"tls://127.0.0.1:{ports['train']}",
        "http://service:8000": served,
    }
    volumes = folder / "volumes"
    more = {
        "AWS_ACCESS_KEY_ID": s3_server.access_key,
        "AWS_SECRET_ACCESS_KEY": s3_server.secret_key,
        "PGPASSWORD": postgres.password,
        "ENGRAM_SERVICE_PORT": str(ports["service"]),
        "ENGRAM_SERVICE_HOST": "127.0.0.1",
        "ENGRAM_CERTS_TO": str(volumes / "tls"),
        "ENGRAM_CERTS_AUTHORITY": str(volumes / "authority"),
        "ENGRAM_CERTS_SCRIPT": str(ROOT / "deploy/tls/make-certs.sh"),
        "ENGRAM_DEMO_WORK": str(volumes / "work/demo"),
        "ENGRAM_DEMO_PATIENTS": str(PATIENTS),
        "ENGRAM_DEMO_SERVICE": served,
    }
    schedulers = {name: one for name, one in services.items() if name.endswith("-scheduler")}
    moved = {name: one | {"command": _listening(one["command"], name, ports)} for name, one in schedulers.items()}
    yield Compose(services | moved, folder, hosts, more)
    postgres.drop_database(database)


def _listening(words: list[str], name: str, ports: Mapping[str, int]) -> list[str]:
    """The words of a scheduler, which listens to ports of this machine's loopback."""
    which = name.removesuffix("-scheduler")
    moved = (word.replace("0.0.0.0:8787", f"127.0.0.1:{ports[f'{which}-look']}") for word in words)
    return [word.replace("0.0.0.0", "127.0.0.1").replace("--port=8786", f"--port={ports[which]}") for word in moved]


@pytest.fixture(scope="module")
def certificates(compose) -> Path:
    """The folder that `certs` fills."""
    compose.run("certs")
    return compose.folder / "volumes/tls"


def test_certificates_are_made_once_and_the_authoritys_key_stays_apart(compose, certificates):
    made = {path.name: path.read_bytes() for path in certificates.iterdir()}
    assert set(made) == {"ca.pem", "cert.pem", "key.pem"}
    authority = compose.folder / "volumes/authority"
    assert (authority / "ca-key.pem").exists()
    assert stat.S_IMODE((certificates / "key.pem").stat().st_mode) & 0o077 == 0
    assert compose.run("certs") == ""
    assert {path.name: path.read_bytes() for path in certificates.iterdir()} == made
    names = subprocess.run(
        ["openssl", "x509", "-in", certificates / "cert.pem", "-noout", "-ext", "subjectAltName"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "DNS:extract-scheduler" in names
    assert "DNS:train-scheduler" in names


def test_the_bucket_is_made_once(compose):
    said = [compose.run("bucket") for _ in range(2)]
    assert said[0] in {"bucket engram was made\n", "bucket engram is there\n"}
    assert said[1] == "bucket engram is there\n"


@pytest.fixture(scope="module")
def running(compose, certificates) -> Iterator[None]:
    """The service, and a scheduler with a worker for each program."""
    compose.run("bucket")
    with ExitStack() as stack:
        log = compose.start("service", stack)
        until(lambda: answers(f"{compose.more['ENGRAM_DEMO_SERVICE']}/readyz"), log)
        for which in ("extract", "train"):
            log = compose.start(f"{which}-scheduler", stack)
            look = compose.command(f"{which}-scheduler")[-1].partition("=")[2]
            until(lambda look=look: answers(f"http://{look}/health"), log)
        logs = [compose.start(worker, stack) for worker in ("extractor-worker", "trainer-worker")]
        for which, log in zip(("extract", "train"), logs, strict=True):
            until(lambda which=which: healthy(compose, which), log)
        yield


def healthy(compose: Compose, which: str) -> bool:
    """The compose file's own check of a worker: whether one speaks with its scheduler."""
    _, _, script, _ = compose.services["extractor-worker"]["healthcheck"]["test"]
    here = compose.here("extractor-worker", script)
    port = compose.hosts[f"tls://{which}-scheduler:8786"].rpartition(":")[2]
    return subprocess.run([sys.executable, here, port], check=False).returncode == 0


@pytest.mark.usefixtures("running")
def test_the_demo_goes_all_the_way_and_run_again_resumes(compose):
    """By the service over PostgreSQL and S3, and a cluster of each program over TLS."""
    work, address = compose.folder / "volumes/work/demo", compose.hosts
    for done in ("committed", "done"):
        compose.run("demo-project")
        assert stat.S_IMODE((work / "api-key").stat().st_mode) == 0o600
        extracted = compose.run("demo-extract", ENGRAM_DEMO_SCHEDULER=address["tls://extract-scheduler:8786"])
        assert f"Items: {2 * PATIENTS} {done}" in extracted
        trained = compose.run("demo", ENGRAM_DEMO_SCHEDULER=address["tls://train-scheduler:8786"])
        assert f"in {address['http://service:8000']}/v1/projects/demo" in trained, "the run is published by the service"
        assert (work / "api-key").read_text().strip() not in trained
    results = json.loads((work / "run/results.json").read_text())
    assert results["complete"]
    assert (work / "run/report.html").stat().st_size > 10_000
