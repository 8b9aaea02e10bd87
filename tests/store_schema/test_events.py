"""What is told as JSON lines: events, and whatever else reaches stderr, whoever writes it; no patient and no file in any of it."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from store_schema import EntryKey, events
from store_schema.console import LoggedGroup, progress, say
from store_schema.errors import StoreError, UsageError
from store_schema.events import asked_format, hide_with, json_lines, on, steps, tell
from store_schema.pseudonyms import PlainIds, Pseudonyms


def lines(text: str) -> list[dict]:
    """Every line as what it says; one that is no JSON fails the test."""
    return [json.loads(line) for line in text.splitlines()]


def told(capsys) -> list[dict]:
    return lines(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "environment", "found"),
    [
        ([], {}, "plain"),
        (["run"], {"ENGRAM_LOG_FORMAT": "json"}, "json"),
        (["--log-format", "json", "run"], {}, "json"),
        (["run", "--log-format=json"], {}, "json"),
        (["run", "--log-format", "plain"], {"ENGRAM_LOG_FORMAT": "json"}, "plain"),
        (["run", "--log-format"], {}, "plain"),
        (["run", "--", "--log-format", "json"], {}, "plain"),
    ],
)
def test_the_format_is_known_before_a_command_line_is_parsed(arguments, environment, found):
    assert asked_format(arguments, environment) == found


def test_an_event_has_time_level_name_and_members_and_none_is_left_out(capsys):
    with json_lines():
        tell("study", level="error", line=3, left_s=float("nan"), where=None)
    (line,) = told(capsys)
    assert line.pop("time").endswith("+00:00")
    assert line == {"level": "error", "event": "study", "line": 3, "left_s": None}


def test_without_json_lines_nothing_is_told(capsys):
    assert not on()
    tell("study", line=3)
    say("for people", "note")
    assert capsys.readouterr().err == "for people\n"


def test_what_stood_for_stderr_stands_there_again(capsys):
    before = sys.stderr
    with json_lines():
        kept = sys.stderr
        assert kept is not before
    assert sys.stderr is before
    print("after", file=kept)
    assert capsys.readouterr().err == "after\n", "who kept the stream writes to the one before"


@pytest.mark.parametrize("ids", [PlainIds(), Pseudonyms(b"a planted key of many bytes")])
def test_a_message_names_no_patient_and_no_file_that_a_table_named(capsys, ids):
    with json_lines():
        ids.know(patients=["KOWALSKA-1", "Müller"], places=["/data/kowalska/pet scan.nii.gz"])
        tell("failure", message="ImageError: /data/kowalska/pet scan.nii.gz of kowalska-1 is damaged")
        tell("failure", message="'M\\xfcller' is not a patient id")
        print("warning: /data/kowalska/other.dcm is odd", file=sys.stderr)
    text = capsys.readouterr().err
    assert len(lines(text)) == 3
    assert not [word for word in ("kowalska", "scan", "ller", "other") if word in text.lower()]


def test_an_entry_is_named_without_its_patient(capsys):
    with json_lines():
        tell("failure", message=f"no commit of {EntryKey('P001', 'PET', 'spine')} in commits/view-1/P001/CT/spine")
    (line,) = told(capsys)
    assert line["message"] == "no commit of ***/PET/spine in commits/view-1/***/CT/spine"


def test_filters_of_one_program_are_forgotten_by_the_next(capsys):
    with json_lines():
        hide_with(lambda text: text.replace("cohort", "***"))
        tell("note", message="cohort")
    with json_lines():
        tell("note", message="cohort")
    assert [line["message"] for line in told(capsys)] == ["***", "cohort"]


def test_steps_are_told_now_and_then_and_at_the_end(capsys):
    now_s = iter([0.0, 4.0, 11.0, 11.0, 12.0])
    with json_lines():
        moved = steps("entries", every_s=10.0, clock=lambda: next(now_s))
        for done in (1, 2, 3):
            moved(done, 3)
    assert [line["done"] for line in told(capsys)] == [2, 3]


def test_a_progress_bar_is_told_as_steps(capsys):
    with json_lines(), progress("entries") as moved:
        moved(5, 5)
    assert [(line["event"], line["what"], line["done"]) for line in told(capsys)] == [("progress", "entries", 5)]


EVERYBODY = """
import logging, os, subprocess, sys, warnings
from store_schema.events import json_lines, tell
with json_lines():
    tell("started")
    print("by print\\nin two lines", file=sys.stderr)
    logging.getLogger("library").warning("by %s", "logging")
    logging.getLogger("library").info("too little")
    try:
        1 / 0
    except ZeroDivisionError:
        logging.getLogger("library").exception("failed")
    warnings.warn("by warnings")
    os.write(2, b"by C\\n\\xff\\n")
    subprocess.run([sys.executable, "-c", "import sys; print('by a child', file=sys.stderr)"], check=True)
    lingering = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    sys.stderr.write("begun")
