"""The catalogue answers what a look through all rows would, page by page, and shows nobody what they may not read."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime, timedelta, timezone
from itertools import product
from typing import Any

import pytest

from services.catalogue import queries
from services.catalogue.coverage import coverage
from services.catalogue.cursors import Page
from services.catalogue.globs import Globs
from services.catalogue.index import note_commit, reindex
from services.catalogue.queries import Entry, EntryFilter
from services.catalogue.search import search
from services.database.models import EntryRow, SnapshotEntry
from services.errors import Refusal
from services.service import Service
from store_schema import EntryKey, Store

from . import catalogue_help
from .catalogue_help import (
    DAY,
    KEYS,
    NOW,
    PROJECT,
    A,
    all_items,
    asked,
    entry_rows,
    everything,
    fill,
    names_of,
    owner,
    pages,
    publish,
    put_run,
    rows_of,
)

store, views = catalogue_help.store, catalogue_help.views


def brute(service: Service, test: Callable[[dict[str, Any]], bool]) -> list[tuple[str, ...]]:
    return sorted(names_of(row) for row in rows_of(service)["entries"] if test(row))


# Entries


@pytest.mark.parametrize(
    ("wanted", "test"),
    [
        ({}, lambda row: not row["withdrawn"]),
        ({"state": "all"}, lambda row: True),
        ({"state": "withdrawn"}, lambda row: row["withdrawn"]),
        ({"patient": "MM_00[02],P*"}, lambda row: row["patient"] in {"MM_000", "MM_002", "P.2"}),
        ({"modality": "PET", "roi": "s???????"}, lambda row: (row["modality"], row["roi"]) == ("PET", "skeleton")),
        ({"patient": "nobody*", "state": "all"}, lambda row: False),
        ({"roi": "é", "state": "all"}, lambda row: False),
        ({"patient": "", "modality": None}, lambda row: not row["withdrawn"]),
    ],
)
def test_filters_pass_what_a_look_through_all_rows_passes(
    service: Service, views: tuple[str, str], wanted: dict[str, Any], test: Callable[[dict[str, Any]], bool]
) -> None:
    live = wanted.get("state", "live") == "live"
    found = everything(service, owner(), EntryFilter.parse(**wanted))
    assert sorted(map(names_of, found)) == brute(service, lambda row: test(row) and not (live and row["withdrawn"]))


def test_entries_are_rows(service: Service, views: tuple[str, str]) -> None:
    rows = entry_rows(service)
    for one in everything(service, owner(), EntryFilter(state="all")):
        row = rows[one.view, EntryKey(one.patient, one.modality, one.roi)]
        assert asdict(one) == {name: value for name, value in row.items() if name != "project"}


def test_view_is_a_filter_too(service: Service, views: tuple[str, str]) -> None:
    found = everything(service, owner(), EntryFilter.parse(view=f"{views[1][:-3]}*"))
    assert {one.view for one in found} == {views[1]}


def test_dates_bound_what_was_written(service: Service, store: Store) -> None:
    view = fill(store, [])
    for day, key in enumerate(KEYS[:4]):
        dated = replace(store, clock=lambda d=day: (NOW + d * DAY).isoformat())
        publish(dated, view, key, "A")
    unknown = replace(store, clock=lambda: "some day")
    publish(unknown, view, KEYS[4], "A")
    reindex(service, PROJECT)

    def names(**bounds: datetime) -> list[int]:
        found = everything(service, owner(), EntryFilter.parse(**bounds))
        return sorted(KEYS.index(EntryKey(one.patient, one.modality, one.roi)) for one in found)

    assert names() == [0, 1, 2, 3, 4]
    assert names(since=NOW + DAY) == [1, 2, 3]
    assert names(until=NOW + DAY) == [0, 4]
    assert names(since=NOW, until=NOW + 2 * DAY) == [0, 1]
    zone = timezone(timedelta(hours=9))
    assert names(since=(NOW + DAY).astimezone(zone)) == [1, 2, 3]
    assert names(since=(NOW + DAY).replace(tzinfo=None)) == [1, 2, 3]
    far = timezone(timedelta(hours=14))
    assert names(since=datetime(1, 1, 1, tzinfo=far)) == [0, 1, 2, 3, 4]
    assert names(since=datetime(9999, 12, 31, 23, tzinfo=timezone(-timedelta(hours=14)))) == []
    assert next(one.written_at for one in everything(service, owner()) if one.patient == KEYS[4].patient) is None


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1000])
def test_pages_are_the_whole_list_once(service: Service, views: tuple[str, str], limit: int) -> None:
    whole = everything(service, owner())
    found = list(pages(lambda a: search(service, owner(), EntryFilter(), after=a, limit=limit)))
    assert [one for page in found for one in page.items] == whole
    assert all(len(page.items) == limit for page in found[:-1])
    assert 0 < len(found[-1].items) <= limit


def test_rows_that_come_and_go_between_pages_neither_repeat_nor_hide_others(
    service: Service, store: Store, views: tuple[str, str]
) -> None:
    whole = everything(service, owner())
    seen: list[Entry] = []
    for at, page in enumerate(pages(lambda a: search(service, owner(), EntryFilter(), after=a, limit=3))):
        seen += page.items
        if at == 0:
            new = publish(store, views[0], EntryKey("MM_000", "AA", "spine"), "A")
            publish(store, views[0], A, "C")
            newer = store.current(views[0], A)
            for record in (new, newer):
                service.database.run(lambda session, r=record: note_commit(session, PROJECT, r, "0" * 64))
            gone = (PROJECT, *names_of(whole[1]))
            service.database.run(lambda session, at=gone: session.delete(session.get(EntryRow, at)))
    assert len(set(map(names_of, seen))) == len(seen)
    assert set(map(names_of, whole)) <= set(map(names_of, seen))


# Views and coverage


def test_views_count_what_they_hold(service: Service, store: Store, views: tuple[str, str]) -> None:
    rows = rows_of(service)["entries"]
    found: Page[queries.View] = asked(service, queries.views, owner(), limit=10)
    assert [one.id for one in found.items] == sorted(views)
    for one in found.items:
        mine = [row for row in rows if row["view"] == one.id]
        live = [row for row in mine if not row["withdrawn"]]
        assert (one.entries, one.withdrawn) == (len(live), len(mine) - len(live))
        assert one.patients == len({row["patient"] for row in live})
        assert one.size_bytes == sum(row["size_bytes"] for row in live)
        assert one.written_at == max(row["written_at"] for row in live)
        assert one.spec == json.loads(store.view(one.id).to_bytes())
        assert one == asked(service, queries.view, owner(), one.id)
    by_page = [page.items[0] for page in pages(lambda a: asked(service, queries.views, owner(), after=a, limit=1))]
    assert by_page == found.items


def test_view_without_entries_counts_nothing(service: Service, store: Store) -> None:
    fill(store, [])
    reindex(service, PROJECT)
    found = asked(service, queries.views, owner(), limit=10).items[0]
    assert (found.entries, found.patients, found.withdrawn, found.size_bytes, found.written_at) == (0, 0, 0, 0, None)


@pytest.mark.parametrize("limit", [1, 2, 1000])
def test_coverage_is_every_row_in_its_cell(service: Service, views: tuple[str, str], limit: int) -> None:
    for view in views:
        rows = [row for row in rows_of(service)["entries"] if row["view"] == view]
        found = list(pages(lambda a, v=view: asked(service, coverage, owner(), v, after=a, limit=limit)))
        cells = {
            (one.patient, column.modality, column.roi): cell
            for part in found
            for one in part.items
            for column, cell in zip(part.columns, one.cells, strict=True)
            if cell is not None
        }
        assert cells == {
            (row["patient"], row["modality"], row["roi"]): "withdrawn" if row["withdrawn"] else row["number"]
            for row in rows
        }
        patients = [one.patient for part in found for one in part.items]
        assert sorted(patients) == sorted({row["patient"] for row in rows})
        for part in found:
            assert part.patients == len(patients)
            for column in part.columns:
                mine = [row for row in rows if (row["modality"], row["roi"]) == (column.modality, column.roi)]
                assert column.withdrawn == sum(row["withdrawn"] for row in mine)
                assert column.entries == len(mine) - column.withdrawn
    assert "withdrawn" in cells.values() or view != views[0]


def test_coverage_of_some_patients(service: Service, views: tuple[str, str]) -> None:
    wanted = Globs.parse("MM_00[13]", field="patient")
    found = asked(service, coverage, owner(), views[0], patient=wanted, limit=10)
    assert [one.patient for one in found.items] == ["MM_001", "MM_003"]
    assert found.patients == 4


@pytest.mark.parametrize("view", ["unknown-0123456789abcdef", "", "../x", "a\0b", "x" * 200])
def test_view_that_is_not_there_is_404(service: Service, store: Store, view: str) -> None:
    for ask in (queries.view, lambda session, reach, v: coverage(session, reach, v, limit=1)):
        with pytest.raises(Refusal) as refused:
            asked(service, ask, owner(), view)
        assert refused.value.status == 404


# Snapshots and runs


def test_snapshots_come_latest_first_and_by_view(service: Service, store: Store, views: tuple[str, str]) -> None:
    made = [store.make_snapshot(view, KEYS[: n + 1]) for view, n in product(views, range(2))]
    reindex(service, PROJECT)
    rows = sorted(rows_of(service)["snapshots"], key=lambda row: row["id"])
    expected = [row["id"] for row in sorted(rows, key=lambda row: row["written_at"], reverse=True)]
    for limit in (1, 3, 10):
        found = all_items(lambda a, n=limit: asked(service, queries.snapshots, owner(), after=a, limit=n))
        assert [one.id for one in found] == expected
    assert {one.id for one in asked(service, queries.snapshots, owner(), view_id=views[1], limit=9).items} == set(
        made[2:]
    )
    assert {one.rows for one in found} == {1, 2}
    with pytest.raises(Refusal, match="no view's id"):
        asked(service, queries.snapshots, owner(), view_id="a*", limit=9)


def test_snapshots_without_a_time_come_last_in_pages_of_any_size(service: Service, store: Store) -> None:
    times = [None, NOW, None, NOW, NOW + DAY]
    rows = [
        SnapshotEntry(project=PROJECT, id=f"{i:064x}", view="v", rows=1, written_at=at) for i, at in enumerate(times)
    ]
    service.database.run(lambda session: session.add_all(rows))
    for limit in (1, 2, 5):
        found = all_items(lambda a, n=limit: asked(service, queries.snapshots, owner(), after=a, limit=n))
        assert [int(one.id, 16) for one in found] == [4, 1, 3, 0, 2]


def test_runs_come_latest_first_and_by_kind(service: Service, store: Store) -> None:
    put_run(store, "run-1", start={"started_at": NOW.isoformat(), "studies": 3})
    put_run(store, "cv-1", trainer={"kind": "trainer", "started_at": (NOW + DAY).isoformat(), "models": []})
    put_run(store, "odd", notes={})
    reindex(service, PROJECT)
    for limit in (1, 5):
        found = all_items(lambda a, n=limit: asked(service, queries.runs, owner(), after=a, limit=n))
        assert [(one.id, one.kind) for one in found] == [("cv-1", "trainer"), ("run-1", "extractor"), ("odd", "other")]
    assert [one.id for one in asked(service, queries.runs, owner(), kind="extractor", limit=5).items] == ["run-1"]
    assert asked(service, queries.run, owner(), "cv-1").summary["records"] == ["trainer.json"]
    for run in ("none", "../x", "a\0"):
        with pytest.raises(Refusal) as refused:
            asked(service, queries.run, owner(), run)
        assert refused.value.status == 404
