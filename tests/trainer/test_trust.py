"""`trainer trust` from a study's file to its pages: parts found, left out, failed and resumed; summary and report's section."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from click.testing import CliRunner

from store_schema import EntryKey, open_store
from store_schema.errors import ConfigError, UsageError
from trainer.cli import main
from trainer.report.page import render
from trainer.report.reading import read_run
from trainer.run_folder import RunFolder
from trainer.study_config import parse_trusted
from trainer.trust.explain_part import spread
from trainer.trust.subject import row_of
from trainer.trust_results import PARTS, KeyFigure, PartRecord, read_parts, read_trusted

from .occluded_help import BOXES, noisy, occluded_entry, occlusion_view, publish
from .trust_help import draw, plant, study_settings

PATIENTS, HIDDEN = 44, 5
NAMES = ("base", "elsewhere", "encoder", "upfront.paper", "padding")


def hide(store, base, patients):
    """Patches of these patients' images, hidden."""
    view = store.put_view(occlusion_view(base))
    for row, patient in enumerate(patients):
        key = EntryKey(patient, "PET", "spine")
        arrays = store.read(base.view_id, key).arrays
        hidden = [noisy(arrays["memory"].astype("float32"), [row, patch]) for patch in range(len(BOXES))]
        publish(store, view, key, occluded_entry(arrays, hidden))


def call(*arguments):
    return CliRunner().invoke(main, [str(one) for one in arguments])


def options(folder, out="run"):
    return ("--store", folder / "store", "--clinical", folder / "clinical.csv", "--out", folder / out, "--workers", 0)


@pytest.fixture(scope="module")
def made(shared_kit, tmp_path_factory) -> SimpleNamespace:
    """A study's file, and the folder after `trainer trust` was called on it."""
    folder = tmp_path_factory.mktemp("trust")
    table = draw(PATIENTS, 3)
    store, base = plant(folder, shared_kit.view, table, names=NAMES)
    hide(store, base, table["patient"][:HIDDEN])
    settings = study_settings(shared_kit.settings, base, splits={"folds": 2}, fit=shared_kit.short)
    (folder / "study.yaml").write_text(yaml.safe_dump({**settings, "trust": {"explain": {"patients": 3}}}))
    planned = call("trust", folder / "study.yaml", *options(folder), "--plan")
    before = list((folder / "run").glob("*")) if (folder / "run").exists() else []
    done = call("trust", folder / "study.yaml", *options(folder))
    return SimpleNamespace(
        folder=folder, settings=settings, base=base, planned=planned, before=before, done=done, run=folder / "run"
    )


def records(run) -> dict[str, PartRecord]:
    return {record.part: record for record in read_parts(RunFolder.open(str(run)))}


def written(run):
    """Every file of the parts by its bytes, without the time of day of a run."""
    return {path: path.read_bytes() for path in sorted((run / "trust").rglob("*")) if path.is_file()}


def test_the_plan_tells_parts_fits_views_and_patients_and_does_nothing(made):
    assert made.planned.exit_code == 0, made.planned.output
    told = " ".join(made.planned.stdout.split())
    assert made.before == []
    for said in ("2 control views", "1 view of other modes and layouts", "2 perturbed views", f"{PATIENTS} patients"):
        assert said in told
    assert "3 patients, hidden patches of 20 mm" in told
    # two folds of the study, of four views and one permutation, and again for perturbed views; the model of all patients
    assert re.search(r"15 fits, about \d+ s on \d+ worker", told)
    assert "The time of all that is no fit is not foreseen" in told


def test_every_part_is_found_in_the_store_done_and_told(made):
    assert made.done.exit_code == 0, made.done.output
    found = records(made.run)
    assert {name: record.status for name, record in found.items()} == dict.fromkeys(PARTS, "done")
    assert len(json.loads((made.run / "trust/explain/explain.json").read_text())["patients"]) == 3
    told = json.loads((made.run / "trust/robustness/robustness.json").read_text())
    assert {view["kind"] for view in told["views"]} == {"padding", "elsewhere"}
    for record in found.values():
        assert (made.run / "trust" / record.part / record.page).exists()
        assert record.row == "PET.spine.MedSAM2.flatten"
        assert record.figures[0].text in made.done.stdout.replace("\n", " ")


def test_the_summary_holds_every_key_figure_and_links_to_the_pages(made):
    page = (made.run / "trust/index.html").read_text()
    for record in records(made.run).values():
        assert f'href="{record.part}/report.html"' in page
        for figure in record.figures:
            assert figure.text in page
    assert_links_lead_somewhere(page, made.run / "trust")


def assert_links_lead_somewhere(page, folder):
    links = re.findall(r"href=[\"']([^\"']+)[\"']", page)
    assert links
    for link in links:
        assert "://" not in link
        assert f'id="{link[1:]}"' in page if link.startswith("#") else (folder / link).exists(), link