lingering.kill()
print("afterwards", file=sys.stderr)
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50)


def test_whoever_writes_to_stderr_is_told_as_a_line_and_a_child_that_lives_on_is_not_waited_for():
    *within, after = run(EVERYBODY).stderr.splitlines()
    assert after == "afterwards"
    said = {(line["event"], line["level"], line.get("message")) for line in map(json.loads, within)}
    assert said >= {
        ("started", "info", None),
        ("message", "info", "by print"),
        ("message", "info", "in two lines"),
        ("message", "info", "begun"),
        ("log", "warning", "by logging"),
        ("log", "error", "failed"),
        ("stderr", "warning", "by C"),
        ("stderr", "warning", "\\xff"),
        ("stderr", "warning", "by a child"),
    }
    assert any("UserWarning: by warnings" in (message or "") for event, _, message in said if event == "warning")
    failed = next(line for line in map(json.loads, within) if line.get("message") == "failed")
    assert failed["kind"] == "ZeroDivisionError"
    assert "Traceback" not in "".join(within)


def test_a_library_that_writes_more_than_the_pipe_holds_while_it_has_pythons_lock_stops_nothing():
    code = (
        "import ctypes; from store_schema.events import PIPE_BYTES, json_lines\n"
        "with json_lines():\n"
        "    data = (b'x' * 99 + b'\\n') * (3 * PIPE_BYTES // 100)\n"
        "    print(ctypes.PyDLL(None).write(2, data, len(data)) < len(data))\n"
    )
    done = run(code)
    assert done.stdout == "True\n"
    assert {line["event"] for line in lines(done.stderr)} == {"stderr"}


FINALISED = """
import logging, sys
from store_schema import events
class Finalised:
    def __del__(self):
        print("finalised", file=sys.stderr)
        logging.getLogger("library").warning("logged")
class Text(str):
    def __radd__(self, begun):
        Finalised()
        return begun + str(self)
def finalised(write):
    def written(text):
        if "outer" in text:
            Finalised()
        write(text)
    return written
with events.json_lines():
    events._active._write = finalised(events._active._write)
    events.tell("outer")
    sys.stderr.write(Text("line\\n"))
"""


def test_a_finaliser_that_writes_or_logs_while_something_is_told_does_not_hang():
    said = [line.get("message", line["event"]) for line in lines(run(FINALISED).stderr)]
    assert said == ["finalised", "logged", "outer", "finalised", "logged", "line"]


def test_records_take_no_lock_of_their_own(capsys):
    with json_lines():
        (handler,) = logging.getLogger().handlers
        assert handler.lock is None
        logging.getLogger("library").warning("told")
    assert [line["message"] for line in told(capsys)] == ["told"]


def test_a_message_whose_filter_fails_is_not_told_and_stops_nobody(capsys):
    def fails(text):
        raise RuntimeError("Kowalska")

    with json_lines():
        hide_with(fails)
        tell("failure", message="Kowalska")
        tell("study", line=3)
    first, second = told(capsys)
    assert (first["message"], first["filter_failed"]) == ("***", "RuntimeError")
    assert first["filter_where"][-1].endswith(" fails")
    assert second["line"] == 3


DEAD_READER = """
import os, threading
from store_schema import events
tell = events._Telling.tell
def told(self, event, *more):
    if event == "stderr":
        raise RuntimeError("Kowalska")
    tell(self, event, *more)
events._Telling.tell = told
with events.json_lines():
    events.hide_with(lambda text: text.replace("Kowalska", "***"))
    os.write(2, b"Kowalska\\n")
    next(thread for thread in threading.enumerate() if thread.name == "stderr").join()
    try:
        while True:
            os.write(2, b"Kowalska" * 1000)
    except BlockingIOError:
        events.tell("full")
print("status 0")
"""


def test_without_its_reader_the_work_goes_on_and_nothing_unfiltered_is_told():
    done = run(DEAD_READER)
    said = lines(done.stderr)
    assert said[-1]["event"] == "full"
    assert "RuntimeError: ***" in [line.get("message") for line in said]
    assert done.stdout == "status 0\n"


