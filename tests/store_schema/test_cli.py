"""The command line: results on stdout, errors in one line on stderr, exit statuses 0, 1 and 2."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from store_schema import Snapshot, Store, open_store
from store_schema.cli import main
from store_schema.snapshot import snapshot_path
from store_schema.testing import example_view


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_init_makes_a_store_once(tmp_path: Path) -> None:
    first, second = _run("init", tmp_path / "s"), _run("init", tmp_path / "s")
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert first.stdout == second.stdout == f"store {open_store(tmp_path / 's').store_id} at {tmp_path}/s\n"


def test_ls_shows_views_snapshots_and_runs(store: Store, view: str, snapshot: Snapshot) -> None:
    store.put_run("run-1", "start.json", b"{}")
    lines = _run("ls", store.url).stdout.splitlines()
    assert lines == [
        f"view      {view}  3 entries  UNTRAINED: random weights",
        f"snapshot  {snapshot.id}  3 entries of {view}",
        "run       run-1  start.json",
    ]


def test_ls_of_a_view_gives_keys_that_snapshot_takes(
    store: Store, view: str, snapshot: Snapshot, tmp_path: Path
) -> None:
    listed = _run("ls", store.url, "example").stdout
    assert listed == "a/CT/skeleton\na/CT/spine\nb.2/CT/skeleton\n"
    (tmp_path / "keys.txt").write_text("# my cohort\n\n" + listed)
    assert _run("snapshot", store.url, "example", "--keys", tmp_path / "keys.txt").stdout == f"{snapshot.id}\n"
    assert _run("snapshot", store.url, view).stdout == f"{snapshot.id}\n"


def test_show_prints_the_specification_or_the_commits(store: Store, view: str, keys) -> None:
    assert json.loads(_run("show", store.url, "example").stdout) == example_view().model_dump(mode="json")
    (shown,) = json.loads(_run("show", store.url, view, keys[0]).stdout)
    commit = store.current(view, keys[0])
    assert shown == commit.model_dump(mode="json", by_alias=True)
    assert shown["arrays"]["memory"]["shape"] == [2, 3, 4, 4]


def test_verify_says_that_a_store_is_sound(store: Store, view: str, tmp_path: Path) -> None:
    result = _run("verify", store.url, "--json", tmp_path / "report.json")
    assert result.exit_code == 0
    assert result.stdout.startswith("verified: 3 entries of 1 views, 3 commits, 27 objects")
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(store.verify().to_dict()))


def test_verify_of_a_damaged_store_names_the_object_and_exits_1(store: Store, view: str, keys, tmp_path: Path) -> None:
    place = f"{store.current(view, keys[0]).folder}/memory/c/0/0/0/0"
    Path(store.url, place).unlink()
    result = _run("verify", store.url, "--view", "example", "--json", tmp_path / "report.json")
    assert result.exit_code == 1
    assert result.stdout.startswith(f"missing    {place}: ")
    assert "NOT SOUND" in result.stdout
    assert json.loads((tmp_path / "report.json").read_text())["findings"][0]["kind"] == "missing"


def test_verify_of_a_snapshot_checks_what_it_pins(store: Store, snapshot: Snapshot) -> None:
    result = _run("verify", store.url, "--snapshot", snapshot.id[:8])
    assert (result.exit_code, result.stdout[:19]) == (0, "verified: 3 entries")
    assert _run("verify", store.url, "--snapshot", snapshot.id, "--view", "example").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["ls", "{tmp}/nothing"], 1, "StoreNotFoundError: "),
        (["ls", "nosuch://host/store"], 2, "UsageError: "),
        (["ls", "{store}", "nobody"], 1, "NotCommittedError: "),
        (["show", "{store}", "example", "a/CT/nothing"], 1, "NotCommittedError: "),
        (["show", "{store}", "example", "a/CT"], 2, "InvalidKeyError: "),
        (["snapshot", "{store}", "example", "--keys", "{tmp}/keys.txt"], 1, "NotCommittedError: "),
        (["verify", "{store}", "--snapshot", "zz"], 1, "NotCommittedError: "),
        (["verify", "{store}", "--json", "{tmp}/no/such/folder.json"], 2, "UsageError: "),
        (["frobnicate"], 2, "No such command"),
        (["snapshot", "{store}"], 2, "Missing argument"),
    ],
)
def test_errors_are_one_line_on_stderr_with_an_exit_status(
    store: Store, view: str, tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    (tmp_path / "keys.txt").write_text("nobody/CT/skeleton\n")
    result = _run(*(argument.format(tmp=tmp_path, store=store.url) for argument in arguments))
    assert result.exit_code == status
    assert result.stdout == ""
    assert message in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("command", [[], ["init"], ["ls"], ["show"], ["snapshot"], ["verify"]])
def test_help_teaches_by_examples_on_lines_of_their_own(command: list[str]) -> None:
    result = _run(*command, "--help")
    assert result.exit_code == 0
    examples = [line for line in result.stdout.splitlines() if line.startswith("    store-schema ")]
    assert any(line.split()[1] == (command or ["init"])[0] for line in examples)
    assert "\\b" not in result.stdout


def test_help_and_keys_come_without_zarr() -> None:
    """What makes `--help` instant: heavy libraries are imported by commands, at first use."""
    script = """
import sys
import store_schema, store_schema.cli
from store_schema import EntryKey, ViewSpec
try:
    store_schema.cli.main(["verify", "--help"])
except SystemExit as status:
    assert status.code == 0
print(sorted({"zarr", "numpy", "numcodecs", "xarray", "rich.progress", "torch"} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.endswith("\n[]\n")


def test_ls_names_what_is_damaged_and_lists_the_rest(store: Store, view: str, snapshot: Snapshot) -> None:
    other = store.put_view(example_view(name="other"))
    store.location.put(f"views/{view}.json", b"{}")
    store.location.put(snapshot_path(snapshot.id), b"cut")
    store.location.put("views/odd..name.json", b"{}")
    store.put_run("run-1", "record.json", b"{}")
    lines = _run("ls", store.url).stdout.splitlines()
    assert f"view      {view}  DAMAGED (SchemaError): `store-schema verify` tells" in lines
    assert f"view      {other}  0 entries  UNTRAINED: random weights" in lines
    assert f"snapshot  {snapshot.id}  DAMAGED (ObjectAlteredError): `store-schema verify` tells" in lines
    assert "run       run-1  record.json" in lines
