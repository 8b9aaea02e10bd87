"""Parts of a study table: each study in one of them, whatever its order; the last to end writes the table's snapshot."""

import csv
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from extractor.config import ExtractConfig
from extractor.phantom import write_cohort
from extractor.run import RunOptions, RunReport, run
from extractor.shards import Shard
from extractor.study import StudyFiles
from extractor.table import StudyRow, read_study_table
from store_schema import open_store
from store_schema.errors import UsageError
from store_schema.pseudonyms import Pseudonyms
from store_schema.testing import content_digests
from store_schema.withdraw import withdraw

SETTINGS = "model: mini\nweights: random:0\npet_units: suv\nstride: 16\nderive: [spine_dilated]\nlayouts: [paper]\n"
CONFIG = ExtractConfig(
    model="mini", weights="random:0", pet_units="suv", stride=16, derive=("spine_dilated",), layouts=("paper",)
)


def row(patient: str, study: str | None = None) -> StudyRow:
    name = patient if study is None else f"{patient}.{study}"
    return StudyRow(2, name, StudyFiles(patient=name, ct="/ct.nii", pet=None, masks={}, label_map=None), {}, patient)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
def test_every_study_is_in_one_part_and_the_parts_are_even(count):
    rows = [row(f"P{number:03d}") for number in range(50)]
    parts = [Shard(number, count).part(rows) for number in range(1, count + 1)]
    assert sorted(one.patient for part in parts for one in part) == [one.patient for one in rows]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_parts_do_not_depend_on_the_order_of_the_table():
    rows = [row(f"P{number:03d}") for number in range(20)]
    for number in (1, 2, 3):
        here, there = Shard(number, 3).part(rows), Shard(number, 3).part(rows[::-1])
        assert here == there[::-1]


def test_all_studies_of_a_patient_are_in_one_part():
    rows = [row(f"P{number}", study) for number in range(10) for study in ("first", "second", "third")]
    for number in (1, 2, 3, 4):
        part = Shard(number, 4).part(rows)
        assert len({one.person for one in part}) * 3 == len(part)


def test_a_part_is_what_its_definition_says():
    """The definition of the documentation, worked out by hand with sha256sum."""
    assert [one.patient for one in Shard(1, 2).part([row("A"), row("B"), row("C"), row("D")])] == ["C", "D"]


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/b", "1/2/3", "-1/4", "", "1/", "١/٢"])
def test_what_names_no_part_is_refused(text):
    with pytest.raises(UsageError, match="expected I/N with I from 1 to N"):
        Shard.parse(text)


def test_parts_are_read_as_slurm_counts_them():
    assert Shard.parse("3/8") == Shard(3, 8)
    assert str(Shard.parse(" 1 / 1 ")) == "1/1"


# Runs


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, n=4, seed=1, processes=0)
    (folder / "extract.yaml").write_text(SETTINGS)
    return folder


@pytest.fixture
def studies(cohort, tmp_path) -> Path:
    """A copy of the cohort that a test may damage."""
    return Path(shutil.copytree(cohort, tmp_path / "cohort")) / "studies.csv"


def extract(studies: Path, store: Path, shard: str | None = None, **options) -> RunReport:
    part = None if shard is None else Shard.parse(shard)
    return run(CONFIG, RunOptions(studies, str(store), jobs=0, shard=part, **options), console=Console(quiet=True))


def pins(store: Path, snapshot_id: str) -> list[tuple[str, int]]:
    """What a snapshot pins; its id also holds the store's own."""
    return [(str(row.key), row.number) for row in open_store(str(store)).snapshot(snapshot_id).rows]


@pytest.fixture(scope="module")
def whole(cohort, tmp_path_factory) -> tuple[dict[str, str], list[tuple[str, int]]]:
    """Content digests and pins of one plain run."""
    store = tmp_path_factory.mktemp("whole") / "store"
    report = extract(cohort / "studies.csv", store)
    return content_digests(open_store(store)), pins(store, report.snapshots["paper"])


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_parts_in_any_order_make_what_one_run_makes(cohort, whole, tmp_path, order):
    reports = [extract(cohort / "studies.csv", tmp_path / "store", f"{number}/3") for number in order]
    assert [dict(report.snapshots) for report in reports[:2]] == [{}, {}]
    assert [report.missing > 0 for report in reports] == [True, True, False]
    assert not any(report.failed for report in reports)
    assert (
        content_digests(open_store(tmp_path / "store")),
        pins(tmp_path / "store", reports[2].snapshots["paper"]),
    ) == whole
    plain = extract(cohort / "studies.csv", tmp_path / "store")
    assert plain.snapshots == reports[2].snapshots
    assert {item.state for item in plain.plan} == {"done"}


def test_every_part_leaves_its_record(cohort, tmp_path):
    reports = [extract(cohort / "studies.csv", tmp_path / "store", f"{number}/2") for number in (1, 2)]
    store = open_store(str(tmp_path / "store"))
    starts = [json.loads(store.read_run(report.run_id, "start.json")) for report in reports]
    ends = [json.loads(store.read_run(report.run_id, "finish.json")) for report in reports]
    assert [start["shard"] for start in starts] == ["1/2", "2/2"]
    assert [start["studies"] for start in starts] == [2, 2]
    assert [end["missing"] for end in ends] == [4, 0]
    assert [bool(end["snapshots"]) for end in ends] == [False, True]


