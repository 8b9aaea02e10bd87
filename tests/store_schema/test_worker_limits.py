"""How many workers there are follows from control groups, affinity, memory and GPUs: of faked machines here."""

import os
from pathlib import Path

import pytest

from store_schema import worker_limits
from store_schema.errors import UsageError
from store_schema.worker_limits import (
    GIB,
    NURSE_BYTES,
    Limits,
    cpu_quota,
    gpus,
    limits_here,
    memory_limit_bytes,
    split,
    whole_cores,
)


@pytest.fixture
def machine(tmp_path):
    """Makes the files of a kernel: those named by paths, below `root`."""

    def make(**files: str) -> Path:
        for name, text in {"proc/meminfo": "MemTotal:       16777216 kB\nMemFree: 1 kB\n", **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


def v2(machine, cpu: str, memory: str = "max", group: str = "") -> Path:
    files = {f"sys/fs/cgroup/{group}cpu.max": cpu, f"sys/fs/cgroup/{group}memory.max": memory}
    return machine(**{"proc/self/cgroup": f"0::/{group}\n"}, **files)


@pytest.mark.parametrize(
    ("cpu", "quota"), [("150000 100000\n", 1.5), ("max 100000\n", None), ("50000 100000\n", 0.5), ("400000 50000", 8.0)]
)
def test_a_quota_of_version_2_is_read_in_cores(machine, cpu, quota):
    assert cpu_quota(v2(machine, cpu)) == quota


@pytest.mark.parametrize(("quota", "cores"), [(1.5, 1), (0.5, 1), (3.9, 3), (99.0, 8), (None, 8)])
def test_only_whole_cores_count_and_there_is_one_at_least(quota, cores):
    assert whole_cores(8, quota) == cores


def test_a_memory_limit_of_version_2_is_read_in_bytes(machine):
    assert memory_limit_bytes(v2(machine, "max 100000", memory=f"{3 * GIB}\n")) == 3 * GIB


def test_no_limit_of_version_2_is_none(machine):
    assert memory_limit_bytes(v2(machine, "max 100000", memory="max\n")) is None


def test_the_tightest_of_nested_groups_holds(machine):
    root = v2(machine, "max 100000", memory="max", group="batch/job_7/")
    (root / "sys/fs/cgroup/batch/memory.max").write_text(str(5 * GIB))
    (root / "sys/fs/cgroup/batch/cpu.max").write_text("250000 100000")
    (root / "sys/fs/cgroup/memory.max").write_text(str(9 * GIB))
    assert memory_limit_bytes(root) == 5 * GIB
    assert cpu_quota(root) == 2.5


def test_a_path_of_the_host_means_the_containers_own_group(machine):
    files = {"sys/fs/cgroup/cpu.max": "200000 100000", "sys/fs/cgroup/memory.max": str(GIB)}
    root = machine(**{"proc/self/cgroup": "0::/kubepods/pod-1/container-2\n"}, **files)
    assert cpu_quota(root) == 2.0
    assert memory_limit_bytes(root) == GIB


def v1(machine, quota: str, memory: str) -> Path:
    groups = "9:memory:/docker/1\n8:cpu,cpuacct:/docker/1\n1:name=systemd:/docker/1\n"
    cpu, of_memory = "sys/fs/cgroup/cpu,cpuacct/docker/1", "sys/fs/cgroup/memory/docker/1"
    files = {f"{cpu}/cpu.cfs_quota_us": quota, f"{cpu}/cpu.cfs_period_us": "100000\n"}
    return machine(**{"proc/self/cgroup": groups, f"{of_memory}/memory.limit_in_bytes": memory}, **files)


def test_version_1_tells_quota_and_memory_in_folders_of_their_own(machine):
    root = v1(machine, "150000\n", f"{2 * GIB}\n")
    assert cpu_quota(root) == 1.5
    assert memory_limit_bytes(root) == 2 * GIB


def test_version_1_without_limits_leaves_the_machines(machine):
    root = v1(machine, "-1\n", "9223372036854771712\n")
    assert cpu_quota(root) is None
    found = limits_here(root, {"CUDA_VISIBLE_DEVICES": ""})
    assert found == Limits(len(os.sched_getaffinity(0)), 16 * GIB)


def test_without_control_groups_the_machines_memory_and_the_affinity_hold(machine):
    root = machine()
    assert cpu_quota(root) is None
    assert memory_limit_bytes(root) is None
    assert limits_here(root, {"NVIDIA_VISIBLE_DEVICES": "none"}) == Limits(len(os.sched_getaffinity(0)), 16 * GIB)


def test_limits_of_a_container_hold_before_the_machines(machine):
    root = v2(machine, "100000 100000", memory=str(4 * GIB))
    assert limits_here(root, {"CUDA_VISIBLE_DEVICES": "1"}, device="cuda") == Limits(1, 4 * GIB, ("1",))


SHARED = {"SLURM_CPUS_PER_TASK": "2", "SLURM_CPUS_ON_NODE": "8", "SLURM_TASKS_PER_NODE": "4(x2),3"}


@pytest.mark.parametrize(
    ("variables", "memory_gib"),
    [
        ({"SLURM_MEM_PER_NODE": "4096"}, 4),
        ({"SLURM_MEM_PER_CPU": "2048", "SLURM_CPUS_ON_NODE": "3"}, 6),
        ({"SLURM_MEM_PER_NODE": "0"}, 16),
        ({"SLURM_MEM_PER_NODE": "8192", **SHARED}, 2),
        ({"SLURM_MEM_PER_NODE": "8192", **SHARED, "SLURM_TASKS_PER_NODE": "1(x9)"}, 8),
        ({"SLURM_MEM_PER_NODE": "8192", **SHARED, "SLURM_STEP_TASKS_PER_NODE": "1"}, 8),
        ({"SLURM_MEM_PER_CPU": "2048", **SHARED}, 4),
        ({"SLURM_MEM_PER_NODE": "999999"}, 16),
    ],
)
def test_a_job_of_slurm_that_no_control_group_binds_is_held_to_the_memory_it_asked_for(machine, variables, memory_gib):
    assert limits_here(machine(), {"CUDA_VISIBLE_DEVICES": "", **variables}).memory_bytes == memory_gib * GIB


@pytest.mark.parametrize("variable", ["SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"])
def test_a_job_of_slurm_that_nothing_binds_is_held_to_its_cores(machine, variable, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    assert limits_here(machine(), {"CUDA_VISIBLE_DEVICES": "", variable: "5"}).cores == 5


LIST = """GPU 0: NVIDIA H200 (UUID: GPU-0a)
GPU 1: NVIDIA H200 (UUID: GPU-1b)
"""
DIVIDED = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-0a)
  MIG 3g.20gb     Device  0: (UUID: MIG-11)
  MIG 3g.20gb     Device  1: (UUID: MIG-12)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-1b)
