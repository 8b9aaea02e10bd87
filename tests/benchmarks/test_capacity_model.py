"""The simulator of the capacity guide against closed forms, its constants' records, and its tables in the guide."""

import math
from dataclasses import replace

import pytest
from capacity import END, GUIDE, guide_with, of_a_fit, of_a_study, tables
from capacity_costs import (
    LINEAR_FROM,
    MACHINES,
    Constants,
    Machine,
    Row,
    Study,
    crew_for_fits,
    embedding,
    fits_of,
    fitting,
    paper_rows,
    spread,
    study_cost,
    worker_gib,
)
from capacity_engine import Lock, Resource, Simulation, Use
from capacity_keeping import kept
from capacity_runs import Crew, Fit, StudyCost, simulate_fits, simulate_studies

STUDY = StudyCost(load_s=2.0, network_s=5.0, write_s=1.0)
CONSTANTS = Constants.read()


# The engine


def test_two_that_share_one_core_take_twice_as_long():
    simulation = Simulation()
    core, ends = simulation.resource(1), []

    def work(seconds):
        yield Use(core, seconds)
        ends.append(simulation.now)

    simulation.start(work(1.0))
    simulation.start(work(3.0))
    assert simulation.run() == pytest.approx(4.0)
    assert ends == pytest.approx([2.0, 4.0]), "one second each is done after two, then the other has the core alone"
    assert core.busy_s == pytest.approx(4.0)


def test_what_only_waits_hinders_nobody():
    simulation = Simulation()
    disk = simulation.resource(math.inf)
    for _ in range(5):
        simulation.start(iter([Use(disk, 3.0)]))
    assert simulation.run() == pytest.approx(3.0)


def test_a_lock_is_given_in_the_order_of_asking():
    simulation, lock, order = Simulation(), Lock(), []
    core = simulation.resource(4)

    def work(name):
        yield lock
        yield Use(core, 1.0)
        order.append(name)
        simulation.release(lock)

    for name in "abc":
        simulation.start(work(name))
    assert simulation.run() == pytest.approx(3.0)
    assert order == list("abc")


def test_a_resource_that_can_do_nothing_is_refused():
    with pytest.raises(ValueError, match="more than 0"):
        Resource(0)


# Fits


def test_one_worker_takes_the_sum_of_the_fits():
    times = [3.0, 1.0, 4.0, 1.5]
    assert simulate_fits([Fit(t) for t in times], Crew(1, 8)).wall_s == pytest.approx(sum(times))


@pytest.mark.parametrize(("fits", "workers"), [(10, 3), (12, 4), (1, 8), (155, 128)])
def test_equal_workers_do_equal_fits_in_rounds(fits, workers):
    found = simulate_fits([Fit(2.0)] * fits, Crew(workers, 128))
    assert found.wall_s == pytest.approx(math.ceil(fits / workers) * 2.0)
    assert found.core_s == pytest.approx(fits * 2.0)


def test_more_workers_than_cores_gain_nothing():
    assert simulate_fits([Fit(2.0)] * 8, Crew(8, 2)).wall_s == pytest.approx(8.0)


def test_workers_that_hinder_each_other_keep_their_cores_busy_for_longer():
    found = simulate_fits([Fit(2.0)] * 2, Crew(2, 2, efficiency=0.8))
    assert found.wall_s == pytest.approx(2.5)
    assert found.core_s == pytest.approx(5.0)


def test_a_worker_starts_once_and_reads_each_thing_once():
    fits = [Fit(1.0, "a"), Fit(1.0, "b"), Fit(1.0, "a")]
    assert simulate_fits(fits, Crew(1, 1, start_s=7.0), lambda _: 0.5).wall_s == pytest.approx(7 + 2 * 0.5 + 3)


def test_one_that_hands_out_tasks_bounds_many_workers():
    found = simulate_fits([Fit(0.01)] * 1000, Crew(64, 64, dispatch_s=0.005))
    assert found.wall_s == pytest.approx(1000 * 0.005, rel=0.01)


