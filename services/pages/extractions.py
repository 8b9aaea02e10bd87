"""Reads the records of an extraction as far as they are there: settings, plan, outcomes, end; knows no page.

A run that is at work, or was killed, has the first of them only. Whoever may write to the store may put anything under these names,
so what is no record of an extraction is told as unreadable, never guessed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from store_schema import Store
from store_schema.errors import SchemaError

STARTED, PLANNED, ENDED, FINISHED = "start.json", "plan.jsonl", "outcomes.jsonl", "finish.json"
FAILED = ("failed", "refused")
"""Result, and state of a plan, of items that have no entry because something is wrong."""
MOST_REASONS, MOST_PATIENTS = 200, 200
"""Of a page."""


@dataclass(frozen=True)
class Failure:
    """Items that failed alike."""

    reason: str
    items: int
    patients: tuple[str, ...]
    """Up to `MOST_PATIENTS`, sorted."""
    more: int
    """Patients beyond these."""


@dataclass(frozen=True)
class Extraction:
    """What a run of the extractor recorded."""

    started_at: str | None
    engram: str | None
    studies: int | None
    views: Mapping[str, str]
    """Id by layout."""
    shard: str | None
    patient_ids: str | None
    """plain or pseudonyms."""
    ended: bool
    planned: Mapping[str, int]
    """Items by state."""
    results: Mapping[str, int]
    """Items by what became of them; empty before the end."""
    failures: tuple[Failure, ...]
    more_failures: int
    """Kinds of failure beyond those that are shown."""
    snapshots: Mapping[str, str]
    """Id by layout."""
    settings: str
    """As JSON."""


def read_extraction(store: Store, run_id: str, names: Sequence[str]) -> Extraction:
    """A run by those of its records that are there.

    Raises
    ------
    SchemaError
        If one is no record of an extraction.
    """
    start = _object(store, run_id, STARTED)
    finish = _object(store, run_id, FINISHED) if FINISHED in names else {}
    plan = _lines(store, run_id, PLANNED) if PLANNED in names else []
    outcomes = _lines(store, run_id, ENDED) if ENDED in names else []
    failures = _failures([*outcomes] if ENDED in names else plan, "result" if ENDED in names else "state")
    return Extraction(
        started_at=_text(start.get("started_at")),
        engram=_text(start.get("engram")),
        studies=start["studies"] if isinstance(start.get("studies"), int) else None,
        views=_texts(start.get("views")),
        shard=_text(start.get("shard")),
        patient_ids=_text(start.get("patients")),
        ended=ENDED in names,
        planned=_counts(plan, "state"),
        results=_counts(outcomes, "result"),
        failures=failures[:MOST_REASONS],
        more_failures=max(0, len(failures) - MOST_REASONS),
        snapshots=_texts(finish.get("snapshots")),
        settings=json.dumps(start.get("settings"), indent=2, ensure_ascii=False),
    )


def _failures(items: Sequence[Mapping[str, Any]], field: str) -> tuple[Failure, ...]:
    """Failed items by reason, the most frequent first."""
    patients: dict[str, list[str]] = {}
    for item in items:
        if item.get(field) in FAILED:
            patients.setdefault(str(item.get("reason")), []).append(str(item.get("patient")))
    grouped = sorted(patients.items(), key=lambda one: (-len(one[1]), one[0]))
    return tuple(_failure(reason, named) for reason, named in grouped)


def _failure(reason: str, named: Sequence[str]) -> Failure:
    distinct = sorted(set(named))
    return Failure(reason, len(named), tuple(distinct[:MOST_PATIENTS]), max(0, len(distinct) - MOST_PATIENTS))


def _counts(items: Sequence[Mapping[str, Any]], field: str) -> dict[str, int]:
    return dict(sorted(Counter(str(item.get(field)) for item in items).items()))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _texts(value: Any) -> dict[str, str]:
    found = value if isinstance(value, dict) else {}
    return {str(name): one for name, one in found.items() if isinstance(one, str)}


def _object(store: Store, run_id: str, name: str) -> Mapping[str, Any]:
    return _parsed(store.read_run(run_id, name), run_id, name)


def _lines(store: Store, run_id: str, name: str) -> list[Mapping[str, Any]]:
    return [_parsed(line, run_id, name) for line in store.read_run(run_id, name).splitlines() if line.strip()]


def _parsed(data: bytes, run_id: str, name: str) -> Mapping[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise SchemaError(f"{name} of run {run_id} is no record of an extraction: it was written by another program.")
    return found
