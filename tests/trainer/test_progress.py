"""Progress of `trainer cv` and `trainer study` as a user sees it: live on a terminal, plain in a file, never among the results."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

TRAINER = str(Path(sys.executable).parent / "trainer")
ROWS = ("cox", "image")
ESCAPE = "\x1b"
BAR = re.compile(r"━ +\d+/\d+ ")
CURSOR_UP = "\x1b[1A"
"""How a drawing is replaced by the next one."""


def command(kit, cohort_folder, folder, kind):
    """The command of a run of two models over three folds."""
    settings = kit.settings
    if kind == "study":
        image = {"origin": ["PET"], "mask": ["spine"], "model": ["MedSAM2"], "settings": {"hidden": [4]}}
        rows = [{"table": "clinical", "kind": "ridge_cox", "name": "cox"}, {**image, "name": "image"}]
        settings = {name: value for name, value in settings.items() if name != "models"}
        settings |= {"views": {"MedSAM2": "tiny"}, "rows": rows}
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    where = ["--store", str(cohort_folder / "store"), "--clinical", str(cohort_folder / "clinical.csv")]
    named = ["--config", str(folder / "settings.yaml")] if kind == "cv" else [str(folder / "settings.yaml")]
    return [TRAINER, kind, *named, *where, "--out", str(folder / "run"), "--workers", "0"]


def environment(**changes):
    plain = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "NO_COLOR", "TERM")}
    return {**plain, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40", **changes}


def on_a_terminal(arguments):
    """What the command wrote to a terminal on stderr, whether it was still running when it first drew, and its stdout."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=theirs, env=environment())
    os.close(theirs)
    said, running = b"", None
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:
            # what a terminal answers when nobody writes to it any more
            break
        said += part
        if running is None and b"0/6" in said:
            running = process.poll() is None
    results, _ = process.communicate()
    os.close(ours)
    return SimpleNamespace(code=process.returncode, drawn=said.decode(), running=running, results=results.decode())


@pytest.mark.parametrize("kind", ["cv", "study"])
def test_a_terminal_sees_a_bar_of_all_fits_and_one_of_each_row_while_they_go_on(kit, cohort_folder, tmp_path, kind):
    arguments = command(kit, cohort_folder, tmp_path, kind)
    seen = on_a_terminal(arguments)
    assert seen.code == 0, seen.drawn
    assert seen.running is True
    assert CURSOR_UP in seen.drawn
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.drawn)
    assert re.search(r"fits +━+ +0/6 ", plain)
    assert re.search(r"fits +━+ +6/6 ", plain)
    for row in ROWS:
        assert re.search(rf"  {row} +━+ +0/3 ", plain), row
    assert "left" in plain
    assert not BAR.search(seen.results)
    assert ESCAPE not in seen.results
    assert "Harrell's c in cross-validation" in seen.results
    assert "Harrell's c" not in plain


@pytest.mark.parametrize("kind", ["cv", "study"])
def test_a_pipe_gets_no_escape_codes_and_the_results_alone_on_stdout(kit, cohort_folder, tmp_path, kind):
    arguments = command(kit, cohort_folder, tmp_path, kind)
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    assert ESCAPE not in done.stdout + done.stderr
    assert "\r" not in done.stdout + done.stderr
    assert re.search(r"fits +━+ +6/6 ", done.stderr)
    assert not BAR.search(done.stdout)
    for told in ("Harrell's c in cross-validation", *ROWS):
        assert told in done.stdout
    assert "Harrell's c" not in done.stderr
