"""What a run of patches shows: lines now and then in a log, bars on a terminal, and the time left within an entry in both."""

import io

import pytest
from rich.console import Console

from extractor.outcome import ItemOutcome
from extractor.patch_progress import LINE_S, PatchesLeft, PatchProgress, patch_progress


class Clock:
    """A clock that a test moves."""

    now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def log() -> Console:
    return Console(file=io.StringIO(), width=200, force_terminal=False)


def lines(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()


def test_time_left_is_what_the_others_should_take_by_how_long_those_done_took():
    left = PatchesLeft([1.0, 0.0, 3.0, 6.0])
    assert left.left_s == 10.0
    left.finish(2.0)
    assert left.left_s == pytest.approx(2 * 9)
    left.finish(0.0)
    left.pass_over(1)
    assert left.left_s == pytest.approx(2 * 6)
    left.finish(3.0)
    assert left.left_s == 0.0


def test_a_log_has_a_line_at_the_start_every_half_minute_and_at_the_end(log):
    clock = Clock()
    progress = PatchProgress(2, log, None, clock=clock)
    progress.begin("P001/PET/spine", [LINE_S / 4] * 12)
    for _ in range(12):
        clock.now_s += LINE_S / 4
        progress.made()
    assert lines(log) == [
        "[study 1/2] 0 of 12 patches of P001/PET/spine, left 0:01:30",
        "[study 1/2] 4 of 12 patches of P001/PET/spine, left 0:01:00",
        "[study 1/2] 8 of 12 patches of P001/PET/spine, left 0:00:30",
        "[study 1/2] 12 of 12 patches of P001/PET/spine, left 0:00:00",
    ]
    progress.study([])
    progress.begin("P002/PET/spine", [1.0])
    assert lines(log)[-1].startswith("[study 2/2] 0 of 1 patches of P002/PET/spine")


def test_patches_made_before_are_told_apart_and_take_no_time(log):
    clock = Clock()
    progress = PatchProgress(1, log, None, clock=clock)
    progress.begin("P001/PET/spine", [10.0] * 20)
    progress.kept(16)
    clock.now_s += 40
    progress.made()
    assert lines(log)[-1] == "[study 1/1] 17 of 20 patches of P001/PET/spine (16 made before), left 0:02:00"


def test_a_terminal_has_bars_with_the_entry_its_time_left_and_failures():
    terminal = Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    with patch_progress(terminal, 3) as progress:
        progress.begin("P001/PET/spine", [3600.0, 3600.0])
        progress.kept(1)
        progress.study([ItemOutcome("P001", "PET", "spine", "paper", "failed", "why")] * 2)
    shown = terminal.file.getvalue()
    assert "1/2" in shown
    assert "P001/PET/spine (1 made before), left 1:00:00" in shown
    assert "2 failed" in shown


def test_a_file_has_no_bars(log):
    with patch_progress(log, 1) as progress:
        progress.begin("P001/PET/spine", [])
        progress.study([])
    assert lines(log) == ["[study 1/1] 0 of 0 patches of P001/PET/spine, left 0:00:00"]
