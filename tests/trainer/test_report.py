"""The page of a finished run: self-contained, escaped, the same twice, and with the figures of the results."""

import io
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from store_schema.errors import NotCommittedError, ObjectAlteredError, SchemaError
from trainer.config import parse_config
from trainer.dispatch import Workers
from trainer.plan import Inputs
from trainer.report.drawing import draw
from trainer.report.page import write_report
from trainer.results import parse_results
from trainer.run import cross_validate
from trainer.wording import p_text

NASTY = "<script>alert('&')</script>"
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Collects what a test asks for and refuses tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        given = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []
        self.addresses += [given[name] for name in ("src", "href", "xlink:href", "action") if given.get(name)]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag


@pytest.fixture(scope="module")
def finished(cohort_folder, tmp_path_factory) -> Path:
    """A run of every kind of row, whose table has a column and a level that would be code in a page."""
    folder = tmp_path_factory.mktemp("report")
    text = (cohort_folder / "clinical.csv").read_text().replace("stage", f'"{NASTY}"').replace(",III,", f',"{NASTY}",')
    (folder / "clinical.csv").write_text(text)
    image = {"kind": "network", "view": "tiny", "images": {"roi": "spine"}, "hidden": [4]}
    config = parse_config(
        {
            "columns": {
                "time": "months",
                "time_unit": "months",
                "event": "event",
                "continuous": ["age"],
                "categorical": [NASTY],
            },
            "splits": {"folds": 3},
            "fit": {"epochs": 3, "min_epochs": 1, "min_validation_events": 2},
            "models": [
                {"name": "cox", "kind": "ridge_cox"},
                {"name": "image", "fusion": "gate", **image},
                {"name": "both", "clinical": True, **image},
            ],
            "permuted_control": {"models": ["cox"], "repeats": 19},
            "oracle": {"table": str(cohort_folder / "truth.csv"), "columns": ["log_hazard"]},
        }
    )
    inputs = Inputs(folder / "clinical.csv", str(cohort_folder / "store"))
    console = Console(file=io.StringIO())
    report = cross_validate(config, inputs, out=str(folder / "run"), workers=Workers(number=0), console=console)
    assert report.results.complete
    write_report(str(folder / "run"))
    return folder / "run"


@pytest.fixture
def page(finished) -> str:
    return (finished / "report.html").read_text()


def test_the_page_is_one_file_that_asks_the_network_for_nothing(page):
    parsed = Page(page)
    assert all(address.startswith("#") for address in parsed.addresses)
    assert not {"script", "link", "img", "iframe"} & set(parsed.tags)
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", page)


