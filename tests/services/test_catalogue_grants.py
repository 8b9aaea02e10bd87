"""Whoever was granted a view or a snapshot finds its part in the catalogue, and nothing else."""

from datetime import datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.catalogue import queries
from services.catalogue.coverage import coverage
from services.catalogue.index import reindex
from services.catalogue.queries import EntryFilter
from services.errors import Refusal
from services.service import Service
from store_schema import EntryKey, Store
from store_schema.withdraw import withdraw

from . import catalogue_help
from .catalogue_help import (
    DAY,
    KEYS,
    NOW,
    PROJECT,
    A,
    add_project,
    asked,
    everything,
    fill,
    grantee,
    names_of,
    owner,
    publish,
)

store, views = catalogue_help.store, catalogue_help.views


def test_granted_view_shows_its_part(service: Service, store: Store, views: tuple[str, str]) -> None:
    first, second = views
    mine, theirs = store.make_snapshot(first), store.make_snapshot(second)
    reindex(service, PROJECT)
    reach = grantee(views=[first])
    assert [one.id for one in asked(service, queries.views, reach, limit=9).items] == [first]
    assert [one.id for one in asked(service, queries.snapshots, reach, limit=9).items] == [mine]
    assert {one.view for one in everything(service, reach, EntryFilter(state="all"))} == {first}
    assert len(everything(service, reach, EntryFilter(state="all"))) == len(KEYS)
    assert asked(service, coverage, reach, first, limit=9).patients == 4
    assert asked(service, queries.snapshot, reach, mine).id == mine
    assert asked(service, queries.snapshot, reach, theirs) is None
    for ask in (
        lambda session: coverage(session, reach, second, limit=1),
        lambda session: queries.view(session, reach, second),
        lambda session: queries.view(session, reach, "unknown-0123456789abcdef"),
        lambda session: queries.runs(session, reach, limit=1),
        lambda session: queries.run(session, reach, "run-1"),
    ):
        with pytest.raises(Refusal) as refused:
            service.database.read(ask)
        assert refused.value.status == 403


def test_granted_snapshot_shows_what_it_pins_and_nothing_else(
    service: Service, store: Store, views: tuple[str, str]
) -> None:
    _, second = views
    pinned = store.current(second, A)
    granted = store.make_snapshot(second, KEYS[:2])
    publish(store, second, A, "B")
    other = store.make_snapshot(second)
    reindex(service, PROJECT)
    reach = grantee(snapshots=[granted])
    assert asked(service, queries.views, reach, limit=9).items == []
    assert [one.id for one in asked(service, queries.snapshots, reach, limit=9).items] == [granted]
    assert asked(service, queries.snapshot, reach, other) is None
    found = everything(service, reach, EntryFilter(state="all"))
    assert {EntryKey(one.patient, one.modality, one.roi) for one in found} == set(KEYS[:2])
    old = next(one for one in found if one.roi == A.roi)
    assert (old.number, old.attempt, old.input_sha256) == (0, pinned.attempt, pinned.input_sha256)
    rows = {row.key: row for row in store.snapshot(granted).rows}
    assert all(one.commit_sha256 == rows[EntryKey(one.patient, one.modality, one.roi)].commit_sha256 for one in found)
    assert old.written_at == datetime.fromisoformat(pinned.written_at)
    assert old.size_bytes == sum(one.size_bytes for one in pinned.objects.values())
    with pytest.raises(Refusal):
        asked(service, coverage, reach, second, limit=1)


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
def test_rows_and_pins_are_one_list(service: Service, store: Store, views: tuple[str, str], limit: int) -> None:
    first, second = views
    one, two = store.make_snapshot(second, KEYS[:2]), None
    publish(store, second, A, "B")
    two = store.make_snapshot(second, KEYS[:3])
    within = store.make_snapshot(first, KEYS[:2])
    reindex(service, PROJECT)
    reach = grantee(views=[first], snapshots=[one, two, within])
    found = everything(service, reach, limit=limit)
    live = [entry for entry in everything(service, owner()) if entry.view == first]
    pins = [(entry.patient, entry.modality, entry.roi, entry.number) for entry in found if entry.view == second]
    assert found[: len(live)] == live
    assert len(found) == len(live) + len(pins)
    # The superseded commit and the current one are both pinned; another entry is pinned twice by the same commit.
    assert pins == sorted({(*_key_of(key), 0) for key in KEYS[:3]} | {(*_key_of(A), 1)})


def _key_of(key: EntryKey) -> tuple[str, str, str]:
    return key.patient, key.modality, key.roi


def test_pins_are_filtered_as_rows_are(service: Service, store: Store, views: tuple[str, str]) -> None:
    _, second = views
    granted = store.make_snapshot(second)
    reindex(service, PROJECT)
    reach = grantee(snapshots=[granted])
    for wanted in (
        {"patient": "P*"}, {"roi": "spine", "modality": "CT"}, {"view": "nothing"}, {"view": f"{second[:4]}*"},
        {"since": NOW - DAY}, {"until": NOW - DAY}, {"since": NOW - DAY, "until": NOW + DAY},
        {"state": "withdrawn"}, {"state": "all"},
    ):  # fmt: skip
        parsed = EntryFilter.parse(**wanted)
        expected = [one for one in everything(service, owner(), parsed) if one.view == second]
        assert sorted(everything(service, reach, parsed), key=names_of) == sorted(expected, key=names_of)


def test_granted_snapshot_that_names_withdrawn_entries_shows_nothing(service: Service, store: Store) -> None:
    view = fill(store)
    granted = store.make_snapshot(view)
    withdraw(store, keys=[A], reason="consent")
    reindex(service, PROJECT)
    reach = grantee(snapshots=[granted])
    assert everything(service, reach, EntryFilter(state="all")) == []
    assert asked(service, queries.snapshot, reach, granted).id == granted


def test_nothing_granted_shows_nothing(service: Service, views: tuple[str, str]) -> None:
    assert everything(service, grantee(), EntryFilter(state="all")) == []
    assert asked(service, queries.views, grantee(), limit=9).items == []
    assert asked(service, queries.snapshots, grantee(), limit=9).items == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_grants_never_show_more_than_the_owner_sees(service: Service, data: st.DataObject) -> None:
    if not hasattr(service, "_filled"):
        store = add_project(service)
        made = fill(store), fill(store, KEYS[:3], recipe=2)
        snapshots = [store.make_snapshot(view, KEYS[:n]) for view in made for n in (1, 2, 3)]
        reindex(service, PROJECT)
        service._filled = (made, snapshots)
    made, snapshots = service._filled
    views = data.draw(st.sets(st.sampled_from(made)))
    granted = data.draw(st.sets(st.sampled_from(snapshots)))
    found = {names_of(one) for one in everything(service, grantee(views=views, snapshots=granted))}
    store = service.store(PROJECT)
    expected = {names_of(one) for one in everything(service, owner()) if one.view in views}
    for one in map(store.snapshot, granted):
        expected |= {(one.view_id, *_key_of(key)) for key in one.keys}
    assert found == expected
