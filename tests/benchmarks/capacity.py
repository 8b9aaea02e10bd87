"""How long cohorts take on machines, and what they leave in a store: the tables of the capacity guide.

    python tests/benchmarks/capacity.py            # the tables, as Markdown
    python tests/benchmarks/capacity.py --write    # puts them into deploy/capacity.md

Constants stand in capacity_constants.json, each with its unit and how it was measured, or `assumed` and why.
`make bench ARGS=tests/benchmarks/test_capacity.py` measures them and holds the simulator against real runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import capacity_costs
from capacity_costs import COHORTS, MACHINES, Constants, Machine, Row, Study
from capacity_runs import THREADS, Simulated, StudyCost

GUIDE = Path(__file__).resolve().parents[2] / "deploy" / "capacity.md"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
"""Lines of the guide between which the tables stand."""
EPOCHS = 100
"""Of every fit: the paper's most; early stopping ends sooner."""
ONE_A_MACHINE = tuple({machine.name: machine for machine in MACHINES}.values())
FULL = 0.9
"""Of a resource's time, from which on it is what limits."""


def tables(constants: Constants) -> str:
    """Every table, with a heading each."""
    parts = {
        "Cost of a study": of_a_study(constants),
        "Extraction": of_extraction(constants),
        "The store": of_the_store(constants),
        "Cost of a fit": of_a_fit(constants),
        "Fits of the paper's study": of_fits(constants),
    }
    return "\n".join(f"### {title}\n\n{text}" for title, text in parts.items())


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def duration(seconds: float) -> str:
    """Two digits of the largest unit that leaves at least two, from seconds to years."""
    units = (("s", 1.0), ("min", 60.0), ("h", 3600.0), ("days", 86400.0), ("years", 365.25 * 86400))
    name, size = next(((name, size) for name, size in reversed(units) if seconds >= 2 * size), units[0])
    value = seconds / size
    return f"{value:.0f} {name}" if value >= 10 else f"{value:.1f} {name}"


def star(*, starred: bool) -> str:
    """What marks a figure that depends on an assumed rate."""
    return "*" if starred else ""


def gpu_assumed(constants: Constants) -> bool:
    """Whether the seconds of a GPU for a slice were not measured."""
    return any(constants.assumed(f"gpu.{name}_s_per_slice") for name in ("encoder", "stream"))


# Extraction


def of_a_study(constants: Constants) -> str:
    """Seconds, requests and bytes of the reference study."""
    study = Study.reference(constants)
    on_cores, on_gpu = (capacity_costs.study_cost(constants, study, model="medsam2", gpu=gpu) for gpu in (False, True))
    mark = star(starred=gpu_assumed(constants))
    requests = requests_of(constants, study)
    return table(
        ("of a study", "needs"),
        [
            ("loading", f"{on_cores.load_s:.0f} s of a core"),
            ("network on a core", f"{on_cores.network_s:.0f} s of a core"),
            ("network on a GPU", f"{on_gpu.network_s:.1f} s of a GPU{mark}"),
            ("writing", f"{on_cores.write_s:.2f} s of a core, {on_cores.write_wait_s:.2f} s of waiting"),
            ("requests", f"{requests:.0f}"),
            ("objects", f"{study.entries * constants['store.objects_per_entry']:.0f}"),
            ("bytes", f"{stored_mib(constants, study):.1f} MiB"),
        ],
    )


def requests_of(constants: Constants, study: Study) -> float:
    """Requests of writing a new study."""
    return study.entries * constants["store.requests_per_entry"]


def stored_mib(constants: Constants, study: Study) -> float:
    """What a study leaves in the store: entries, and masks and previews that grow with the image."""
    return (
        study.entries * constants["store.mib_per_entry"] + study.megavoxels * constants["store.mask_mib_per_megavoxel"]
    )


def of_extraction(constants: Constants) -> str:
    """Hours of whole runs."""
    rows = [_extraction(constants, patients, machine) for patients in COHORTS for machine in MACHINES]
    head = ("patients", "machine", "processes", "time", "cores busy", "GPUs busy", "limited by", "requests/s")
    return table(head, rows)


def _extraction(constants: Constants, patients: int, machine: Machine) -> tuple[str, ...]:
    study = Study.reference(constants)
    cost = capacity_costs.study_cost(constants, study, model="medsam2", gpu=machine.gpus > 0)
    costs = capacity_costs.spread(cost, patients, constants["study.variation"])
    found = capacity_costs.extraction(
        constants, costs, study.entries, capacity_costs.crew_for_studies(constants, machine)
    )
    mark = star(starred=machine.gpus > 0 and gpu_assumed(constants))
    rate = patients * requests_of(constants, study) / found.wall_s
    gpus = share(found.gpu_s, machine.gpus * found.wall_s) + mark if machine.gpus else ""
    return (
        f"{patients:,}",
        machine.name,
        machine.ways,
        duration(found.wall_s) + mark,
        share(found.core_s, machine.cores * found.wall_s) + mark,
        gpus,
        limit_of(found, machine, cost) + mark,
        f"{rate:.{1 if rate < 10 else 0}f}{mark}",
    )


