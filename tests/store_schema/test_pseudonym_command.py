"""`pseudonym` as a person types it: the store's own name of a patient, and never a name that a wrong key gives unasked."""

import pytest
from click.testing import CliRunner, Result

from store_schema import EntryKey, Store
from store_schema.cli import main
from store_schema.pseudonyms import KEY_VARIABLE, PlainIds, Pseudonyms, settle_rule
from store_schema.testing import digest_of, example_entry, example_view

KEY, OTHER = "a key of more than sixteen bytes", "another key of sixteen bytes"


@pytest.fixture
def held(store: Store) -> Store:
    """A store of one patient with two studies, written with KEY."""
    ids = Pseudonyms(KEY.encode())
    settle_rule(store, ids)
    view = store.put_view(example_view())
    for study in ("a", "b"):
        key = EntryKey(ids.key("MM-0042", study), "PET", "spine")
        store.publish(view, key, example_entry(), input_sha256=digest_of(study))
    return store


def _run(*arguments: str, key: str | None = KEY, stdin: str = "") -> Result:
    return CliRunner(env={KEY_VARIABLE: key}).invoke(main, ["pseudonym", *arguments], input=stdin)


def test_patient_is_withdrawn_by_the_pseudonym_that_is_printed(held: Store) -> None:
    printed = _run("MM-0042", "--store", held.url)
    assert (printed.exit_code, printed.stderr) == (0, "")
    arguments = ["withdraw", held.url, "--patient", printed.stdout.strip(), "--reason", "consent withdrawn", "--yes"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert held.keys(held.view_ids()[0]) == []


def test_study_is_named_as_the_extraction_names_it(held: Store) -> None:
    printed = _run("MM-0042", "--study", "b")
    assert EntryKey(printed.stdout.strip(), "PET", "spine") in held.keys(held.view_ids()[0])


def test_id_from_stdin_is_the_same_and_is_told_nowhere() -> None:
    assert _run("-", stdin="MM-0042\n").output == _run("MM-0042").output == _run(" MM-0042 ").output
    several = _run("-", stdin="MM-0042\nMM-0043\n")
    assert (several.exit_code, several.stdout, "MM-00" in several.output) == (2, "", False)


def test_wrong_key_is_refused_where_the_store_is_named(held: Store) -> None:
    wrong = _run("MM-0042", "--store", held.url, key=OTHER)
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert "was written with another pseudonym key" in wrong.stderr
    assert OTHER not in wrong.output


def test_store_of_plain_ids_or_of_no_rule_is_refused(store: Store) -> None:
    silent = _run("MM-0042", "--store", store.url)
    assert (silent.exit_code, "does not say what its patients are called" in silent.stderr) == (2, True)
    settle_rule(store, PlainIds())
    plain = _run("MM-0042", "--store", store.url)
    assert (plain.exit_code, "holds plain patient ids" in plain.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "key", "message"),
    [
        (["MM-0042"], None, KEY_VARIABLE),
        (["MM-0042"], "short", "16"),
        ([""], KEY, "the ID is empty"),
        (["MM-0042", "--study", " "], KEY, "the study is empty"),
        (["-"], KEY, "stdin has 0 lines"),
    ],
)
def test_what_would_name_nobody_is_refused(arguments: list[str], key: str | None, message: str) -> None:
    refused = _run(*arguments, key=key)
    assert (refused.exit_code, refused.stdout, message in refused.stderr) == (2, "", True)


def test_help_teaches_by_examples() -> None:
    lines = _run("--help", key=None).stdout.splitlines()
    assert any(line.startswith("    store-schema pseudonym ") for line in lines)
    assert any(line.startswith("    store-schema withdraw ") for line in lines)
