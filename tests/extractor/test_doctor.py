"""Each check of `extractor doctor` with the fault it is for, injected; the real machine; exit statuses and JSON."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from extractor.cli import main
from extractor.doctor import GIB, Examination, diagnose
from extractor.machine import Gpu, Library, Machine, free_disk_bytes, free_memory_bytes, libraries
from extractor.versions import SAM2_SOURCES, Sam2, found_sam2
from store_schema.doctor import Check, sound
from store_schema.errors import UsageError, WeightsError

GOOD_GPU = Gpu("H100", 70 * GIB, 80 * GIB, bfloat16=True)
GOOD = Machine(
    environment={"OMP_NUM_THREADS": "1", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"},
    cores=lambda: 4,
    libraries=lambda: [Library("torch", ">=2.6", "2.15.0", fits=True)],
    sam2=lambda: Sam2(("sam2",), "1.1.0", SAM2_SOURCES),
    free_memory_bytes=lambda: 64 * GIB,
    free_disk_bytes=lambda _: 100 * GIB,
    gpus=lambda: [GOOD_GPU, GOOD_GPU],
    driver=lambda: "580.1",
    cuda_of_torch=lambda: "13.0",
)


def loaded(model, weights, *, device):
    assert device == "cpu", "weights are judged without a GPU"
    return SimpleNamespace(weights_sha256="ab" * 32, trained=not weights.startswith("random"))


def refused(model, weights, *, device):
    raise WeightsError(f"checkpoint {weights} is damaged")


def examination(device: str = "cpu", machine: Machine = GOOD, **changes) -> Examination:
    usual = {"weights": "w.pt", "load": loaded, "try_store": lambda _: []}
    return Examination(device=device, machine=machine, **(usual | changes))


def found(this: Examination) -> dict[str, Check]:
    return {check.name: check for check in diagnose(this)}


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:0,cuda:1"])
def test_a_good_machine_passes_every_check(device, monkeypatch, tmp_path):
    monkeypatch.setenv("ENGRAM_CACHE", str(tmp_path))
    checks = diagnose(examination(device, store_url=str(tmp_path / "store")))
    assert {check.verdict for check in checks} == {"ok"}, checks
    names = {check.name for check in checks}
    assert {"libraries", "sam2", "memory", "threads", "device", "weights"} < names
    assert {"disk: temporary files", "disk: cache", "disk: store"} < names
    assert ("driver" in names) == device.startswith("cuda")


FAULTS = {
    "an old library": (
        {"libraries": lambda: [Library("torch", ">=2.6", "2.1.0", fits=False)]},
        ("cpu", "libraries", "failed", r"torch 2\.1\.0 \(needed: >=2\.6\).*uv pip sync"),
    ),
    "no sam2": (
        {"sam2": lambda: Sam2((), "none", "none")},
        ("cpu", "sam2", "failed", r"there is no sam2.*pip install --no-build-isolation .*sam2==1\.1\.0"),
    ),
    "the fork under the same name": (
        {"sam2": lambda: Sam2(("MedSAM2",), "1.0", "0" * 64)},
        ("cpu", "sam2", "failed", r"finds MedSAM2.*pip uninstall -y MedSAM2.*sam2==1\.1\.0"),
    ),
    "the fork over the package": (
        {"sam2": lambda: Sam2(("MedSAM2", "sam2"), "1.0", "0" * 64)},
        ("cpu", "sam2", "failed", r"finds MedSAM2, which"),
    ),
    "an edited sam2": (
        {"sam2": lambda: Sam2(("sam2",), "1.1.0", "0" * 64)},
        ("cpu", "sam2", "failed", r"other code \(sources 000000000000\).*--force-reinstall"),
    ),
    "no memory": (
        {"free_memory_bytes": lambda: GIB},
        ("cpu", "memory", "failed", r"1\.0 GiB free.*ask the batch system"),
    ),
    "memory for some processes": (
        {"free_memory_bytes": lambda: 5 * GIB},
        ("cpu", "memory", "warning", r"4 process\(es\).*give --jobs 2"),
    ),
    "a thread variable that is no number": (
        {"environment": {"OMP_NUM_THREADS": "all"}},
        ("cpu", "threads", "failed", r"OMP_NUM_THREADS=all: expected a whole number"),
    ),
    "more threads than cores": (
        {"environment": {"OMP_NUM_THREADS": "4"}},
        ("cpu", "threads", "warning", r"with 4 processes set OMP_NUM_THREADS=1"),
    ),
    "no thread variable": ({"environment": {}}, ("cpu", "threads", "warning", "set OMP_NUM_THREADS=1")),
    "torch without CUDA": (
        {"cuda_of_torch": lambda: None},
        ("cuda", "driver", "failed", "built without CUDA: install the build of PyPI"),
    ),
    "no driver": ({"driver": lambda: None}, ("cuda", "driver", "failed", "no NVIDIA driver answers.*install one")),
    "no GPU": ({"gpus": list}, ("cuda", "device", "failed", "sees no CUDA device.*--device cpu")),
    "hidden GPUs": (
        {"gpus": list, "environment": {"CUDA_VISIBLE_DEVICES": ""}},
        ("cuda", "device", "failed", "CUDA_VISIBLE_DEVICES='' may hide them"),
    ),
    "a GPU that is not there": ({}, ("cuda:0,cuda:2", "device", "failed", r"cuda:2: torch sees 2 device\(s\)")),
    "a GPU without bfloat16": (
        {"gpus": lambda: [replace(GOOD_GPU, bfloat16=False)]},
        ("cuda", "device", "warning", "no bfloat16: leave `precision: bfloat16` out"),
    ),
    "a busy GPU": (
        {"gpus": lambda: [GOOD_GPU, replace(GOOD_GPU, free_bytes=GIB)]},
        ("cuda:0,cuda:1", "device memory", "failed", r"cuda:1 1\.0 GiB free of 80\.0 GiB.*end other programs"),
    ),
    "an unknown device": ({}, ("tpu", "device", "failed", "device tpu is unknown: use cpu, cuda")),
    "a full disk": (
        {"free_disk_bytes": lambda _: GIB // 2},
        ("cpu", "disk: temporary files", "failed", r"0\.5 GiB free in /\S*: at least 1\.0 GiB"),
    ),
    "a small disk": (
        {"free_disk_bytes": lambda _: 5 * GIB},
        ("cpu", "disk: temporary files", "warning", "a large cohort needs more"),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_by_its_check_and_by_no_other(fault):
    answers, (device, name, verdict, said) = FAULTS[fault]
    checks = found(examination(device, replace(GOOD, **answers)))
    assert checks[name].verdict == verdict
    assert re.search(said, checks[name].detail), checks[name].detail
    others = {check.name: check.verdict for check in checks.values() if check.name.split(":")[0] != name.split(":")[0]}
    follow = {"device memory"} if fault in ("no GPU", "hidden GPUs") else set()
    follow |= {"threads"} if fault == "hidden GPUs" else set()
    assert {other for other, one in others.items() if one != "ok"} <= follow


def test_a_disk_that_does_not_answer_is_told():
    def gone(_: Path) -> int:
        raise OSError(5, "Input/output error")

    check = found(examination(machine=replace(GOOD, free_disk_bytes=gone)))["disk: temporary files"]
    assert check.verdict == "failed"
    assert "Input/output error" in check.detail


def test_weights_that_do_not_load_random_ones_and_none_are_told_apart():
    assert found(examination(load=refused))["weights"].verdict == "failed"
    random = found(examination(weights="random:0"))["weights"]
    assert (random.verdict, "UNTRAINED" in random.detail) == ("warning", True)
    assert "give --weights" in found(examination(weights=None))["weights"].detail
    good = found(examination())["weights"]
    assert (good.verdict, good.detail) == ("ok", f"medsam2, sha256 {'ab' * 32}, trained")


def test_the_store_is_tried_out_and_its_faults_are_the_doctors(tmp_path):
    fault = Check("second create refused", "failed", "ignores If-None-Match", 0.0)
    checks = diagnose(examination(store_url=str(tmp_path), try_store=lambda _: [fault]))
    assert not sound(checks)
    assert checks[-1] == replace(fault, name="store: second create refused")


def test_a_real_folder_is_tried_out_and_left_as_it_was(tmp_path):
    from store_schema.doctor import examine  # noqa: PLC0415

    checks = diagnose(examination(store_url=str(tmp_path / "none"), try_store=examine))
    assert any(check.name == "store: one winner of a race" and check.verdict == "ok" for check in checks)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_wrong_cache_limit_and_an_address_that_is_none_are_wrong_calls(monkeypatch, tmp_path):
    with pytest.raises(UsageError, match="nosuch"):
        diagnose(examination(store_url="nosuch://x"))
    monkeypatch.setenv("ENGRAM_CACHE", str(tmp_path))
    monkeypatch.setenv("ENGRAM_CACHE_BYTES", "much")
    with pytest.raises(UsageError, match="ENGRAM_CACHE_BYTES"):
        diagnose(examination())


# The machine itself


def test_this_machine_has_what_is_locked_and_metas_sam2():
    assert [one for one in libraries() if not one.fits] == []
    assert {"torch", "sam2", "simpleitk", "zarr"} <= {one.name.lower() for one in libraries()}
    assert found_sam2().known, (
        "sam2's sources changed: compare them with Meta's, then state their digest in versions.py"
    )
    assert found_sam2().distributions == ("sam2",)


def test_memory_and_disk_are_what_the_system_says(tmp_path):
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert 0 < free_memory_bytes() <= total
    assert free_disk_bytes(tmp_path / "not" / "there") == pytest.approx(free_disk_bytes(tmp_path), rel=0.2)


def call(*options: str):
    return CliRunner().invoke(main, ["doctor", *options])


def test_the_command_exits_0_and_says_ready(tmp_path):
    result = call("--model", "mini", "--weights", "random:0", "--jobs", "1", "--store", str(tmp_path / "store"))
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("ready to extract\n")
    assert "UNTRAINED" in result.stdout
    assert "file for file Meta's" in result.stdout


def test_the_command_exits_1_with_json_that_says_why(tmp_path):
    result = call("--weights", str(tmp_path / "absent.pt"), "--jobs", "1", "--json")
    assert result.exit_code == 1
    said = json.loads(result.stdout)
    assert said["ok"] is False
    failed = [check for check in said["checks"] if check["verdict"] == "failed"]
    assert [check["name"] for check in failed] == ["weights"]
    assert "absent.pt cannot be read" in failed[0]["detail"]


def test_the_command_exits_2_where_the_call_is_wrong():
    assert call("--store", "nosuch://x").exit_code == 2
    assert call("--jobs", "-1").exit_code == 2
