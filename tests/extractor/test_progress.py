"""What a run shows while it works: a line a study in a log, live states on a terminal, rate and time left in both."""

import io

import pytest
from rich.console import Console

from extractor.outcome import ItemOutcome
from extractor.progress import StudyProgress, bars, study_progress


class Clock:
    """A clock that a test moves."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def outcome(patient: str, result: str = "committed") -> ItemOutcome:
    return ItemOutcome(patient, "CT", "spine", "paper", result, "why")


@pytest.fixture
def log() -> Console:
    return Console(file=io.StringIO(), width=200, force_terminal=False)


@pytest.fixture
def terminal() -> Console:
    return Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)


def text(console: Console) -> str:
    return console.file.getvalue()


def test_a_log_has_a_line_a_study_with_rate_and_time_left(log):
    clock = Clock()
    progress = StudyProgress(10, log, None, clock=clock)
    progress.stage("P001", "loading")
    assert text(log) == "", "stages are no lines"
    clock.now_s += 90
    progress.result("P001", [outcome("P001"), outcome("P001", "failed")])
    assert text(log) == "[1/10] P001: 1 items held, 1 failed; 40 studies/h, left 0:13:30\n"
    clock.now_s += 30
    progress.result("P002", [outcome("P002")])
    assert text(log).splitlines()[1] == "[2/10] P002: 1 items held, 0 failed; 60 studies/h, left 0:08:00"


def test_the_last_study_leaves_no_time(log):
    clock = Clock()
    progress = StudyProgress(1, log, None, clock=clock)
    clock.now_s += 3600
    progress.result("P001", [outcome("P001")])
    assert text(log).endswith("1 studies/h, left 0:00:00\n")


def test_hours_are_told(log):
    clock = Clock()
    progress = StudyProgress(101, log, None, clock=clock)
    clock.now_s += 120
    progress.result("P001", [outcome("P001")])
    assert "left 3:20:00" in text(log)


def test_brackets_in_an_id_are_no_markup(log):
    progress = StudyProgress(1, log, None, clock=Clock())
    progress.result("[red]", [outcome("[red]")])
    assert "[red]" in text(log)


def shown(console: Console, progress: StudyProgress) -> str:
    """The bar's line as it is now."""
    console.file.truncate(0)
    console.print(progress.shown)
    return text(console)


def test_a_terminal_shows_what_is_done_where(terminal):
    clock, live = Clock(), bars(terminal)
    progress = StudyProgress(7, terminal, live, clock=clock)
    progress.stage("P001", "loading", "gpu-1")
    progress.stage("P002", "embedding")
    line = shown(terminal, progress)
    assert "P001 loading on gpu-1, P002 embedding" in line
    assert "0/7" in line
    assert "studies/h" not in line, "there is no rate before the first study"
    progress.stage("P001", "writing", "gpu-1")
    clock.now_s += 36
    progress.result("P002", [outcome("P002", "failed")])
    line = shown(terminal, progress)
    assert "P001 writing on gpu-1" in line
    assert "P002" not in line
    assert "1/7" in line
    assert "1 failed" in line
    assert "100 studies/h" in line


def test_a_study_whose_process_died_is_shown_nowhere_until_it_begins_again(terminal):
    progress = StudyProgress(2, terminal, bars(terminal), clock=Clock())
    progress.stage("P001", "embedding")
    progress.stage("P001", None)
    assert "P001" not in shown(terminal, progress)
    progress.stage("P001", "loading")
    assert "P001 loading" in shown(terminal, progress)


def test_of_many_studies_some_are_named_and_the_rest_counted(terminal):
    progress = StudyProgress(9, terminal, bars(terminal), clock=Clock())
    for number in range(6):
        progress.stage(f"P{number}", "loading")
    line = shown(terminal, progress)
    assert "P3 loading and 2 more" in line
    assert "P4" not in line


def test_the_output_decides_which_of_both_it_is(log, terminal):
    with study_progress(log, {"P001": 2}) as lines:
        assert lines.shown is None
    with study_progress(terminal, {"P001": 2}) as live:
        assert live.shown is not None
