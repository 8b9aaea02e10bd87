"""Secrets of environment and addresses stay out of everything that the programs write, print, raise and send."""

import base64
import csv
import os
import pickle
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, unquote
from uuid import uuid4

import numpy as np
import pytest
import s3fs
import yaml
from numcodecs import Zstd

from extractor.config import ExtractConfig
from extractor.errands import Errand
from extractor.phantom import write_cohort
from extractor.pool import WorkerSpec
from extractor.table import read_study_table
from extractor.work import StudyTask
from store_schema import EntryKey, Store, create_store, open_store
from store_schema.bulk import BulkReader
from store_schema.errors import EngramError
from store_schema.files import fingerprint
from store_schema.location import open_location
from store_schema.testing import digest_of, example_entry, example_view
from trainer.config import parse_config
from trainer.jobs import first_jobs
from trainer.plan import Inputs, make_plan

PLANTED = {
    "AZURE_STORAGE_KEY": "planted+azure/key==",
    "SOME_OTHER_TOKEN": "planted-session-token/of+the=run",
    "ENGRAM_PSEUDONYM_KEY": "planted pseudonym key, long enough",
}
"""Beside the key of the S3 server, which is in use."""
IN_ADDRESS = "planted:pass/word+in=address"
EXTRACT = "model: mini\nweights: random:0\npet_units: suv\nstride: 16\nderive: [spine_dilated]\nlayouts: [paper]\n"
CROSS_VALIDATE = """\
columns: {time: months, time_unit: months, event: event, continuous: [age]}
splits: {folds: 2}
fit: {epochs: 2, min_epochs: 1, min_validation_events: 1}
permuted_control: null
models:
  - {name: cox, kind: ridge_cox}
  - {name: image, kind: network, view: VIEW, images: {modalities: [CT], roi: spine}, hidden: [4]}
"""
PATIENTS = 24
HOUR_S = 3600
ROLES = ("ct", "pet", "label_map")


def forms(secret: str) -> set[bytes]:
    """How a secret may look: as it is, percent-encoded, and in base64 at each of its three offsets."""
    found = {secret.encode(), quote(secret, safe="").encode(), quote(secret).encode()}
    for offset in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            # The first and last group also hold what stands beside the secret.
            found.add(encode(b"x" * offset + secret.encode())[4 if offset else 0 : -4])
    return found


def leaks(secrets: Iterable[str], places: dict[str, bytes]) -> list[str]:
    """Places that hold a secret in any form."""
    sought = [(secret, form) for secret in secrets for form in forms(secret)]
    return sorted(
        {f"{secret[:12]}… in {place}" for place, data in places.items() for secret, form in sought if form in data}
    )


@pytest.mark.parametrize(
    "hide",
    [
        lambda secret: f"text {secret} text",
        lambda secret: f"https://host/?sig={quote(secret, safe='')}&x=1",
        lambda secret: base64.b64encode(f"a:{secret}:b".encode()).decode(),
        lambda secret: base64.urlsafe_b64encode(f"ab:{secret}".encode()).decode(),
        lambda secret: base64.b64encode(f"key={secret}!!".encode()).decode(),
    ],
)
@pytest.mark.parametrize("secret", [*PLANTED.values(), IN_ADDRESS])
def test_the_search_finds_a_planted_secret_in_any_form(hide: Any, secret: str) -> None:
    assert leaks([secret], {"file": hide(secret).encode()})
    assert not leaks([secret], {"file": b"nothing"})


