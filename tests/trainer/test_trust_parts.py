"""What keeps parts of `trainer trust` honest: whose row a record is of, what an error leaves behind, what drawings stay."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from store_schema.pseudonyms import PlainIds
from trainer.report.drawing import Drawn
from trainer.report.page import kept_figures
from trainer.run_folder import REPORT, RunFolder
from trainer.trust.parts import BEGUN, Done, Part, Prepared, run_part
from trainer.trust_results import KeyFigure, PartRecord, keep_row, part_file, read_part, read_trusted


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder.open(str(tmp_path / "run"))


@pytest.fixture
def subject() -> SimpleNamespace:
    """As far as `run_part` looks at one."""
    return SimpleNamespace(row="B", inputs=SimpleNamespace(ids=PlainIds()), console=Console(file=io.StringIO()))


def record(part: str, row: str) -> PartRecord:
    figure = KeyFigure(label="c", value=0.7, reading="Of the earlier call.")
    return PartRecord(
        part=part, title=part, row=row, inputs_sha256="0" * 64, status="done", said="", figures=(figure,), page=REPORT
    )


def keep(folder: RunFolder, *records: PartRecord) -> None:
    for one in records:
        folder.replace(part_file(one.part), one.to_json())


def test_records_of_another_row_are_stale(folder):
    assert read_trusted(folder) is None
    keep(folder, record("controls", "B"), record("robustness", "A"), record("quality", "A"))
    # what is done first is of the row that was asked for last
    found = read_trusted(folder)
    assert (found.row, [one.part for one in found.parts]) == ("B", ["controls"])
    keep_row(folder, "A")
    found = read_trusted(folder)
    assert (found.row, [one.part for one in found.parts]) == ("A", ["robustness", "quality"])
    assert [one.part for one in found.stale] == ["controls"]
    keep_row(folder, "C")
    assert read_trusted(folder).parts == ()


def doing(do) -> Part:
    return Part("quality", "Quality", lambda _subject: Prepared("what is looked at", "1" * 64, do))


@pytest.mark.parametrize("error", [ValueError("singular matrix"), KeyError("P007"), ZeroDivisionError("0")])
def test_an_unforeseen_error_of_a_part_is_its_failure_and_told_with_where_it_arose(folder, subject, error):
    def do(_url: str) -> Done:
        raise error

    keep(folder, record("quality", "B"))
    found, before = run_part(doing(do), subject, folder)
    assert (found.status, found.figures, before) == ("failed", (), False)
    assert type(error).__name__ in found.said
    assert read_part(folder, "quality") == found
    assert "in do" in subject.console.file.getvalue()


def test_an_error_that_is_raised_again_leaves_a_failed_record(folder, subject):
    def do(_url: str) -> Done:
        raise TypeError("a fault of the code")

    keep(folder, record("quality", "B"))
    with pytest.raises(TypeError):
        run_part(doing(do), subject, folder)
    assert (read_part(folder, "quality").status, read_part(folder, "quality").figures) == ("failed", ())


def test_while_a_part_is_done_its_earlier_record_is_none(folder, subject):
    seen = []

    def do(_url: str) -> Done:
        seen.append(read_part(folder, "quality"))
        return Done((), complete=True)

    keep(folder, record("quality", "B"))
    run_part(doing(do), subject, folder)
    assert [(one.status, one.said, one.figures) for one in seen] == [("failed", BEGUN, ())]
    assert read_part(folder, "quality").status == "done"


def test_drawings_of_earlier_calls_go_and_what_is_no_drawing_stays(folder):
    svg = '<svg xmlns="http://www.w3.org/2000/svg"><title>x</title></svg>'
    kept_figures([Drawn("one", "", svg), Drawn("two", "", svg)], folder)
    folder.replace("figures/notes.txt", "mine")
    kept_figures([Drawn("two", "", svg)], folder)
    assert folder.location.paths("figures") == ["figures/notes.txt", "figures/two.svg"]
