"""Runs on cohorts and folds of another kind: competing events, centres left out, permutations that nobody asked for."""

import csv
import io

import fsspec
import numpy as np
import pytest

from trainer.report.page import write_report
from trainer.run import CvReport


def lines(report: CvReport, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((report.folder.read(name) or b"").decode())))


def compete(frame):
    """Every third event becomes another one that rules the first out."""
    events = frame.index[frame["event"] == 1]
    frame.loc[events[::3], "event"] = 2


def test_competing_events_end_follow_up_for_models_and_have_incidences_of_their_own(cv, table, config):
    columns = config().columns.model_dump()
    inputs = table(compete)
    report = cv(inputs=inputs, columns={**columns, "competing_values": (2,)})
    censored = cv("other", inputs=inputs, columns={**columns, "censored_values": (0, 2)})
    assert [row.scores for row in report.results.rows] == [row.scores for row in censored.results.rows]
    found = [line for line in lines(report, "measures.csv") if line["measure"] == "cumulative_incidence"]
    assert {line["group"] for line in found} >= {"all; event = 1", "all; event = 2", "risk_group=4; event = 1"}
    assert any("cause-specific hazard" in note for note in report.results.notes)
    assert not any(line["measure"] == "cumulative_incidence" for line in lines(censored, "measures.csv"))
    page = write_report(report.folder.url)
    with fsspec.open(page, "rt", encoding="utf-8") as file:
        text = file.read()
    assert "Competing events: cumulative incidence" in text
    counts = [int((report.plan.cohort.cause == code).sum()) for code in (1, 2)]
    assert f"event = 1: {counts[0]}, event = 2: {counts[1]}" in text
    assert (report.folder.read("figures/incidence-cox.svg") or b"").startswith(b"<")


def test_one_centre_is_left_out_at_a_time_and_named_beside_its_c(cv, table, config):
    columns = {**config().columns.model_dump(), "centre": "centre"}

    def spread(frame):
        frame["centre"] = ["Lyon", "Oslo", "Turin", "Zurich"] * (len(frame) // 4)

    report = cv(inputs=table(spread), columns=columns, splits={"leave_one_centre_out": True})
    row = report.results.rows[0]
    assert {score.centre for score in row.scores} == {"Lyon", "Oslo", "Turin", "Zurich"}
    cohort = report.plan.cohort
    for score, part in zip(row.scores, report.plan.splits[0].test, strict=True):
        assert {cohort.centre[at] for at in cohort.rows(part)} == {score.centre}
    page = write_report(report.folder.url)
    with fsspec.open(page, "rt", encoding="utf-8") as file:
        text = file.read()
    assert "4 folds, each a centre left out" in text
    assert f"Oslo {next(score.c for score in row.scores if score.centre == 'Oslo'):.3f}" in text


def test_a_cox_model_has_a_permutation_p_without_being_asked(cv, config):
    settings = config().model_dump(mode="json")
    report = cv(models=settings["models"][:1], permuted_control="auto")
    row, permuted = report.results.rows
    means = [score.c for score in permuted.scores]
    assert (permuted.kind, len(means)) == ("permuted", 199)
    assert row.permutation_p == pytest.approx((1 + sum(mean >= row.mean for mean in means)) / 200)
    assert np.mean(means) == pytest.approx(0.5, abs=0.05)
    # 597 permuted fits are a few tasks, and the table of risks shows the first permutation alone
    assert report.tasks == 3 + -(-597 // 64)
    assert {line["permutation"] for line in lines(report, "risks.csv")} == {"0", "1"}
    assert len(lines(report, "folds.csv")) == 600
