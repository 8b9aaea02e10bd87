"""A whole extraction: plan, resume, stale and superseded inputs, bad studies, full disks, processes that die."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import fsspec
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from rich.console import Console

from extractor.config import ExtractConfig
from extractor.phantom import write_cohort
from extractor.run import RunOptions, RunReport, process_count, run
from store_schema import Store, open_store
from store_schema.errors import ConfigError, EntryWithdrawnError, UsageError
from store_schema.location import FolderLocation
from store_schema.packs import open_pack
from store_schema.pseudonyms import PlainIds, Pseudonyms
from store_schema.testing import content_digests
from store_schema.withdraw import withdraw

CONFIG = ExtractConfig(
    model="mini", weights="random:0", pet_units="suv", stride=8, derive=("spine_dilated",), layouts=("paper", "pooled")
)
ITEMS = 2 * 2
"""Entries of one study: two modalities and two layouts of one ROI."""


@pytest.fixture(scope="session")
def cohort(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, n=4, seed=1)
    return folder


@pytest.fixture
def studies(cohort, tmp_path) -> Path:
    """A copy of the cohort that a test may damage."""
    shutil.copytree(cohort, tmp_path / "cohort")
    return tmp_path / "cohort" / "studies.csv"


def extract(studies: Path, store: Path | str, config: ExtractConfig = CONFIG, **options) -> RunReport:
    options = {"jobs": 0} | options
    return run(config, RunOptions(studies, str(store), **options), console=Console(quiet=True))


def states(report: RunReport) -> set[str]:
    return {item.state for item in report.plan}


def results(report: RunReport) -> set[str]:
    return {outcome.result for outcome in report.outcomes}


def replace_text(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


def patient_file(studies: Path, column: str, patient: int = 0) -> Path:
    lines = studies.read_text().splitlines()
    return studies.parent / lines[1 + patient].split(",")[lines[0].split(",").index(column)]


def test_a_run_commits_every_item_and_a_rerun_does_nothing(studies, tmp_path):
    first = extract(studies, tmp_path / "store")
    assert results(first) == {"committed"}
    assert len(first.outcomes) == 4 * ITEMS
    assert not first.failed
    before = content_digests(open_store(str(tmp_path / "store")))
    second = extract(studies, tmp_path / "store")
    assert states(second) == {"done"}
    assert results(second) == {"done"}
    assert second.snapshots == first.snapshots
    assert content_digests(open_store(str(tmp_path / "store"))) == before


def test_the_snapshot_is_exactly_the_table(studies, tmp_path):
    report = extract(studies, tmp_path / "store")
    lines = studies.read_text().splitlines()
    studies.write_text("\n".join(lines[:3]) + "\n")
    smaller = extract(studies, tmp_path / "store")
    store = open_store(str(tmp_path / "store"))
    assert len(store.snapshot(report.snapshots["paper"]).keys) == 4 * 2
    assert len(store.snapshot(smaller.snapshots["paper"]).keys) == 2 * 2


def test_mask_and_preview_are_in_the_first_view_alone(studies, tmp_path):
    report = extract(studies, tmp_path / "store")
    store = open_store(str(tmp_path / "store"))
    key = store.keys(report.views["paper"])[0]
    assert set(store.read(report.views["paper"], key).arrays) == {"memory", "mean_map", "mask", "preview"}
    assert set(store.read(report.views["pooled"], key).arrays) == {"memory", "mean_map"}


def test_no_path_stands_in_an_entrys_attributes(studies, tmp_path):
    report = extract(studies, tmp_path / "store")
    store = open_store(str(tmp_path / "store"))
    entry = store.read(report.views["paper"], store.keys(report.views["paper"])[0])
    assert str(tmp_path) not in json.dumps(dict(entry.attributes))


def test_a_dry_run_writes_nothing(studies, tmp_path):
    extract(studies, tmp_path / "store")
    files = sorted((tmp_path / "store").rglob("*"))
    shutil.copy(patient_file(studies, "ct", 1), patient_file(studies, "ct", 0))
    report = extract(studies, tmp_path / "store", dry_run=True)
    assert states(report) == {"done", "changed"}
    assert sorted((tmp_path / "store").rglob("*")) == files


def test_a_dry_run_needs_no_store_yet(studies, tmp_path):
    report = extract(studies, tmp_path / "none", dry_run=True)
    assert states(report) == {"new"}
    assert not (tmp_path / "none").exists()


def test_a_touched_file_is_compared_by_its_voxels_and_done(studies, tmp_path):
    extract(studies, tmp_path / "store")
    os.utime(patient_file(studies, "ct"), (1, 1))
    report = extract(studies, tmp_path / "store")
    assert states(report) == {"done", "changed"}
    assert results(report) == {"done"}


def test_voxels_changed_behind_an_unchanged_header_are_committed_next(studies, tmp_path):
    config = CONFIG.model_copy(update={"modalities": ("PET",), "layouts": ("paper",), "stride": 16})
    studies.write_text("\n".join(studies.read_text().splitlines()[:2]) + "\n")
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(studies.parent / "pet.mhd"))
    writer.SetUseCompression(False)
    writer.Execute(sitk.ReadImage(str(patient_file(studies, "pet"))))
    replace_text(studies, str(patient_file(studies, "pet").relative_to(studies.parent)), "pet.mhd")
    assert results(extract(studies, tmp_path / "store", config)) == {"committed"}
    assert results(extract(studies, tmp_path / "store", config)) == {"done"}
    (np.fromfile(studies.parent / "pet.raw", np.float32) / 2).tofile(studies.parent / "pet.raw")
    changed = extract(studies, tmp_path / "store", config)
    assert [(o.result, o.number) for o in changed.outcomes] == [("committed", 1)]


def test_a_changed_input_is_committed_next_and_the_first_becomes_superseded(studies, tmp_path):
    store_path = tmp_path / "store"
    extract(studies, store_path)
    original = patient_file(studies, "pet")
    shutil.copy(original, tmp_path / "kept")
    shutil.copy(patient_file(studies, "pet", 1), original)
    changed = extract(studies, store_path)
    assert {o.number for o in changed.outcomes if o.result == "committed"} == {1}
    shutil.copy(tmp_path / "kept", original)
    back = extract(studies, store_path)
    assert {o.number for o in back.outcomes if o.result == "superseded"} == {0}
    again = extract(studies, store_path, make_current=True)
    assert {o.number for o in again.outcomes if o.result == "committed"} == {2}


def test_a_snapshot_pins_the_tables_own_input_where_a_later_one_replaced_it(studies, tmp_path):
    store_path = tmp_path / "store"
    first = extract(studies, store_path)
    original = patient_file(studies, "pet")
    shutil.copy(original, tmp_path / "kept")
    shutil.copy(patient_file(studies, "pet", 1), original)
    extract(studies, store_path)
    shutil.copy(tmp_path / "kept", original)
    assert extract(studies, store_path).snapshots == first.snapshots


def test_a_bad_study_fails_alone_and_is_resumed_once_mended(studies, tmp_path):
    bad = patient_file(studies, "ct")
    good = bad.read_bytes()
    bad.write_bytes(good[: len(good) // 2])
    report = extract(studies, tmp_path / "store")
    assert report.failed
    assert {o.patient for o in report.outcomes if o.result == "failed"} == {report.plan[0].patient}
    assert sum(o.result == "committed" for o in report.outcomes) == 3 * ITEMS
    bad.write_bytes(good)
    mended = extract(studies, tmp_path / "store")
    assert not mended.failed
    assert sum(o.result == "committed" for o in mended.outcomes) == ITEMS


def test_a_missing_file_is_refused_in_the_plan_and_the_others_go_on(studies, tmp_path):
    patient_file(studies, "pet").unlink()
    report = extract(studies, tmp_path / "store")
    assert states(report) == {"refused", "new"}
    assert report.failed
    assert sum(o.result == "committed" for o in report.outcomes) == 3 * ITEMS


def test_a_damaged_commit_is_refused_and_everything_else_goes_on(studies, tmp_path):
    lines = studies.read_text().splitlines()
    studies.write_text("\n".join(lines[:3]) + "\n")
    first = extract(studies, tmp_path / "store")
    studies.write_text("\n".join(lines) + "\n")
    patient = lines[2].split(",")[0]
    path = next((tmp_path / "store" / "commits" / first.views["paper"] / patient / "PET").glob("*/000000.json"))
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(bytes(data))
    report = extract(studies, tmp_path / "store")
    assert report.failed
    failed = [o for o in report.outcomes if o.result == "failed"]
    assert [(o.patient, o.modality, o.layout) for o in failed] == [(patient, "PET", "paper")]
    assert "ObjectAlteredError" in failed[0].reason
    assert sum(o.result == "done" for o in report.outcomes) == 2 * ITEMS - 1
    assert sum(o.result == "committed" for o in report.outcomes) == 2 * ITEMS
    assert len(open_store(str(tmp_path / "store")).snapshot(report.snapshots["paper"]).keys) == 4 * 2 - 1


def test_a_patient_unlike_one_in_the_store_by_case_alone_is_refused(studies, tmp_path):
    lines = studies.read_text().splitlines()
    studies.write_text("\n".join(lines[:2]) + "\n")
    extract(studies, tmp_path / "store")
    studies.write_text("\n".join([lines[0], lines[1].replace("P001,", "p001,", 1), lines[2]]) + "\n")
    report = extract(studies, tmp_path / "store")
    assert {(o.patient, o.result) for o in report.outcomes} == {("p001", "failed"), ("P002", "committed")}
    assert open_store(str(tmp_path / "store")).verify().ok


SMALL = CONFIG.model_copy(update={"modalities": ("PET",), "layouts": ("paper",), "stride": 16})


def first_studies(studies: Path, count: int) -> None:
    studies.write_text("\n".join(studies.read_text().splitlines()[: 1 + count]) + "\n")


def test_withdrawn_entries_are_left_alone_and_out_of_the_snapshot_and_are_no_failure(studies, tmp_path):
    first_studies(studies, 2)
    first = extract(studies, tmp_path / "store", SMALL)
    store = open_store(str(tmp_path / "store"))
    withdraw(store, patients=["P001"], reason="consent taken back")
    patient_file(studies, "pet").unlink()
    report = extract(studies, tmp_path / "store", SMALL)
    assert not report.failed
    assert {(o.patient, o.result) for o in report.outcomes} == {("P001", "withdrawn"), ("P002", "done")}
    assert {key.patient for key in store.snapshot(report.snapshots["paper"]).keys} == {"P002"}
    assert report.snapshots != first.snapshots
    assert store.verify().ok


def test_an_entry_withdrawn_while_it_is_extracted_is_no_failure(studies, tmp_path, monkeypatch):
    first_studies(studies, 1)

    def refuse(self, *args, **kwargs):
        raise EntryWithdrawnError("withdrawn meanwhile")

    monkeypatch.setattr(Store, "publish", refuse)
    report = extract(studies, tmp_path / "store", SMALL)
    assert results(report) == {"withdrawn"}
    assert not report.failed
    assert report.snapshots == {}


def test_mean_maps_of_each_snapshot_are_packed_unless_told_otherwise(studies, tmp_path):
    first_studies(studies, 1)
    bare = extract(studies, tmp_path / "store", pack=False)
    store = open_store(str(tmp_path / "store"))
    assert bare.pack_s == {}
    assert {open_pack(store.snapshot(one), "mean_map") for one in bare.snapshots.values()} == {None}
    report = extract(studies, tmp_path / "store")
    assert set(report.pack_s) == {"paper", "pooled"}
    for layout, snapshot_id in report.snapshots.items():
        snapshot = store.snapshot(snapshot_id)
        packed = open_pack(snapshot, "mean_map").load()
        for key, values in zip(snapshot.keys, packed, strict=True):
            np.testing.assert_array_equal(values, store.read(report.views[layout], key).arrays["mean_map"])


def test_studies_at_an_address_give_the_store_that_files_give(studies, tmp_path):
    first_studies(studies, 2)
    memory, folder = fsspec.filesystem("memory"), f"memory://{uuid4().hex}"
    for path in studies.parent.rglob("*.*"):
        memory.pipe_file(f"{folder}/{path.relative_to(studies.parent)}", path.read_bytes())
    here = extract(studies, tmp_path / "here", SMALL)
    there = extract(f"{folder}/studies.csv", tmp_path / "there", SMALL)
    assert results(here) == results(there) == {"committed"}
    assert content_digests(open_store(tmp_path / "here")) == content_digests(open_store(tmp_path / "there"))
    assert states(extract(f"{folder}/studies.csv", tmp_path / "there", SMALL)) == {"done"}
    assert states(extract(studies, tmp_path / "there", SMALL)) == {"changed"}


def test_a_header_at_an_address_brings_its_voxels(studies, tmp_path):
    first_studies(studies, 1)
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(tmp_path / "pet.mhd"))
    writer.SetUseCompression(False)
    writer.Execute(sitk.ReadImage(str(patient_file(studies, "pet"))))
    memory, folder = fsspec.filesystem("memory"), f"memory://{uuid4().hex}"
    for name in ("pet.mhd", "pet.raw"):
        memory.pipe_file(f"{folder}/{name}", (tmp_path / name).read_bytes())
    whole = extract(studies, tmp_path / "whole", SMALL)
    replace_text(studies, str(patient_file(studies, "pet").relative_to(studies.parent)), f"{folder}/pet.mhd")
    assert results(whole) == results(extract(studies, tmp_path / "store", SMALL)) == {"committed"}
    assert content_digests(open_store(tmp_path / "whole")) == content_digests(open_store(tmp_path / "store"))
    memory.rm_file(f"{folder}/pet.raw")
    report = extract(studies, tmp_path / "other", SMALL)
    assert {o.reason for o in report.outcomes} == {f"FileNotFoundError: {folder}/pet.raw is not there."}


def test_a_damaged_file_at_an_address_is_called_by_its_address(studies, tmp_path):
    first_studies(studies, 1)
    place = f"memory://{uuid4().hex}/pet.nii.gz"
    fsspec.filesystem("memory").pipe_file(place, patient_file(studies, "pet").read_bytes()[:1000])
    replace_text(studies, str(patient_file(studies, "pet").relative_to(studies.parent)), place)
    report = extract(studies, tmp_path / "store", SMALL)
    assert all(o.reason.startswith(f"ImageError: {place} is damaged") for o in report.outcomes)


def everything_in(folder: Path) -> bytes:
    """Names and bytes of all that a store holds."""
    return b"\n".join(str(path.relative_to(folder)).encode() + b"\n" + path.read_bytes() for path in files_in(folder))


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_records_say_no_folder_of_this_machine(studies, tmp_path):
    first_studies(studies, 3)
    patient_file(studies, "pet", 1).write_bytes(patient_file(studies, "pet", 1).read_bytes()[:1000])
    patient_file(studies, "pet", 2).unlink()
    report = extract(studies, tmp_path / "store", SMALL)
    assert any(str(studies.parent) in o.reason for o in report.outcomes), "people are told the whole path"
    assert str(studies.parent).encode() not in everything_in(tmp_path / "store")
    assert b"is damaged" in everything_in(tmp_path / "store")


@pytest.fixture
def named(studies) -> Path:
    """Three studies whose files are called after their patients, the second damaged and the third without PET."""
    first_studies(studies, 3)
    for number, name in enumerate(("KOWALSKA", "NOVAK-7", "MUELLER.2")):
        text = studies.read_text().replace(f"P00{number + 1},", f"{name},").replace(f"/P00{number + 1}_", f"/{name}_")
        for path in (studies.parent / "images").glob(f"P00{number + 1}_*"):
            path.rename(path.with_name(path.name.replace(f"P00{number + 1}_", f"{name}_")))
        studies.write_text(text)
    patient_file(studies, "pet", 1).write_bytes(patient_file(studies, "pet", 1).read_bytes()[:1000])
    patient_file(studies, "pet", 2).unlink()
    return studies


PATIENTS = (b"kowalska", b"novak-7", b"mueller.2")


def test_no_patient_of_a_pseudonymised_run_is_anywhere_in_store_or_report(named, tmp_path):
    ids = Pseudonyms(b"a key of many bytes")
    plain = extract(named, tmp_path / "plain", SMALL)
    plainly = (everything_in(tmp_path / "plain") + repr(plain).encode()).lower()
    assert all(name in plainly for name in PATIENTS), "the search must be able to find them"
    report = extract(named, tmp_path / "store", SMALL, ids=ids)
    said = (everything_in(tmp_path / "store") + repr(report).encode()).lower()
    assert not [name for name in PATIENTS if name in said]
    assert sorted(o.result for o in report.outcomes) == ["committed", "failed", "failed"]
    assert {o.patient for o in report.outcomes if o.result == "committed"} == {ids.key("KOWALSKA")}
    assert open_store(tmp_path / "store").verify().ok
    again = extract(named, tmp_path / "store", SMALL, ids=Pseudonyms(b"a key of many bytes"))
    assert [o.result for o in again.outcomes if o.patient == ids.key("KOWALSKA")] == ["done"]


def test_pseudonyms_change_no_number(studies, tmp_path):
    first_studies(studies, 1)
    ids = Pseudonyms(b"a key of many bytes")
    extract(studies, tmp_path / "plain", SMALL)
    extract(studies, tmp_path / "pseudonyms", SMALL, ids=ids)
    plain = content_digests(open_store(tmp_path / "plain"))
    assert {name.replace("P001", ids.key("P001")): one for name, one in plain.items()} == content_digests(
        open_store(tmp_path / "pseudonyms")
    )


def test_plain_ids_and_pseudonyms_of_two_keys_do_not_mix(studies, tmp_path):
    first_studies(studies, 1)
    ids, other = Pseudonyms(b"a key of many bytes"), Pseudonyms(b"another key of many bytes")
    extract(studies, tmp_path / "store", SMALL, ids=ids)
    files = files_in(tmp_path / "store")
    for wrong, said in ((PlainIds(), "holds pseudonyms"), (other, "another pseudonym key")):
        for dry_run in (False, True):
            with pytest.raises(UsageError, match=said):
                extract(studies, tmp_path / "store", SMALL, ids=wrong, dry_run=dry_run)
    assert files_in(tmp_path / "store") == files


def test_undeclared_pet_units_are_refused_before_anything_is_written(studies, tmp_path):
    with pytest.raises(ConfigError, match="pet_units: suv"):
        extract(studies, tmp_path / "store", CONFIG.model_copy(update={"pet_units": None}))
    assert not (tmp_path / "store").exists()


def test_a_memory_store_cannot_be_shared_by_processes(studies):
    with pytest.raises(UsageError, match="--jobs 0"):
        extract(studies, "memory://shared", jobs=2)


def test_processes_change_no_number(studies, tmp_path):
    extract(studies, tmp_path / "inline")
    extract(studies, tmp_path / "pool", jobs=2)
    assert content_digests(open_store(str(tmp_path / "inline"))) == content_digests(open_store(str(tmp_path / "pool")))


def test_a_killed_worker_process_costs_nothing(studies, tmp_path):
    extract(studies, tmp_path / "whole")
    killed: list[int] = []

    def kill_first_child() -> None:
        while not killed:
            for child in multiprocessing.active_children():
                if child.pid and any((tmp_path / "killed").glob("commits/**/*.json")):
                    os.kill(child.pid, signal.SIGKILL)
                    killed.append(child.pid)
                    return
            time.sleep(0.02)

    killer = threading.Thread(target=kill_first_child, daemon=True)
    killer.start()
    report = extract(studies, tmp_path / "killed", jobs=1)
    assert killed
    assert not report.failed
    assert content_digests(open_store(str(tmp_path / "killed"))) == content_digests(open_store(str(tmp_path / "whole")))


@pytest.fixture
def disk(monkeypatch) -> list[int]:
    """Bytes that may still be written to any folder store; nothing, once a write did not fit."""
    room = [10**9]
    fill = FolderLocation._fill

    def fill_what_fits(self, file, data: bytes) -> None:
        room[0] -= len(data)
        if room[0] < 0:
            file.write(data[:3])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fill(self, file, data)

    monkeypatch.setattr(FolderLocation, "_fill", fill_what_fits)
    return room


@pytest.mark.parametrize("share", [0.4, 0.8])
def test_a_full_disk_loses_no_outcome_and_is_resumed_to_the_same_store(studies, tmp_path, disk, share):
    before = disk[0]
    extract(studies, tmp_path / "whole")
    disk[0] = int(share * (before - disk[0]))
    report = extract(studies, tmp_path / "store")
    disk[0] = before
    store = open_store(str(tmp_path / "store"))
    assert report.failed
    assert "outcomes.jsonl" in report.error
    assert "No space left on device" in report.error
    assert results(report) == {"committed", "failed"}
    assert len(report.outcomes) == 4 * ITEMS
    assert {(o.patient, o.modality, o.roi) for o in report.outcomes if o.result == "committed"} == {
        (key.patient, key.modality, key.roi) for view in store.view_ids() for key in store.keys(view)
    }
    assert all("No space left" in o.reason for o in report.outcomes if o.result == "failed")
    resumed = extract(studies, tmp_path / "store")
    assert (resumed.failed, resumed.error) == (False, None)
    assert content_digests(store) == content_digests(open_store(str(tmp_path / "whole")))
    assert store.verify().ok


def test_a_study_that_dies_after_a_commit_keeps_what_it_committed(studies, tmp_path, monkeypatch):
    """What is committed is asked of the store, whatever became of the process that committed it."""
    studies.write_text("\n".join(studies.read_text().splitlines()[:2]) + "\n")
    publish, calls = Store.publish, []

    def fail_the_third(self, *args, **kwargs):
        calls.append(args)
        if len(calls) > 2:
            raise ZeroDivisionError("a defect")
        return publish(self, *args, **kwargs)

    monkeypatch.setattr(Store, "publish", fail_the_third)
    report = extract(studies, tmp_path / "store")
    assert [(o.modality, o.result) for o in report.outcomes] == [
        ("PET", "done"),
        ("PET", "done"),
        ("CT", "failed"),
        ("CT", "failed"),
    ]
    assert "ZeroDivisionError: a defect" in report.outcomes[-1].reason
    assert [len(open_store(str(tmp_path / "store")).snapshot(s).keys) for s in report.snapshots.values()] == [1, 1]


@pytest.mark.parametrize(
    ("device", "jobs", "expected"),
    [("cpu", None, 8), ("cuda", None, 1), ("cuda:1", None, 1), ("cuda", 3, 3), ("cpu", 0, 0), ("cpu", 99, 20)],
)
def test_processes_are_one_a_core_and_one_on_a_gpu_unless_told_otherwise(device, jobs, expected):
    options = RunOptions(Path("studies.csv"), "store", device=device, jobs=jobs)
    assert process_count(options, studies=20, cores=8) == expected
    assert process_count(replace(options, jobs=None), studies=0, cores=8) == 1


def test_the_run_record_tells_plan_outcomes_and_snapshots(studies, tmp_path):
    report = extract(studies, tmp_path / "store")
    store = open_store(str(tmp_path / "store"))
    assert set(store.run_names(report.run_id)) == {"start.json", "plan.jsonl", "outcomes.jsonl", "finish.json"}
    finish = json.loads(store.read_run(report.run_id, "finish.json"))
    assert finish == {"snapshots": dict(report.snapshots), "failed": 0}
    assert len(store.read_run(report.run_id, "outcomes.jsonl").splitlines()) == len(report.outcomes)