def test_parts_at_the_same_time_make_what_one_run_makes(cohort, whole, tmp_path):
    program = str(Path(sys.executable).parent / "extractor")
    options = ["--store", str(tmp_path / "store"), "--config", str(cohort / "extract.yaml"), "--jobs", "0"]
    command = [program, "run", str(cohort / "studies.csv"), *options]
    started = [
        subprocess.Popen(
            [*command, "--shard", f"{number}/3"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for number in (1, 2, 3)
    ]
    said = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], said
    assert content_digests(open_store(tmp_path / "store")) == whole[0]
    store = open_store(str(tmp_path / "store"))
    (snapshot,) = store.snapshot_ids()
    assert pins(tmp_path / "store", snapshot) == whole[1]
    assert store.verify().ok
    ended = [out for out, _ in said if f"snapshot paper   {snapshot}" in out]
    assert ended, "the last part to end writes the snapshot"
    assert sum("No snapshot yet" in err for _, err in said) == 3 - len(ended)


def test_more_parts_than_patients_leaves_some_with_nothing_to_do(cohort, tmp_path):
    reports = [extract(cohort / "studies.csv", tmp_path / "store", f"{number}/6") for number in range(1, 7)]
    assert [len(report.outcomes) for report in reports] == [2, 2, 2, 2, 0, 0]
    assert not any(report.failed for report in reports)
    assert reports[3].snapshots == reports[5].snapshots != {}


def test_a_failed_study_keeps_the_table_from_its_snapshot_until_it_is_mended(studies, tmp_path):
    part = [one.patient for one in Shard(1, 2).part(read_study_table(studies, CONFIG))]
    bad = next(studies.parent.glob(f"**/{part[0]}_ct*"))
    good = bad.read_bytes()
    bad.write_bytes(good[:1000])
    first, second = (extract(studies, tmp_path / "store", f"{number}/2") for number in (1, 2))
    assert (first.failed, second.failed) == (True, False)
    assert (dict(first.snapshots), dict(second.snapshots), second.missing) == ({}, {}, 2)
    bad.write_bytes(good)
    mended = extract(studies, tmp_path / "store", "1/2")
    assert len(pins(tmp_path / "store", mended.snapshots["paper"])) == 8


def test_a_failed_study_of_a_part_that_ends_last_makes_no_snapshot(studies, tmp_path):
    part = [one.patient for one in Shard(1, 2).part(read_study_table(studies, CONFIG))]
    next(studies.parent.glob(f"**/{part[0]}_ct*")).write_bytes(b"no image")
    extract(studies, tmp_path / "store", "2/2")
    last = extract(studies, tmp_path / "store", "1/2")
    assert (last.failed, last.missing, dict(last.snapshots)) == (True, 0, {})
    assert len(pins(tmp_path / "store", extract(studies, tmp_path / "store").snapshots["paper"])) == 6


def test_withdrawn_patients_of_other_parts_are_not_waited_for(studies, tmp_path):
    for number in (1, 2):
        extract(studies, tmp_path / "store", f"{number}/2")
    other = Shard(2, 2).part(read_study_table(studies, CONFIG))[0].patient
    withdraw(open_store(str(tmp_path / "store")), patients=[other], reason="consent taken back")
    report = extract(studies, tmp_path / "store", "1/2")
    assert report.missing == 0
    assert len(pins(tmp_path / "store", report.snapshots["paper"])) == 6


def test_files_that_changed_since_another_part_had_them_make_no_snapshot(studies, tmp_path):
    for number in (1, 2):
        extract(studies, tmp_path / "store", f"{number}/2")
    other = Shard(2, 2).part(read_study_table(studies, CONFIG))[0].patient
    next(studies.parent.glob(f"**/{other}_ct*")).touch()
    report = extract(studies, tmp_path / "store", "1/2")
    assert (report.missing, dict(report.snapshots)) == (2, {})
    assert extract(studies, tmp_path / "store").snapshots["paper"]


def test_pseudonyms_part_the_table_alike_in_every_run(cohort, tmp_path):
    parts = [
        {one.patient for one in Shard(number, 2).part(read_study_table(cohort / "studies.csv", CONFIG, ids))}
        for number, ids in itertools.product(
            (1, 2), (Pseudonyms(b"a key of many bytes"), Pseudonyms(b"a key of many bytes"))
        )
    ]
    assert parts[0] == parts[1]
    assert parts[2] == parts[3]
    assert not parts[0] & parts[2]
    assert len(parts[0] | parts[2]) == 4


def test_a_dry_run_of_a_part_plans_that_part_alone(cohort, tmp_path):
    report = extract(cohort / "studies.csv", tmp_path / "store", "1/2", dry_run=True)
    with (cohort / "studies.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4
    assert len({item.patient for item in report.plan}) == 2
    assert not (tmp_path / "store").exists()
