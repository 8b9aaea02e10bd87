"""Planted ids and secrets are in nothing that `trainer cv --pseudonymise` writes, prints, sends or has its processes hold."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from store_schema import EntryKey, create_store
from store_schema.pseudonyms import KEY_VARIABLE, Pseudonyms, settle_rule
from store_schema.testing import digest_of, example_entry, example_view

BESIDE = Path(__file__).parent.parent / "extractor"
KEY, TOKEN = "planted pseudonym key, long enough", "planted-session-token/of+the=run"
STEM = "KOWALSKA-ŻOFIA"
PATIENTS = [f"{STEM}-{number:02d}" for number in range(24)]
CONFIG = """\
columns: {time: months, time_unit: months, event: event, continuous: [age]}
splits: {folds: 2}
fit: {epochs: 2, min_epochs: 1, min_validation_events: 1}
permuted_control: null
models:
  - {name: cox, kind: ridge_cox}
  - {name: image, kind: network, view: VIEW, images: {modalities: [CT], roi: spine}, hidden: [4]}
"""


class Inputs(NamedTuple):
    """A store of pseudonyms, and the clinical table of its patients by their own ids."""

    store: Path
    clinical: Path
    config: Path


@pytest.fixture(scope="module")
def planted() -> ModuleType:
    spec = importlib.util.spec_from_file_location("planted", BESIDE / "planted.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    store, ids = create_store(tmp_path / "store"), Pseudonyms(KEY.encode())
    settle_rule(store, ids)
    view = store.put_view(example_view())
    lines = ["patient,age,months,event"]
    for number, patient in enumerate(PATIENTS):
        key = EntryKey(ids.key(patient), "CT", "spine")
        store.publish(view, key, example_entry(number), input_sha256=digest_of(str(key)))
        lines.append(f"{patient},{40 + number * 7 % 40},{number + 1},{number % 3 > 0:d}")
    (tmp_path / "clinical.csv").write_text("\n".join([*lines, ""]), encoding="utf-8")
    (tmp_path / "cv.yaml").write_text(CONFIG.replace("VIEW", view))
    return Inputs(tmp_path / "store", tmp_path / "clinical.csv", tmp_path / "cv.yaml")


def cross_validate(inputs: Inputs, folder: Path, *, status: int) -> dict[str, bytes]:
    """All that a run by two processes printed, sent, and left in its run folder, its home and its temporary folder."""
    paths = [str(BESIDE / "traffic"), *filter(None, [os.environ.get("PYTHONPATH")])]
    home = folder / "home"
    told = {"HOME": str(home), "TMPDIR": str(home), "PYTHONPATH": os.pathsep.join(paths), "ENGRAM_TRAFFIC_SOCKETS": "1"}
    told |= {"ENGRAM_TRAFFIC": str(folder / "traffic"), "DASK_LOGGING__DISTRIBUTED": "debug", KEY_VARIABLE: KEY}
    for one in (home, folder / "traffic"):
        one.mkdir()
    command = [str(Path(sys.executable).with_name("trainer")), "cv", "--store", str(inputs.store), "--pseudonymise"]
    command += ["--clinical", str(inputs.clinical), "--config", str(inputs.config), "--out", str(folder / "run")]
    environment = os.environ | told | {"SOME_OTHER_TOKEN": TOKEN}
    done = subprocess.run([*command, "--workers", "2"], capture_output=True, env=environment, check=False)
    assert done.returncode == status, (done.stdout + done.stderr).decode()
    left = [path for one in ("run", "home", "traffic", "store") for path in (folder / one).rglob("*") if path.is_file()]
    printed = {"stdout": done.stdout, "stderr": done.stderr}
    # Beside its bytes, a file's own part: what is packed is looked into.
    return printed | {str(path): path.read_bytes() for path in left} | {"paths": "\n".join(map(str, left)).encode()}


@pytest.mark.parametrize("damaged", [False, True])
def test_a_cross_validation_by_processes_gets_and_gives_nothing_planted(
    planted: ModuleType, inputs: Inputs, tmp_path: Path, damaged: bool
) -> None:
    if damaged:
        code = Pseudonyms(KEY.encode()).key(PATIENTS[7])
        (array,) = inputs.store.glob(f"data/*/{code}/CT/spine/*/mean_map/c/*/*")
        array.write_bytes(array.read_bytes()[:-1])
    places = cross_validate(inputs, tmp_path, status=int(damaged))
    sent = [data for path, data in places.items() if "/traffic/socket-" in path]
    assert any(b"engram-task-2" in data for data in sent), "tasks are among what was kept"
    assert (b"2 of 4 done" if damaged else b"4 of 4 done") in places["stdout"]
    assert any("/run/tasks/" in path for path in places)
    assert not planted.leaks(["KOWALSKA", STEM, KEY, TOKEN], places)
    assert planted.leaks([STEM], {"clinical": inputs.clinical.read_bytes()})
