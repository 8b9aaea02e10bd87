"""What studies and fits cost on a machine, from measured constants, and what whole runs of them take; writes no table."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from capacity_runs import Crew, Fit, Overlap, Simulated, StudyCost, simulate_fits, simulate_studies

CONSTANTS = Path(__file__).with_name("capacity_constants.json")
COHORTS = (227, 10_000, 100_000)
LINEAR_FROM = 2_000
"""Studies beyond which time goes on as between half of them and all: the crew is in full swing."""
FOLDS = 5
TRAINING_PART = 0.8
"""Of a cohort, in each of five folds."""
PAGE = 1_000
"""Keys that a listing of object storage gives at once."""


class Constants:
    """Values of the constants by name.

    Parameters
    ----------
    entries
        As in the file: an object with `value` for each name.
    """

    def __init__(self, entries: Mapping[str, Mapping[str, object]]) -> None:
        self.entries = entries

    @classmethod
    def read(cls, path: Path = CONSTANTS) -> Constants:
        """Those of a file."""
        return cls(json.loads(path.read_text()))

    def __getitem__(self, name: str) -> float:
        value = self.entries[name]["value"]
        assert isinstance(value, int | float), f"{name}: expected a number, got {value!r}"
        return float(value)

    def assumed(self, name: str) -> bool:
        """Whether nobody measured it."""
        return bool(self.entries[name].get("assumed", False))


@dataclass(frozen=True)
class Study:
    """What decides how much work a study is; slices are of both modalities together."""

    megavoxels: float
    """Of the CT."""
    encoded_slices: float
    """Through the image encoder: the union over regions."""
    streamed_slices: float
    """Through memory attention, decoder and memory encoder: the sum over regions."""
    entries: float
    """Modalities × regions × views."""
    streams: float = 4
    """Modalities × regions."""

    @classmethod
    def reference(cls, constants: Constants) -> Study:
        """The whole-body study that the tables are made for."""
        names = ("megavoxels", "encoded_slices", "streamed_slices", "entries")
        return cls(*(constants[f"study.{name}"] for name in names))


@dataclass(frozen=True)
class Machine:
    """What works, and how it is used."""

    name: str
    cores: int
    gpus: int = 0
    processes_per_gpu: int = 1
    overlap: Overlap = "pipeline"

    @property
    def extractors(self) -> int:
        """Processes of `extractor run`."""
        return self.gpus * self.processes_per_gpu if self.gpus else self.cores

    @property
    def ways(self) -> str:
        """How the extractor is called there."""
        if not self.gpus:
            return f"`--jobs {self.cores}`"
        return f"{self.processes_per_gpu} a GPU" if self.overlap == "pipeline" else "Dask, 3 threads a GPU"


MACHINES = (
    Machine("2 cores", 2),
    Machine("128 cores", 128),
    *(
        machine
        for gpus in (1, 8)
        for machine in (
            Machine(f"{gpus} GPU{'s' * (gpus > 1)}, {16 * gpus} cores", 16 * gpus, gpus),
            Machine(f"{gpus} GPU{'s' * (gpus > 1)}, {16 * gpus} cores", 16 * gpus, gpus, overlap="threads"),
            Machine(f"{gpus} GPU{'s' * (gpus > 1)}, {16 * gpus} cores", 16 * gpus, gpus, 4),
        )
    ),
)


# Extraction


def study_cost(constants: Constants, study: Study, *, model: str, gpu: bool = False, store: str = "s3") -> StudyCost:
    """What a study takes by stage.

    Parameters
    ----------
    model
        `medsam2` or `mini`: whose network it is.
    gpu
        Whether the network runs on a GPU, whose seconds it then takes.
    store
        Where it is written: `s3` or `folder`.
    """
    place = "gpu" if gpu else model
    network_s = (
        study.encoded_slices * constants[f"{place}.encoder_s_per_slice"]
        + study.streamed_slices * constants[f"{place}.stream_s_per_slice"]
        + study.streams * constants[f"{place}.stream_s_per_stream"]
    )
    return StudyCost(
        load_s=constants["load.s_per_study"] + study.megavoxels * constants["load.s_per_megavoxel"],
        network_s=network_s,
        write_s=study.entries * constants[f"write.{store}_core_s_per_entry"],
        write_wait_s=study.entries * constants[f"write.{store}_wait_s_per_entry"],
    )


def spread(cost: StudyCost, number: int, variation: float) -> list[StudyCost]:
    """Costs of so many studies of different sizes: lognormal, of this mean and coefficient of variation; always the same ones."""
    sigma = math.sqrt(math.log1p(variation**2))
    draw = random.Random(0)
    sizes = [draw.lognormvariate(-(sigma**2) / 2, sigma) for _ in range(number)]
    return [
        replace(cost, load_s=cost.load_s * size, network_s=cost.network_s * size)
        for size in sizes
    ]  # fmt: skip


def crew_for_studies(constants: Constants, machine: Machine, *, model: str = "medsam2") -> Crew:
    """The processes of `extractor run` on a machine; a process that drives a GPU has a core of its own."""
    start_s, dispatch_s = constants[f"{model}.worker_start_s"], constants["extract.dispatch_s"]
    cores, efficiency = machine.cores - machine.gpus, constants["machine.core_efficiency"]
    return Crew(machine.extractors, cores, machine.gpus, start_s, dispatch_s, machine.overlap, efficiency)


def embedding(costs: Sequence[StudyCost], crew: Crew) -> Simulated:
    """The work of the crew, beyond `LINEAR_FROM` studies as it went on before."""
    if len(costs) <= LINEAR_FROM:
        return simulate_studies(costs, crew)
    whole, half = (simulate_studies(costs[:number], crew) for number in (LINEAR_FROM, LINEAR_FROM // 2))
    times = (len(costs) - LINEAR_FROM) / (LINEAR_FROM - LINEAR_FROM // 2)
    return Simulated(
        *(
            getattr(whole, name) + times * (getattr(whole, name) - getattr(half, name))
            for name in ("wall_s", "core_s", "gpu_s")
        )
    )


def extraction(
    constants: Constants, costs: Sequence[StudyCost], entries: float, crew: Crew, *, model: str = "medsam2"
) -> Simulated:
    """`extractor run` from its start to its end: imports, plan, studies, snapshots and packs.

    Parameters
    ----------
    entries
        Of a study.
    """
    found = embedding(costs, crew)
    alone_s = constants[f"{model}.run_start_s"] + len(costs) * entries * (
        constants["extract.plan_s_per_entry"] + constants["extract.finish_s_per_entry"]
    )
    return Simulated(found.wall_s + alone_s, found.core_s + alone_s, found.gpu_s)


# Fits


@dataclass(frozen=True)
class Row:
    """One row of a study of models."""

    head: str
    """`average`, `attention` or `small`."""
    modalities: int = 1
    reads: str = ""


def paper_rows() -> list[Row]:
    """The 31 rows of `trainer study`'s bundled study: Tables 1 to 3."""
    rows = []
    for roi in ("spine", "skeleton"):
        for head, fusions in (("average", 2), ("attention", 2), ("average", 1)):
            rows += [Row(head, 1, f"{head} {roi} {origin}") for origin in ("PET", "CT")]
            rows += [Row(head, 2, f"{head} {roi} both")] * fusions
        rows += [Row("small")] * 3
    return rows + [Row("small")] * 3