def test_ids_are_unique_and_every_reference_has_its_target(page):
    parsed = Page(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    used = {address[1:] for address in parsed.addresses} | set(re.findall(r"url\(#([^)]+)\)", page))
    labels = {name for text in re.findall(r'aria-labelledby="([^"]+)"', page) for name in text.split()}
    assert used | labels <= set(parsed.ids)


def test_texts_of_the_table_are_escaped(page):
    assert NASTY not in page
    assert "&lt;script&gt;" in page


def test_every_figure_of_the_results_table_stands_in_the_page(page, finished):
    results = parse_results((finished / "results.json").read_bytes(), where="")
    assert {row.kind for row in results.rows} == {"model", "permuted", "oracle"}
    for row in results.rows:
        assert f"{row.mean:.3f} ± {row.se:.3f}" in page
        assert p_text(row.p_one_sided) in page
    groups = results.rows[0].risk_groups
    assert f"permutation p {groups.permutation_p:.3f}" in page
    assert "not computed" in page


def test_the_page_says_what_was_read_and_what_it_does_not_mean(page, finished):
    for said in ("Untrained encoder", "nominal", "What the figures mean", "Snapshot", "rows of the clinical table"):
        assert said in page
    record = (finished / "run.json").read_text()
    assert re.search(r'"snapshot": "([0-9a-f]{64})"', record)[1] in page


def test_every_figure_is_a_well_formed_file_that_says_in_words_what_it_shows(finished):
    names = sorted(path.stem for path in (finished / "figures").iterdir())
    kinds = ("quartiles-cox", "quartiles-image", "quartiles-both", "curves-image", "curves-both", "gate-image", "folds")
    measures = [f"{kind}-{model}" for kind in ("calibration", "decision") for model in ("cox", "image", "both")]
    assert names == sorted([*kinds, *measures])
    for path in (finished / "figures").iterdir():
        root = ET.parse(path).getroot()
        assert root.get("role") == "img"
        described = [child.text for child in root if child.tag.rsplit("}", 1)[-1] in ("title", "desc")]
        assert len(described) == 2
        assert all(described)


def test_page_and_figures_are_the_same_when_written_again(finished, page):
    figures = {path.name: path.read_bytes() for path in (finished / "figures").iterdir()}
    write_report(str(finished))
    assert (finished / "report.html").read_text() == page
    assert {path.name: path.read_bytes() for path in (finished / "figures").iterdir()} == figures


def test_figures_in_the_page_take_their_colours_from_the_scheme(page):
    defined = set(re.findall(r"(--[a-z0-9-]+):", page))
    assert set(re.findall(r"var\((--[a-z0-9-]+)\)", page)) <= defined
    drawn = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert not re.search(r"#[0-9a-f]{6}\b", drawn, re.IGNORECASE)
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_a_report_reads_the_run_alone_and_loads_no_torch(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "alone")
    code = (
        "import sys; from trainer.report.page import write_report; write_report(sys.argv[1]);"
        "print([name for name in ('torch', 'sksurv', 'distributed', 'zarr', 'matplotlib.pyplot') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "alone")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_an_unfinished_run_is_refused(tmp_path, finished):
    with pytest.raises(NotCommittedError, match=r"has no run\.json"):
        write_report(str(tmp_path))
    shutil.copytree(finished, tmp_path / "half")
    (tmp_path / "half" / "results.json").unlink()
    with pytest.raises(NotCommittedError, match=r"has no results\.json"):
        write_report(str(tmp_path / "half"))


def test_altered_results_are_refused(tmp_path, finished):
    shutil.copytree(finished, tmp_path / "altered")
    (tmp_path / "altered" / "results.json").write_text("{}")
    with pytest.raises(SchemaError, match="is not a run's results"):
        write_report(str(tmp_path / "altered"))


def test_a_cohort_that_the_run_was_not_planned_with_is_refused(tmp_path, finished):
    shutil.copytree(finished, tmp_path / "run")
    cohort = tmp_path / "run/cohort.json"
    cohort.write_text(cohort.read_text().replace("true", "false", 1))
    with pytest.raises(ObjectAlteredError, match=r"cohort\.json has sha256"):
        write_report(str(tmp_path / "run"))


def test_warnings_and_failures_stand_in_the_page(tmp_path, finished):
    shutil.copytree(finished, tmp_path / "failed")
    path = tmp_path / "failed" / "results.json"
    results = parse_results(path.read_bytes(), where="")
    failure = {"task_id": "x", "label": "image, fold 1", "reason": "TaskError: diverged"}
    incomplete = results.model_copy(update={"warnings": ("cox: too good",), "complete": False})
    changed = type(results).model_validate({**incomplete.model_dump(), "failures": [failure]})
    path.write_bytes(changed.to_json())
    write_report(str(tmp_path / "failed"))
    page = (tmp_path / "failed" / "report.html").read_text()
    assert "cox: too good" in page
    assert "image, fold 1: TaskError: diverged" in page


def test_a_name_with_spaces_and_brackets_makes_ids_that_every_reference_finds():
    name = 'curves-deep (paper\'s way) "1"'
    figures = [
        draw(one, "caption", "said", (2, 2), lambda figure: figure.subplots().plot([0, 1]))
        for one in (name, f"{name} ")
    ]
    every = []
    for drawn in figures:
        root = ET.fromstring(drawn.svg)
        ids = [one.get("id") for one in root.iter() if one.get("id")]
        assert all(re.fullmatch(r"[\w.-]+", one) for one in ids)
        labels, used = root.get("aria-labelledby").split(), re.findall(r"url\(#([^)]+)\)", drawn.svg)
        assert len(labels) == 2
        assert used
        assert {*labels, *used} <= set(ids)
        every += ids
    assert len(every) == len(set(every))
