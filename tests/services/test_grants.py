"""What admins do with grants: made of what is there, once, revoked by who gave them, over SQLite and PostgreSQL."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from services import operations
from services.database.models import Grant, Project
from services.errors import Refusal
from store_schema.withdraw import withdraw

from .operations_help import BY, acts, expire, refused


@pytest.mark.parametrize("kind", ["view", "snapshot"])
def test_a_grant_names_what_whose_and_for_whom(world, kind):
    granted = {kind: getattr(world.alpha, kind)}
    row = operations.make_grant(world.service, "alpha", "beta", **granted, expires_days=7, by=BY)
    assert (row.project, row.grantee, row.created_by) == ("alpha", "beta", BY.key_id)
    assert {"view": row.view, "snapshot": row.snapshot} == {"view": None, "snapshot": None} | granted
    assert row.expires_at - row.created_at == pytest.approx(timedelta(days=7), abs=timedelta(seconds=5))
    for project in ("alpha", "beta"):
        assert [one.id for one in operations.grants_of(world.service, project)] == [row.id]
    assert acts(world.service)[-1] == ("grant", f"grant {row.id}", BY.key_id)
    assert all(action != "grant" for action, *_ in acts(world.service, "beta"))


@pytest.mark.parametrize(
    ("status", "grantee", "options"),
    [
        (422, "beta", {}),
        (422, "beta", {"view": "{view}", "snapshot": "{snapshot}"}),
        (422, "alpha", {"view": "{view}"}),
        (422, "", {"view": "{view}"}),
        (422, "a\0b", {"view": "{view}"}),
        (422, "x" * 65, {"view": "{view}"}),
        (404, "nowhere", {"view": "{view}"}),
        (404, "beta", {"view": "view-alpha"}),
        (404, "beta", {"view": "view-alpha-0000000000000000"}),
        (422, "beta", {"view": "../views/x"}),
        (422, "beta", {"view": ""}),
        (422, "beta", {"view": "a\0"}),
        (422, "beta", {"view": "x" * 82}),
        (404, "beta", {"snapshot": "0" * 64}),
        (422, "beta", {"snapshot": "{snapshot:.16}"}),
        (422, "beta", {"snapshot": ""}),
        (422, "beta", {"snapshot": "../" * 22}),
        (404, "beta", {"view": "{other.view}"}),
        (404, "beta", {"snapshot": "{other.snapshot}"}),
        (422, "beta", {"view": "{view}", "expires_days": 0}),
    ],
)
def test_what_cannot_be_granted_is_not(world, status, grantee, options):
    values = {"view": world.alpha.view, "snapshot": world.alpha.snapshot, "other": world.beta}
    given = {name: value.format(**values) if isinstance(value, str) else value for name, value in options.items()}
    refused(status, operations.make_grant, world.service, "alpha", grantee, **given)
    assert operations.grants_of(world.service, "alpha") == []


def test_a_snapshot_of_withdrawn_entries_is_not_granted_and_no_patient_is_named(world):
    withdraw(world.alpha.store, patients=["alpha-0"], reason="consent")
    said = refused(410, operations.make_grant, world.service, "alpha", "beta", snapshot=world.alpha.snapshot)
    assert "alpha-0" not in said


def test_the_same_is_granted_once(world):
    first = operations.make_grant(world.service, "alpha", "beta", view=world.alpha.view)
    assert first.id in refused(409, operations.make_grant, world.service, "alpha", "beta", view=world.alpha.view)
    operations.make_grant(world.service, "alpha", "beta", snapshot=world.alpha.snapshot)
    operations.revoke_grant(world.service, "alpha", first.id)
    second = operations.make_grant(world.service, "alpha", "beta", view=world.alpha.view)
    expire(world, Grant, second.id)
    operations.make_grant(world.service, "alpha", "beta", view=world.alpha.view)
    assert len(operations.grants_of(world.service, "beta")) == 4


def test_the_same_granted_many_times_at_once_is_granted_once(world):
    meet = threading.Barrier(4, timeout=30)

    def grant(_):
        meet.wait()
        try:
            operations.make_grant(world.service, "alpha", "beta", view=world.alpha.view)
        except Refusal as refusal:
            return refusal.status
        return 201

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(grant, range(4))) == [201, 409, 409, 409]
    assert len(operations.grants_of(world.service, "alpha")) == 1


def test_a_grant_waits_for_one_that_is_under_way_and_sees_it(world):
    writing, done = threading.Event(), threading.Event()

    def first(session):
        session.get(Project, "alpha", with_for_update=True)
        row = {
            "id": "0" * 32,
            "project": "alpha",
            "grantee": "beta",
            "view": world.alpha.view,
            "created_by": "operator",
        }
        session.add(Grant(**row, created_at=datetime.now(UTC)))
        session.flush()
        writing.set()
        assert done.wait(30)

    def second():
        return refused(409, operations.make_grant, world.service, "alpha", "beta", view=world.alpha.view)

    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(world.service.database.run, first)
        assert writing.wait(30)
        waiting = pool.submit(second)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.5)
        done.set()
        running.result()
        assert "0" * 32 in waiting.result()


def test_a_grant_is_revoked_by_who_gave_it_once_and_a_second_time_is_fine(world):
    grant = operations.make_grant(world.service, "alpha", "beta", view=world.alpha.view)
    refused(404, operations.revoke_grant, world.service, "beta", grant.id)
    assert operations.grants_of(world.service, "alpha")[0].revoked_at is None
    first = operations.revoke_grant(world.service, "alpha", grant.id, by=BY)
    assert operations.revoke_grant(world.service, "alpha", grant.id).revoked_at == first.revoked_at is not None
    assert [action for action, *_ in acts(world.service)].count("revoke") == 1


@pytest.mark.parametrize("grant_id", ["", "\0" * 32, "0" * 31, "G" * 32, "x" * 10_000])
def test_what_is_no_grants_id_is_not_there(world, grant_id):
    refused(404, operations.revoke_grant, world.service, "alpha", grant_id)


def test_a_key_reaches_its_own_project_and_what_lives_of_what_was_granted(world):
    service, principal = world.service, world.principal(world.beta, "read")
    assert [(one.project, one.own) for one in operations.reachable(service, principal)] == [("beta", True)]
    view = operations.make_grant(service, "alpha", "beta", view=world.alpha.view)
    snapshot = operations.make_grant(service, "alpha", "beta", snapshot=world.alpha.snapshot)
    own, granted = operations.reachable(service, principal)
    assert (own.project, granted.project, granted.own) == ("beta", "alpha", False)
    assert (granted.views, granted.snapshots) == ({world.alpha.view}, {world.alpha.snapshot})
    assert granted == service.access.reach(principal, "alpha")
    operations.revoke_grant(service, "alpha", view.id)
    assert operations.reachable(service, principal)[1].views == frozenset()
    expire(world, Grant, snapshot.id)
    assert [one.project for one in operations.reachable(service, principal)] == ["beta"]
    assert [one.project for one in operations.reachable(service, world.principal(world.alpha))] == ["alpha"]
