"""`verify`, `gc`, `withdraw` and `du` as a person types them."""

import json
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from store_schema import Snapshot, Store
from store_schema.cli import main

REASON = ("--reason", "consent withdrawn")


def _run(*arguments: object, stdin: str = "") -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)


def _orphan(store: Store, view: str) -> str:
    folder = f"data/{view}/a/CT/skeleton/{'0' * 32}"
    store.location.put(f"{folder}/zarr.json", b"half")
    old = time.time() - 30 * 86400
    os.utime(Path(store.url, folder, "zarr.json"), (old, old))
    return folder


# withdraw


def test_withdraw_asks_and_leaves_everything_where_the_answer_is_no(store: Store, view: str, keys) -> None:
    for stdin in ("n\n", ""):
        result = _run("withdraw", store.url, "--patient", "a", *REASON, stdin=stdin)
        assert result.exit_code == 1
        assert f"entry      {view}/{keys[0]}" in result.stderr
        assert "would withdraw 2 entries of a: 18 objects" in result.stderr
        assert result.stdout == ""
    assert store.keys(view) == sorted(keys)


@pytest.mark.parametrize("answer", [(("--yes",), ""), ((), "y\n")])
def test_withdraw_erases_after_a_yes_and_prints_what_it_erased(store: Store, view: str, keys, answer) -> None:
    options, stdin = answer
    snapshot = store.make_snapshot(view)
    store.put_run("run-1", "start.json", b'{"patient": "a"}')
    result = _run("withdraw", store.url, "--patient", "a", *REASON, *options, stdin=stdin)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines == [
        f"entry      {view}/a/CT/skeleton",
        f"entry      {view}/a/CT/spine",
        f"snapshot   {snapshot}: refuses to open from now on",
        "mention    runs/run-1/start.json: names the patient and is not erased",
        lines[-1],
    ]
    assert lines[-1].startswith("withdrew 2 entries of a: 18 objects")
    assert store.keys(view) == [keys[2]]
    assert _run("verify", store.url).exit_code == 0
    listed = _run("ls", store.url)
    assert listed.exit_code == 0
    assert f"view      {view}  1 entries" in listed.stdout


def test_withdraw_of_a_patient_takes_the_studies_and_shows_them_first(store: Store, view: str, keys) -> None:
    result = _run("withdraw", store.url, "--patient", "b", *REASON, "--dry-run", "--json")
    report = json.loads(result.stdout)
    assert (report["dry_run"], report["patients"]) == (True, ["b.2"])
    assert store.keys(view) == sorted(keys)


def test_withdraw_by_key_and_view(store: Store, view: str, keys) -> None:
    result = _run("withdraw", store.url, "--key", keys[0], "--view", "example", *REASON, "--yes", "--json")
    assert json.loads(result.stdout)["entries"] == [f"{view}/{keys[0]}"]
    assert store.keys(view) == sorted(keys[1:])
    shown = _run("show", store.url, view, keys[0])
    assert (shown.exit_code, shown.stderr.split(":")[0]) == (1, "EntryWithdrawnError")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--patient", "nobody", *REASON], 1, "NotCommittedError: "),
        (["--patient", "a"], 2, "Missing option '--reason'"),
        (["--patient", "a", "--reason", ""], 2, "UsageError: "),
        ([*REASON], 2, "UsageError: nothing was named"),
        (["--key", "a/CT", *REASON], 2, "InvalidKeyError: "),
        (["--patient", "../a", *REASON], 2, "InvalidKeyError: "),
        (["--patient", "a", "--view", "nothing", *REASON], 1, "NotCommittedError: "),
    ],
)
def test_withdraw_refuses_wrong_calls(
    store: Store, view: str, keys, arguments: list[str], status: int, message: str
) -> None:
    result = _run("withdraw", store.url, *arguments, "--yes")
    assert (result.exit_code, message in result.stderr) == (status, True)
    assert store.keys(view) == sorted(keys)


# gc


def test_gc_shows_what_it_would_remove_and_removes_it_with_yes(store: Store, view: str) -> None:
    orphan = _orphan(store, view)
    shown = _run("gc", store.url)
    assert shown.exit_code == 0
    assert shown.stdout.splitlines() == [
        f"attempt    {orphan}",
        "would remove 1 objects, 4 bytes, older than 7 days",
    ]
    assert "run it again with --yes" in shown.stderr
    assert store.location.exists(f"{orphan}/zarr.json")
    removed = _run("gc", store.url, "--yes", "--json")
    assert json.loads(removed.stdout)["attempts"] == [orphan]
    assert not store.location.exists(f"{orphan}/zarr.json")
    assert _run("gc", store.url).stdout == "would remove 0 objects, 0 bytes, older than 7 days\n"


def test_gc_keeps_to_the_grace_time_and_refuses_a_short_one(store: Store, view: str) -> None:
    orphan = _orphan(store, view)
    assert orphan not in _run("gc", store.url, "--grace", 40).stdout
    result = _run("gc", store.url, "--grace", 1, "--yes")
    assert (result.exit_code, "ConfigError: a grace time of 1 days is too short" in result.stderr) == (2, True)
    assert store.location.exists(f"{orphan}/zarr.json")


def test_gc_that_cannot_judge_an_entry_exits_1(store: Store, view: str) -> None:
    orphan = _orphan(store, view)
    store.location.put(f"commits/{view}/a/CT/skeleton/000000.json", b"{}")
    result = _run("gc", store.url, "--yes")
    assert result.exit_code == 1
    assert "problem    " in result.stdout
    assert store.location.exists(f"{orphan}/zarr.json")


# du


def test_du_prints_a_line_for_each_kind_and_their_sum(store: Store, view: str, snapshot: Snapshot) -> None:
    lines = _run("du", store.url).stdout.splitlines()
    assert [" ".join(line.split()[3:]) for line in lines if "live" in line] == [f"data live {view}"]
    assert lines[-1].split()[-1] == "total"
    assert sum(int(line.split()[0]) for line in lines[:-1]) == int(lines[-1].split()[0])
    report = json.loads(_run("du", store.url, "--json").stdout)
    assert report["objects"] == int(lines[-1].split()[0])


# verify


def test_verify_counts_withdrawn_entries_and_orphans(store: Store, view: str) -> None:
    _orphan(store, view)
    _run("withdraw", store.url, "--patient", "b", *REASON, "--yes")
    result = _run("verify", store.url)
    assert result.exit_code == 0
    assert "0 packs, 1 withdrawn; 0 problems, 1 orphaned attempts (4 bytes)" in result.stdout


@pytest.mark.parametrize("command", ["gc", "withdraw", "du"])
def test_help_teaches_by_examples(command: str) -> None:
    result = _run(command, "--help")
    assert result.exit_code == 0
    assert any(line.startswith(f"    store-schema {command} ") for line in result.stdout.splitlines())