def test_the_reports_section_has_the_key_figures_and_goes_with_the_parts(made):
    page = (made.run / "report.html").read_text()
    section = page[page.index('<section id="trust"') :].partition("</section>")[0]
    for record in records(made.run).values():
        assert record.figures[0].text in section
        assert record.figures[0].label in section
    assert_links_lead_somewhere(page, made.run)
    # a published page has none of it
    run = read_run(RunFolder.open(str(made.run)))
    plain = render(run, ())
    assert 'id="trust"' not in plain
    told = render(run, (), trust=read_trusted(RunFolder.open(str(made.run))))
    start, end = told.index('<section id="trust"'), told.index("</section>", told.index('<section id="trust"'))
    without = told[:start] + told[end + len("</section>\n") :]
    assert without.replace('<li><a href="#trust">How far to trust it</a></li>', "") == plain


def test_report_writes_section_and_summary_again(made):
    index, page = made.run / "trust/index.html", made.run / "report.html"
    before = index.read_bytes(), page.read_bytes()
    index.unlink()
    result = call("report", made.run)
    assert result.exit_code == 0
    assert result.stdout.split() == [str(page), str(index)]
    assert (index.read_bytes(), page.read_bytes()) == before


def test_a_part_of_another_row_is_named_out_of_date_and_none_of_its_figures_shown(made, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(made.run, copy)
    part = copy / "trust/quality/part.json"
    other = json.loads(part.read_text()) | {"row": "ANOTHER"}
    other["figures"] = [{**other["figures"][0], "label": "A figure of another"}]
    part.write_text(json.dumps(other))
    assert call("report", copy).exit_code == 0
    for name in ("report.html", "trust/index.html"):
        page = (copy / name).read_text()
        assert "Out of date: it is of row ANOTHER" in page
        assert "A figure of another" not in page
        assert "How far to trust ANOTHER" not in page
        assert_links_lead_somewhere(page, (copy / name).parent)


def test_a_rerun_fits_nothing_and_changes_no_file(made):
    before = written(made.run)
    times = {path: path.stat().st_mtime_ns for path in before if path.name != "index.html"}
    again = call("trust", made.folder / "study.yaml", *options(made.folder))
    assert again.exit_code == 0
    assert written(made.run) == before
    assert {path: path.stat().st_mtime_ns for path in times} == times
    parts = len(records(made.run))
    assert f"{parts} parts, {parts} of them done before; 0 failed" in again.stdout
    planned = call("trust", made.folder / "study.yaml", *options(made.folder), "--plan")
    assert "0 fits, about 0 s" in planned.stdout
    assert planned.stdout.count("done before") == 1 + parts


def test_study_takes_the_same_file_and_finds_the_run_done(made):
    result = call("study", made.folder / "study.yaml", *options(made.folder))
    assert result.exit_code == 0, result.output
    assert "1 of them before" in result.stdout


def test_a_part_that_fails_leaves_the_others_alone_and_is_done_once_mended(made):
    name = made.folder / "failing.yaml"
    trust = {"explain": {"patients": 3, "occlusion": "absent"}, "robustness": False}
    name.write_text(yaml.safe_dump({**made.settings, "trust": trust}))
    kept = (made.run / "trust/controls/controls.json").read_bytes()
    failed = call("trust", name, *options(made.folder))
    assert failed.exit_code == 1
    found = records(made.run)
    assert (found["explain"].status, found["explain"].page) == ("failed", None)
    assert "absent" in found["explain"].said
    assert (found["robustness"].status, found["controls"].status) == ("skipped", "done")
    assert (made.run / "trust/controls/controls.json").read_bytes() == kept
    for page in ("report.html", "trust/index.html"):
        text = (made.run / page).read_text()
        assert "absent" in text
        assert "left out by the study&#39;s settings" in text
    assert "FAILED" in failed.stdout
    mended = call("trust", made.folder / "study.yaml", *options(made.folder))
    assert mended.exit_code == 0
    assert {record.status for record in records(made.run).values()} == {"done"}


def test_killed_within_the_controls_it_ends_as_if_it_never_was(made):
    arguments = ["trust", made.folder / "study.yaml", *options(made.folder, "killed")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    code = f"import sys; from trainer.cli import main; sys.argv[1:] = {[str(one) for one in arguments]!r}; main()"
    folder = made.folder / "killed/trust/controls"
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=-3, stderr=-3) as process:
        deadline = time.monotonic() + 300
        while not list(folder.glob("run-*/tasks/*.json")):
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert not (folder / "part.json").exists()
    again = call("trust", made.folder / "study.yaml", *options(made.folder, "killed"))
    assert again.exit_code == 0, again.output
    for name in ("controls/controls.json", "controls/controls.csv", "controls/part.json", "robustness/robustness.csv"):
        assert (made.folder / "killed/trust" / name).read_bytes() == (made.run / "trust" / name).read_bytes(), name


def test_several_occlusion_views_are_told_and_not_chosen_from(made, tmp_path):
    store = open_store(str(made.folder / "store"))
    second = occlusion_view(made.base, occlusion_size_mm=7.0)
    arrays = store.read(made.base.view_id, EntryKey("P000", "PET", "spine")).arrays
    publish(
        store, store.put_view(second), EntryKey("P000", "PET", "spine"), occluded_entry(arrays, [arrays["memory"]] * 4)
    )
    planned = call("trust", made.folder / "study.yaml", *options(made.folder), "--plan")
    assert "several occlusion views belong" in " ".join(planned.stdout.split())
    name = tmp_path / "named.yaml"
    trust = {"explain": {"occlusion": second.view_id}}
    name.write_text(yaml.safe_dump({**made.settings, "trust": trust}))
    planned = call("trust", name, *options(made.folder), "--plan")
    assert "1 patient, hidden patches of 7 mm" in " ".join(planned.stdout.split())


@pytest.mark.parametrize(
    ("trust", "said"),
    [
        ({"controls": {"view": ["x"]}}, "trust.controls.view"),
        ({"row": 3}, "trust.row"),
        ({"explain": {"patients": 0}}, "trust.explain.patients"),
        ({"robustness": {"views": []}}, "trust.robustness.views"),
        ({"everything": True}, "trust.everything"),
        ({"controls": {"permutations": -1}}, "trust.controls.permutations"),
    ],
)
def test_a_setting_that_is_wrong_is_named(made, trust, said):
    with pytest.raises(ConfigError, match=said):
        parse_trusted({**made.settings, "trust": trust})


def test_parts_are_switched_and_named(made):
    _, trust = parse_trusted({**made.settings, "trust": {"controls": False, "explain": None, "robustness": True}})
    assert trust.controls is None
    assert trust.explain is not None
    assert trust.robustness is not None
    assert parse_trusted(made.settings)[1] == parse_trusted({**made.settings, "trust": {}})[1]


def test_the_row_is_the_first_of_images_alone_or_the_one_that_was_named(made):
    image = made.settings["rows"][0]
    rows = [
        {"table": "clinical", "kind": "ridge_cox", "name": "cox"},
        {**image, "table": "multimodal", "name": "both"},
        {**image, "name": "image"},
    ]
    config, _ = parse_trusted({**made.settings, "rows": rows})
    assert row_of(config, None).name == "image"
    assert row_of(config, "both").name == "both"
    for wrong in ("cox", "absent"):
        with pytest.raises(UsageError, match="both, image"):
            row_of(config, wrong)
    config, _ = parse_trusted({**made.settings, "rows": rows[:1]})
    with pytest.raises(UsageError, match="reads images"):
        row_of(config, None)


def test_a_row_that_is_not_there_is_refused_before_anything_is_fitted(made, tmp_path):
    name = tmp_path / "wrong.yaml"
    name.write_text(yaml.safe_dump({**made.settings, "trust": {"row": "absent"}}))
    result = call("trust", name, *options(made.folder, "untouched"))
    assert result.exit_code == 2
    assert "PET.spine.MedSAM2.flatten" in result.stderr
    assert not (made.folder / "untouched").exists()


def test_some_patients_are_spread_over_the_order_of_risk():
    ordered = [f"P{row}" for row in range(10)]
    assert spread(ordered, 1) == ("P0",)
    assert spread(ordered, 2) == ("P0", "P9")
    assert spread(ordered, 4) == ("P0", "P3", "P6", "P9")
    assert spread(ordered, 30) == tuple(ordered)


def test_key_figures_are_shown_with_their_intervals():
    def text(**told):
        return KeyFigure(label="", reading="", **told).text

    assert text(value=0.12345, low=0.1, high=0.2) == "0.123 [0.100 to 0.200]"
    assert text(value=0.1, low=-0.1, high=0.2, signed=True) == "+0.100 [-0.100 to +0.200]"
    assert text(value=0.1) == "0.100"
    assert text(value=None) == "–"


def test_help_is_instant_and_teaches(tmp_path):
    code = "import sys; from trainer.cli import main; main(['trust', '--help'], standalone_mode=False); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert "trainer trust study.yaml --store ./store" in done.stdout
    loaded = done.stdout[done.stdout.rindex("[") :]
    assert not [heavy for heavy in ("'torch'", "'pandas'", "'dask'", "'matplotlib'", "'zarr'") if heavy in loaded]