def test_the_longest_fit_at_the_end_is_waited_for():
    assert simulate_fits([Fit(1.0)] * 4 + [Fit(10.0)], Crew(2, 2)).wall_s == pytest.approx(12.0)


# Extraction


def test_one_process_on_a_gpu_is_bound_by_its_slowest_stage():
    found = simulate_studies([STUDY] * 20, Crew(1, 16, gpus=1))
    assert found.wall_s == pytest.approx(2.0 + 20 * 5.0 + 1.0), (
        "the first is loaded and the last written beside nothing"
    )
    assert found.gpu_s == pytest.approx(100.0)


@pytest.mark.parametrize("slow", ["load_s", "write_s"])
def test_a_stage_slower_than_the_gpu_sets_the_rate(slow):
    study = replace(STUDY, **{slow: 9.0})
    assert simulate_studies([study] * 20, Crew(1, 16, gpus=1)).wall_s == pytest.approx(20 * 9.0, rel=0.06)


def test_one_process_on_one_core_takes_the_sum_of_all_stages():
    assert simulate_studies([STUDY] * 20, Crew(1, 1)).wall_s == pytest.approx(20 * 8.0)


def test_processes_on_cores_share_the_work():
    found = simulate_studies([STUDY] * 400, Crew(4, 4))
    assert found.core_s == pytest.approx(400 * 8.0)
    assert found.wall_s == pytest.approx(400 * 8.0 / 4, rel=0.02)


def test_no_fourth_study_is_loaded_while_one_is_written():
    """Writing takes so long that loading and network wait for it: the first is out at 8 + 100, then one each 100 s."""
    slow = replace(STUDY, write_s=100.0)
    assert simulate_studies([slow] * 3, Crew(1, 16, gpus=1)).wall_s == pytest.approx(2 + 5 + 300)


def test_several_processes_a_gpu_load_for_it_side_by_side():
    study = replace(STUDY, load_s=15.0)
    alone, four = (simulate_studies([study] * 200, Crew(n, 16, gpus=1)).wall_s for n in (1, 4))
    assert alone == pytest.approx(200 * 15.0, rel=0.02)
    assert four == pytest.approx(200 * 5.0, rel=0.05)


def test_threads_of_a_dask_worker_hold_the_network_one_at_a_time():
    found = simulate_studies([STUDY] * 60, Crew(1, 16, gpus=1, overlap="threads"))
    assert found.wall_s == pytest.approx(2 + 60 * 5.0 + 1, rel=0.01)


def test_waiting_for_the_store_costs_no_core():
    study = replace(STUDY, write_wait_s=1.0)
    assert simulate_studies([study] * 10, Crew(1, 4)).core_s == pytest.approx(10 * 8.0)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: f"{machine.name} {machine.ways}")
def test_beyond_some_thousand_studies_time_goes_on_as_the_whole_simulation_says(machine):
    cost = study_cost(CONSTANTS, Study.reference(CONSTANTS), model="medsam2", gpu=machine.gpus > 0)
    costs = spread(cost, 2 * LINEAR_FROM, 0.25)
    crew = Crew(machine.extractors, machine.cores, machine.gpus, overlap=machine.overlap)
    assert embedding(costs, crew).wall_s == pytest.approx(simulate_studies(costs, crew).wall_s, rel=0.03)


# Costs


def test_the_papers_study_has_31_rows_and_155_fits():
    rows = paper_rows()
    assert len(rows) == 31
    assert [sum(row.head == head for row in rows) for head in ("average", "attention", "small")] == [14, 8, 9]
    assert len(fits_of(CONSTANTS, rows, 227, 100)) == 22 * 5 + 9


def test_sizes_of_studies_have_the_mean_and_variation_asked_for():
    costs = spread(STUDY, 5000, 0.25)
    mean = sum(cost.network_s for cost in costs) / len(costs)
    variation = math.sqrt(sum((cost.network_s - mean) ** 2 for cost in costs) / len(costs)) / mean
    assert (mean, variation) == (pytest.approx(5.0, rel=0.02), pytest.approx(0.25, rel=0.05))
    assert costs == spread(STUDY, 5000, 0.25)


