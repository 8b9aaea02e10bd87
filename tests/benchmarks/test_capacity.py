"""Measures the constants of the capacity guide, and holds the simulator against other real runs; nothing is asserted of times.

    make bench ARGS=tests/benchmarks/test_capacity.py
    ENGRAM_CAPACITY_WRITE=1 make bench ARGS=tests/benchmarks/test_capacity.py                    # rewrites capacity_constants.json
    ENGRAM_BENCH_DEVICE=cuda ENGRAM_CAPACITY_WRITE=1 make bench ARGS="tests/benchmarks/test_capacity.py -k gpu"    # on a GPU

`python tests/benchmarks/capacity_gpu.py --device cuda --write` does the last without pytest. As root `nice -n -10` keeps other work
away from the cores. Predictions come from constants of the same run, so that they do not depend on the committed ones.
"""

import json
import os
from collections import Counter
from pathlib import Path

import capacity_measure as measure
import pandas as pd
import pytest
from capacity_costs import (
    CONSTANTS,
    FOLDS,
    TRAINING_PART,
    Constants,
    Machine,
    Row,
    Study,
    crew_for_fits,
    crew_for_studies,
    extraction,
    fits_of,
    fitting,
    paper_rows,
    study_cost,
)
from capacity_gpu import gpu_constants
from capacity_keeping import kept

from extractor.config import ExtractConfig
from store_schema import open_store
from store_schema.testing.proxy import FaultProxy

pytestmark = [pytest.mark.bench, pytest.mark.timeout(7200)]
DEVICE = os.environ.get("ENGRAM_BENCH_DEVICE", "cpu")
WRITE = os.environ.get("ENGRAM_CAPACITY_WRITE") == "1"
HERE = Machine("here", 2)
SMALL, LARGE, CHECKED = 60, 120, 227
"""Patients of the cohorts that give the constants of fits, and of the one that they are held against."""
BIG_SLICES = 200
"""Of the study that tells how loading grows with the image."""
FEW, SOME, CHECKED_EPOCHS = 2, 8, 12
"""Epochs of the fits that give them, and of those that they are held against."""


def keep(values: dict[str, float], how: str) -> Constants:
    """The committed constants with these in their place, which are written where that is asked for; prints them."""
    constants = kept(Constants.read(), values, how=how, command="make bench ARGS=tests/benchmarks/test_capacity.py")
    for name, value in values.items():
        print(f"  {name} = {value:.6g} {constants.entries[name]['unit']}")
    if WRITE:
        CONSTANTS.write_text(json.dumps(constants.entries, indent=2, ensure_ascii=False) + "\n")
    return constants