@pytest.fixture(scope="module")
def images(s3_server: Any, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Two studies on the server: the first by its plain addresses, the second presigned."""
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, n=4, seed=5, processes=0)
    files, url = s3fs.S3FileSystem(skip_instance_cache=True), f"s3://engram-tests/{uuid4().hex}"
    table = list(csv.DictReader((folder / "studies.csv").read_text().splitlines()))[:2]
    for role in ROLES:
        for number, row in enumerate(table):
            files.put_file(folder / row[role], f"{url}/{row[role]}")
            row[role] = files.sign(f"{url}/{row[role]}", expiration=HOUR_S) if number else f"{url}/{row[role]}"
    return SimpleNamespace(url=url, files=files, table=table)


@pytest.fixture
def world(
    images: SimpleNamespace, s3_server: Any, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SimpleNamespace:
    """Planted secrets, a table of studies, and a place for everything that the programs write."""
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "home").mkdir()
    (tmp_path / "extract.yaml").write_text(EXTRACT)
    rows = [dict(row) for row in images.table]
    queries = [rows[1][role].partition("?")[2] for role in ROLES]
    signature = queries[0].rpartition("Signature=")[2].partition("&")[0]
    assert len(signature) > 20
    secrets = [s3_server.secret_key, signature, unquote(signature), *queries, *PLANTED.values(), IN_ADDRESS]
    world = SimpleNamespace(images=images, files=images.files, url=s3_url, folder=tmp_path, secrets=secrets, rows=rows)
    world.studies = write_table(world)
    return world


def write_table(world: SimpleNamespace) -> Path:
    """The study table as the rows are now."""
    path: Path = world.folder / "studies.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(world.rows[0]))
        writer.writeheader()
        writer.writerows(world.rows)
    return path


def call(world: SimpleNamespace, program: str, *arguments: str, status: int = 0) -> dict[str, bytes]:
    """What a program prints; it runs in a home of its own, so that whatever it leaves there is found."""
    command = [str(Path(sys.executable).parent / program), *arguments]
    home = {"HOME": str(world.folder / "home"), "TMPDIR": str(world.folder / "home"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, env=os.environ | home, cwd=world.folder / "home", check=False)
    assert done.returncode == status, (done.stdout + done.stderr).decode()
    return {f"{program} {arguments[0]} stdout": done.stdout, f"{program} {arguments[0]} stderr": done.stderr}


def written(world: SimpleNamespace) -> dict[str, bytes]:
    """Names and bytes of all objects and files that the programs left, snapshots decompressed."""
    found = {path: path.encode() + b"\n" + world.files.cat_file(path) for path in world.files.find(world.url)}
    found |= {
        f"{path}, its lines": Zstd().decode(world.files.cat_file(path)) for path in found if path.endswith(".zst")
    }
    home = {str(path): path.read_bytes() for path in (world.folder / "home").rglob("*") if path.is_file()}
    return found | home


def test_an_extraction_from_presigned_addresses_to_s3_leaks_nothing(world: SimpleNamespace) -> None:
    options = ["--store", f"{world.url}/store", "--config", str(world.folder / "extract.yaml"), "--pseudonymise"]
    printed = call(world, "extractor", "run", str(world.studies), *options, "--jobs", "1")
    assert b"4 committed" in printed["extractor run stdout"]
    again = call(world, "extractor", "run", str(world.studies), *options, "--jobs", "1")
    assert b"4 done" in again["extractor run stdout"]
    assert open_store(f"{world.url}/store").verify().ok
    places = written(world)
    assert any("packs/" in place for place in places)
    assert any("runs/" in place for place in places)
    assert not leaks(world.secrets, printed | {f"again {name}": text for name, text in again.items()} | places)
    assert not [place for place, data in (printed | again | places).items() if b"P001_" in data or b"P002_" in data]
    # the table, which the search leaves out, does hold what it looks for
    assert leaks(world.secrets, {"table": world.studies.read_bytes()})


def test_a_failing_extraction_leaks_nothing(world: SimpleNamespace) -> None:
    broken = f"{world.images.url}/broken.nii.gz"
    world.files.pipe_file(broken, b"no image")
    world.rows[1] |= {"pet": world.files.sign(broken, expiration=HOUR_S)}
    world.rows[0] |= {"pet": world.rows[1]["ct"].replace("ct.nii.gz", "none.nii.gz")}
    secrets = [*world.secrets, *(row["pet"].partition("?")[2] for row in world.rows)]
    options = ["--store", f"{world.url}/store", "--config", str(world.folder / "extract.yaml")]
    printed = call(world, "extractor", "run", str(write_table(world)), *options, "--jobs", "0", status=1)
    assert b"is damaged or cut short" in printed["extractor run stdout"]
    assert not leaks(secrets, printed | written(world))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--store", f"s3://key:{quote(IN_ADDRESS, safe='')}@bucket/x"], b"password"),
        (["--store", f"https://host/x?sig={quote(IN_ADDRESS)}"], b"query"),
        (["--store", "store", "--config", f"http://u:{quote(IN_ADDRESS, safe='')}@127.0.0.1:9/x.yaml"], b"ConfigError"),
        (["--store", "store", "--weights", f"https://host/x.pt?sig={quote(IN_ADDRESS)}"], b"WeightsError"),
        (["--store", "store", "--weights", f"http://u:{IN_ADDRESS}@host/x.pt"], b"WeightsError"),
    ],
)
def test_a_refused_call_does_not_repeat_a_secret(world: SimpleNamespace, options: list[str], said: bytes) -> None:
    config = [] if "--config" in options else ["--config", str(world.folder / "extract.yaml")]
    printed = call(world, "extractor", "run", str(world.studies), *options, *config, "--jobs", "0", status=2)
    assert said in printed["extractor run stderr"]
    assert not leaks(world.secrets, printed | written(world))


def test_a_refused_key_is_not_repeated(world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", IN_ADDRESS)
    arguments = [str(world.studies), "--store", f"{world.url}/store", "--config", str(world.folder / "extract.yaml")]
    printed = call(world, "extractor", "run", *arguments, "--jobs", "0", status=1)
    assert b"check the credentials" in printed["extractor run stderr"]
    assert not leaks(world.secrets, printed)


def trained(world: SimpleNamespace) -> tuple[str, Path, Path]:
    """Address of a store of many patients, its clinical table and settings."""
    store, rng = create_store(f"{world.url}/tiny"), np.random.default_rng(0)
    view = store.put_view(example_view())
    lines = ["patient,age,months,event"]
    for number in range(PATIENTS):
        key = EntryKey(f"P{number:03d}", "CT", "spine")
        store.publish(view, key, example_entry(number), input_sha256=digest_of(str(key)))
        lines.append(f"{key.patient},{rng.integers(40, 80)},{number + 1},{number % 3 > 0:d}")
    clinical, config = world.folder / "clinical.csv", world.folder / "cv.yaml"
    clinical.write_text("\n".join(lines) + "\n")
    config.write_text(CROSS_VALIDATE.replace("VIEW", view))
    return store.url, clinical, config


def test_a_cross_validation_on_s3_by_processes_leaks_nothing(world: SimpleNamespace) -> None:
    store, clinical, config = trained(world)
    world.files.put_file(clinical, f"{world.images.url}/clinical.csv")
    table = world.files.sign(f"{world.images.url}/clinical.csv", expiration=HOUR_S)
    run = f"{world.url}/run"
    options = ["--clinical", table, "--config", str(config), "--out", run, "--workers", "2"]
    printed = call(world, "trainer", "cv", "--store", store, *options)
    assert b"tasks    4 of 4 done" in printed["trainer cv stdout"]
    refused = call(world, "trainer", "cv", "--store", store, *options[2:], "--clinical", f"{table}x", status=2)
    places = printed | {f"refused {name}": text for name, text in refused.items()} | written(world)
    assert any("run/tasks/" in place for place in places)
    assert not leaks([*world.secrets, table.partition("?")[2]], places)


def pickles(world: SimpleNamespace) -> dict[str, bytes]:
    """What may travel to another process."""
    url, clinical, config = trained(world)
    settings = ExtractConfig(pet_units="suv", derive=("spine_dilated",))
    rows = read_study_table(world.studies, settings)
    store: Store = open_store(url)
    snapshot = store.snapshot(store.make_snapshot(store.view_ids()[0]))
    location = open_location(url)
    location.get("engram.json")
    plan = make_plan(parse_config(yaml.safe_load(config.read_text())), Inputs(clinical, url))
    spec = WorkerSpec(url, "mini", "random:0", "0" * 64, "cpu", "float32", store.store_id)
    tasks = [StudyTask(row, settings, {"paper": "v"}) for row in rows]
    things: dict[str, Any] = {
        "location": location,
        "store": store,
        "snapshot": snapshot,
        "reader": BulkReader(snapshot),
        "studies": tasks,
        "worker": spec,
        "errands of a Dask graph": [Errand(pickle.dumps(task), spec, "Worker-1", "topic", "key") for task in tasks],
        "tasks": plan.tasks(
            first_jobs(plan.config, permutations=plan.splits, folds=len(plan.splits[0])), f"{world.url}/run"
        ),
    }
    return {name: pickle.dumps(thing) + repr(thing).encode() for name, thing in things.items()}


def test_what_is_pickled_for_other_processes_holds_no_secret(world: SimpleNamespace) -> None:
    assert not leaks(world.secrets, pickles(world))


def test_what_is_raised_holds_no_secret(world: SimpleNamespace) -> None:
    gone = world.rows[1]["ct"].replace("ct.nii.gz", "none.nii.gz")
    acts = {
        "absent": lambda: fingerprint(gone),
        "scheme": lambda: fingerprint(f"nosuch://u:{IN_ADDRESS}@host/x?sig={IN_ADDRESS}"),
        "unreachable": lambda: fingerprint(
            f"http://u:{quote(IN_ADDRESS, safe='')}@127.0.0.1:9/x?sig={quote(IN_ADDRESS)}"
        ),
        "store": lambda: open_store(f"s3://k:{quote(IN_ADDRESS, safe='')}@bucket/x"),
    }
    raised = {}
    for name, act in acts.items():
        with pytest.raises((EngramError, OSError)) as caught:
            act()
        raised[name] = b"".join(map(_whole, _chain(caught.value)))
    assert not leaks([*world.secrets, gone.partition("?")[2]], raised)


def _chain(error: BaseException | None) -> Iterable[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _whole(error: BaseException) -> bytes:
    return f"{error!r} {error} {error.args}".encode() + pickle.dumps(error.args)
