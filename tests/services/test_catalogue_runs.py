"""A run's row tells what its records say, and no record that anybody may write can break a list."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.catalogue.index import note_run, reindex
from services.catalogue.run_summary import MAX_DEPTH, MAX_RECORD_BYTES, run_facts
from services.database.models import RunRow
from services.errors import Refusal
from services.service import Service
from store_schema import Store
from store_schema.errors import InvalidKeyError
from store_schema.testing import json_values

from . import catalogue_help
from .catalogue_help import PROJECT, put_run, rows_of

store = catalogue_help.store
STARTED = "2026-01-02T03:04:05+00:00"


def facts(**records: bytes | None) -> Any:
    names = {f"{name}.json": data for name, data in records.items()}
    return run_facts(list(names), names)


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


def test_extraction_is_told_by_its_counts_and_neither_settings_nor_paths() -> None:
    start = {
        "started_at": STARTED,
        "studies": 7,
        "views": {"paper": "v"},
        "settings": {"weights": "/home/x"},
        "engram": "1",
    }
    found = facts(start=json.dumps(start).encode(), finish=b'{"snapshots": {"paper": "s"}, "failed": 2, "other": 1}')
    assert (found.kind, found.started_at) == ("extractor", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    assert found.summary == {
        "started_at": STARTED,
        "studies": 7,
        "views": {"paper": "v"},
        "engram": "1",
        "snapshots": {"paper": "s"},
        "failed": 2,
        "records": ["finish.json", "start.json"],
        "damaged": [],
        "finished": True,
    }


def test_extraction_that_was_killed_is_not_finished() -> None:
    assert not facts(start=b"{}").summary["finished"]


def test_trainer_run_is_told_by_its_models() -> None:
    record = {
        "kind": "trainer",
        "published_at": STARTED,
        "models": [{"name": "image", "mean": 0.7}],
        "records": {"a": 1},
    }
    found = facts(trainer=json.dumps(record).encode())
    assert (found.kind, found.started_at.isoformat(), found.summary["models"]) == ("trainer", STARTED, record["models"])
    assert found.summary["records"] == ["trainer.json"]


@pytest.mark.parametrize(
    "data",
    [
        None, b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000, nested(100_000), nested(MAX_DEPTH + 1),
        b'{"a": ' + b"1" * 5000 + b"}",
    ],
    ids=["large", "empty", "list", "null", "cut", "no text", "deep list", "deep", "too deep", "huge number"],
)  # fmt: skip
def test_record_that_is_none_is_named_as_damaged(data: bytes | None) -> None:
    found = facts(trainer=data, start=b'{"studies": 1}')
    assert (found.summary["damaged"], found.summary["studies"]) == (["trainer.json"], 1)


@settings(max_examples=200)
@given(value=st.dictionaries(st.text(max_size=5), json_values(), max_size=4))
def test_sound_records_are_kept_as_they_are(value: dict[str, Any]) -> None:
    kept = {key: one for key, one in value.items() if r"\u0000" not in json.dumps({key: one})}
    found = facts(trainer=json.dumps(kept).encode()).summary
    assert found["damaged"] == []
    assert {key: found[key] for key in kept} == kept


@pytest.mark.parametrize(
    "text",
    [
        '{"a": NaN, "b": [Infinity, -Infinity, 1e999]}',
        r'{"a": "\ud800", "b": "x\u0000y"}',
        '{"a": 123456789012345678901234567890}',
    ],
)
def test_values_that_a_database_refuses_are_kept_out_of_it(service: Service, store: Store, text: str) -> None:
    store.put_run("odd", "trainer.json", text.encode())
    reindex(service, PROJECT)
    summary = rows_of(service)["runs"][0]["summary"]
    assert summary["damaged"] == []
    json.dumps(summary, allow_nan=False, ensure_ascii=False).encode()


def test_record_that_is_too_large_is_not_read(service: Service, store: Store) -> None:
    store.put_run("large", "trainer.json", b" " * (MAX_RECORD_BYTES + 1))
    assert reindex(service, PROJECT).damaged == {"runs": 1}
    # It is counted again in every round, though nothing is read again.
    report = reindex(service, PROJECT)
    assert (report.damaged, report.read) == ({"runs": 1}, 0)


def test_run_grows_record_by_record(service: Service, store: Store) -> None:
    for name in ("start", "plan", "finish"):
        put_run(store, "run-1", **{name: {"failed": 3}})
        note_run(service, PROJECT, "run-1")
        noted = rows_of(service)["runs"]
        assert reindex(service, PROJECT).written == 0
        assert rows_of(service)["runs"] == noted
    assert noted[0]["summary"]["records"] == ["finish.json", "plan.json", "start.json"]
    assert (noted[0]["kind"], noted[0]["summary"]["failed"]) == ("extractor", 3)


def test_note_of_a_run_that_is_not_there_removes_its_row(service: Service, store: Store) -> None:
    service.database.run(lambda session: session.add(RunRow(project=PROJECT, id="gone", kind="other", summary={})))
    note_run(service, PROJECT, "gone")
    note_run(service, PROJECT, "never-was")
    assert rows_of(service)["runs"] == []


def test_note_of_what_is_no_run_is_refused(service: Service, store: Store) -> None:
    with pytest.raises(InvalidKeyError):
        note_run(service, PROJECT, "../x")
    with pytest.raises(Refusal):
        note_run(service, "nobody", "run-1")
