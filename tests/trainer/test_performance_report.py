"""Dask's report of a run: what is on it and what is not, also of a run that fails, and what is refused."""

import contextlib
import json
import re
import sys

import pytest
from distributed import LocalCluster

from store_schema import create_store
from store_schema.errors import UsageError
from trainer.dispatch import Outcome, Workers, run_tasks
from trainer.jobs import first_jobs
from trainer.performance_report import PerformanceReport
from trainer.plan import Inputs, make_plan
from trainer.run_folder import RunFolder
from trainer.run_record import keep_plan

COMPONENTS = "distributed.dashboard.components.scheduler"


@pytest.fixture
def drawn():
    pytest.importorskip("bokeh", reason="bokeh draws the report and is not installed: install engram[trainer]")


@pytest.fixture
def planned(kit, tmp_path):
    """The tasks of a small run of patients who are called by names."""
    table = kit.draw(40)
    table["patient"] = [f"KOWALSKA-{row:03d}" for row in range(40)]
    kit.fill(create_store(tmp_path / "store"), table)
    table.drop(columns=["z", "log_hazard"]).to_csv(tmp_path / "clinical.csv", index=False)
    plan = make_plan(kit.parse(kit.settings), Inputs(tmp_path / "clinical.csv", str(tmp_path / "store")))
    folder = RunFolder.open(str(tmp_path / "run"))
    keep_plan(plan, folder)
    return plan.tasks(first_jobs(plan.config, permutations=plan.splits, folds=3), folder.url)


@pytest.fixture
def cluster():
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=40) as made:
        yield made


def ignore(outcome: Outcome) -> None:
    """The outcomes that `run_tasks` gives are enough."""


def shown(path) -> str:
    """What the page shows, without the programs that draw it."""
    text = path.read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, flags=re.DOTALL)
    assert json.loads(data)
    return data


@pytest.mark.usefixtures("drawn")
def test_the_report_shows_every_task_by_its_digest_and_no_patient_and_needs_no_network(planned, tmp_path):
    file = tmp_path / "report.html"
    broken = planned[0].model_copy(update={"cohort_sha256": "0" * 64})
    outcomes = run_tasks((*planned, broken), Workers(number=1, report=PerformanceReport(file)), on_done=ignore)
    assert [outcome.error is None for outcome in outcomes] == [True] * len(planned) + [False]
    text = file.read_text(encoding="utf-8")
    assert "Dask Performance Report" in text
    assert not re.search(r'<script[^>]* src="http', text)
    assert f"number of tasks: {len(planned) + 1}" in shown(file)
    assert all(task.id in shown(file) for task in planned)
    assert "KOWALSKA" not in text
    assert [one.name for one in tmp_path.iterdir() if "report" in one.name] == ["report.html"]


@pytest.mark.usefixtures("drawn")
def test_a_run_that_fails_in_the_middle_has_its_report_and_its_own_error_and_the_next_set_another_file(
    planned, cluster, tmp_path
):
    file = tmp_path / "report.html"
    workers = Workers(scheduler=cluster.scheduler_address, report=PerformanceReport(file))

    def stop(outcome: Outcome) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        run_tasks(planned[:2], workers, on_done=stop)
    assert "number of tasks: " in shown(file)
    run_tasks(planned[2:3], workers, on_done=ignore)
    assert planned[2].id in shown(tmp_path / "report-2.html")
    assert planned[2].id not in shown(file)


def test_a_scheduler_without_bokeh_is_refused_before_anything_is_done(planned, cluster, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, COMPONENTS, None)
    workers = Workers(scheduler=cluster.scheduler_address, report=PerformanceReport(tmp_path / "report.html"))
    with pytest.raises(UsageError, match=r"drawn by the scheduler with bokeh, and it cannot .*: install bokeh there"):
        run_tasks(planned[:1], workers, on_done=ignore)
    assert not list((tmp_path / "run").rglob(f"*{planned[0].id}*"))


@pytest.fixture
def standing():
    """A client whose scheduler answers until tasks are done, and no more."""

    class Standing:
        def __init__(self):
            self.asked = []

        def run_on_scheduler(self, _function, *, callback_timeout):
            assert callback_timeout

        def as_current(self):
            return contextlib.nullcontext()

        def sync(self, function, *_args, callback_timeout, **_options):
            assert callback_timeout
            self.asked.append(function.__name__)
            if function.__name__ == "__aexit__":
                raise TimeoutError("timed out after 120 s.")

    return Standing()


def test_a_report_that_cannot_be_made_is_a_warning_and_takes_the_place_of_nothing(standing, tmp_path, caplog):
    report = PerformanceReport(tmp_path / "report.html")
    with report.of(standing):
        made = "results"
    assert made
    with pytest.raises(KeyError, match="enough"), report.of(standing):
        raise KeyError("enough")
    assert standing.asked == ["__aenter__", "__aexit__"] * 2
    assert caplog.text.count("was not written: TimeoutError: timed out after 120 s.. What the tasks made is kept") == 2
    assert not list(tmp_path.iterdir())


def test_this_process_alone_has_no_report(tmp_path):
    with pytest.raises(UsageError, match="with --workers 0 everything is done in this process, without Dask"):
        Workers(number=0, report=PerformanceReport(tmp_path / "report.html"))


def test_a_report_in_a_folder_that_is_not_there_is_refused(tmp_path):
    for place in (tmp_path / "away" / "report.html", tmp_path):
        with pytest.raises(UsageError, match="expected a file in a folder that is there"):
            PerformanceReport(place)