def tell(what: str, predicted: float, measured: float, unit: str = "s") -> None:
    print(
        f"  {what}: predicted {predicted:.1f} {unit}, measured {measured:.1f} {unit}, ratio {predicted / measured:.2f}"
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("capacity")


@pytest.fixture(scope="module")
def table(folder) -> Path:
    """Sixteen synthetic patients: four for the constants, twelve to be predicted."""
    return measure.phantoms(folder / "phantoms", 16)


def predicted_extraction(constants: Constants, model: str, study: Study, studies: int):
    """What `extractor run --jobs 2` is said to take in a folder."""
    cost = study_cost(constants, study, model=model, store="folder")
    crew = crew_for_studies(constants, HERE, model=model)
    return extraction(constants, [cost] * studies, study.entries, crew, model=model)


def study_of(table: Path, config: ExtractConfig, folder: Path) -> Study:
    """How large the studies of a table are on average."""
    tasks, spec, _ = measure.prepared(table, config, folder)
    load = measure.worker(spec)
    slices = measure.slices_of([load(task) for task in tasks])
    return Study(measure.megavoxels(table), slices.encoded, slices.streamed, 2 * measure.REGIONS * 4)


def test_extraction_of_small_networks(table, folder):
    config = measure.settings("mini", 2)
    checked = ExtractConfig.model_validate(config)
    four = measure.part_of(table, 0, 4)
    small = measure.stages_of(four, checked, folder / "four")
    big_table = measure.enlarged(table, folder / "big", BIG_SLICES)
    big = measure.stages_of(big_table, checked, folder / "large")
    here, there = measure.megavoxels(four), measure.megavoxels(big_table)
    slope = (big.load.cpu_s - small.load.cpu_s) / (there - here)
    encoder, stream, start = measure.slice_costs("mini", slices=(20, 40))
    streams = 2 * measure.REGIONS
    scale = small.embed.cpu_s / (small.slices.encoded * encoder + small.slices.streamed * stream + streams * start)
    _, spec, _ = measure.prepared(four, checked, folder / "spec")
    print()
    constants = keep(
        {
            "load.s_per_megavoxel": slope,
            "load.s_per_study": small.load.cpu_s - slope * here,
            "mini.encoder_s_per_slice": encoder * scale,
            "mini.stream_s_per_slice": stream * scale,
            "mini.stream_s_per_stream": start * scale,
            "write.folder_core_s_per_entry": small.write.cpu_s / small.entries,
            "write.folder_wait_s_per_entry": small.write.wait_s / small.entries,
            "store.mask_mib_per_megavoxel": (big.stored_bytes - small.stored_bytes) / (there - here) / 2**20,
            "store.objects_per_entry": small.stored_objects / small.entries,
            "mini.worker_start_s": measure.worker_start_s(spec, folder),
            "mini.run_start_s": measure.run_start_s(four, config, str(folder / "dry")),
        },
        how="four synthetic studies and one of 512 × 512 × 200 voxels, stage by stage, one thread, CPU time",
    )
    twelve, denser = measure.part_of(table, 4, 16), measure.settings("mini", 1)
    study = study_of(twelve, ExtractConfig.model_validate(denser), folder / "counted")
    found = measure.extract(twelve, denser, str(folder / "run"), "--jobs", "2")
    said = predicted_extraction(constants, "mini", study, 12)
    tell("12 other studies at stride 1, --jobs 2, mini: wall", said.wall_s, found.wall_s)
    tell("the same, CPU of all processes", said.core_s, found.cpu_s)


def test_extraction_of_the_full_architecture(table, folder):
    config = measure.settings("medsam2", 8)
    checked = ExtractConfig.model_validate(config)
    encoder, stream, start = measure.slice_costs("medsam2")
    one = measure.part_of(table, 0, 1)
    stages = measure.stages_of(one, checked, folder / "full")
    _, spec, _ = measure.prepared(one, checked, folder / "full-spec")
    masks = measure.megavoxels(one) * Constants.read()["store.mask_mib_per_megavoxel"]
    print()
    constants = keep(
        {
            "medsam2.encoder_s_per_slice": encoder,
            "medsam2.stream_s_per_slice": stream,
            "medsam2.stream_s_per_stream": start,
            "store.mib_per_entry": (stages.stored_bytes / 2**20 - masks) / stages.entries,
            "medsam2.worker_start_s": measure.worker_start_s(spec, folder),
            "medsam2.run_start_s": measure.run_start_s(one, config, str(folder / "full-dry")),
        },
        how="volumes of 8 and 14 slices with two streams, every layout, one thread, CPU time: the difference; one study's bytes",
    )
    others = measure.part_of(table, 4, 6)
    study = study_of(others, checked, folder / "full-counted")
    found = measure.extract(others, config, str(folder / "full-run"), "--jobs", "2")
    said = predicted_extraction(constants, "medsam2", study, 2)
    tell(f"2 studies of {study.encoded_slices:.0f} encoded slices, --jobs 2, medsam2: wall", said.wall_s, found.wall_s)
    tell("the same, CPU of all processes", said.core_s, found.cpu_s)


def test_requests_of_extraction(table, s3_server, s3_url, monkeypatch):
    config, counts = measure.settings("mini", 8), {}
    for first, last in ((0, 1), (1, 4), (4, 9)):
        with FaultProxy(s3_server.endpoint) as proxy, monkeypatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", proxy.url)
            measure.extract(measure.part_of(table, first, last), config, f"{s3_url}/{first}", "--jobs", "1")
            counts[last - first] = Counter(proxy.requests)
    asked = {studies: sum(one.values()) for studies, one in counts.items()}
    entries = 2 * measure.REGIONS * 4
    slope = (asked[3] - asked[1]) / 2 / entries
    print(f"\n  {counts}")
    keep(
        {"store.requests_per_entry": slope, "store.requests_per_run": asked[1] - slope * entries},
        how="`extractor run` of one and of three studies into an S3 server, counted by a proxy: the difference",
    )
    tell("5 other studies", asked[1] + 4 * slope * entries, asked[5], "requests")


def test_fits(folder):
    """The cohort of a third size is predicted from the two others."""
    cohorts = {n: measure.planted(folder / f"cohort{n}", n) for n in (SMALL, LARGE, CHECKED)}
    small = cohorts[SMALL]
    read = measure.reading_costs(small, folder / "reading")
    values = {"fit.read_map_s_per_entry": read[0], "fit.read_memory_s_per_entry": read[1]}
    fixed = {}
    for head in ("average", "attention"):
        each, around, peak = {}, {}, {}
        for n in (SMALL, LARGE):
            few, many = (
                measure.fit_s(cohorts[n], head, epochs, folder / f"{head}{epochs}-{n}") for epochs in (FEW, SOME)
            )
            each[n] = (many - few) / (SOME - FEW)
            around[n] = few - FEW * each[n]
            peak[n] = measure.fit_peak_mib(cohorts[n], head, folder / f"peak-{head}-{n}")
        more = (LARGE - SMALL) * TRAINING_PART
        slope = max(0.0, around[LARGE] - around[SMALL]) / more
        grown = (peak[LARGE] - peak[SMALL]) / (LARGE - SMALL)
        fixed[head] = max(0.0, around[SMALL] - slope * SMALL * TRAINING_PART)
        values |= {
            f"fit.{head}_s_per_patient_epoch": each[LARGE] / LARGE / TRAINING_PART,
            f"fit.{head}_s_per_patient": slope,
            f"fit.{head}_mib_per_patient": grown,
        }
        values["fit.base_mib"] = max(values.get("fit.base_mib", 0.0), peak[SMALL] - SMALL * grown)
    few, many = (measure.fit_s(small, "vector", epochs, folder / f"vector{epochs}") for epochs in (FEW, SOME))
    started, dispatch = measure.dispatch_costs(small, folder / "dispatch")
    start, row_s = _ends(small, folder)
    values |= {
        "fit.fixed_s": sum(fixed.values()) / len(fixed),
        "fit.small_s_per_patient_epoch": (many - few) / (SOME - FEW) / SMALL / TRAINING_PART,
        "fit.worker_start_s": started,
        "fit.dispatch_s": dispatch,
        "fit.start_s": start,
        "fit.finish_s_per_row": row_s,
        "extract.finish_s_per_entry": measure.finishing_s(open_store(str(small / "store"))),
        "machine.core_efficiency": measure.core_efficiency(small, folder),
    }
    print()
    constants = keep(
        values, how=f"{SMALL} and {LARGE} patients with planted memories, {FEW} and {SOME} epochs, one thread, CPU time"
    )
    _check_fits(constants, cohorts[CHECKED], folder)


def _ends(data: Path, folder: Path) -> tuple[float, float]:
    """CPU seconds of `trainer cv` around its fits, and for each row of results: by runs that are done already."""
    rows = [measure.image_model(h, ["PET"], roi) for h in measure.HEADS for roi in ("spine_dilated", "skeleton")]
    again = {}
    for number in (1, len(rows)):
        settings, run = measure.cv_settings(rows[:number], 1), folder / f"again{number}"
        measure.cross_validate(data, settings, run, "--workers", "0")
        again[number] = min(measure.cross_validate(data, settings, run, "--workers", "0").cpu_s for _ in range(2))
    row_s = max(0.0, again[len(rows)] - again[1]) / (len(rows) - 1)
    return again[1] - row_s, row_s


def _check_fits(constants: Constants, data: Path, folder: Path) -> None:
    patients, epochs = len(pd.read_csv(data / "clinical.csv")), CHECKED_EPOCHS
    given = [("average", ["PET"]), ("average", ["PET", "CT"]), ("attention", ["PET"]), ("vector", ["CT"])]
    models = [measure.image_model(head, origins) for head, origins in given]
    found = measure.cross_validate(data, measure.cv_settings(models, epochs), folder / "check", "--workers", "2")
    rows = [
        Row(head, len(origins), f"{head} spine {'both' if len(origins) > 1 else 'PET'}")
        if head != "vector"
        else Row("small")
        for head, origins in given
    ]
    fits = fits_of(constants, rows, patients, epochs)
    said = fitting(constants, fits, crew_for_fits(constants, HERE, rows, patients), patients, len(rows))
    what = f"{len(rows)} rows × {FOLDS} folds, {patients} patients, {epochs} epochs, --workers 2"
    tell(f"{what}: wall", said.wall_s, found.wall_s)
    tell("the same, CPU of all processes", said.core_s, found.cpu_s)


def test_the_papers_study_as_it_was_measured_before():
    """RESULTS.md, 2026-11-30: 155 fits, 227 patients, 20 epochs, two quiet cores, 9.4 min by the clock."""
    constants = Constants.read()
    rows = paper_rows()
    said = fitting(
        constants, fits_of(constants, rows, 227, 20), crew_for_fits(constants, HERE, rows, 227), 227, len(rows)
    )
    print()
    tell("the paper's study, 20 epochs, two cores", said.wall_s / 60, 9.4, "min")


@pytest.mark.skipif(not DEVICE.startswith("cuda"), reason="ENGRAM_BENCH_DEVICE names no CUDA device")
def test_seconds_of_a_gpu():
    print()
    keep(gpu_constants(DEVICE), how=f"as on a CPU, the GPU waited for at the end of each stage; {DEVICE}")
