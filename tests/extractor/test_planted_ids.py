"""Planted ids and secrets are in nothing that `extractor run --pseudonymise` writes, prints, sends or has others hold."""

import base64
import importlib.util
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import pytest
import s3fs
from distributed import Client
from distributed.protocol.serialize import Serialized
from numcodecs import Zstd

from extractor.errands import Errand
from extractor.sealing import envelope
from store_schema import open_store
from store_schema.errors import UsageError
from store_schema.pseudonyms import KEY_VARIABLE, Pseudonyms
from store_schema.testing import content_digests

TRAFFIC = Path(__file__).with_name("traffic")
KEY = "planted pseudonym key, long enough"
TOKEN = "planted-session-token/of+the=run"
ITEMS = 2
"""Entries of a study: two modalities of one ROI in one layout."""
DOWN_S = 30


@dataclass
class Planted:
    """Studies with planted ids, and what must be found nowhere."""

    module: ModuleType
    folder: Path
    files: s3fs.S3FileSystem
    secrets: list[str]
    local: Path
    """Study table with paths of this machine."""
    signed: Path
    """The same studies; all but the DICOM series are on a server, by presigned addresses."""

    @property
    def sought(self) -> list[str]:
        return [*self.module.NAMES, *self.secrets]

    def extract(self, table: Path, store: str, *options: str, **environment: str) -> dict[str, bytes]:
        """What `extractor run` prints; one study of the table fails."""
        command = [str(Path(sys.executable).with_name("extractor")), "run", str(table), "--store", store]
        command += ["--config", str(self.folder / "extract.yaml"), *options]
        done = subprocess.run(command, capture_output=True, env=os.environ | environment, check=False)
        text = (done.stdout + done.stderr).decode()
        assert done.returncode == 1, text
        assert f"{2 * ITEMS} committed, {ITEMS} failed" in " ".join(text.split()), text
        return {"stdout": done.stdout, "stderr": done.stderr}

    def stored(self, store: str) -> dict[str, bytes]:
        """Paths and bytes of all objects of a store, snapshots decompressed too."""
        found = {path: self.files.cat_file(path) for path in self.files.find(store)}
        lines = {f"{path}, its lines": Zstd().decode(data) for path, data in found.items() if path.endswith(".zst")}
        assert lines
        return found | lines | {"paths": "\n".join(found).encode()}


