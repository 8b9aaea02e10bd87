"""A row that was tuned on the reported folds: no verdict, the note everywhere, and parts that follow what it picked."""

import io
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from store_schema.errors import AlreadyExistsError, UsageError
from trainer.dispatch import Workers
from trainer.plan import Inputs
from trainer.report.reading import FinishedRun
from trainer.run import cross_validate
from trainer.run_folder import RunFolder
from trainer.study_config import parse_trusted
from trainer.trust.control_results import read_controls
from trainer.trust.controls_part import CONTROLS
from trainer.trust.index_page import write_index
from trainer.trust.kept_model import is_kept, kept_model
from trainer.trust.parts import Prepared, row_digest, run_part
from trainer.trust.subject import Subject, row_of

from .trust_help import draw, plant, study_settings


@pytest.fixture(scope="module")
def made(shared_kit, tmp_path_factory) -> SimpleNamespace:
    """A row chosen among two settings on two folds that are reported, held against the encoder alone and permuted outcomes."""
    folder = tmp_path_factory.mktemp("tuned")
    store, base = plant(folder, shared_kit.view, draw(40, 3), names=("base", "encoder", "constant"))
    row = study_settings(shared_kit.settings, base)["rows"][0]
    searched = {**row["settings"], "search": {"fit.learning_rate": {"log": [1e-3, 1e-1]}}}
    settings = study_settings(
        shared_kit.settings,
        base,
        rows=[{**row, "settings": searched}],
        search={"mode": "paper", "points": 2},
        splits={"folds": 2},
        fit=shared_kit.short,
    )
    config, trust = parse_trusted(settings)
    inputs, quiet, workers = Inputs(folder / "clinical.csv", store.url), Console(file=io.StringIO()), Workers(number=0)
    study = cross_validate(config, inputs, out=str(folder / "run"), workers=workers, console=quiet)
    subject = Subject(trust, study.plan, inputs, row_of(config, None), study.folder.url, workers, quiet, study.results)
    record, _ = run_part(CONTROLS, subject, study.folder)
    found = read_controls(RunFolder.open(f"{subject.url}/trust/controls"))
    return SimpleNamespace(subject=subject, record=record, found=found, folder=study.folder)


def test_no_difference_is_claimed_and_every_reading_tells_why(made):
    assert made.record.status == "done"
    for one in made.found.contrasts:
        assert one.verdict == "no verdict"
        assert one.reading.startswith(
            "No verdict: settings were chosen on the very folds that are reported (OPTIMISTIC)"
        )
    for row in made.found.rows:
        assert (row.tuned, row.tried, row.above_chance) == ("paper", 2, None)
    for figure in made.record.figures:
        assert "OPTIMISTIC" in figure.reading
        assert "above chance" not in figure.reading
    assert any("OPTIMISTIC" in note for note in made.record.notes)
    assert not any("Something ties" in note for note in made.record.notes)


def test_the_note_stands_on_page_and_summary(made):
    page = RunFolder.open(f"{made.folder.url}/trust/controls").read("report.html").decode()
    # of base, encoder alone, constant image and permuted outcomes
    assert page.count("best of 2 settings, chosen on the reported folds: OPTIMISTIC") >= 4
    write_index(made.folder)
    index = made.folder.read("trust/index.html").decode()
    lead = index[index.index('<p class="lead">') :].partition("</p>")[0]
    assert "best of 2 settings, chosen on the reported folds: OPTIMISTIC" in lead


def tasks_with(run: FinishedRun, **changes) -> FinishedRun:
    """The same run, every fit changed."""
    tasks = tuple(
        task.model_copy(update={"outer": tuple(one.model_copy(update=changes) for one in task.outer)})
        for task in run.tasks
    )
    return replace(run, tasks=tasks)


def failed(run: FinishedRun, candidate: int) -> FinishedRun:
    """The run as it is where a fit of this setting failed."""
    tasks = tuple(
        task.model_copy(
            update={"outer": tuple(one for one in task.outer if (one.candidate, one.fold) != (candidate, 0))}
        )
        for task in run.tasks
    )
    return replace(run, tasks=tasks)


def seen_as(subject: Subject, run: FinishedRun) -> Subject:
    """The subject where the study's folder holds another run."""
    other = replace(subject)
    other.__dict__["run"] = run
    return other


def test_a_setting_that_failed_and_succeeds_later_does_the_parts_again(made):
    subject = made.subject
    run = subject.run
    (picked,) = {pick.candidate for (number, _), pick in run.lines[0].picks.items() if not number}
    before = failed(run, picked)
    assert {pick.candidate for pick in before.lines[0].picks.values()} == {1 - picked}
    digests = [row_digest(one, subject.row) for one in (run, before, tasks_with(run, seconds=9.0))]
    assert digests[0] == digests[2] != digests[1]
    assert row_digest(run, "absent") is None
    assert row_digest(tasks_with(run, log_risk=(0.5,)), subject.row) != digests[0]
    prepared = [CONTROLS.prepare(seen_as(subject, one)) for one in (run, before)]
    assert all(isinstance(one, Prepared) for one in prepared)
    assert prepared[0].inputs_sha256 != prepared[1].inputs_sha256


def test_a_kept_model_of_another_setting_is_refused(made):
    subject = made.subject
    run = subject.run
    assert not is_kept(subject)
    url = kept_model(subject)
    assert is_kept(subject)
    assert kept_model(subject) == url
    (picked,) = {pick.candidate for pick in run.lines[0].picks.values()}
    with pytest.raises(AlreadyExistsError, match="a model of other settings than row"):
        kept_model(seen_as(subject, failed(run, picked)))
    rows = tuple(row.model_copy(update={"mean": None}) for row in run.results.rows)
    incomplete = replace(run, results=run.results.model_copy(update={"rows": rows}))
    with pytest.raises(UsageError, match="incomplete"):
        kept_model(seen_as(subject, incomplete))
