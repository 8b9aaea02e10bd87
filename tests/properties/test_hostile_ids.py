"""Ids that would leave a store or be mistaken for another are refused on every way in, and nothing outside is touched."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store_schema import EntryKey, Store, create_store, open_snapshot, open_store, url
from store_schema.cli import main
from store_schema.errors import EngramError, InvalidKeyError, NotCommittedError, UsageError
from store_schema.location import check_path
from store_schema.records import ViewSpec
from store_schema.testing import digest_of, example_entry, example_view
from store_schema.where import FIELDS
from store_schema.withdraw import withdraw

HOSTILE = {
    "empty": "",
    "dot": ".",
    "parent": "..",
    "up and out": "../../outside",
    "separator": "a/b",
    "absolute": "/etc/passwd",
    "backslash": "..\\outside",
    "leading dot": ".hidden",
    "trailing dot": "P1.",
    "double dot": "P1..a",
    "double hyphen": "P1--a",
    "leading hyphen": "-P1",
    "trailing underscore": "P1_",
    "space": "P 1",
    "trailing space": "P1 ",
    "line feed": "P1\n",
    "carriage return": "P1\r",
    "tab": "P\t1",
    "null": "P1\0",
    "escape": "P\x1b[31m1",
    "delete": "P\x7f1",
    "line separator": "P\u20281",
    "bidi override": "P\u202e1",
    "zero width joiner": "P\u200d1",
    "byte order mark": "\ufeffP1",
    "cyrillic look-alike": "\u0420" + "1",
    "greek look-alike": "\u03a1" + "1",
    "full-width": "\uff301",
    "arabic digit": "P\u0661",
    "superscript": "P\u00b9",
    "combining accent": "P\u03011",
    "fraction slash": "P\u20441",
    "division slash": "a\u2215b",
    "full stop look-alike": "P\uff0e1",
    "surrogate": "P\ud800",
    "82 characters": "a" * 82,
    "300 characters": "a" * 300,
    "percent encoded": "%2e%2e%2foutside",
    "home": "~root",
    "variable": "$HOME",
    "wildcard": "P*",
    "question mark": "P?x=1",
    "fragment": "P#1",
    "drive": "C:",
    "stream": "P1:x",
    "zarr metadata": "zarr.json",
}
GOOD = EntryKey("P1", "CT", "skeleton")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A folder store with one entry, beside a file that nothing may reach."""
    root = tmp_path_factory.mktemp("around")
    (root / "outside").mkdir()
    (root / "outside" / "000000.json").write_text("SECRET")
    store = create_store(root / "store")
    store.publish(store.put_view(example_view()), GOOD, example_entry(), input_sha256=digest_of("x"))
    return store