def limit_of(found: Simulated, machine: Machine, cost: StudyCost) -> str:
    """What more of would make a run shorter."""
    if machine.gpus and found.gpu_s > FULL * machine.gpus * found.wall_s:
        return "GPUs"
    if not machine.gpus:
        return "cores"
    if found.core_s > FULL * (machine.cores - machine.gpus) * found.wall_s:
        return "cores (loading)"
    return "loading in each process" if _loads_too_slowly(machine, cost) else "start and last studies"


def _loads_too_slowly(machine: Machine, cost: StudyCost) -> bool:
    """Whether the processes of a GPU cannot load as fast as it embeds."""
    if machine.overlap == "threads":
        in_turn_s = cost.load_s + cost.network_s + cost.write_s + cost.write_wait_s
        return in_turn_s / THREADS / machine.processes_per_gpu > cost.network_s
    return cost.load_s / machine.processes_per_gpu > cost.network_s


def share(part: float, whole: float) -> str:
    """Percent; never more than all, which extrapolated times can miss by a little."""
    return f"{min(1.0, part / whole):.0%}"


def of_the_store(constants: Constants) -> str:
    """What a cohort leaves in the store, and what looking at it takes."""
    study = Study.reference(constants)
    rows = []
    for patients in COHORTS:
        entries = patients * study.entries
        objects = entries * constants["store.objects_per_entry"]
        rows.append(
            (
                f"{patients:,}",
                f"{entries:,.0f}",
                f"{objects:,.0f}",
                f"{patients * stored_mib(constants, study) / 1024:,.0f} GiB",
                f"{patients * requests_of(constants, study):,.0f}",
                f"{objects / capacity_costs.PAGE:,.0f}",
                duration(entries * constants["store.snapshot_s_per_entry"]),
                duration(entries * constants["store.catalogue_s_per_entry"]),
                duration(entries * constants["store.relook_s_per_entry"]),
            )
        )
    head = (
        "patients", "entries", "objects", "stored", "requests to write", "pages to list all objects",
        "first snapshots", "catalogue made", "catalogue looked at again",
    )  # fmt: skip
    return table(head, rows)


# Fits

KINDS = {"averaging": ("average",), "attention": ("attention",), "whole study": ("average", "attention", "small")}
"""Heads of the rows of the paper's study that are run together."""


def of_a_fit(constants: Constants) -> str:
    """Seconds and memory of single fits."""
    mark = star(starred=constants.assumed("gpu.average_s_per_patient_epoch"))
    rows = []
    for patients in COHORTS:
        for head, modalities in (("average", 1), ("average", 2), ("attention", 1), ("attention", 2)):
            row = Row(head, modalities)
            rows.append(
                (
                    f"{patients:,}",
                    head,
                    str(modalities),
                    duration(capacity_costs.fit_s(constants, row, patients, EPOCHS)),
                    duration(capacity_costs.fit_s(constants, row, patients, EPOCHS, gpu=True)) + mark,
                    f"{capacity_costs.worker_gib(constants, row, patients):.1f} GiB",
                )
            )
    return table(("patients", "head", "modalities", "a core", "a GPU", "memory of a worker on a CPU"), rows)


def of_fits(constants: Constants) -> str:
    """Hours of the paper's study."""
    rows = []
    for patients in COHORTS:
        for machine in ONE_A_MACHINE:
            cells = [_fits(constants, patients, machine, kind) for kind in KINDS]
            rows.append((f"{patients:,}", machine.name, *cells))
    return table(("patients", "machine", *(f"{kind} (workers)" for kind in KINDS)), rows)


def _fits(constants: Constants, patients: int, machine: Machine, kind: str) -> str:
    rows = [row for row in capacity_costs.paper_rows() if row.head in KINDS[kind]]
    crew = capacity_costs.crew_for_fits(constants, machine, rows, patients)
    if crew.workers == 0:
        most = max(capacity_costs.worker_gib(constants, row, patients) for row in rows)
        return f"no worker fits: {most:.0f} GiB"
    fits = capacity_costs.fits_of(constants, rows, patients, EPOCHS, gpu=machine.gpus > 0)
    found = capacity_costs.fitting(constants, fits, crew, patients, len(rows))
    mark = star(starred=machine.gpus > 0 and constants.assumed("gpu.average_s_per_patient_epoch"))
    return f"{duration(found.wall_s)}{mark} ({min(crew.workers, len(fits))})"


# The guide


def guide_with(text: str, made: str) -> str:
    """The guide with these tables between its marks.

    Raises
    ------
    ValueError
        If the marks are not there.
    """
    before, found, rest = text.partition(BEGIN)
    _, also_found, after = rest.partition(END)
    if not (found and also_found):
        raise ValueError(f"the guide has no lines {BEGIN!r} and {END!r}, between which its tables stand: put them back")
    return f"{before}{BEGIN}\n\n{made}\n{END}{after}"


def main() -> None:
    """Print the tables, or put them into the guide."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put them into deploy/capacity.md instead")
    made = tables(Constants.read())
    if parser.parse_args().write:
        GUIDE.write_text(guide_with(GUIDE.read_text(), made))
    else:
        print(made, end="")


if __name__ == "__main__":
    main()
