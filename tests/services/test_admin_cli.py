"""`feature-store admin` and the start of `serve`: results on stdout, keys once and only there, one line for an error, no secret."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
from click.testing import CliRunner

from services import operations
from services.cli import main
from services.database.engine import Database
from services.errors import Refusal
from services.keys import KEY_PATTERN, split_key
from services.service import Service
from services.settings import Settings
from store_schema import EntryKey, open_store
from store_schema.testing import digest_of, example_entry, example_view

GROUPS = {
    "": ["serve", "admin"],
    "admin": ["migrate", "projects", "keys", "grants", "reindex", "audit"],
    "admin projects": ["create", "list"],
    "admin keys": ["create", "list", "revoke"],
    "admin grants": ["create", "list", "revoke"],
}


@pytest.fixture
def place(database_url, tmp_path, monkeypatch):
    """Folder of a service whose address is in the environment, as an operator has it."""
    monkeypatch.setenv("ENGRAM_SERVICE_DATA", str(tmp_path / "data"))
    if not database_url.startswith("sqlite"):
        monkeypatch.setenv("ENGRAM_SERVICE_DATABASE_URL", database_url.replace("+psycopg", ""))
    return tmp_path / "data"


def run(*arguments, status=0):
    found = CliRunner().invoke(main, ["admin", *map(str, arguments)])
    assert found.exit_code == status, (found.output, found.exception)
    assert "engram-test-password" not in found.output
    return found


def lines(*arguments):
    return [json.loads(line) for line in run(*arguments, "--json").stdout.splitlines()]


@pytest.fixture
def two(place):
    """A service with two projects, of which `myeloma` has a view of two entries and a snapshot."""
    run("migrate")
    for project in ("myeloma", "lymphoma"):
        run("projects", "create", project)
    store = open_store(place / "stores" / "myeloma")
    view = store.put_view(example_view())
    for seed in range(2):
        key = EntryKey(f"P{seed}", "CT", "spine")
        store.publish(view, key, example_entry(seed), input_sha256=digest_of(str(key)))
    return {"view": view, "snapshot": store.make_snapshot(view)}


# Help


def test_help_names_every_command_and_imports_nothing_heavy():
    code = (
        "import sys; from click.testing import CliRunner; from services.cli import main\n"
        "for words in sys.argv[1:]:\n"
        "    found = CliRunner().invoke(main, [*words.split(), '--help'])\n"
        "    assert found.exit_code == 0, words\n"
        "heavy = ('sqlalchemy', 'alembic', 'fastapi', 'uvicorn', 'zarr', 'numpy', 'pydantic', 'rich', 'torch', 'psycopg')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    commands = [f"{group} {name}".strip() for group, names in GROUPS.items() for name in names]
    done = subprocess.run([sys.executable, "-c", code, *commands], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_lists_its_commands(group):
    shown = CliRunner().invoke(main, [*group.split(), "--help"]).stdout
    assert re.findall(r"^  (\w+) ", shown.partition("Commands:")[2], re.MULTILINE) == sorted(GROUPS[group])


def test_examples_of_the_help_are_commands_that_are_there():
    shown = "\n".join(
        CliRunner().invoke(main, [*f"{group} {name}".split(), "--help"]).stdout
        for group, names in GROUPS.items()
        for name in ["", *names]
    )
    examples = {line.strip() for line in shown.splitlines() if line.strip().startswith("feature-store")}
    assert len(examples) > 15
    for example in examples:
        words = shlex.split(example.partition("  ")[0].partition(" > ")[0])[1:]
        command = main
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, example


# Migrations


def test_without_a_database_every_command_says_what_to_do_and_makes_nothing(tmp_path):
    for command in ("projects list", "keys list p", "grants list p", "audit p", "reindex", "keys create p --label x"):
        said = run(*command.split(), "--data", tmp_path / "typo", status=2).stderr
        assert said.startswith("UsageError: there is no database")
        assert "`feature-store admin migrate`" in said
        assert said.count("\n") == 1
    assert not (tmp_path / "typo").exists()


def test_migrate_makes_the_tables_and_prints_the_steps_once(place):
    first, second = run("migrate"), run("migrate")
    assert (first.stdout, second.stdout) == ("0001\n", "")
    assert "is up to date" in second.stderr
    assert lines("projects", "list") == []


def test_a_server_without_tables_is_told_to_be_migrated(postgres):
    name = "engram_without_tables"
    url = postgres.make_database(name)
    try:
        said = run("projects", "list", "--database-url", url, status=2).stderr
        assert re.match(r"UsageError: the database .*///?.*@127.0.0.1.* has no tables of the service yet", said)
    finally:
        postgres.drop_database(name)


# Projects


def test_a_project_is_made_and_its_stores_address_printed(place):
    run("migrate")
    made = run("projects", "create", "myeloma")
    assert made.stdout == f"{place}/stores/myeloma\n"
    assert open_store(made.stdout.strip()).view_ids() == []
    (row,) = lines("projects", "list")
    assert (row["project"], row["store"], row["indexed"]) == ("myeloma", f"{place}/stores/myeloma", None)


def test_a_project_may_have_a_store_elsewhere(place, tmp_path):
    run("migrate")
    assert run("projects", "create", "myeloma", "--store", tmp_path / "other").stdout == f"{tmp_path}/other\n"
    assert (
        "is that of project 'myeloma'" in run("projects", "create", "b", "--store", tmp_path / "other", status=1).stderr
    )


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["a b"], 1, "is not a project id"),
        (["myeloma"], 1, "already"),
        (["x", "--store", "memory://x"], 2, "ends with this command"),
        (["x", "--store", "s3://id:hiddenhidden@bucket/x"], 2, "carries a password"),
    ],
)
def test_a_project_that_cannot_be_made_is_one_line(two, arguments, status, said):
    found = run("projects", "create", *arguments, status=status)
    assert said in found.stderr
    assert "hiddenhidden" not in found.output
    assert (found.stdout, found.stderr.count("\n")) == ("", 1)
    assert len(lines("projects", "list")) == 2


# Keys


@pytest.mark.parametrize("scope", ["read", "write", "admin"])
def test_a_key_goes_to_stdout_once_and_nowhere_else(two, place, scope):
    made = run("keys", "create", "myeloma", "--scope", scope, "--label", "Köln, node 3", "--expires-days", 30)
    assert KEY_PATTERN.fullmatch(made.stdout.strip())
    key_id, secret = split_key(made.stdout.strip())
    assert made.output.count(secret) == 1
    assert key_id in made.stderr
    (row,) = lines("keys", "list", "myeloma")
    assert (row["key"], row["scope"], row["state"], row["label"]) == (key_id, scope, "live", "Köln, node 3")
    for words in ("keys list myeloma", "audit myeloma", "audit myeloma --json", "projects list"):
        assert secret not in run(*words.split()).output
    for file in place.glob("service.db*"):
        assert secret.encode() not in file.read_bytes()


def test_a_key_works_until_it_is_revoked(two, place, database_url):
    text = run("keys", "create", "myeloma", "--label", "x").stdout.strip()
    url = None if database_url.startswith("sqlite") else database_url
    service = Service.open(Settings(data=place, database_url=url, key_cache_s=0))
    assert service.access.principal(text).project == "myeloma"
    key_id, secret = split_key(text)
    assert run("keys", "revoke", "myeloma", key_id[:8]).stdout == f"{key_id}\n"
    with pytest.raises(Refusal):
        service.access.principal(text)
    service.close()
    again = run("keys", "revoke", "myeloma", text)
    assert (again.stdout, secret in again.output) == (f"{key_id}\n", False)
    (row,) = lines("keys", "list", "myeloma")
    assert row["state"] == "revoked"
    assert row["revoked"] is not None


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["create", "nowhere", "--label", "x"], 1, "there is no project 'nowhere'"),
        (["create", "myeloma", "--label", ""], 1, "what the key is for"),
        (["create", "myeloma", "--label", "x", "--expires-days", "0"], 1, "expires_days is 0"),
        (["create", "myeloma", "--label", "x", "--scope", "root"], 2, "'root' is not one of"),
        (["create", "myeloma"], 2, "--label"),
        (["list", "nowhere"], 1, "there is no project"),
        (["revoke", "myeloma", "0"], 1, "0 key ids begin so"),
        (["revoke", "myeloma", "engram_"], 1, "0 key ids begin so"),
    ],
)
def test_what_is_wrong_with_a_key_is_told(two, arguments, status, said):
    assert said in run("keys", *arguments, status=status).stderr


# Grants


def test_a_grant_is_made_by_beginnings_listed_by_both_and_revoked(two):
    view = run("grants", "create", "myeloma", "--to", "lymphoma", "--view", "example")
    snapshot = run("grants", "create", "myeloma", "--to", "lymphoma", "--snapshot", two["snapshot"][:6])
    assert re.fullmatch(r"[0-9a-f]{32}\n", view.stdout)
    assert f"lymphoma reads view {two['view']} of myeloma" in view.stderr
    for project in ("myeloma", "lymphoma"):
        found = lines("grants", "list", project)
        assert [(row["from"], row["to"], row["state"]) for row in found] == [("myeloma", "lymphoma", "live")] * 2
        assert [(row["view"], row["snapshot"]) for row in found] == [(two["view"], None), (None, two["snapshot"])]
    assert "0 grant ids begin so" in run("grants", "revoke", "lymphoma", view.stdout.strip(), status=1).stderr
    assert run("grants", "revoke", "myeloma", view.stdout.strip()).stdout == view.stdout
    assert [row["state"] for row in lines("grants", "list", "lymphoma")] == ["revoked", "live"]
    assert run("grants", "revoke", "myeloma", snapshot.stdout[:10]).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--to", "lymphoma"], 2, "--view or --snapshot"),
        (["--to", "lymphoma", "--view", "example", "--snapshot", "0"], 2, "--view or --snapshot"),
        (["--to", "nowhere", "--view", "example"], 1, "there is no project 'nowhere'"),
        (["--to", "myeloma", "--view", "example"], 1, "name another project"),
        (["--to", "lymphoma", "--view", "other"], 1, "means 0 views"),
        (["--to", "lymphoma", "--snapshot", "zz"], 1, "begins 0 snapshot ids"),
    ],
)
def test_what_cannot_be_granted_is_told(two, arguments, status, said):
    assert said in run("grants", "create", "myeloma", *arguments, status=status).stderr
    assert lines("grants", "list", "myeloma") == []


# Catalogue and audit


def test_reindex_makes_all_catalogues_agree_and_prints_what_it_found(two):
    done = run("reindex")
    found = {row["project"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert {name: (row["entries"], row["views"]) for name, row in found.items()} == {
        "lymphoma": (0, 0),
        "myeloma": (2, 1),
    }
    assert all(row["indexed"] for row in lines("projects", "list"))


def test_a_project_that_fails_does_not_stop_the_others(two, place):
    (place / "stores" / "lymphoma" / "engram.json").unlink()
    done = run("reindex", status=1)
    assert [json.loads(line)["project"] for line in done.stdout.splitlines()] == ["myeloma"]
    assert "lymphoma: StoreNotFoundError" in done.stderr
    assert "there is no project 'nowhere'" in run("reindex", "nowhere", "--rebuild", status=1).stderr


def test_the_audit_shows_what_the_operator_did_latest_last(two):
    key = run("keys", "create", "myeloma", "--label", "x").stdout.strip()
    run("keys", "revoke", "myeloma", split_key(key)[0])
    found = lines("audit", "myeloma")
    assert [(row["action"], row["key"]) for row in found] == [
        ("project", "operator"),
        ("key", "operator"),
        ("revoke", "operator"),
    ]
    assert found[1]["target"] == f"key {split_key(key)[0]}"
    assert [row["action"] for row in lines("audit", "myeloma", "--limit", 1)] == ["revoke"]
    assert lines("audit", "myeloma", "--since", "2999-01-01") == []
    table = run("audit", "myeloma").stdout.splitlines()
    assert table[0].split()[:5] == ["at", "until", "key", "of", "action"]
    assert len(table) == 4


def test_more_of_the_audit_than_a_page_is_printed(two, monkeypatch):
    monkeypatch.setattr(operations, "MAX_PAGE", 2)
    for _ in range(4):
        run("keys", "create", "myeloma", "--label", "x")
    assert len(lines("audit", "myeloma", "--limit", 1000)) == 5
    assert len(lines("audit", "myeloma", "--limit", 3)) == 3


# Databases that do not answer


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setitem(Database.__init__.__kwdefaults__, "patience_s", 0.3)


@pytest.mark.parametrize("command", ["projects list", "migrate", "audit p"])
def test_a_wrong_password_is_told_without_it(postgres, impatient, command):
    url = f"postgresql://{postgres.role}:wrong-secret@127.0.0.1:{postgres.port}/postgres"
    found = run(*command.split(), "--database-url", url, status=1)
    said = found.stderr.splitlines()[-1]
    assert said.startswith("BackendError: the database postgresql+psycopg://")
    assert "password authentication failed" in said
    assert "wrong-secret" not in found.output


def test_a_server_that_is_not_there_is_told(impatient):
    found = run("projects", "list", "--database-url", "postgresql://u:hidden-secret@127.0.0.1:1/n", status=1)
    assert "does not answer" in found.stderr
    assert "hidden-secret" not in found.output


@pytest.mark.parametrize("url", ["mysql://u:hidden@h/n", "postgresql://u:hidden@h:port/n", "sqlite://", "nonsense"])
def test_an_address_of_no_database_is_wrong_use(url, tmp_path):
    found = run("projects", "list", "--database-url", url, status=2)
    assert found.stderr.startswith("ConfigError: ")
    assert re.search(r"expected (postgresql://|sqlite:///)", found.stderr)
    assert "hidden" not in found.output


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be made" in run("migrate", "--data", tmp_path / "file" / "data", status=2).stderr


def test_a_file_that_is_no_database_is_told(tmp_path):
    tmp_path.joinpath("service.db").write_bytes(b"something else " * 100)
    found = run("projects", "list", "--data", tmp_path, status=1)
    assert found.stderr.startswith("BackendError: the database sqlite:///")
    assert "not a database" in found.stderr


# serve


def test_serve_makes_a_first_project_and_prints_its_key_this_once(tmp_path):
    printed = []
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", "from services.cli import main; main()", "serve", "--data", "here", "--port", "0"],
            cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if not name.startswith("ENGRAM_SERVICE")},
        )  # fmt: skip
        said = []
        for line in process.stdout:
            said.append(line.strip())
            if line.startswith("Serving at"):
                break
        with urlopen(f"{said[-1].split()[2]}/healthz", timeout=60) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        rest, logged = process.communicate(timeout=60)
        # The server ends in good order, and then by the signal that it was sent.
        assert process.returncode in {0, -signal.SIGTERM}, logged
        assert '"event": "stopped"' in logged
        printed.append(said[:-1])
        assert not KEY_PATTERN.search(logged + rest)
    (key,), nothing = printed
    assert KEY_PATTERN.fullmatch(key)
    assert nothing == []
    (row,) = lines("keys", "list", "default", "--data", tmp_path / "here")
    assert (row["key"], row["scope"], row["state"]) == (split_key(key)[0], "admin", "live")
    assert Path(tmp_path, "here", "stores", "default", "engram.json").exists()