def fit_s(constants: Constants, row: Row, patients: int, epochs: int, *, gpu: bool = False) -> float:
    """Seconds of one fit of a row, of a core or a GPU; all epochs are done."""
    if row.head == "small":
        return constants["fit.small_s_per_patient_epoch"] * TRAINING_PART * patients * epochs
    place, training = "gpu" if gpu else "fit", TRAINING_PART * patients
    epoch_s = constants[f"{place}.{row.head}_s_per_patient_epoch"] * training
    # Scaled, and judged in the end, on a core wherever it is fitted.
    around_s = constants[f"fit.{row.head}_s_per_patient"] * training
    return constants["fit.fixed_s"] + row.modalities * (around_s + epochs * epoch_s)


def fits_of(constants: Constants, rows: Sequence[Row], patients: int, epochs: int, *, gpu: bool = False) -> list[Fit]:
    """Tasks of rows over five folds; networks without images in plane are fitted all folds at once."""
    fits = []
    for row in rows:
        seconds = fit_s(constants, row, patients, epochs, gpu=gpu)
        fits += [Fit(FOLDS * seconds)] if row.head == "small" else [Fit(seconds, row.reads)] * FOLDS
    return fits


def reading_s(constants: Constants, patients: int, reads: str) -> float:
    """Seconds of a core in which a worker reads what a row needs."""
    if not reads:
        return 0.0
    kind = "memory" if reads.startswith("attention") else "map"
    return (2 if reads.endswith("both") else 1) * patients * constants[f"fit.read_{kind}_s_per_entry"]


def worker_gib(constants: Constants, row: Row, patients: int) -> float:
    """Most memory of a trainer's worker that fits a row on the CPU."""
    if row.head == "small":
        return constants["fit.base_mib"] / 1024
    grown = constants[f"fit.{row.head}_mib_per_patient"] * row.modalities * patients
    return (constants["fit.base_mib"] + grown) / 1024


def crew_for_fits(constants: Constants, machine: Machine, rows: Sequence[Row], patients: int) -> Crew:
    """The trainer's workers on a machine: one a GPU, else one a core, but no more than its memory holds; perhaps none."""
    most = max(worker_gib(constants, row, patients) for row in rows)
    room = int(machine.cores * constants["machine.memory_gib_per_core"] / most)
    workers = min(machine.gpus or machine.cores, room)
    start_s, dispatch_s = constants["fit.worker_start_s"], constants["fit.dispatch_s"]
    efficiency = constants["machine.core_efficiency"]
    return Crew(workers, machine.cores, machine.gpus, start_s, dispatch_s, efficiency=efficiency)


def fitting(constants: Constants, fits: Sequence[Fit], crew: Crew, patients: int, rows: int) -> Simulated:
    """`trainer cv` or `study` from its start to its tables."""
    found = simulate_fits(fits, crew, lambda reads: reading_s(constants, patients, reads))
    alone_s = constants["fit.start_s"] + rows * constants["fit.finish_s_per_row"]
    return Simulated(found.wall_s + alone_s, found.core_s + alone_s, found.gpu_s)
