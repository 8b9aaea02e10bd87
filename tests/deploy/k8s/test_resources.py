"""Memory, cores and GPUs of the pods: what the programs need, what the guide tells, and what the report of capacity tells."""

import re
from pathlib import Path

import extractor.commands.worker
import trainer.worker_command
from store_schema.worker_limits import Limits, split

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
GIB = 2**30
UNITS = {"Mi": 2**20, "Gi": GIB}
EXTRACTION, TRAINING = extractor.commands.worker.PROGRAM, trainer.worker_command.PROGRAM


def size(text: str) -> int:
    """Bytes of a quantity of Kubernetes, such as 4Gi."""
    return int(text[:-2]) * UNITS[text[-2:]]


def variables(pod) -> dict[str, dict]:
    return {variable["name"]: variable for variable in pod.container["env"]}


def processes(pod, resources) -> int:
    """How many a pod of the extractor starts."""
    (settings,) = [one["data"] for one in resources if one["metadata"]["name"].startswith("engram-settings-")]
    given = variables(pod).get("JOBS", {}).get("valueFrom")
    return int(pod.container["resources"]["limits"]["cpu"]) if given else int(settings["JOBS"])


def row(process: str) -> str:
    """Words of the guide's table on what a process needs."""
    (found,) = re.findall(rf"^\| {process} \|(.*)$", (DEPLOY / "README.md").read_text(), flags=re.MULTILINE)
    return found


def whole_body() -> int:
    """Bytes of a process that extracts whole bodies, as the report of capacity plans them."""
    (gib,) = re.findall(r"plan (\d+) GiB a process for whole bodies", (DEPLOY / "capacity.md").read_text())
    return int(gib) * GIB


def test_the_guide_tells_what_the_programs_and_the_report_of_capacity_tell():
    plan, least = re.findall(r"([\d.]+) GiB (?:for whole bodies|at the least)", row("extraction on a CPU"))
    assert int(plan) * GIB == whole_body()
    assert float(least) * GIB == EXTRACTION.least_bytes
    (least,) = re.findall(r"([\d.]+) GiB at the least", row("worker of the trainer, CPU"))
    assert float(least) * GIB == TRAINING.least_bytes


def test_every_process_of_an_extraction_has_the_memory_that_it_needs_and_a_core(build, pods, overlay):
    needed = EXTRACTION.least_bytes if overlay.endswith("small") else whole_body()
    for step in ("extract", "complete"):
        (pod,) = pods(f"{overlay}/{step}")
        limits, count = pod.container["resources"]["limits"], processes(pod, build(f"{overlay}/{step}"))
        assert size(limits["memory"]) >= count * needed
        assert int(limits["cpu"]) >= count


def test_a_pod_that_nobody_patches_extracts_whole_bodies(pods):
    (pod,) = pods("base/extract")
    limits = pod.container["resources"]["limits"]
    assert size(limits["memory"]) >= int(limits["cpu"]) * whole_body()


def test_a_gpu_has_the_processes_that_the_guide_tells(build, pods, overlay):
    (pod,) = pods(f"{overlay}/extract")
    if gpus := pod.container["resources"]["limits"].get("nvidia.com/gpu"):
        assert "four processes share a GPU" in row("extraction on a GPU")
        assert processes(pod, build(f"{overlay}/extract")) == 4 * gpus


def test_no_worker_is_left_out_for_want_of_memory(pods, overlay):
    (_scheduler, worker) = pods(f"{overlay}/cluster")
    limits = worker.container["resources"]["limits"]
    gpus = tuple(str(one) for one in range(int(limits.get("nvidia.com/gpu", 0))))
    have = Limits(int(limits["cpu"]), size(limits["memory"]), gpus)
    shares = split(have, "cuda" if gpus else "cpu", gpu_threads=TRAINING.gpu_threads, least_bytes=TRAINING.least_bytes)
    assert shares.processes == (len(gpus) or have.cores)
    assert shares.memory_bytes >= TRAINING.least_bytes


def test_the_cache_of_features_fits_into_its_volume(pods, overlay):
    (_scheduler, worker) = pods(f"{overlay}/cluster")
    given, volumes = variables(worker), {one["name"]: one for one in worker.spec["volumes"]}
    assert Path(given["ENGRAM_CACHE"]["value"]).parent == Path("/tmp")
    assert int(given["ENGRAM_CACHE_BYTES"]["value"]) < size(volumes["tmp"]["emptyDir"]["sizeLimit"])


def test_a_pod_sees_gpus_only_where_it_asks_for_one(pods, overlay):
    for pod in pods(overlay):
        if "engram-service" in pod.container["image"]:
            continue
        hidden = variables(pod).get("NVIDIA_VISIBLE_DEVICES", {}).get("value") == "void"
        assert hidden is ("nvidia.com/gpu" not in pod.container["resources"]["limits"]), pod.name