def test_memory_bounds_the_workers_of_a_machine():
    machine = Machine("one", 128)
    rows = [Row("average", 2)]
    few = crew_for_fits(CONSTANTS, machine, rows, 227).workers
    many = crew_for_fits(CONSTANTS, machine, rows, 100_000).workers
    held = many * worker_gib(CONSTANTS, rows[0], 100_000)
    assert few == 128
    assert many < few
    assert held <= 128 * CONSTANTS["machine.memory_gib_per_core"]


# Runs that were measured on quiet cores, RESULTS.md: within a fifth


def test_the_full_network_overlapped_with_loading_and_writing():
    """2026-11-25, three real patients: 0.71 s, 64.87 s and 1.66 s alone, 66.71 s overlapped in one process."""
    study = StudyCost(load_s=0.71 / 3, network_s=64.87 / 3, write_s=1.66 / 3)
    assert simulate_studies([study] * 3, Crew(1, 2)).wall_s == pytest.approx(66.71, rel=0.2)


def test_five_and_ten_fits_by_two_workers_as_one_worker_takes():
    """2026-11-30: one worker five fits in 15.6 s and ten in 30.8; two workers 10.0 and 16.5."""
    two = Crew(2, 2)
    assert simulate_fits([Fit(15.6 / 5)] * 5, two).wall_s == pytest.approx(10.0, rel=0.2)
    assert simulate_fits([Fit(30.8 / 10)] * 10, two).wall_s == pytest.approx(16.5, rel=0.2)


def test_the_papers_study_from_the_committed_constants():
    """2026-11-30: 155 fits of 227 patients, 20 epochs, two workers, 9.4 min by the clock."""
    rows = paper_rows()
    crew = crew_for_fits(CONSTANTS, Machine("quiet", 2), rows, 227)
    said = fitting(CONSTANTS, fits_of(CONSTANTS, rows, 227, 20), crew, 227, len(rows))
    assert said.wall_s / 60 == pytest.approx(9.4, rel=0.2)


# Constants and guide


def test_every_constant_says_how_it_was_measured_or_why_it_is_assumed():
    for name, entry in CONSTANTS.entries.items():
        assert isinstance(entry["value"], int | float), name
        assert entry["unit"], name
        if CONSTANTS.assumed(name):
            assert entry["reason"], name
        else:
            assert all(entry[key] for key in ("how", "command", "date", "device")), name


def test_a_measured_value_takes_the_place_of_an_assumed_one_and_keeps_its_unit():
    name = "gpu.encoder_s_per_slice"
    unit = CONSTANTS.entries[name]["unit"]
    found = kept(CONSTANTS, {name: 0.0012345678}, how="measured", command="a command", device="a GPU").entries[name]
    assert (found["value"], found["unit"], found["device"]) == (0.001235, unit, "a GPU")
    assert "assumed" not in found


@pytest.fixture(scope="module")
def made() -> str:
    return tables(CONSTANTS)


def test_figures_that_depend_on_an_assumed_rate_are_marked_until_it_is_measured(made):
    names = [name for name in CONSTANTS.entries if name.startswith("gpu.")]
    measured = kept(CONSTANTS, dict.fromkeys(names, 0.005), how="measured", command="a command")
    assert ("*" in made) == any(CONSTANTS.assumed(name) for name in names)
    assert "*" not in of_a_study(measured) + of_a_fit(measured)


def test_the_guide_holds_the_tables_that_the_committed_constants_give(made):
    text = GUIDE.read_text()
    assert text == guide_with(text, made), "run `python tests/benchmarks/capacity.py --write`"


def test_a_guide_without_its_marks_is_refused():
    with pytest.raises(ValueError, match="put them back"):
        guide_with(GUIDE.read_text().replace(END, ""), "")
