"""Finds what a gallery shows: the entries of a run, a view or a snapshot, and what failed in the run; reads no array."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from extractor.outcome import LEFT_OUT, ItemOutcome
from store_schema import EntryKey, Store
from store_schema.errors import NotCommittedError, SchemaError, UsageError
from store_schema.where import where

STARTED, PLANNED, ENDED = "start.json", "plan.jsonl", "outcomes.jsonl"


@dataclass(frozen=True)
class Chosen:
    """What is to be shown."""

    title: str
    view_id: str
    numbers: Mapping[EntryKey, int | None]
    """Commit number by entry, in order; None stands for the current one."""
    failed: tuple[ItemOutcome, ...] = ()
    """Items of the run that have no entry; of a run that did not end, those that its plan refused."""
    left_out: int = 0
    """Entries beyond the limit."""
    note: str | None = None


def choose(
    store: Store,
    *,
    run: str | None = None,
    view: str | None = None,
    snapshot: str | None = None,
    terms: Sequence[str] = (),
    limit: int | None = None,
) -> Chosen:
    """The entries of a run (in its first view, or the one named), a view, or a snapshot; of the newest run by default.

    Parameters
    ----------
    run
        Id of a run, or a unique beginning of it.
    terms
        Filters such as `patient=MM_0*`; see `store_schema.where.where`.
    limit
        Entries to show at most.

    Raises
    ------
    UsageError
        If a snapshot is asked for together with a run or a view, or the view is none of the run's.
    NotCommittedError
        If there is no such run, view or snapshot, or nothing passes the filters.
    """
    if snapshot is not None and (run is not None or view is not None):
        raise UsageError("--snapshot names entries by itself: leave --run and --view out.")
    if snapshot is not None:
        found = _of_snapshot(store, snapshot)
    elif view is not None and run is None:
        view_id = store.resolve_view(view)
        found = Chosen(f"View {view_id}", view_id, dict.fromkeys(store.keys(view_id)))
    else:
        found = _of_run(store, _run_id(store, run), view)
    return _filtered(found, terms, limit)


def _of_snapshot(store: Store, snapshot: str) -> Chosen:
    pinned = store.snapshot(snapshot)
    numbers = {row.key: row.number for row in pinned.rows}
    return Chosen(f"Snapshot {pinned.id[:16]}… of {pinned.view_id}", pinned.view_id, numbers)


def _run_id(store: Store, given: str | None) -> str:
    """The one extraction run that begins so, or the newest; ids begin with the time at which runs began."""
    ids = [name for name in store.run_ids() if STARTED in store.run_names(name)]
    found = ids if given is None else [name for name in ids if name.startswith(given)]
    if not found or (given is not None and len(found) > 1):
        shown = ", ".join(ids[-5:]) or "none"
        raise NotCommittedError(
            f"{ascii(given)[:80]} means {len(found)} extraction runs of {store.url}: name one, or --view or --snapshot. There are: "
            f"{shown}."
        )
    return found[-1]


def _of_run(store: Store, run_id: str, view: str | None) -> Chosen:
    views = _parsed(store, run_id, STARTED)["views"]
    layout, view_id = _one_view(views, store, view, run_id)
    ended = ENDED in store.run_names(run_id)
    lines = store.read_run(run_id, ENDED if ended else PLANNED).decode().splitlines()
    items = [json.loads(line) for line in lines]
    mine = [item for item in items if item["layout"] == layout]
    numbers: dict[EntryKey, int | None] = {}
    failed: list[ItemOutcome] = []
    for item in mine:
        key = EntryKey(item["patient"], item["modality"], item["roi"])
        result = item["result"] if ended else item["state"]
        if result in LEFT_OUT:
            failed.append(ItemOutcome(key.patient, key.modality, key.roi, layout, "failed", item["reason"]))
        elif result != "withdrawn":
            numbers[key] = item["number"] if ended else None
    note = (
        None
        if ended
        else "This run has not ended, or was cut short: its entries are those of its plan that are there now."
    )
    if not ended:
        there = store.current_numbers(view_id)
        numbers = {key: None for key in numbers if key in there}
    return Chosen(f"Run {run_id}, view {view_id}", view_id, dict(sorted(numbers.items())), tuple(failed), note=note)


def _parsed(store: Store, run_id: str, name: str) -> dict[str, Any]:
    record = json.loads(store.read_run(run_id, name))
    if not isinstance(record, dict) or not record.get("views"):
        raise SchemaError(f"{store.url}: {name} of run {run_id} names no views: it is no record of an extraction.")
    return record


def _one_view(views: Mapping[str, str], store: Store, view: str | None, run_id: str) -> tuple[str, str]:
    """Layout and id of the view to show: the run's first, which holds masks and previews, unless another is named."""
    if view is None:
        return next(iter(views.items()))
    view_id = views.get(view) or store.resolve_view(view)
    found = [layout for layout, known in views.items() if known == view_id]
    if not found:
        raise UsageError(f"run {run_id} made nothing in view {view_id}: it made {', '.join(views.values())}.")
    return found[0], view_id


def _filtered(found: Chosen, terms: Sequence[str], limit: int | None) -> Chosen:
    passes = where(terms)
    keys = [key for key in found.numbers if passes(key)]
    failed = tuple(one for one in found.failed if passes(EntryKey(one.patient, one.modality, one.roi)))
    if not keys and not failed:
        asked = f" passes {' and '.join(terms)}" if terms else " is there to show"
        raise NotCommittedError(f"{found.title}: nothing of {len(found.numbers)} entries{asked}.")
    shown = keys if limit is None else keys[:limit]
    numbers = {key: found.numbers[key] for key in shown}
    return Chosen(found.title, found.view_id, numbers, failed, len(keys) - len(shown), found.note)
