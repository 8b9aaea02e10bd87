"""Measures of a run's rows, against scikit-survival on the run's own folds, and the lines and checklists made of a run."""

import csv
import io
import json
import re

import numpy as np
import pytest
from rich.console import Console
from sksurv.metrics import concordance_index_ipcw
from sksurv.util import Surv

from store_schema.errors import SchemaError
from trainer.dispatch import Workers
from trainer.plan import Inputs
from trainer.report.checklists import CLEAR, TRIPOD_AI, checklists
from trainer.report.page import write_report
from trainer.report.reading import read_run
from trainer.row_measures import COLUMNS, parse_measures
from trainer.run import cross_validate


@pytest.fixture
def done(config, cohort_folder, tmp_path):
    inputs = Inputs(cohort_folder / "clinical.csv", str(cohort_folder / "store"))
    console = Console(file=io.StringIO())
    return cross_validate(config(), inputs, out=str(tmp_path / "run"), workers=Workers(number=0), console=console)


def test_unos_c_of_each_fold_is_scikit_survivals_with_the_folds_own_training_part(done):
    run = read_run(done.folder)
    measures = run.measures["cox"]
    cohort, splits = run.cohort, run.splits
    for result, found in zip(run.of("cox"), measures.uno_c_of_folds, strict=True):
        test, train = cohort.rows(result.patients), cohort.rows(splits.fold(result.fold).train)
        outcomes = [Surv.from_arrays(cohort.event[rows], cohort.time[rows]) for rows in (train, test)]
        expected = concordance_index_ipcw(*outcomes, np.array(result.log_risk), tau=measures.tau, tied_tol=0)[0]
        assert found == pytest.approx(expected, abs=1e-9)


def test_the_pooled_c_of_the_measures_is_that_of_the_table(done):
    for row in done.results.of_kind("model"):
        assert read_run(done.folder).measures[row.label].pooled_c.value == pytest.approx(row.pooled_c)


def test_every_measure_is_a_line_with_a_figure_or_a_reason(done):
    lines = list(csv.DictReader(io.StringIO((done.folder.read("measures.csv") or b"").decode())))
    assert tuple(lines[0]) == COLUMNS
    assert {line["row"] for line in lines} == {"cox", "image"}
    assert {"uno_c", "ibs_scaled", "auc", "calibration_observed", "net_benefit"} <= {line["measure"] for line in lines}
    silent = [line for line in lines if not line["value"] and not line["reason"]]
    assert {line["measure"] for line in silent} <= {"calibration_observed", "net_benefit"}


def test_measures_that_are_something_else_are_refused():
    with pytest.raises(SchemaError, match="is not a run's measures"):
        parse_measures(b"[]", where="measures.json")


def test_the_checklists_have_all_their_items_and_leave_to_a_person_what_no_run_can_say(done):
    tripod, clear = checklists(read_run(done.folder))
    assert {int("".join(filter(str.isdigit, number))) for number, *_ in TRIPOD_AI} == set(range(1, 28))
    assert [int(number) for number, *_ in CLEAR] == list(range(1, 59))
    for checklist in (tripod, clear):
        open_items = {item.topic for item in checklist.items if not item.answer}
        assert {"Approval and consent", "Ethics"} & open_items
        assert 0 < checklist.filled < len(checklist.items)
    flow = next(item for item in tripod.items if item.number == "6b")
    assert flow.answer.startswith("40 in the table, 40 analysed")


def test_every_interval_says_that_it_is_conditional_on_the_fitted_models(done):
    record = json.loads(done.folder.read("measures.json") or b"")
    assert {found["intervals"] for found in record.values()} == {"conditional on the fitted models"}
    lines = list(csv.DictReader(io.StringIO((done.folder.read("measures.csv") or b"").decode())))
    assert {line["interval"] for line in lines if not line["low"]} == {""}
    told = {measure: {line["interval"] for line in lines if line["measure"] == measure and line["low"]} for measure in (
        "pooled_c", "c", "calibration_slope", "observed"
    )}  # fmt: skip
    drawn = {"95%, bootstrap over persons, conditional on the fitted models"}
    assert told["pooled_c"] == told["c"] == drawn
    assert told["calibration_slope"] == told["observed"] == {"95%, conditional on the fitted models"}


def test_the_page_says_so_beside_every_bootstrap_interval(done):
    write_report(done.folder.url)
    page = (done.folder.read("report.html") or b"").decode()
    tables = [table for table in page.split("<table")[1:] if re.search(r"pooled c \[95%|>c \[95%", table)]
    assert len(tables) == 2
    for table in tables:
        caption = re.sub(r"\s+", " ", table.partition("</caption>")[0])
        assert "bootstrap interval over persons, conditional on the fitted models" in caption
        assert "c [95%, conditional]" in table
    measures = read_run(done.folder).measures["cox"].pooled_c
    assert f"{measures.value:.3f} [{measures.low:.3f} to {measures.high:.3f}]" in tables[0]
