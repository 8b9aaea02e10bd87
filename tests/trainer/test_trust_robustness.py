"""Perturbed views and controls that lack patients, modalities or files: which are taken, what is told of the others."""

import io
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from store_schema import create_store
from store_schema.records import Source
from trainer.dispatch import Workers
from trainer.plan import Inputs
from trainer.run import cross_validate
from trainer.run_folder import RunFolder
from trainer.study_config import parse_trusted
from trainer.trust.control_run import plan_controls
from trainer.trust.parts import run_part
from trainer.trust.robustness_part import ROBUSTNESS
from trainer.trust.subject import Subject, row_of
from trainer.trust_config import ControlsPart, RobustnessPart, TrustSettings

from .trust_help import base_view, draw, fill, perturbed, study_settings

BOTH = ("PET", "CT")
FILES = (
    Source(role="PET", path="p", size_bytes=1, mtime_ns=1),
    Source(role="mask:spine", path="m", size_bytes=1, mtime_ns=1),
)
CORRECTED = (FILES[0], FILES[1].model_copy(update={"mtime_ns": 2}))


@pytest.fixture(scope="module")
def made(shared_kit, tmp_path_factory) -> SimpleNamespace:
    """A study of PET and CT, and perturbed views: a whole one, a pilot, one of PET alone, one of corrected masks, two controls."""
    folder = tmp_path_factory.mktemp("robust")
    table, store, base = draw(44, 3), create_store(folder / "store"), base_view(shared_kit.view)
    padding = perturbed(base, "padding", size_mm=5.0)
    pilot, corrected = perturbed(base, "padding", size_mm=2.0), perturbed(base, "erode", size_mm=3.0)
    alone = perturbed(base, "jitter", size_mm=2.0)
    elsewhere, boxes = perturbed(base, "elsewhere"), perturbed(base, "random_boxes")
    whole = {"modalities": BOTH, "sources": FILES}
    for seed, view in enumerate((base, padding)):
        fill(store, view, table, 1.0, seed=seed, **whole)
    fill(store, pilot, table[:6], 1.0, seed=2, **whole)
    fill(store, alone, table, 1.0, seed=3, sources=FILES)
    fill(store, corrected, table, 1.0, seed=4, modalities=BOTH, sources=CORRECTED)
    fill(store, elsewhere, table[3:], 0.0, seed=5, **whole)
    fill(store, elsewhere, table[:3], 0.0, seed=5, modalities=BOTH, sources=CORRECTED)
    fill(store, boxes, table[:-2], 0.0, seed=6, **whole)
    table.drop(columns=["z", "log_hazard"]).to_csv(folder / "clinical.csv", index=False)
    settings = study_settings(shared_kit.settings, base, splits={"folds": 2}, fit=shared_kit.short)
    row = {**settings["rows"][0], "origin": ["combined"], "fusion": ["concatenation"]}
    config, trust = parse_trusted({**settings, "rows": [row]})
    inputs, workers, quiet = Inputs(folder / "clinical.csv", store.url), Workers(number=0), Console(file=io.StringIO())
    study = cross_validate(config, inputs, out=str(folder / "run"), workers=workers, console=quiet)
    row = row_of(config, trust.row)
    subject = Subject(trust, study.plan, inputs, row, study.folder.url, workers, quiet, study.results)
    return SimpleNamespace(
        subject=subject,
        folder=folder,
        padding=padding.view_id,
        pilot=pilot.view_id,
        alone=alone.view_id,
        corrected=corrected.view_id,
        elsewhere=elsewhere.view_id,
        boxes=boxes.view_id,
    )


def test_views_of_few_patients_one_modality_or_other_files_do_not_shrink_the_others(made):
    assert made.subject.pairs == (("PET", "spine"), ("CT", "spine"))
    prepared = ROBUSTNESS.prepare(made.subject)
    assert prepared.said == "2 perturbed views, at most 44 patients; 4 views left out"
    record, _ = run_part(ROBUSTNESS, made.subject, RunFolder.open(made.subject.url))
    assert record.status == "done", record.said
    notes = " ".join(record.notes)
    for view, said in (
        (made.pilot, "holds what the row reads of 6 of 44 patients"),
        (made.alone, "holds what the row reads of 0 of 44 patients"),
        (made.corrected, "holds what the row reads of 0 of 44 patients"),
        # 41 with padding and boxes elsewhere less 2 are fewer than 40
        (made.elsewhere, "leaves 39 of the 42 patients that the other views hold, of 44"),
    ):
        assert f"{view} was left out: {said}" in notes
    for figure in record.figures:
        assert "f 42 of the 44 patients" in figure.reading
    page = (made.folder / "run/trust/robustness/report.html").read_text()
    assert f"View <code>{made.pilot}</code> was left out: holds what the row reads of 6 of 44 patients" in page


def test_named_views_are_taken_whatever_they_lack(made):
    settings = TrustSettings(robustness=RobustnessPart(views=(made.padding, made.pilot)))
    assert ROBUSTNESS.prepare(replace(made.subject, settings=settings)).said == "2 perturbed views, at most 44 patients"


def test_other_files_are_let_in_where_somebody_says_so(made):
    settings = TrustSettings(robustness=RobustnessPart(any_files=True))
    said = ROBUSTNESS.prepare(replace(made.subject, settings=settings)).said
    assert said == "4 perturbed views, at most 44 patients; 2 views left out"


def test_controls_hold_the_files_of_the_base_and_nine_tenths_of_the_patients_together(made):
    found = plan_controls(made.subject, ControlsPart(permutations=0))
    # boxes at random keep 42 of the 44, boxes elsewhere 41, both 39
    assert [one.standing.view_id for one in found.taken.values()][1:] == [made.boxes]
    assert "leaves 39 of the 42 patients" in found.left_out[made.elsewhere]
    named = plan_controls(made.subject, ControlsPart(views=(made.elsewhere,), permutations=0))
    taken = named.taken["elsewhere"]
    assert len(taken.complete(made.subject.pairs)) == 41
    assert len(taken.files.other) == 6
    assert named.notes[0].startswith(f"6 entries of {made.elsewhere} were made from other files")
    whole = plan_controls(made.subject, ControlsPart(views=(made.elsewhere,), permutations=0, any_files=True))
    assert len(whole.taken["elsewhere"].complete(made.subject.pairs)) == 44