def _tree(store: Store) -> dict[str, bytes]:
    root = Path(store.url).parent
    return {os.fspath(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_key_of_a_hostile_id_cannot_be_made(text: str) -> None:
    """Publish, read, pin, current and history take keys alone: what is no key reaches none of them."""
    for segments in ((text, "CT", "x"), ("P1", text, "x"), ("P1", "CT", text)):
        with pytest.raises(InvalidKeyError) as refused:
            EntryKey(*segments)
        assert str(refused.value).isascii()
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 300


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_id_is_refused_on_every_way_in(store: Store, text: str) -> None:
    (view,) = store.view_ids()
    before = _tree(store)
    ways = [
        lambda: url(store, view, f"{text}/CT/skeleton"),
        lambda: url(store, view, f"P1/CT/{text}"),
        lambda: url(store, text, GOOD),
        lambda: store.view(text),
        lambda: store.snapshot(text),
        lambda: open_snapshot(store.url, text),
        lambda: withdraw(store, patients=[text], reason="test"),
        lambda: withdraw(store, [text], keys=[GOOD], reason="test"),
        lambda: store.make_snapshot(view, base=text),
        lambda: store.diff(text, text),
    ]
    if text not in {"P*", "P1 ", "P1\n", "P1\r"}:
        # A filter is matched against ids and never becomes a path; these are globs that fit, white space around them or not.
        ways += [lambda field=field: store.make_snapshot(view, where=[f"{field}={text}"]) for field in FIELDS]
    if text != "zarr.json":
        # Only among the names of a Zarr hierarchy does this one mean something else.
        ways += [
            lambda: store.keys(text),
            lambda: store.current(text, GOOD),
            lambda: store.read(text, GOOD),
            lambda: store.publish(text, GOOD, example_entry(), input_sha256=digest_of("y")),
            lambda: store.put_run(text, "start.json", b""),
            lambda: store.put_run("run", text, b""),
            lambda: store.read_run(text, "start.json"),
            lambda: store.read_run("run", text),
            lambda: store.run_names(text),
            lambda: ViewSpec(**{**example_view().model_dump(), "name": text}),
        ]
    for way in ways:
        with pytest.raises((UsageError, NotCommittedError)):
            way()
    assert _tree(store) == before


@pytest.mark.parametrize("text", [text for text in HOSTILE.values() if "\0" not in text and text.isprintable()])
def test_hostile_id_is_refused_on_the_command_line(store: Store, tmp_path: Path, text: str) -> None:
    before = _tree(store)
    keys = tmp_path / "keys.txt"
    keys.write_text(f"{text}/CT/skeleton\n", encoding="utf-8")
    for arguments in (
        ["ls", store.url, text],
        ["show", store.url, text],
        ["show", store.url, "example", f"{text}/CT/skeleton"],
        ["show", store.url, "example", f"P1/CT/{text}"],
        ["snapshot", store.url, "example", "--keys", str(keys)],
        ["snapshot", store.url, "example", "--where", f"roi={text}/../x"],
        ["snapshot", store.url, "example", "--base", text or "x"],
        ["verify", store.url, "--view", text],
        ["verify", store.url, "--snapshot", text or "x"],
        ["withdraw", store.url, f"--patient={text}", "--reason", "test", "--yes"],
        ["withdraw", store.url, f"--key={text}/CT/skeleton", "--reason", "test", "--yes"],
        ["withdraw", store.url, "--key", str(GOOD), f"--view={text}", "--reason", "test", "--yes"],
    ):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code in {1, 2}, arguments
        assert "Traceback" not in result.output
        assert "SECRET" not in result.output
    assert _tree(store) == before


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(codec=None), max_size=80))
def test_any_text_is_a_harmless_segment_or_refused_without_a_trace(store: Store, text: str) -> None:
    (view,) = store.view_ids()
    try:
        key = EntryKey.parse(f"{text}/CT/skeleton")
    except InvalidKeyError:
        with pytest.raises(EngramError):
            withdraw(store, patients=[text], reason="test")
        with pytest.raises(EngramError):
            store.read(text, GOOD)
        return
    path = check_path(f"data/{view}/{key}")
    assert path.isascii()
    place = os.path.normpath(Path(store.url, path))
    assert place == os.fspath(Path(store.url, "data", view, text, "CT", "skeleton"))


def test_ids_that_differ_by_case_alone_are_found_and_never_mixed_up(tmp_path: Path) -> None:
    """A writer on another machine may have made one: both stay readable here, and `verify` names them."""
    store = create_store(tmp_path / "store")
    view = store.put_view(example_view())
    twins = [EntryKey("P1", "CT", "skeleton"), EntryKey("p1", "CT", "skeleton"), EntryKey("P1", "ct", "Skeleton")]
    for i, key in enumerate(twins):
        store.publish(view, key, example_entry(i), input_sha256=digest_of(str(key)))
    assert [(finding.kind, finding.path) for finding in store.verify().findings] == [
        ("twin", "P1, p1"),
        ("twin", "CT, ct"),
        ("twin", "Skeleton, skeleton"),
    ]
    for i, key in enumerate(twins):
        assert store.read(view, key).arrays["memory"].tobytes() == example_entry(i).arrays["memory"].tobytes()
    assert withdraw(open_store(store.url), patients=["p1"], reason="test").patients == ("p1",)
    assert store.keys(view) == sorted([twins[0], twins[2]])