"""


@pytest.mark.parametrize(
    ("environment", "listed", "found"),
    [
        ({}, LIST, ("0", "1")),
        ({}, "", ()),
        ({}, DIVIDED, ("MIG-11", "MIG-12", "1")),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, LIST, ("0", "1")),
        ({"NVIDIA_VISIBLE_DEVICES": "none"}, LIST, ()),
        ({"NVIDIA_VISIBLE_DEVICES": "void"}, LIST, ()),
        ({"NVIDIA_VISIBLE_DEVICES": "GPU-7c,GPU-8d"}, "", ("0", "1")),
        ({"NVIDIA_VISIBLE_DEVICES": "6,7,8"}, LIST, ("0", "1")),
        ({"CUDA_VISIBLE_DEVICES": "2,3"}, LIST, ("2", "3")),
        ({"CUDA_VISIBLE_DEVICES": "GPU-0a"}, LIST, ("GPU-0a",)),
        ({"CUDA_VISIBLE_DEVICES": ""}, LIST, ()),
        ({"CUDA_VISIBLE_DEVICES": "1,-1,0"}, LIST, ("1",)),
        ({"CUDA_VISIBLE_DEVICES": "0", "NVIDIA_VISIBLE_DEVICES": "all"}, LIST, ("0",)),
    ],
)
def test_gpus_are_those_that_the_environment_leaves(environment, listed, found):
    assert gpus(environment, lambda: listed) == found


def test_on_a_processor_there_is_a_process_a_core_and_memory_is_shared_out():
    made = split(Limits(4, 16 * GIB), "cpu", gpu_threads=3, least_bytes=GIB)
    assert (made.processes, made.threads, made.gpus) == (4, 1, ())
    assert made.memory_bytes == (16 * GIB - NURSE_BYTES) // 4


def test_where_memory_is_short_there_are_fewer_processes_but_one():
    assert split(Limits(16, 8 * GIB), "cpu", gpu_threads=3, least_bytes=2 * GIB).processes == 3
    tiny = split(Limits(16, GIB // 4), "cpu", gpu_threads=3, least_bytes=2 * GIB)
    assert tiny.processes == 1
    assert 0 < tiny.memory_bytes < GIB // 4


def test_there_is_a_process_for_each_gpu():
    made = split(Limits(64, 128 * GIB, ("0", "1")), "cuda", gpu_threads=3, least_bytes=GIB)
    assert (made.processes, made.threads, made.gpus) == (2, 3, ("0", "1"))
    assert made.memory_bytes == (128 * GIB - NURSE_BYTES) // 2


def test_no_gpu_where_one_is_asked_for_is_refused():
    with pytest.raises(UsageError, match=r"no GPU here: .* Use --device cpu"):
        split(Limits(4, GIB), "cuda", gpu_threads=1, least_bytes=GIB)


def test_memory_that_is_too_small_for_a_process_a_gpu_is_refused_with_what_is_needed():
    with pytest.raises(
        UsageError, match=r"2 processes, one a GPU, need 2 GiB of memory each, 4\.25 GiB in all, .* are 4\.0"
    ):
        split(Limits(8, 4 * GIB, ("0", "1")), "cuda", gpu_threads=3, least_bytes=2 * GIB)
    assert (
        split(Limits(8, 4 * GIB + NURSE_BYTES, ("0", "1")), "cuda", gpu_threads=3, least_bytes=2 * GIB).processes == 2
    )


def test_no_gpu_is_looked_for_where_nothing_computes_on_one(machine, monkeypatch):
    monkeypatch.setattr(worker_limits, "_smi", lambda: LIST)
    assert limits_here(machine(), {}, device="cpu").gpus == ()
    assert limits_here(machine(), {}, device="cuda").gpus == ("0", "1")
