"""Records: one canonical JSON each, digests as SPEC.md says them, computed here with hashlib and json alone."""

import hashlib
import json
import re

import pytest

from store_schema import CommitRecord, EntryKey, Store, ViewSpec, create_store
from store_schema.errors import ObjectAlteredError, SchemaError
from store_schema.records import canonical_json, parse_record, seal, unseal
from store_schema.testing import digest_of, example_entry, example_view


@pytest.fixture
def store(tmp_path):
    return create_store(tmp_path / "store")


@pytest.fixture
def commit(store: Store) -> CommitRecord:
    view = store.put_view(example_view())
    return store.publish(view, EntryKey("P1", "CT", "a"), example_entry(), input_sha256=digest_of("a")).commit


def _sha256_of_json(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def test_view_id_is_name_and_digest_of_the_specification_without_it() -> None:
    view = example_view(name="mini.box-v1")
    specification = json.loads(view.to_bytes())
    del specification["name"]
    assert view.view_id == f"mini.box-v1-{_sha256_of_json(specification)[:16]}"


def test_view_id_of_the_example_never_changes() -> None:
    """Stores written years ago are named by it: a change here needs another schema."""
    assert example_view().view_id == "example-6ff232aaba9a9f6e"


def test_views_that_differ_in_name_alone_share_a_digest() -> None:
    assert example_view(name="a").digest == example_view(name="b").digest != example_view(recipe=2).digest


def test_flags_keep_their_types() -> None:
    flags = {"on": True, "count": 1, "ratio": 1.0, "text": "1"}
    view = example_view().model_copy(update={"flags": flags})
    again = parse_record(ViewSpec, view.to_bytes(), where="here")
    assert {name: type(value) for name, value in again.flags.items()} == {n: type(v) for n, v in flags.items()}
    assert again.view_id == view.view_id


def test_unknown_member_is_refused() -> None:
    data = canonical_json({**json.loads(example_view().to_bytes()), "colour": "red"})
    with pytest.raises(SchemaError, match=r"here is not a ViewSpec of schema 1: colour"):
        parse_record(ViewSpec, data, where="here")


def test_commit_ends_in_the_digest_of_what_stands_before_it(commit: CommitRecord) -> None:
    data = commit.to_bytes()
    match = re.fullmatch(rb'(\{.*),"sha256":"([0-9a-f]{64})"\}', data)
    assert match is not None
    assert hashlib.sha256(match[1] + b"}").hexdigest().encode() == match[2]
    assert json.loads(match[1] + b"}") == {name: value for name, value in json.loads(data).items() if name != "sha256"}


def test_stored_commit_is_the_bytes_of_its_record(store: Store, commit: CommitRecord) -> None:
    data = store.location.get(f"commits/{commit.view}/{commit.key}/000000.json")
    assert data == commit.to_bytes()
    assert parse_record(CommitRecord, unseal(data, where="here"), where="here") == commit


@pytest.mark.parametrize("data", [b"", b"{}", b"null", seal(b'{"a":1}')[:-1], seal(b'{"a":1}') + b"\n", b"\xff" * 200])
def test_bytes_without_a_seal_are_altered(data: bytes) -> None:
    with pytest.raises(ObjectAlteredError, match="here does not end in its own digest"):
        unseal(data, where="here")


def test_commit_whose_chain_has_another_length_is_refused(commit: CommitRecord) -> None:
    wrong = commit.model_copy(update={"number": 3})
    with pytest.raises(SchemaError, match="lists 0 earlier inputs"):
        parse_record(CommitRecord, unseal(wrong.to_bytes(), where="here"), where="here")


def test_commit_lists_every_object_with_size_and_digest(store: Store, commit: CommitRecord) -> None:
    paths = store.location.paths(commit.folder)
    assert [path.removeprefix(f"{commit.folder}/") for path in paths] == sorted(commit.objects)
    for path, record in commit.objects.items():
        data = store.location.get(f"{commit.folder}/{path}")
        assert (record.size_bytes, record.sha256) == (len(data), hashlib.sha256(data).hexdigest())
