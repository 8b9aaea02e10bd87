"""Measures the constants of the capacity simulator, small run by small run; knows no table and no judgement.

CPU time is what is kept, since other work may share the cores: of this process for stages, of a command and its children for runs.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk  # noqa: N813 - the usual name
import torch
import yaml

from extractor.config import ExtractConfig, views_of
from extractor.embedding import embed_study
from extractor.loading import load_networks
from extractor.memory import embed_volume
from extractor.phantom import write_cohort
from extractor.segmenter import load_segmenter
from extractor.streams import Stream
from extractor.table import read_study_table
from extractor.work import LoadedStudy, StudyTask, Write
from extractor.worker import WorkerSpec, worker
from store_schema import Store, create_store
from store_schema.packs import make_pack
from store_schema.usage import usage
from trainer.config import RunConfig, parse_config
from trainer.dispatch import Workers, run_tasks
from trainer.features import mean_maps, memories
from trainer.fold import run_task
from trainer.jobs import first_jobs
from trainer.plan import Inputs, make_plan
from trainer.run_folder import RunFolder
from trainer.run_record import keep_plan
from trainer.task import Task

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
REGIONS = 2
SPENT_LOADING = """
import sys, pickle, pathlib
import extractor.pool
from extractor.worker import worker
worker(pickle.loads(pathlib.Path(sys.argv[1]).read_bytes()))
"""

"""What a process of the pool does before its first study."""
FITTING = """
import pathlib, re, sys, time
from trainer.fold import run_task
from trainer.task import Task
begun = time.process_time()
run_task(Task.model_validate_json(sys.argv[1]))
print("CPU s:", time.process_time() - begun)
print("peak KiB:", re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
"""
"""What a worker of the trainer does, and how much memory it had at most."""


@dataclass
class Spent:
    """What something took; filled when its block ends."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    said: str = ""
    """What a command printed."""

    @property
    def wait_s(self) -> float:
        """What was not work of a core, as far as one thread did it."""
        return max(0.0, self.wall_s - self.cpu_s)


@contextmanager
def spent() -> Iterator[Spent]:
    """Measures a block of this process."""
    found, wall, cpu = Spent(), time.perf_counter(), time.process_time()
    yield found
    found.wall_s, found.cpu_s = time.perf_counter() - wall, time.process_time() - cpu


def command(*arguments: object) -> Spent:
    """Runs a command and all its children to their end, one thread each.

    Raises
    ------
    AssertionError
        If it fails; what it said is in the message.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    wall = time.perf_counter()
    call = list(map(str, arguments))
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, said.decode()
    return Spent(time.perf_counter() - wall, used.ru_utime + used.ru_stime, said.decode())


# Images


def settings(model: str, stride: int) -> dict[str, Any]:
    """Both modalities, both regions of the paper, every layout."""
    return {
        "model": model,
        "weights": "random:0",
        "pet_units": "suv",
        "stride": stride,
        "derive": ["spine_dilated", "skeleton"],
    }


def phantoms(folder: Path, patients: int) -> Path:
    """A study table of synthetic patients."""
    return write_cohort(folder, n=patients, seed=0, processes=0).studies


def part_of(table: Path, first: int, last: int) -> Path:
    """The rows of a study table from one to before another, beside it."""
    path = table.with_name(f"studies-{first}-{last}.csv")
    pd.read_csv(table).iloc[first:last].to_csv(path, index=False)
    return path


def enlarged(table: Path, folder: Path, slices: int) -> Path:
    """The first patient of a table, resampled to 512 × 512 voxels in plane (CT) and 200 × 200 (PET), as scanners make them."""
    row = pd.read_csv(table).iloc[0]
    folder.mkdir(parents=True, exist_ok=True)
    kinds = {"ct": (512, np.int16, 15.0), "pet": (200, np.float32, 0.01), "label_map": (512, np.uint8, 0.0)}
    for role, (side, dtype, noise) in kinds.items():
        image = sitk.ReadImage(str(table.parent / row[role]))
        size = (side, side, slices)
        spacing = [s * n / m for s, n, m in zip(image.GetSpacing(), image.GetSize(), size, strict=True)]
        way = sitk.sitkLinear if noise else sitk.sitkNearestNeighbor
        large = sitk.Resample(
            image, size, sitk.Transform(), way, image.GetOrigin(), spacing, image.GetDirection(), 0.0, sitk.sitkFloat32
        )
        voxels = sitk.GetArrayFromImage(large)
        # What does not compress, as of a real scanner.
        voxels += np.random.default_rng(0).normal(0, noise, voxels.shape).astype(np.float32)
        written = sitk.GetImageFromArray(voxels.astype(dtype))
        written.CopyInformation(large)
        sitk.WriteImage(written, str(folder / f"{role}.nii.gz"), useCompression=True)
    names = {role: f"{role}.nii.gz" for role in kinds}
    pd.DataFrame([{"patient": row["patient"], **names}]).to_csv(folder / "studies.csv", index=False)
    return folder / "studies.csv"


def megavoxels(table: Path) -> float:
    """Mean voxels of the CTs of a study table, in millions."""
    sizes = [sitk.ReadImage(str(table.parent / name)).GetSize() for name in pd.read_csv(table)["ct"]]
    return float(np.mean([np.prod(size) for size in sizes])) / 1e6


# Extraction, stage by stage


@dataclass(frozen=True)
class Slices:
    """How many slices a study takes through the network, both modalities together."""

    encoded: float
    """Through the image encoder: the union over regions."""
    streamed: float
    """Through memory attention, decoder and memory encoder: the sum over regions."""


@dataclass(frozen=True)
class Stages:
    """What the stages of studies took, one after the other, per study."""

    load: Spent
    embed: Spent
    write: Spent
    slices: Slices
    entries: float
    stored_bytes: float
    stored_objects: float


def prepared(table: Path, config: ExtractConfig, folder: Path) -> tuple[list[StudyTask], WorkerSpec, Store]:
    """The tasks of a table for a new store."""
    store = create_store(str(folder))
    spec, facts, _ = load_networks(config, store.url, device="cpu", looked_at_on="cpu")
    views = {name: store.put_view(view) for name, view in views_of(config, facts).items()}
    return [StudyTask(row, config, views) for row in read_study_table(table, config)], spec, store


def slices_of(studies: Sequence[LoadedStudy]) -> Slices:
    """Mean counts of slices of loaded studies."""
    encoded, streamed = 0, 0
    for opened in (opened for study in studies for opened in study.open):
        regions = opened.this.regions(opened.all)
        encoded += len({z for region in regions.values() for z in region.slices})
        streamed += sum(len(region.slices) for region in regions.values())
    return Slices(encoded / len(studies), streamed / len(studies))


def stages_of(table: Path, config: ExtractConfig, folder: Path) -> Stages:
    """Loads all studies of a table, embeds them, writes them; one thread."""
    tasks, spec, store = prepared(table, config, folder)
    torch.set_num_threads(1)
    load_one = worker(spec)
    with spent() as load:
        loaded = [load_one(task) for task in tasks]
    slices = slices_of(loaded)
    before = usage(store)
    with spent() as embed:
        writes = [made for study in loaded for made in embed_study(study)]
    with spent() as write:
        for made in writes:
            assert isinstance(made, Write), made
            assert made().result == "committed"
    after = usage(store)
    n = len(tasks)
    return Stages(
        *(Spent(one.wall_s / n, one.cpu_s / n) for one in (load, embed, write)),
        slices=slices,
        entries=len(writes) / n,
        stored_bytes=(after.size_bytes - before.size_bytes) / n,
        stored_objects=(after.objects - before.objects) / n,
    )


def slice_costs(model: str, *, device: str = "cpu", slices: tuple[int, int] = (8, 14)) -> tuple[float, float, float]:
    """Seconds a slice of the image encoder, of the rest for one stream with a full memory, and what a stream costs beside.

    The last is below 0: the first slices of a stream attend to few memories. Two lengths of a volume tell all three.

    CPU seconds of one thread, or seconds of the GPU.
    """
    torch.set_num_threads(1)
    segmenter = load_segmenter(model, "random:0", device=device)
    found: list[tuple[float, float]] = []
    for number in (slices[0], *slices):
        stages: dict[str, float] = {}
        image = np.random.default_rng(0).integers(0, 255, (number, 128, 128), dtype=np.uint8)
        places = tuple(range(number))[::-1]
        streams = [Stream(f"r{i}", places, np.tile((30, 30, 90 + i, 90), (number, 1))) for i in range(REGIONS)]
        with spent() as whole:
            embed_volume(segmenter, image, streams, layouts=("paper", "pooled", "thirds", "raw"), timings_s=stages)
        # What is no stage (resizing, layouts) is shared out over the stages.
        total = whole.cpu_s if device == "cpu" else whole.wall_s
        share = total / sum(stages.values())
        encoder = stages.pop("image_encoder") * share
        found.append((encoder, sum(stages.values()) * share))
    # The first pass only warms up.
    (encoder_a, rest_a), (encoder_b, rest_b) = found[1:]
    more = slices[1] - slices[0]
    stream_s = (rest_b - rest_a) / more / REGIONS
    return (encoder_b - encoder_a) / more, stream_s, rest_a / REGIONS - slices[0] * stream_s


def worker_start_s(spec: WorkerSpec, folder: Path) -> float:
    """CPU seconds of a process of the pool before its first study."""
    import pickle  # noqa: PLC0415 - what is pickled is our own

    (folder / "spec.pickle").write_bytes(pickle.dumps(spec))
    return statistics.median(
        command(sys.executable, "-c", SPENT_LOADING, folder / "spec.pickle").cpu_s for _ in range(2)
    )


def run_start_s(table: Path, config: Mapping[str, Any], store: str) -> float:
    """CPU seconds of a run before its first study: imports, the network looked at, the plan; median of two."""
    return statistics.median(extract(table, config, store, "--dry-run").cpu_s for _ in range(2))


def extract(table: Path, config: Mapping[str, Any], store: str, *options: object) -> Spent:
    """`extractor run` as a user calls it."""
    path = table.with_name(f"settings-{config['model']}-{config['stride']}.yaml")
    path.write_text(yaml.safe_dump(dict(config)))
    return command(BIN / "extractor", "run", table, "--store", store, "--config", path, *options)


def finishing_s(store: Store) -> float:
    """CPU seconds an entry that a run ends with: a snapshot of a view of memories, its mean maps packed."""
    entries = 0
    with spent() as found:
        for view in (view for view in store.view_ids() if view.startswith("medsam2")):
            snapshot = store.snapshot(store.make_snapshot(view))
            make_pack(snapshot, "mean_map")
            entries += len(snapshot)
    return found.cpu_s / entries


# Fits

COLUMNS = {
    "time": "pfs_months",
    "time_unit": "months",
    "event": "pfs_event",
    "continuous": ["age"],
    "categorical": ["riss", "sex"],
}
HEADS: dict[str, dict[str, Any]] = {
    "average": {"kind": "network", "view": "medsam2", "head": "average"},
    "attention": {"kind": "network", "view": "medsam2", "head": "attention"},
    "vector": {"kind": "network", "view": "resnet50", "head": "vector"},
}


def planted(folder: Path, patients: int) -> Path:
    """A store with memories and vectors of so many patients, and their table."""
    command(sys.executable, ROOT / "tests/e2e/planted_store.py", folder, patients, 0)
    return folder


def cv_settings(models: Sequence[Mapping[str, Any]], epochs: int) -> dict[str, Any]:
    """Settings of `trainer cv` in which every fit takes all its epochs."""
    fit = {"epochs": epochs, "patience": epochs, "min_epochs": 1, "min_validation_events": 1}
    return {
        "columns": COLUMNS,
        "splits": {"folds": 5},
        "fit": fit,
        "permuted_control": None,
        "models": [dict(model) for model in models],
    }


def image_model(head: str, modalities: Sequence[str] = ("PET",), roi: str = "spine_dilated") -> dict[str, Any]:
    """A model of one head of the paper."""
    name = "-".join((head, *modalities, roi.split("_", maxsplit=1)[0]))
    return {"name": name, **HEADS[head], "images": {"modalities": list(modalities), "roi": roi}}


def tasks_of(data: Path, config: RunConfig, run: Path) -> list[Task]:
    """Tasks of a new run folder."""
    plan = make_plan(config, Inputs(data / "clinical.csv", str(data / "store")))
    folder = RunFolder.open(str(run))
    keep_plan(plan, folder)
    return plan.tasks(first_jobs(config, permutations=plan.splits, folds=len(plan.splits[0])), folder.url)


def fit_s(data: Path, head: str, epochs: int, run: Path) -> float:
    """CPU seconds of one fit of one modality, what it reads being read before; median over two folds."""
    config = parse_config(cv_settings([image_model(head)], epochs))
    # Reads what is read once, and loads what is loaded once.
    run_task(tasks_of(data, config, run.with_name(f"{run.name}-before"))[0])
    found = []
    for task in tasks_of(data, config, run)[:2]:
        with spent() as fit:
            run_task(task)
        found.append(fit.cpu_s / len(task.jobs))
    return statistics.median(found)


def fit_peak_mib(data: Path, head: str, run: Path) -> float:
    """Peak memory of a process that fits one modality of a cohort on one fold."""
    task = tasks_of(data, parse_config(cv_settings([image_model(head)], 2)), run)[0]
    return float(command(sys.executable, "-c", FITTING, task.model_dump_json()).said.rsplit(":", 1)[1]) / 1024


def core_efficiency(data: Path, folder: Path, epochs: int = 10) -> float:
    """CPU time of a fit that has a core alone over that of one beside which another process fits on another core; three of each."""
    config = parse_config(cv_settings([image_model("average")], epochs))

    def fits(number: int, name: str) -> list[float]:
        tasks = tasks_of(data, config, folder / f"efficiency-{name}")[:number]
        calls = [(sys.executable, "-c", FITTING, task.model_dump_json()) for task in tasks]
        with ThreadPoolExecutor(number) as pool:
            said = [one.said for one in pool.map(lambda call: command(*call), calls)]
        return [float(one.split("CPU s:", 1)[1].split()[0]) for one in said]

    alone, beside = [], []
    for turn in range(3):
        alone += fits(1, f"alone{turn}")
        beside += fits(2, f"beside{turn}")
    return statistics.median(alone) / statistics.median(beside)


def reading_costs(data: Path, run: Path) -> tuple[float, float]:
    """CPU seconds an entry of reading mean maps, and memories as the attention head does; entry by entry, nothing read before."""
    task = tasks_of(data, parse_config(cv_settings([image_model("average")], 1)), run)[0]
    assert task.store_url is not None
    patients = tuple(pd.read_csv(data / "clinical.csv")["patient"])
    place = (task.store_url, task.snapshots["medsam2"], "PET", "spine_dilated", patients)
    found = []
    for read in (mean_maps, memories):
        with spent() as reading:
            read(*place)
        found.append(reading.cpu_s / len(patients))
    return found[0], found[1]


def nothing(_: Task) -> None:
    """A task that takes no time: what is left is the dispatch."""


def dispatch_costs(data: Path, run: Path, tasks: int = 300) -> tuple[float, float]:
    """CPU seconds of the start of one worker with its imports, and wall seconds a task of handing it out and hearing of its end."""
    first = tasks_of(data, parse_config(cv_settings([image_model("vector")], 1)), run)[0]
    many = [first.model_copy(update={"jobs": (first.jobs[0].model_copy(update={"seed": n}),)}) for n in range(tasks)]
    used = _children_s()
    begun = time.perf_counter()
    run_tasks(many[:1], Workers(number=1), on_done=lambda _: None, do=nothing)
    alone = time.perf_counter() - begun
    started = _children_s() - used
    begun = time.perf_counter()
    run_tasks(many, Workers(number=1), on_done=lambda _: None, do=nothing)
    return started, max(0.0, time.perf_counter() - begun - alone) / (tasks - 1)


def _children_s() -> float:
    used = os.times()
    return used.children_user + used.children_system


def cross_validate(data: Path, config: Mapping[str, Any], run: Path, *options: object) -> Spent:
    """`trainer cv` as a user calls it."""
    path = run.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(dict(config)))
    given = ["--store", data / "store", "--clinical", data / "clinical.csv", "--config", path, "--out", run]
    return command(BIN / "trainer", "cv", *given, *options)
