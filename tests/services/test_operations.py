"""What operators and admins do: projects, keys and the audit of all acts, over SQLite and PostgreSQL."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import inspect, text

from services import operations
from services.audit import Act
from services.database.models import ApiKey
from services.errors import Refusal
from services.keys import SCOPES
from store_schema import create_store, open_store
from store_schema.errors import StoreNotFoundError, UsageError
from store_schema.testing import example_view

from .operations_help import BY, acts, refused


def everything(database):
    """All that the database holds, as one text."""

    def work(session):
        names = inspect(session.connection()).get_table_names()
        return "\n".join(str(row) for name in names for row in session.execute(text(f"SELECT * FROM {name}")))

    return database.read(work)


class AnswerLost:
    """A database each of whose transactions is done, and then done again as if nobody had heard of the first."""

    def __init__(self, database):
        self.database = database

    def run(self, work):
        self.database.run(work)
        return self.database.run(work)

    def __getattr__(self, name):
        return getattr(self.database, name)


@pytest.fixture
def doubtful(service):
    """The service, where the answer to each commit is lost once."""
    service.database = AnswerLost(service.database)
    return service


# Projects


def test_a_project_gets_a_store_in_the_data_folder(service, settings):
    row = operations.create_project(service, "myeloma")
    assert row.store_url == settings.store_url("myeloma")
    assert open_store(row.store_url).store_id == row.store_id == service.store("myeloma").store_id
    assert [one.id for one in operations.list_projects(service)] == ["myeloma"]
    assert acts(service, "myeloma") == [("project", "project myeloma", "operator")]


def test_a_store_that_is_there_is_taken_as_it_is(service, tmp_path, monkeypatch):
    store = create_store(tmp_path / "mine")
    view = store.put_view(example_view())
    monkeypatch.chdir(tmp_path)
    row = operations.create_project(service, "myeloma", "mine")
    assert (row.store_id, row.store_url) == (store.store_id, str(tmp_path / "mine"))
    assert service.store("myeloma").view_ids() == [view]


@pytest.mark.parametrize("name", ["", "a b", "a/b", "..", ".a", "a.", "é", "a\0b", "a\n", "x" * 65, "a--b"])
def test_a_malformed_id_is_refused_before_anything_is_made(service, settings, name):
    assert "is not a project id" in refused(422, operations.create_project, service, name)
    assert not (settings.data / "stores").exists()


def test_an_id_of_64_characters_is_fine(service):
    name = "x" * 64
    assert operations.create_project(service, name).id == name
    assert acts(service, name) == [("project", f"project {name}", "operator")]


def test_an_id_is_taken_once(service, tmp_path):
    operations.create_project(service, "myeloma")
    assert "already" in refused(409, operations.create_project, service, "myeloma", str(tmp_path / "other"))
    assert "case alone" in refused(409, operations.create_project, service, "Myeloma", str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()
    assert acts(service, "myeloma") == [("project", "project myeloma", "operator")]


def test_two_projects_do_not_share_a_store(service, tmp_path):
    operations.create_project(service, "one", str(tmp_path / "store"))
    for place in (str(tmp_path / "store"), f"file://{tmp_path}/store", f"{tmp_path}/./store"):
        said = refused(409, operations.create_project, service, "two", place)
        assert "'one'" in said
        assert str(tmp_path / "store") in said
    assert [one.id for one in operations.list_projects(service)] == ["one"]


def test_of_two_that_make_a_project_at_once_one_does(service, tmp_path):
    create_store(tmp_path / "store")
    meet = threading.Barrier(4, timeout=30)

    def make(name):
        meet.wait()
        try:
            operations.create_project(service, name, str(tmp_path / "store"))
        except Refusal as refusal:
            return refusal.status
        return 201

    with ThreadPoolExecutor(4) as pool:
        found = sorted(pool.map(make, ("same", "same", "other-1", "other-2")))
    assert found == [201, 409, 409, 409]
    assert len(operations.list_projects(service)) == 1


@pytest.mark.parametrize(
    "url", ["s3://key:secretsecret@bucket/x", "https://user:secretsecret@host/x", "s3:/bucket", "gopher://x/y", " "]
)
def test_an_address_that_cannot_be_a_store_is_refused_without_its_secret(service, url):
    with pytest.raises(UsageError) as caught:
        operations.create_project(service, "myeloma", url)
    assert "secretsecret" not in str(caught.value)
    assert operations.list_projects(service) == []


def test_a_project_whose_store_is_gone_says_so(service, tmp_path):
    operations.create_project(service, "myeloma")
    Path(service.settings.store_url("myeloma"), "engram.json").unlink()
    with pytest.raises(StoreNotFoundError):
        service.store("myeloma")


# Keys


@pytest.mark.parametrize("scope", SCOPES)
def test_a_key_is_told_once_and_kept_as_a_digest(world, scope):
    made = operations.make_key(world.service, "alpha", label="Node 3 – Köln", scope=scope, expires_days=30, by=BY)
    assert made.text.startswith(f"engram_{made.row.id}_")
    secret = made.text.rpartition(f"{made.row.id}_")[2]
    assert secret not in repr(made)
    assert secret not in everything(world.service.database)
    assert (made.row.project, made.row.scope, made.row.label) == ("alpha", scope, "Node 3 – Köln")
    assert (made.row.created_by, made.row.revoked_at) == (BY.key_id, None)
    assert made.row.expires_at - made.row.created_at == pytest.approx(timedelta(days=30), abs=timedelta(seconds=5))
    assert made.row.id in {row.id for row in operations.keys_of(world.service, "alpha")}
    assert world.service.access.principal(made.text).scope == scope


def test_no_key_of_a_whole_service_is_in_its_database(world):
    found = everything(world.service.database)
    for planted in (world.alpha, world.beta):
        for key in planted.keys.values():
            assert key[20:] not in found


@pytest.mark.parametrize(
    "wrong",
    [
        {"label": ""},
        {"label": "  "},
        {"label": "x" * 101},
        {"label": "a\0b"},
        {"label": "a\nb"},
        {"label": "\x1b[31m"},
        {"scope": ""},
        {"scope": "root"},
        {"scope": "Admin"},
        {"expires_days": 0},
        {"expires_days": -1},
        {"expires_days": 3651},
        {"expires_days": float("nan")},
        {"expires_days": float("inf")},
    ],
)
def test_a_malformed_request_for_a_key_makes_none(world, wrong):
    before = acts(world.service)
    refused(422, operations.make_key, world.service, "alpha", **({"label": "x", "scope": "read"} | wrong))
    assert len(operations.keys_of(world.service, "alpha")) == 3
    assert acts(world.service) == before


def test_a_key_of_no_project_is_not_made(world):
    for name in ("nowhere", "ALPHA", "", "a\0b"[:1]):
        refused(404, operations.make_key, world.service, name, label="x", scope="read")


def test_a_key_is_revoked_once_and_a_second_time_is_fine(world):
    key = world.principal(world.alpha, "read")
    first = operations.revoke_key(world.service, "alpha", key.key_id, by=BY)
    second = operations.revoke_key(world.service, "alpha", key.key_id)
    assert first.revoked_at == second.revoked_at is not None
    assert acts(world.service)[-1] == ("revoke", f"key {key.key_id}", BY.key_id)
    assert [action for action, *_ in acts(world.service)].count("revoke") == 1
    assert [row.id for row in operations.keys_of(world.service, "alpha") if row.revoked_at] == [key.key_id]


def test_a_key_of_another_project_is_not_there_to_be_revoked(world):
    theirs = world.principal(world.beta, "admin").key_id
    said = refused(404, operations.revoke_key, world.service, "alpha", theirs, by=BY)
    assert said == refused(404, operations.revoke_key, world.service, "alpha", "0" * 12).replace("0" * 12, theirs)
    world.service.access.forget()
    world.principal(world.beta, "admin")


@pytest.mark.parametrize("key_id", ["", "\0", "0" * 11, "0" * 13, "G" * 12, "'; DROP TABLE api_keys; --", "x" * 10_000])
def test_what_is_no_keys_id_is_not_there(world, key_id):
    assert key_id[:20] not in refused(404, operations.revoke_key, world.service, "alpha", key_id) or not key_id
    assert len(operations.keys_of(world.service, "alpha")) == 3


def test_keys_are_listed_by_age_for_their_project_alone(world):
    assert [row.scope for row in operations.keys_of(world.service, "alpha")] == list(SCOPES)
    assert {row.project for row in operations.keys_of(world.service, "alpha")} == {"alpha"}
    refused(404, operations.keys_of, world.service, "nowhere")


# Audit


def test_the_audit_is_read_latest_first_in_pages(world):
    service = world.service
    for number in range(25):
        service.audit.count(Act("read", f"view-{number}", "alpha", BY), request_id="r")
        service.audit.flush()
    found, cursor, pages = [], None, 0
    while True:
        page = operations.audit_of(service, "alpha", cursor=cursor, limit=10)
        found, cursor, pages = found + page.rows, page.next, pages + 1
        if cursor is None:
            break
        service.audit.count(Act("read", "meanwhile", "alpha", BY), request_id="r")
        service.audit.flush()
    assert pages == 3
    assert [row.target for row in found[:25]] == [f"view-{number}" for number in reversed(range(25))]
    assert [row.action for row in found[25:]] == ["key", "key", "key", "project"]
    whole = operations.audit_of(service, "alpha", limit=31)
    assert (len(whole.rows), whole.next) == (31, None)


def test_the_audit_of_a_project_has_no_row_of_another(world):
    world.service.audit.count(Act("read", "view", "beta", BY), request_id="r")
    world.service.audit.count(Act("read", "view", None, None, "denied"), request_id="r")
    world.service.audit.flush()
    assert {row.project for row in operations.audit_of(world.service, "alpha").rows} == {"alpha"}
    assert {row.project for row in operations.audit_of(world.service, "beta").rows} == {"beta"}
    refused(404, operations.audit_of, world.service, "nowhere")


def test_the_audit_since_a_time_has_what_ended_then_or_later(world):
    service, moments = world.service, [datetime(2030, 1, day, tzinfo=UTC) for day in (1, 2, 3)]
    clock = iter(moments)
    service.audit._clock = lambda: next(clock)
    for day in (1, 2, 3):
        service.audit.count(Act("read", f"day-{day}", "alpha", BY), request_id="r")
    service.audit.flush()
    for since in (moments[1], datetime(2030, 1, 2), datetime(2030, 1, 2, 5, tzinfo=timezone(timedelta(hours=5)))):
        assert {row.target for row in operations.audit_of(service, "alpha", since=since).rows} == {"day-2", "day-3"}
    assert operations.audit_of(service, "alpha", since=datetime(2031, 1, 1, tzinfo=UTC)).rows == []


@pytest.mark.parametrize("cursor", ["", "-1", "1.5", "9" * 19, "٣", "1\0", " 1"])
def test_what_is_no_cursor_leads_to_no_page(world, cursor):
    refused(404, operations.audit_of, world.service, "alpha", cursor=cursor)


@pytest.mark.parametrize(
    "wrong",
    [
        {"limit": 0},
        {"limit": 1001},
        {"since": datetime.max.replace(tzinfo=timezone(-timedelta(hours=12)))},
        {"since": datetime.min.replace(tzinfo=timezone(timedelta(hours=12)))},
    ],
)
def test_a_malformed_question_to_the_audit_is_refused(world, wrong):
    refused(422, operations.audit_of, world.service, "alpha", **wrong)


def test_who_did_it_stands_in_the_audit_with_the_request(world):
    operations.make_key(world.service, "alpha", label="x", scope="read", by=BY, request_id="request-1")
    row = operations.audit_of(world.service, "alpha").rows[0]
    assert (row.key_id, row.key_project, row.request_id) == (BY.key_id, "alpha", "request-1")
    operations.make_key(world.service, "alpha", label="x", scope="read")
    row = operations.audit_of(world.service, "alpha").rows[0]
    assert (row.key_id, row.key_project, row.request_id) == ("operator", None, "")


# Lost answers


def test_an_act_whose_answer_was_lost_is_done_once(doubtful):
    project = operations.create_project(doubtful, "alpha")
    operations.create_project(doubtful, "beta")
    view = doubtful.store("alpha").put_view(example_view())
    made = operations.make_key(doubtful, "alpha", label="x", scope="read")
    grant = operations.make_grant(doubtful, "alpha", "beta", view=view)
    operations.revoke_grant(doubtful, "alpha", grant.id)
    operations.revoke_key(doubtful, "alpha", made.row.id)
    assert [one.created_at for one in operations.list_projects(doubtful) if one.id == "alpha"] == [project.created_at]
    assert [row.id for row in operations.keys_of(doubtful, "alpha")] == [made.row.id]
    assert [row.id for row in operations.grants_of(doubtful, "alpha")] == [grant.id]
    assert [action for action, *_ in acts(doubtful)] == ["project", "key", "grant", "revoke", "revoke"]


def test_an_act_that_fails_leaves_no_row_of_the_audit(world, monkeypatch):
    before = acts(world.service)

    def fail(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(world.service.audit, "write", fail)
    with pytest.raises(ZeroDivisionError):
        operations.make_key(world.service, "alpha", label="x", scope="read")
    with pytest.raises(ZeroDivisionError):
        operations.revoke_key(world.service, "alpha", world.principal(world.alpha).key_id)
    assert acts(world.service) == before
    assert len(operations.keys_of(world.service, "alpha")) == 3
    assert all(row.revoked_at is None for row in operations.keys_of(world.service, "alpha"))


def test_rows_hold_no_scope_that_is_none(world):
    found = world.service.database.read(lambda session: {row.scope for row in session.query(ApiKey)})
    assert found == set(SCOPES)
