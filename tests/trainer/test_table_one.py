"""Table one of a table small enough to be counted by hand, in the results, as CSV and on the page."""

import csv
import io
import re

import pandas as pd
import pytest
from rich.console import Console

from trainer.dispatch import Workers
from trainer.plan import Inputs
from trainer.report.page import write_report
from trainer.results import parse_results
from trainer.run import cross_validate

# time, event, age, stage: 12 patients, 8 events; 3 without an age, 2 without a stage
ROWS = [
    (5, 1, 50, "I"), (6, 1, 52, "I"), (7, 1, 54, "I"), (8, 1, 56, "II"), (9, 1, 58, "II"), (10, 1, 60, "II"),
    (11, 1, 62, ""), (12, 1, 64, ""), (20, 0, 66, "III"), (30, 0, None, "I"), (40, 0, None, "II"), (50, 0, None, "II"),
]  # fmt: skip
COHORT = {"patients": 12, "studies": 12, "events": 8}
AGE = {"known": 9, "missing": 3, "missing_share": 0.25, "lower_quartile": 54, "median": 58, "upper_quartile": 62}
STAGE = {"known": 10, "missing": 2, "missing_share": 2 / 12}
LEVELS = {"I": 4, "II": 5, "III": 1}


@pytest.fixture(scope="module")
def run(shared_kit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("table-one")
    frame = pd.DataFrame(ROWS, columns=["months", "event", "age", "stage"])
    frame.insert(0, "patient", [f"P{row:02d}" for row in range(len(ROWS))])
    frame.to_csv(folder / "clinical.csv", index=False)
    config = shared_kit.parse(
        {
            **{name: shared_kit.settings[name] for name in ("columns", "permuted_control")},
            "splits": {"folds": 2},
            "models": [{"name": "cox", "kind": "ridge_cox"}],
        }
    )
    quiet = Console(file=io.StringIO())
    inputs = Inputs(folder / "clinical.csv", None)
    cross_validate(config, inputs, out=str(folder / "run"), workers=Workers(number=0), console=quiet)
    write_report(str(folder / "run"))
    return folder / "run"


@pytest.fixture
def lines(run):
    """Figures of the CSV file by what they are of."""
    found = {}
    for line in csv.DictReader(io.StringIO((run / "table_one.csv").read_text())):
        found.setdefault((line["of"], line["level"]), {})[line["figure"]] = float(line["value"] or "nan")
    return found


def test_the_results_have_what_is_missing_of_each_covariate_and_events_per_parameter(run):
    found = parse_results((run / "results.json").read_bytes(), where="").table_one
    assert {name: getattr(found, name) for name in COHORT} == COHORT
    age, stage = found.covariates
    assert {name: getattr(age, name) for name in AGE} == pytest.approx(AGE)
    assert {name: getattr(stage, name) for name in STAGE} == pytest.approx(STAGE)
    assert stage.levels == LEVELS
    # followed for good are four: reverse Kaplan-Meier falls to 3/4 at 20 months, and to 1/2 at 30
    assert found.median_follow_up == 30
    # age, and each level of stage with that of the missing ones: 1 + 4
    assert found.parameters == 5
    assert found.events_per_parameter == pytest.approx(8 / 5)


def test_the_csv_has_the_same_figures(lines):
    assert lines["cohort", ""] == pytest.approx({**COHORT, "median_follow_up_months": 30})
    assert lines["age", ""] == pytest.approx(AGE)
    assert lines["stage", ""] == pytest.approx(STAGE)
    assert {level: figures["count"] for (of, level), figures in lines.items() if of == "stage" and level} == LEVELS
    assert lines["linear model of the covariates", ""] == {"parameters": 5, "events_per_parameter": 1.6}


def test_the_page_has_them_too(run):
    page = (run / "report.html").read_text()
    table = page[page.index("The cohort that every model shares") :]
    cells = re.findall(r'<tr><th scope="row">(.*?)</th><td>(.*?)</td><td class="n">(.*?)</td></tr>', table)
    assert cells[:6] == [
        ("Patients", "12", ""),
        ("Events", "8 (67%)", ""),
        ("Median follow-up, months (reverse Kaplan–Meier)", "30.0", ""),
        ("age", "58 [54–62]", "3 (25%)"),
        ("stage", "I: 4, II: 5, III: 1", "2 (17%)"),
        ("Events per parameter (5 features of the covariates)", "1.6", ""),
    ]
    assert "<code>table_one.csv</code>" in page
