"""Beside every figure of a tuned row stand the settings tried and the folds that chose, whichever file or page tells it."""

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from trainer.dispatch import Workers
from trainer.plan import Inputs
from trainer.printed import print_results
from trainer.report.page import write_report
from trainer.run import cross_validate
from trainer.study_config import parse_study
from trainer.wording import tuning_text

NESTED = "best of 4 settings, chosen inside the training folds"
OPTIMISTIC = "best of 4 settings, chosen on the reported folds: OPTIMISTIC"
TOLD = {"nested": NESTED, "paper": OPTIMISTIC}
FILES = {"summary.csv": "row", "folds.csv": "model", "measures.csv": "row"}


class Tables(HTMLParser):
    """Rows of the page's tables as texts of their cells, and the captions of its figures."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows, self.captions, self._text = [], [], None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td", "figcaption"):
            self._text = ""

    def handle_data(self, data):
        if self._text is not None:
            self._text += data

    def handle_endtag(self, tag):
        if tag in ("th", "td") and self.rows:
            self.rows[-1].append(self._text.strip())
        if tag == "figcaption":
            self.captions.append(self._text.strip())
        if tag in ("th", "td", "figcaption"):
            self._text = None


@pytest.fixture(scope="module")
def studied(cohort_folder, shared_kit, tmp_path_factory):
    """Makes a study once for each mode: image, multimodal and clinical rows, all but one of them tuned over four settings."""
    kept = {}

    def make(mode: str) -> SimpleNamespace:
        if mode not in kept:
            folder = tmp_path_factory.mktemp(mode)
            given = {name: value for name, value in shared_kit.settings.items() if name != "models"}
            search = {
                "search": {"fit.learning_rate": {"log": [1e-4, 1e-2]}, "dropout": {"range": [0, 0.6]}},
                "hidden": [4],
            }
            penalty = {"penalty": {"log": [1, 1e4]}}
            grid = {"mask": ["spine"], "model": ["MedSAM2"], "settings": search}
            settings = {
                **given,
                "views": {"MedSAM2": "tiny"},
                "search": {"mode": mode, "points": 4, "inner_folds": 2},
                "permuted_control": {"models": ["cox"]},
                "rows": [
                    {"origin": ["PET", "combined"], "fusion": ["concatenation", "gated"], **grid},
                    {"table": "multimodal", "origin": ["PET"], **grid},
                    {"table": "clinical", "name": "deepsurv", "settings": search},
                    {"table": "clinical", "kind": "ridge_cox", "name": "cox", "settings": {"search": penalty}},
                    {"table": "clinical", "kind": "ridge_cox", "name": "fixed"},
                ],
            }  # fmt: skip
            inputs = Inputs(cohort_folder / "clinical.csv", str(cohort_folder / "store"))
            quiet = Console(file=io.StringIO())
            report = cross_validate(
                parse_study(settings), inputs, out=str(folder / "run"), workers=Workers(number=0), console=quiet
            )
            write_report(report.folder.url)
            kept[mode] = SimpleNamespace(run=folder / "run", report=report, results=report.results)
        return kept[mode]

    return make


@pytest.fixture(params=["nested", "paper", "both"])
def study(request, studied):
    made = studied(request.param)
    assert made.results.complete
    assert all(row.tuned for row in made.results.of_kind("model") if row.model != "fixed")
    return made


def told_of(row):
    return TOLD.get(row.tuned, "")


def printed(study) -> str:
    console = Console(file=io.StringIO(), width=400)
    print_results(study.report.plan.config, study.results, console)
    return console.file.getvalue()


def lines_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_every_tuned_row_of_the_results_has_its_number_and_its_folds(study):
    for row in study.results.rows:
        assert tuning_text(row) == told_of(row)
        assert (row.tried, row.tuned is None) == ((1, True) if row.model == "fixed" else (4, False))
    record = json.loads((study.run / "results.json").read_text())
    assert [(row["tried"], row["tuned"]) for row in record["rows"]] == [(r.tried, r.tuned) for r in study.results.rows]
    assert [row.label for row in study.results.rows if row.kind == "permuted"]


def test_csv_files_say_it_on_every_line(study):
    tuned = {row.label: (str(row.tried), row.tuned or "") for row in study.results.rows}
    for name, column in FILES.items():
        lines = lines_of(study.run / name)
        assert {line[column] for line in lines} <= set(tuned)
        assert all((line["tried"], line["tuned"]) == tuned[line[column]] for line in lines), name


def test_measures_say_it_too(study):
    record = json.loads((study.run / "measures.json").read_text())
    models = {row.label: (row.tried, row.tuned) for row in study.results.of_kind("model")}
    assert {label: (found["tried"], found["tuned"]) for label, found in record.items()} == models


def test_the_terminal_says_it_in_the_line_of_every_tuned_figure(study):
    said = printed(study).splitlines()
    for row in study.results.rows:
        (line,) = [one for one in said if re.match(rf"│ {re.escape(row.label)} +│", one)]
        assert f"{row.mean:.3f}" in line
        assert ("best of" in line) == bool(row.tuned)
        assert told_of(row) in line


def test_tables_of_the_study_say_it_in_a_last_column_on_the_terminal_in_the_file_and_on_the_page(study):
    rows = {row.model: row for row in reversed(study.results.of_kind("model"))}
    page, said = Tables((study.run / "report.html").read_text()), printed(study)
    for number, names in ((1, 3), (2, 1), (3, 4)):
        lines = lines_of(study.run / "tables" / f"table-{number}.csv")
        assert len(lines) == names
        for line in lines:
            *cells, told = line.values()
            assert list(line)[-1] == "Settings tried"
            assert told in (*TOLD.values(), "–")
            assert [*cells, told] in page.rows
            assert any(told in one and all(cell in one for cell in cells) for one in said.splitlines())
    first = lines_of(study.run / "tables" / "table-1.csv")[0]
    expected = {told_of(row) for row in rows.values() if row.tuned}
    assert first["Settings tried"] in expected


def test_the_page_says_it_with_the_name_of_every_tuned_row_wherever_it_stands(study):
    page = Tables((study.run / "report.html").read_text())
    for row in study.results.rows:
        mine = [cells[0] for cells in page.rows if cells and re.match(rf"{re.escape(row.label)}(best|$)", cells[0])]
        assert mine
        # the table of tuning has the number and the folds in columns of their own
        assert all(name == f"{row.label}{told_of(row)}" for name in mine if name != row.label), row.label
        plain = mine.count(row.label)
        assert plain == (1 if row.kind == "model" else 0) if row.tuned else plain == len(mine)
    for row in study.results.of_kind("model"):
        captions = [one for one in page.captions if re.match(rf"{re.escape(row.label)}(: | \(best of)", one)]
        of_figures = [one for one in captions if "loss" not in one]
        assert of_figures
        assert all(told_of(row) in one for one in of_figures)
    folds = next(one for one in page.captions if one.startswith("c-index of every fold"))
    assert all(f"{row.label}: {told_of(row)}." in folds for row in study.results.rows if row.tuned)
    fusion = next(one for one in page.captions if one.startswith("Fusion by mask"))
    assert "Each row: best of 4 settings" in fusion


def test_contrasts_of_tuned_rows_say_it_in_their_note(study):
    assert {found.primary for found in study.results.contrasts} == {True, False}
    for found in study.results.contrasts:
        assert "best of 4 settings" in found.note
        # of a row that was tuned both ways the nested one is compared
        assert ("OPTIMISTIC" in found.note) == (study.report.plan.config.search.mode == "paper")
        assert found.note in printed(study)


def test_what_was_tuned_on_the_reported_folds_is_called_optimistic_and_nothing_else_is(study):
    paper = [row for row in study.results.of_kind("model") if row.tuned == "paper"]
    assert ("OPTIMISTIC" in printed(study)) == bool(paper)
    assert ("OPTIMISTIC" in (study.run / "report.html").read_text()) == bool(paper)


def test_the_optimism_between_both_ways_is_printed_with_the_number_of_settings(studied):
    study = studied("both")
    said, page = printed(study), (study.run / "report.html").read_text()
    rows = {row.label: row.mean for row in study.results.of_kind("model")}
    assert len(study.results.optimism) == 6
    for found in study.results.optimism:
        paper, nested = rows[f"{found.model} (paper's way)"], rows[found.model]
        gained = f"{paper - nested:+.3f}"
        told = f"{paper:.3f} the paper's way − {nested:.3f} nested = {gained}, best of 4 settings"
        assert f"optimism {found.model}: {told}" in said
        assert re.search(
            rf"Optimism of {re.escape(found.model)}: {paper:.3f} tuned the paper's way −\s+{nested:.3f} nested = "
            rf"<b>{re.escape(gained)}</b> over 4 settings",
            page,
        )


def test_a_run_without_a_search_has_no_column_of_settings(cv, config):
    report = cv()
    console = Console(file=io.StringIO(), width=400)
    print_results(config(), report.results, console)
    assert "settings" not in console.file.getvalue()
    assert {line["tuned"] for line in lines_of(Path(report.folder.url.removeprefix("file://")) / "summary.csv")} == {""}
