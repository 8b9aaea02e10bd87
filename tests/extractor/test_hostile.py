"""Hostile inputs: each is one clear failure of its own study, and the rest of the cohort is done.

Every input goes alone through `prepare_study`, and all of them together through one `extractor run` between two good studies.
"""

import contextlib
import csv
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from extractor.config import ExtractConfig
from extractor.outcome import MAX_REASON
from extractor.study import PrepareRules, StudyFiles, prepare_study
from store_schema import open_store
from store_schema.errors import EngramError, ImageError


def sibling(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


files = sibling("hostile_files")
HOSTILE = files.FILES | sibling("hostile_series").cases(files.Hostile)
COLUMNS = ("ct", "pet", "lesion", "label_map")
RULES = PrepareRules(pet_units="suv", derive=("spine_dilated",))
SETTINGS = "model: mini\nweights: random:0\npet_units: suv\nstride: 8\nlayouts: [paper]\nderive: [spine_dilated]\n"
ITEMS = 4
"""Entries of one study: two modalities of a mask and of a derived region."""
MAX_RUN_BYTES = 1.5 * 2**30
"""Of a whole run over every input here, network and libraries included; the bombs hold twenty times as much."""
MAX_ALONE_S = 30.0


def write_good(folder: Path) -> dict[str, str]:
    """Paths of a study that is extracted, by column."""
    folder.mkdir()
    return {column: str(files.save(files.image(column), folder / f"{column}.nii.gz")) for column in COLUMNS}


@pytest.fixture(scope="session")
def good(tmp_path_factory) -> dict[str, str]:
    return write_good(tmp_path_factory.mktemp("hostile") / "good")


def study(paths: dict[str, str]) -> StudyFiles:
    return StudyFiles("P1", paths["ct"], paths["pet"], {"lesion": paths["lesion"]}, paths["label_map"])


def test_there_are_sixty_and_more():
    assert len(HOSTILE) >= 60
    assert {one.column for one in HOSTILE.values()} == set(COLUMNS)


def test_the_good_study_is_good(good):
    assert set(prepare_study(study(good), RULES).masks_zyx) == {"lesion", "spine_dilated"}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_input_is_one_error_of_the_projects_tree(name, good, tmp_path):
    one = HOSTILE[name]
    path = one.make(tmp_path)
    began_s = time.perf_counter()
    with pytest.raises(EngramError) as refused:
        prepare_study(study(good | {one.column: path}), RULES)
    assert type(refused.value) is one.error
    assert time.perf_counter() - began_s < MAX_ALONE_S
    text = str(refused.value)
    assert path in text or one.column == "label_map"
    assert len(text.replace(path, "")) < 1000
    if not one.refused:
        assert re.search(one.said.replace(r"\\", "\\").replace("\\x1b", "\x1b").replace("a\\nb", "a\nb"), text)


MEASURED = """
import atexit, pathlib, re, sys
from extractor.cli import main
peak = pathlib.Path(sys.argv.pop(1))
status = pathlib.Path("/proc/self/status")
atexit.register(lambda: peak.write_text(re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text())[1]))
sys.argv[0] = "extractor"
main()
"""
"""The command line, and the greatest resident memory of its process."""


@dataclass(frozen=True)
class Ended:
    """A whole run that has ended."""

    status: int
    said: str
    peak_bytes: int
    store: Path
    left: list[Path]
    """What lies in the folder for temporary files."""
    before: dict[Path, int]
    after: dict[Path, int]
    """Files of the cohort and their times."""


def seen(folder: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mtime_ns for path in sorted(folder.rglob("*"))}


@pytest.fixture(scope="session")
def ended(tmp_path_factory) -> Ended:
    """`extractor run` over every hostile input, between two good studies."""
    folder = tmp_path_factory.mktemp("cohort")
    good = write_good(folder / "good")
    rows = [("good-first", good)]
    for number, one in enumerate(HOSTILE.values()):
        (folder / f"{number:03d}").mkdir()
        rows.append((f"H{number:03d}", good | {one.column: one.make(folder / f"{number:03d}")}))
    rows.append(("good-last", good))
    with (folder / "studies.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("patient", *COLUMNS))
        writer.writerows((patient, *(paths[column] for column in COLUMNS)) for patient, paths in rows)
    (folder / "settings.yaml").write_text(SETTINGS)
    before = seen(folder)
    scratch, out = tmp_path_factory.mktemp("scratch"), tmp_path_factory.mktemp("out")
    options = [
        "run",
        folder / "studies.csv",
        "--store",
        out / "store",
        "--config",
        folder / "settings.yaml",
        "--jobs",
        "0",
    ]
    ran = subprocess.run(
        [sys.executable, "-c", MEASURED, out / "peak", *options],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, cwd=scratch, env=os.environ | {"TMPDIR": str(scratch)},
    )  # fmt: skip
    peak_bytes = int((out / "peak").read_text()) * 1024
    return Ended(
        ran.returncode, ran.stdout.decode(), peak_bytes, out / "store", list(scratch.iterdir()), before, seen(folder)
    )


def outcomes(ended: Ended) -> list[dict[str, str]]:
    (path,) = ended.store.glob("runs/*/outcomes.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_good_studies_of_a_hostile_cohort_are_committed_and_the_status_is_1(ended):
    assert ended.status == 1, ended.said[-2000:]
    committed = [one["patient"] for one in outcomes(ended) if one["result"] == "committed"]
    assert committed == ["good-first"] * ITEMS + ["good-last"] * ITEMS
    assert open_store(str(ended.store)).verify().ok


def test_every_hostile_study_of_the_cohort_says_what_is_wrong_with_it(ended):
    reasons: dict[str, set[str]] = {}
    for one in outcomes(ended):
        if one["result"] != "committed":
            assert one["result"] == "failed"
            reasons.setdefault(one["patient"], set()).add(one["reason"])
    for number, (name, one) in enumerate(HOSTILE.items()):
        (reason,) = reasons.pop(f"H{number:03d}")
        assert re.search(one.said, reason), (name, reason)
        assert one.refused or reason.startswith(f"{one.error.__name__}: "), (name, reason)
        assert len(reason) <= MAX_REASON + 3
        assert reason.isprintable()
    assert not reasons


def test_nobody_reads_a_traceback_of_a_hostile_cohort(ended):
    for word in ("Traceback", ".py:", "site-packages", "\x1b"):
        assert word not in ended.said


def test_a_hostile_cohort_takes_bounded_memory_and_leaves_no_file(ended):
    print(f"peak {ended.peak_bytes / 2**20:.0f} MiB")
    assert ended.peak_bytes < MAX_RUN_BYTES
    assert ended.left == []
    assert ended.after == ended.before


NOBODY = 65534


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """Runs its block as nobody where the tests run as root, who may read everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def unreadable_file(folder: Path) -> str:
    path = Path(files.nifti()(folder))
    path.chmod(0)
    return str(path)


def unreadable_voxels(folder: Path) -> str:
    path = files.header("a.mhd", {})(folder)
    (folder / "a.raw").chmod(0)
    return path


def closed_folder(folder: Path) -> str:
    (folder / "closed").mkdir()
    path = files.nifti()(folder / "closed")
    (folder / "closed").chmod(0)
    return path


def closed_series(folder: Path) -> str:
    (folder / "closed").mkdir(mode=0)
    return str(folder / "closed")


def unreadable_slice(folder: Path) -> str:
    dicom = sibling("dicom_series")
    made = dicom.write_series(folder / "series", np.zeros((3, 4, 4), np.uint16))
    (made / "IM0001.dcm").chmod(0)
    return str(made)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (unreadable_file, "may not be read: check its rights"),
        (unreadable_voxels, "may not be read: check its rights"),
        (closed_folder, "may not be read: check its rights and those of its folders"),
        (closed_series, "may not be read: check the rights of the folder"),
        (unreadable_slice, "file 2 of 3 by name .*cannot be read: Permission denied"),
    ],
    ids=lambda make: getattr(make, "__name__", None),
)
def test_what_may_not_be_read_says_so(make, said, good):
    prepare_study(study(good), RULES)  # whatever is imported late is imported as root
    with tempfile.TemporaryDirectory(prefix="engram-hostile-", dir="/var/tmp") as place:
        folder = Path(place)
        folder.chmod(0o755)
        paths = write_good(folder / "good") | {"ct": make(folder)}
        with nobody(), pytest.raises(ImageError, match=said):
            prepare_study(study(paths), RULES)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha", "a.nrrd", "a.mhd"])
def test_a_file_replaced_while_it_is_read_is_refused(name, good, tmp_path, monkeypatch):
    from extractor import volumes  # noqa: PLC0415

    path = files.save(files.image("ct"), tmp_path / name)
    check = volumes.check_image_file

    def checked_then_replaced(shown):
        found = check(shown)
        part = tmp_path / "a.raw" if name == "a.mhd" else path
        part.with_suffix(".new").write_bytes(part.read_bytes()[::-1])
        part.with_suffix(".new").replace(part)
        return found

    monkeypatch.setattr(volumes, "check_image_file", checked_then_replaced)
    with pytest.raises(ImageError, match=r"changed while it was read|cannot be read as an image"):
        prepare_study(study(good | {"ct": str(path)}), replace(RULES, modalities=("CT",)))


BAD_TABLES = {
    "cut.parquet": lambda data: data[: len(data) // 2],
    "text.parquet": lambda _: b"patient,ct\n",
    "empty.csv": lambda _: b"",
    "bytes.csv": lambda _: b"patient,ct,pet,lesion\nP1,\xff\xfe,b,c\n",
    "quotes.csv": lambda _: b'patient,ct,pet,lesion\nP1,"a',
    "ragged.csv": lambda _: b"patient,ct,pet,lesion\nP1,a\n",
    "ids.csv": lambda _: b"patient,ct,pet,lesion\n../../P1,a.nii,b.nii,c.nii\n",
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_table_that_cannot_be_read_is_a_wrong_call(name, tmp_path):
    import pandas as pd  # noqa: PLC0415

    from extractor.table import read_study_table  # noqa: PLC0415
    from store_schema.errors import UsageError  # noqa: PLC0415

    pd.DataFrame({"patient": ["P1"], "ct": ["a.nii"], "pet": ["b.nii"], "lesion": ["c.nii"]}).to_parquet(
        tmp_path / name
    )
    (tmp_path / name).write_bytes(BAD_TABLES[name]((tmp_path / name).read_bytes()))
    with pytest.raises(UsageError, match=re.escape(name)) as refused:
        read_study_table(tmp_path / name, ExtractConfig(pet_units="suv"))
    assert len(str(refused.value)) < 1000


def test_a_damaged_parquet_table_is_read_or_a_wrong_call(tmp_path):
    import pandas as pd  # noqa: PLC0415

    from extractor.table import read_study_table  # noqa: PLC0415

    path = tmp_path / "t.parquet"
    pd.DataFrame({"patient": ["P1"], "ct": ["a.nii"], "pet": ["b.nii"], "lesion": ["c.nii"]}).to_parquet(path)
    data = path.read_bytes()
    refusals: list[str] = []
    for seed in range(120):
        damaged = bytearray(data)
        rng = np.random.default_rng(seed)
        for place in rng.integers(0, len(data), 1 + seed % 4):
            damaged[place] = rng.integers(256)
        path.write_bytes(bytes(damaged))
        try:
            read_study_table(path, ExtractConfig(pet_units="suv"))
        except EngramError as error:
            refusals.append(str(error))
    assert len(refusals) > 20
    assert max(map(len, refusals)) < 1000