def test_who_tells_while_the_program_ends_in_another_thread_is_not_disturbed(capsys, monkeypatch):
    begun = []

    def end(frame, kind, _):
        if frame.f_code is tell.__code__ and kind == "line":
            if begun:
                monkeypatch.setattr(events, "_active", None)
            begun.append(frame.f_lineno)
        return end

    before = sys.gettrace()
    with json_lines():
        sys.settrace(end)
        try:
            tell("study", line=3)
        finally:
            sys.settrace(before)
    assert len(begun) > 1
    assert [line["event"] for line in told(capsys)] == ["study"]


def test_a_library_that_logs_to_stderr_by_itself_is_told_with_its_level(capsys):
    library = logging.getLogger("distributed-like")
    handler = logging.StreamHandler(sys.stderr)
    library.addHandler(handler)
    library.propagate = False
    with json_lines():
        logging.getLogger("distributed-like.scheduler").error("lost")
    assert library.handlers == [handler]
    library.handlers.clear()
    (line,) = told(capsys)
    assert (line["event"], line["level"], line["message"]) == ("log", "error", "lost")


def test_a_malformed_log_call_of_a_library_is_told_and_disturbs_nobody(capsys):
    text = "%d of %s"
    with json_lines():
        logging.getLogger("library").warning(text, "many")
    (line,) = told(capsys)
    assert (line["event"], line["level"], line["logger"], line["kind"]) == ("log", "error", "library", "TypeError")
    assert line["message"] == "a log call that cannot be told: '%d of %s'"
    assert line["where"][0].startswith("test_events.py:")


def test_a_reader_who_is_gone_ends_no_work(tmp_path):
    code = (
        "import pathlib, time; from store_schema.events import json_lines, tell\n"
        "with json_lines():\n"
        "    time.sleep(0.5)\n"
        "    tell('study')\n"
        f"    pathlib.Path({str(tmp_path / 'done')!r}).touch()\n"
    )
    reading, writing = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", code], stderr=writing)
    os.close(writing)
    os.close(reading)
    assert process.wait(50) == 0
    assert (tmp_path / "done").exists()


@click.group(cls=LoggedGroup)
def program() -> None:
    """Fails in several ways."""


@program.command()
@click.argument("how")
def fail(how: str) -> None:
    """Ends."""
    errors: dict[str, BaseException] = {
        "use": UsageError("wrong use of P001/PET/spine"),
        "store": StoreError("no store"),
        "click": click.UsageError("missing"),
        "abort": click.Abort(),
        "crash": ZeroDivisionError("by zero"),
        "exit": click.exceptions.Exit(1),
    }
    if how in errors:
        raise errors[how]
    click.echo("all well")


@pytest.mark.parametrize(
    ("how", "status", "told"),
    [
        ("well", 0, []),
        ("exit", 1, []),
        ("use", 2, [("error", "UsageError", "wrong use of ***/PET/spine")]),
        ("store", 1, [("error", "StoreError", "no store")]),
        ("click", 2, [("error", "UsageError", "missing")]),
        ("abort", 1, [("interrupted", None, None)]),
        ("crash", 1, [("crashed", "ZeroDivisionError", "by zero")]),
    ],
)
def test_a_command_ends_in_an_event_with_its_exit_status(how, status, told):
    result = CliRunner().invoke(program, ["fail", how, "--log-format", "json"])
    first, *between, last = lines(result.stderr)
    assert (first["event"], first["command"]) == ("started", "fail")
    assert [(one["event"], one.get("kind"), one.get("message")) for one in between] == told
    assert (last["event"], last["exit_status"], result.exit_code) == ("ended", status, status)
    assert result.stdout == ("all well\n" if how == "well" else "")


@pytest.mark.parametrize("arguments", [["--bogus"], ["fail"], ["fail", "x", "--bogus"], ["absent"], []])
def test_a_command_line_that_cannot_be_parsed_is_told_as_an_event(arguments):
    result = CliRunner().invoke(program, arguments, env={"ENGRAM_LOG_FORMAT": "json"})
    assert result.exit_code == 2
    assert [line["event"] for line in lines(result.stderr)] == ["started", "error", "ended"]


def test_a_format_that_is_none_is_refused_for_people():
    result = CliRunner().invoke(program, ["fail", "well", "--log-format", "yaml"])
    assert result.exit_code == 2
    assert "'yaml' is not one of 'plain', 'json'" in result.stderr


def test_without_the_option_errors_are_lines_for_people():
    result = CliRunner().invoke(program, ["fail", "store"])
    assert (result.exit_code, result.stderr) == (1, "StoreError: no store\n")


@pytest.mark.parametrize("name", ["extractor", "trainer"])
def test_every_command_of_both_programs_takes_the_format(name):
    program = Path(sys.executable).parent / name
    told = subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout
    assert "--log-format [plain|json]" in told
