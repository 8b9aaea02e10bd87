"""Who a key is and what it reaches; how long a change takes to be known elsewhere; nothing waits for a writer."""

import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from services import access as module
from services import operations
from services.access import Access, Principal, Reach
from services.database.engine import away
from services.database.models import ApiKey, Grant, PageSession
from services.errors import Refusal
from services.keys import digest, draw_key


class Clock:
    """A clock that a test moves."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Counted:
    """A database that counts what it is asked, and does something after each answer."""

    def __init__(self, database, then=lambda: None):
        self.database, self.then, self.asked = database, then, 0

    def read(self, look):
        self.asked += 1
        found = self.database.read(look)
        self.then()
        return found


@pytest.fixture
def clock():
    return Clock()


def elsewhere(world, clock, *, remember_s=5.0, then=lambda: None):
    """The access of another process on the same database."""
    return Access(Counted(world.service.database, then), remember_s=remember_s, clock=clock)


def expire(world, kind, row_id, *, ago_s=1.0):
    at = datetime.now(UTC) - timedelta(seconds=ago_s)
    world.service.database.run(
        lambda session: session.execute(update(kind).where(kind.id == row_id).values(expires_at=at))
    )


# Keys


@pytest.mark.parametrize("scope", ["read", "write", "admin"])
def test_a_key_is_its_project_with_its_scope(world, scope):
    found = world.service.access.principal(world.alpha.keys[scope])
    assert (found.project, found.scope) == ("alpha", scope)
    assert world.alpha.keys[scope].startswith(f"engram_{found.key_id}_")


def refused(access, text):
    with pytest.raises(Refusal) as caught:
        access.principal(text)
    assert caught.value.status == 401
    assert caught.value.headers["WWW-Authenticate"].startswith("Bearer")
    assert len(text) < 10 or text not in str(caught.value)
    return str(caught.value)


def test_no_other_text_is_a_key(world):
    mine, theirs = world.alpha.keys["admin"], world.beta.keys["admin"]
    access = world.service.access
    swapped = mine[:20] + theirs[20:]
    unknown = draw_key().text
    assert refused(access, swapped) == refused(access, unknown)
    for text in (
        "",
        "engram_",
        mine[:-1],
        mine + "A",
        mine.upper(),
        mine.replace("engram", "engrаm"),
        f" {mine}",
        "\0",
    ):
        refused(access, text)


def test_an_unknown_id_takes_the_same_steps_as_a_wrong_secret(world, monkeypatch):
    compared = []
    monkeypatch.setattr(module, "proves", lambda secret, kept: compared.append((secret, kept)) or False)
    mine, unknown = world.alpha.keys["read"], draw_key().text
    for text in (mine, unknown):
        refused(world.service.access, text)
    assert [secret for secret, _ in compared] == [mine[20:], unknown[20:]]
    assert compared[1][1] == "0" * 64


def test_a_revoked_key_opens_nothing_at_once_where_it_was_revoked(world):
    key = world.alpha.keys["write"]
    principal = world.service.access.principal(key)
    operations.revoke_key(world.service, "alpha", principal.key_id)
    refused(world.service.access, key)
    assert world.service.access.held_principal(key) is None


def test_a_revoked_key_works_elsewhere_for_the_time_that_answers_are_remembered_and_no_longer(world, clock):
    other, key = elsewhere(world, clock), world.alpha.keys["write"]
    principal = other.principal(key)
    clock.now += 3
    operations.revoke_key(world.service, "alpha", principal.key_id)
    clock.now += 1.999
    assert other.principal(key) == other.held_principal(key) == principal
    clock.now += 0.001
    assert other.held_principal(key) is None
    refused(other, key)


def test_answers_are_remembered_and_asked_for_once(world, clock):
    other = elsewhere(world, clock)
    for _ in range(10):
        other.principal(world.alpha.keys["read"])
    assert other._database.asked == 1
    clock.now += 5
    other.principal(world.alpha.keys["read"])
    assert other._database.asked == 2


def test_with_no_time_to_remember_every_request_asks(world, clock):
    other = elsewhere(world, clock, remember_s=0)
    principal = other.principal(world.alpha.keys["read"])
    operations.revoke_key(world.service, "alpha", principal.key_id)
    refused(other, world.alpha.keys["read"])


def test_an_answer_that_was_under_way_during_a_change_is_not_remembered(world, clock):
    """It was right when it was asked for, and must not be taken for right afterwards."""
    key = world.alpha.keys["read"]
    key_id = world.service.access.principal(key).key_id
    changes = [lambda: operations.revoke_key(world.service, "alpha", key_id)]

    def change():
        if changes:
            changes.pop()()
            other.forget()

    other = elsewhere(world, clock, then=change)
    assert other.principal(key).key_id == key_id
    refused(other, key)


def test_an_expired_key_opens_nothing(world, clock):
    key = world.alpha.keys["read"]
    expire(world, ApiKey, world.service.access.principal(key).key_id)
    refused(elsewhere(world, clock), key)


def test_a_key_works_until_it_expires(world, clock):
    made = operations.make_key(world.service, "alpha", label="short", scope="read", expires_days=1)
    other = elsewhere(world, clock, remember_s=0)
    assert other.principal(made.text).key_id == made.row.id
    expire(world, ApiKey, made.row.id, ago_s=-60)
    other.principal(made.text)
    expire(world, ApiKey, made.row.id, ago_s=0)
    refused(other, made.text)


def test_looking_up_a_key_waits_for_no_writer(world, clock):
    writing, done = threading.Event(), threading.Event()

    def work(session):
        session.execute(update(ApiKey).values(label="held"))
        writing.set()
        assert done.wait(30)

    writer = threading.Thread(target=world.service.database.run, args=(work,))
    writer.start()
    assert writing.wait(30)
    try:
        began = time.monotonic()
        other = elsewhere(world, clock)
        assert other.principal(world.alpha.keys["admin"]).project == "alpha"
        assert time.monotonic() - began < 2
    finally:
        done.set()
        writer.join()


def test_while_the_database_is_away_nobody_is_taken_for_unknown(world):
    class Away:
        def read(self, look):
            raise away()

    with pytest.raises(Refusal) as caught:
        Access(Away(), remember_s=5).principal(world.alpha.keys["read"])
    assert caught.value.status == 503


def test_what_is_remembered_stays_bounded(world, clock, monkeypatch):
    monkeypatch.setattr(module, "MAX_HELD", 20)
    other = elsewhere(world, clock)
    for _ in range(100):
        refused(other, draw_key().text)
    assert len(other._held) <= 21


# What a key reaches


def test_in_its_own_project_a_key_may_what_its_scope_says(world):
    for scope, allowed in (("read", 1), ("write", 2), ("admin", 3)):
        reach = world.service.access.reach(world.principal(world.alpha, scope), "alpha")
        assert reach == Reach("alpha", world.principal(world.alpha, scope), own=True)
        for number, needed in enumerate(("read", "write", "admin")):
            if number < allowed:
                reach.needs(needed, "this")
                continue
            with pytest.raises(Refusal, match=f"needs a key with the scope '{needed}'") as caught:
                reach.needs(needed, "this")
            assert caught.value.status == 403


def test_another_project_is_refused_alike_whether_it_is_there_or_not(world):
    told = set()
    for project in ("beta", "nowhere"):
        with pytest.raises(Refusal) as caught:
            world.service.access.reach(world.principal(world.alpha), project)
        told.add((caught.value.status, caught.value.code, str(caught.value)))
    assert len(told) == 1
    assert told.pop()[0] == 403


@pytest.mark.parametrize("kind", ["view", "snapshot"])
def test_a_grant_opens_what_it_names_for_reading_until_it_is_revoked(world, kind):
    granted = {kind: getattr(world.alpha, kind)}
    grant = operations.make_grant(world.service, "alpha", "beta", **granted)
    reach = world.service.access.reach(world.principal(world.beta), "alpha")
    assert not reach.own
    assert reach.reads_view(world.alpha.view) == (kind == "view")
    assert reach.reads_snapshot(world.alpha.snapshot, world.alpha.view)
    assert not reach.reads_view(world.beta.view)
    assert not reach.reads_snapshot("0" * 64, "other-view")
    with pytest.raises(Refusal, match="keys of the project itself"):
        reach.needs("read", "this")
    operations.revoke_grant(world.service, "alpha", grant.id)
    with pytest.raises(Refusal):
        world.service.access.reach(world.principal(world.beta), "alpha")


def test_a_grant_goes_one_way(world):
    operations.make_grant(world.service, "alpha", "beta", view=world.alpha.view)
    with pytest.raises(Refusal):
        world.service.access.reach(world.principal(world.alpha), "beta")


def test_an_expired_grant_opens_nothing(world, clock):
    grant = operations.make_grant(world.service, "alpha", "beta", view=world.alpha.view, expires_days=1)
    principal = world.principal(world.beta)
    assert elsewhere(world, clock).reach(principal, "alpha").views == {world.alpha.view}
    expire(world, Grant, grant.id)
    with pytest.raises(Refusal):
        elsewhere(world, clock).reach(principal, "alpha")


def test_a_revoked_grant_is_remembered_elsewhere_as_long_as_a_key(world, clock):
    grant = operations.make_grant(world.service, "alpha", "beta", view=world.alpha.view)
    other, principal = elsewhere(world, clock), world.principal(world.beta)
    other.reach(principal, "alpha")
    operations.revoke_grant(world.service, "alpha", grant.id)
    clock.now += 4.999
    other.reach(principal, "alpha")
    clock.now += 0.001
    with pytest.raises(Refusal):
        other.reach(principal, "alpha")


def test_a_grant_is_known_at_once_where_it_was_made(world):
    principal = world.principal(world.beta)
    with pytest.raises(Refusal):
        world.service.access.reach(principal, "alpha")
    operations.make_grant(world.service, "alpha", "beta", view=world.alpha.view)
    assert world.service.access.reach(principal, "alpha").views == {world.alpha.view}


# Page sessions


def login(world, principal, *, hours=1.0):
    token, now = "token-" + principal.key_id, datetime.now(UTC)
    row = PageSession(
        token_sha256=digest(token), key_id=principal.key_id, created_at=now, expires_at=now + timedelta(hours=hours)
    )
    world.service.database.run(lambda session: session.add(row))
    return token


def test_a_session_is_its_key(world):
    principal = world.principal(world.alpha, "read")
    assert world.service.access.page_principal(login(world, principal)) == principal


def test_an_unknown_or_ended_session_is_nobody(world):
    token = login(world, world.principal(world.alpha, "read"), hours=-1)
    for text in (token, "unknown", "", "\0", digest(token)):
        assert world.service.access.page_principal(text) is None


def test_a_session_ends_with_its_key(world):
    principal = world.principal(world.alpha, "read")
    token = login(world, principal)
    operations.revoke_key(world.service, "alpha", principal.key_id)
    assert world.service.access.page_principal(token) is None


def test_the_modules_of_access_know_no_web_framework():
    folder = Path(module.__file__).parent
    for name in ("access", "acts", "audit", "grants", "keys", "operations"):
        assert "fastapi" not in (folder / f"{name}.py").read_text()


def test_a_principal_is_a_value():
    assert Principal("a", "p", "read") == Principal("a", "p", "read")