@pytest.fixture(scope="module")
def planted_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("planted", Path(__file__).with_name("planted.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def planted(planted_module: ModuleType, dicom: ModuleType, s3_server: Any, tmp_path_factory: Any) -> Iterator[Planted]:
    """Everything that is planted: in the table, in folders and files, in DICOM headers, in environment and addresses."""
    folder, files = tmp_path_factory.mktemp("planted"), s3fs.S3FileSystem(skip_instance_cache=True)
    (folder / "extract.yaml").write_text(planted_module.CONFIG)
    bucket, queries = f"s3://engram-tests/{uuid4().hex}", []

    def put(path: Path) -> str:
        address = f"{bucket}/{planted_module.FOLDER}/{path.name}"
        files.put_file(path, address)
        signed = str(files.sign(address, expiration=3600))
        queries.append(signed.partition("?")[2])
        return signed

    for name in ("local", "signed"):
        (folder / name).mkdir()
    local = planted_module.write_studies(folder / "local", dicom)
    signed = planted_module.write_studies(folder / "signed", dicom, put)
    signature = queries[0].rpartition("Signature=")[2].partition("&")[0]
    secrets = [s3_server.secret_key, TOKEN, KEY, signature, unquote(signature), *queries]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOME_OTHER_TOKEN", TOKEN)
        patch.delenv(KEY_VARIABLE, raising=False)
        yield Planted(planted_module, folder, files, secrets, local, signed)


@pytest.fixture(scope="module")
def alone(planted: Planted) -> dict[str, str]:
    """Content digests of the store that one process makes of the studies."""
    store = f"s3://engram-tests/{uuid4().hex}"
    planted.extract(planted.local, store, "--pseudonymise", "--jobs", "0", **{KEY_VARIABLE: KEY})
    return content_digests(open_store(store))


def recorder(folder: Path, *, sockets: bool = False) -> dict[str, str]:
    """Environment of processes that keep a copy of what they send in a folder."""
    folder.mkdir(exist_ok=True)
    paths = [str(TRAFFIC), *filter(None, [os.environ.get("PYTHONPATH")])]
    more = {"ENGRAM_TRAFFIC_SOCKETS": "1"} if sockets else {}
    return {"PYTHONPATH": os.pathsep.join(paths), "ENGRAM_TRAFFIC": str(folder), **more}


def kept(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.iterdir()}


def test_processes_of_this_machine_get_and_give_nothing_planted(
    planted: Planted, alone: Mapping[str, str], tmp_path: Path
):
    store, told = f"s3://engram-tests/{uuid4().hex}", recorder(tmp_path / "traffic")
    (tmp_path / "home").mkdir()
    told |= {KEY_VARIABLE: KEY, "TMPDIR": str(tmp_path / "home"), "HOME": str(tmp_path / "home")}
    printed = planted.extract(planted.signed, store, "--pseudonymise", "--jobs", "2", **told)
    traffic, stored = kept(tmp_path / "traffic"), planted.stored(store)
    left = {
        str(path): str(path).encode() + path.read_bytes() for path in (tmp_path / "home").rglob("*") if path.is_file()
    }
    assert {Path(name).name.partition("-")[0] for name in traffic} == {"pipe", "spawn"}
    assert any(b"told" in data for data in traffic.values())
    assert any("runs/" in path for path in stored)
    assert content_digests(open_store(store)) == alone
    assert not planted.module.leaks(planted.sought, printed | traffic | stored | left)


def test_the_search_finds_what_processes_send_of_patients_by_their_own_ids(planted: Planted, tmp_path: Path):
    """What is sealed with pseudonyms does travel, and the search would find it."""
    text = planted.signed.read_text(encoding="utf-8")
    for number, patient in enumerate(planted.module.PATIENTS):
        text = text.replace(f"{patient},", f"P{number},")
    plain = planted.signed.with_name("plain.csv")
    plain.write_text(text, encoding="utf-8")
    planted.extract(plain, str(tmp_path / "store"), "--jobs", "2", **recorder(tmp_path / "traffic"))
    found = planted.module.leaks(planted.sought, kept(tmp_path / "traffic"))
    assert {one.partition(" in ")[0] for one in found} >= {planted.module.FOLDER, planted.module.FILE}


@dataclass
class Dask:
    """A Dask cluster of processes, each with its log."""

    address: str
    logs: Path
    graph: Path
    traffic: Path

    def written(self) -> dict[str, bytes]:
        return {
            str(path): path.read_bytes()
            for folder in (self.logs, self.graph, self.traffic)
            for path in folder.iterdir()
        }


@contextmanager
def started(log: Path, *arguments: str, **environment: str) -> Iterator[None]:
    """A process of Dask's until the block ends."""
    with log.open("wb") as file:
        command = [sys.executable, "-m", *arguments]
        process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | environment)
        try:
            yield
        finally:
            process.terminate()
            process.wait(DOWN_S)


@contextmanager
def dask(folder: Path, **of_worker: str) -> Iterator[Dask]:
    """A scheduler without any secret and a worker that has some, both telling all in their logs."""
    made = Dask("", folder / "logs", folder / "graph", folder / "traffic")
    for one in (made.logs, made.graph):
        one.mkdir()
    file, loud = folder / "scheduler.json", {"DASK_LOGGING__DISTRIBUTED": "debug"}
    shared = recorder(made.traffic, sockets=True) | loud | {"ENGRAM_GRAPH": str(made.graph)}
    bare = dict.fromkeys((KEY_VARIABLE, "AWS_SECRET_ACCESS_KEY", "SOME_OTHER_TOKEN"), "")
    common = ["--scheduler-file", str(file), "--no-dashboard", "--host", "127.0.0.1"]
    preload = ["--port", "0", "--preload", str(TRAFFIC / "graph_of_scheduler.py")]
    worker = ["--nthreads", "1", "--nworkers", "1", "--memory-limit", "0", "--local-directory", str(folder / "work")]
    with ExitStack() as stack:
        scheduler = ["distributed.cli.dask_scheduler", *common, *preload]
        stack.enter_context(started(made.logs / "scheduler", *scheduler, **shared | bare))
        stack.enter_context(
            started(made.logs / "worker", "distributed.cli.dask_worker", *common, *worker, **shared | of_worker)
        )
        until = time.monotonic() + 60
        while not file.exists() and time.monotonic() < until:
            time.sleep(0.05)
        made.address = json.loads(file.read_text())["address"]
        yield made


def held_by(cluster: Dask) -> dict[str, bytes]:
    """What scheduler and workers tell of themselves when the studies are done."""
    with Client(cluster.address, set_as_default=False) as client:
        return {
            "events": repr(client.get_events()).encode(),
            "scheduler logs": repr(client.get_scheduler_logs()).encode(),
            "worker logs": repr(client.get_worker_logs()).encode(),
            "tasks": repr(client.run_on_scheduler(lambda dask_scheduler: dict(dask_scheduler.tasks))).encode(),
        }


def test_a_cluster_gets_holds_and_gives_nothing_planted(planted: Planted, alone: Mapping[str, str], tmp_path: Path):
    store, key = f"s3://engram-tests/{uuid4().hex}", {KEY_VARIABLE: KEY}
    with dask(tmp_path, **key) as cluster:
        told = recorder(cluster.traffic, sockets=True) | key
        printed = planted.extract(planted.local, store, "--pseudonymise", "--scheduler", cluster.address, **told)
        held = held_by(cluster)
    written, stored = cluster.written(), planted.stored(store)
    errands = errands_of(planted, cluster)
    assert {errand.key.rsplit("-", 2)[0] for errand in errands} == {f"study-line-{line}" for line in (2, 3, 4)}
    assert any(b"study-line-2" in data for path, data in written.items() if "/socket-" in path), "traffic is kept"
    assert b"study-line-2" in held["events"] + written[str(cluster.logs / "scheduler")], "logs and events tell of tasks"
    assert content_digests(open_store(store)) == alone
    assert not planted.module.leaks(planted.sought, printed | written | stored | held)
    for errand in errands:
        nothing_without_the_secret(planted, errand)


def errands_of(planted: Planted, cluster: Dask) -> list[Errand]:
    """Every errand in what the scheduler held, unpacked by a process without the secret; no thing beside it names a patient."""
    assert KEY_VARIABLE not in os.environ
    found = [thing for path in sorted(cluster.graph.iterdir()) for thing in planted.module.things(_unpacked(path))]
    texts = [str(thing).encode() for thing in found if isinstance(thing, str | int)]
    assert not planted.module.leaks(planted.module.NAMES, {"texts of the graph": b"\n".join(texts)})
    return list({one.key: one for one in found if isinstance(one, Errand)}.values())


def _unpacked(path: Path) -> dict[str, Any]:
    seen: dict[str, Any] = pickle.loads(path.read_bytes())
    spec = seen["run_spec"]
    return seen | {"run_spec": spec.deserialize() if isinstance(spec, Serialized) else spec}


def nothing_without_the_secret(planted: Planted, errand: Errand) -> None:
    """An errand opens with the secret alone, and then does hold what was sought."""
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads(errand.task)
    fingerprint = Pseudonyms(KEY.encode()).rule.key_fingerprint
    assert errand.spec.sealed_with == fingerprint
    for environment in ({}, {KEY_VARIABLE: "another key of many bytes"}):
        with pytest.raises(UsageError, match=KEY_VARIABLE):
            envelope(fingerprint, environment)
    task = envelope(fingerprint, {KEY_VARIABLE: KEY}).open(errand.task)
    texts = "\n".join(thing for thing in planted.module.things(task) if isinstance(thing, str)).encode()
    assert planted.module.leaks([planted.module.FILE], {"task": texts})


@pytest.mark.parametrize(
    ("key", "said"), [("", "has no secret in"), ("another key of many bytes", "has another secret")]
)
def test_a_worker_without_the_secret_is_refused_before_the_first_study(
    planted: Planted, tmp_path: Path, key: str, said: str
):
    with dask(tmp_path, **{KEY_VARIABLE: key}) as cluster:
        command = [str(Path(sys.executable).with_name("extractor")), "run", str(planted.local), "--store"]
        command += [str(tmp_path / "store"), "--config", str(planted.folder / "extract.yaml"), "--pseudonymise"]
        environment = os.environ | {KEY_VARIABLE: KEY}
        done = subprocess.run(
            [*command, "--scheduler", cluster.address], capture_output=True, env=environment, check=False
        )
        text = " ".join(done.stderr.decode().split())
        assert done.returncode == 2, text
        assert said in text
        assert f"set {KEY_VARIABLE} in its environment" in text
        assert not list(cluster.graph.iterdir()), "no task was sent"
    assert not list((tmp_path / "store").glob("commits/**/*.json"))


def test_the_search_finds_a_planted_name_in_any_form(planted_module: ModuleType):
    for name in planted_module.NAMES:
        path = f"/data/{name}/ct.nii.gz".encode()
        inside = pickle.dumps({"row": [pickle.dumps(f"/data/{name}/x")]})
        hidden = [path, path.hex().encode(), base64.b64encode(path), base64.b64encode(base64.b64encode(path)), inside]
        hidden += [
            json.dumps(f"/d/{name}").encode(),
            base64.urlsafe_b64encode(inside),
            f"/d/{name}".encode("utf-16-le"),
        ]
        for data in hidden:
            assert planted_module.leaks([name], {"place": data}), (name, data)
        assert not planted_module.leaks([name], {"place": b"nothing" + bytes(range(256))})
