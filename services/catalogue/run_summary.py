"""What lists show of a run, from the few of its records that say it; knows no store, and nothing of models but their names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.catalogue.notes import moment

KEPT: Mapping[str, tuple[str, ...] | None] = {
    "trainer.json": None,
    "start.json": ("started_at", "views", "studies", "entries", "shard", "patients", "engram"),
    "finish.json": ("snapshots", "failed", "missing"),
}
"""Records that are read, and the members that are kept of them; of an extraction neither settings nor names."""
_NOT_IN_LISTS = ("records", "damaged", "finished", "figures", "left_out")
"""Members of a trainer's record that lists have no use for, or that mean something else in a summary."""
MAX_RECORD_BYTES = 1 * 2**20
MAX_DEPTH = 16


@dataclass(frozen=True)
class RunFacts:
    """The row of a run, without its names."""

    kind: str
    started_at: datetime | None
    summary: dict[str, Any]


def run_facts(names: list[str], contents: Mapping[str, bytes | None]) -> RunFacts:
    """What is known of a run.

    Parameters
    ----------
    names
        Of all its records.
    contents
        Those of `KEPT` that are there; None where one is too large, or gone again.
    """
    summary: dict[str, Any] = {}
    damaged = []
    for name in KEPT:
        if name not in contents:
            continue
        found = _members(contents[name], KEPT[name])
        if found is None:
            damaged.append(name)
        else:
            summary |= {key: value for key, value in found.items() if key not in _NOT_IN_LISTS}
    started_at = moment(summary.get("started_at")) or moment(summary.get("published_at"))
    summary |= {"records": sorted(names), "damaged": damaged, "finished": _finished(names)}
    return RunFacts(_kind(names), started_at, summary)


def _kind(names: list[str]) -> str:
    if "trainer.json" in names:
        return "trainer"
    return "extractor" if "start.json" in names else "other"


def _finished(names: list[str]) -> bool:
    return "trainer.json" in names or "finish.json" in names


def _members(data: bytes | None, kept: tuple[str, ...] | None) -> dict[str, Any] | None:
    """The members of a record that are kept, as values that every database and every reader takes; None where it is damaged."""
    if data is None:
        return None
    try:
        found = json.loads(data, parse_constant=lambda _: None)
        if not isinstance(found, dict):
            return None
        plain: dict[str, Any] = _plain({key: found[key] for key in found if kept is None or key in kept}, MAX_DEPTH)
    except (ValueError, RecursionError):
        return None
    return plain


def _plain(value: Any, depth: int) -> Any:
    """A JSON value without half characters, numbers that are none, and bottomless nesting."""
    if depth == 0:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    match value:
        case str():
            return value.encode(errors="replace").decode().replace("\0", "")
        case float() if value != value or value in {float("inf"), float("-inf")}:  # noqa: PLR0124 - NaN
            return None
        case dict():
            return {_plain(key, depth): _plain(one, depth - 1) for key, one in value.items()}
        case list():
            return [_plain(one, depth - 1) for one in value]
    return value
