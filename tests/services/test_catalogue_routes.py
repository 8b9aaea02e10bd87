"""The catalogue over HTTP: what it answers in JSON and Parquet, whom it refuses, what it counts, and what it never tells."""

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import pyarrow.parquet as pq
import pytest
from sqlalchemy import select

from services import operations
from services.catalogue import tables
from services.catalogue.index import reindex
from services.database.models import AuditRow
from services.routes import catalogue as routes
from services.service import Service
from store_schema import Store
from store_schema.withdraw import withdraw

from .catalogue_help import KEYS, entry_rows, fill, publish, put_run
from .serving import Server, running

P = "/v1/projects/mine"
PARQUET = {"Accept": tables.MEDIA_TYPE}


class Asker:
    """Asks the catalogue of project `mine`."""

    def __init__(self, server: Server, service: Service, keys: dict[str, str]) -> None:
        self.server, self.service, self.keys = server, service, keys
        self.store: Store = service.store("mine")

    def get(self, path: str, *, by: str = "mine", headers: dict[str, str] | None = None, **query: Any) -> Any:
        text = f"?{urlencode(query)}" if query else ""
        return self.server.ask("GET", f"{P}{path}{text}", key=self.keys[by], headers=headers)

    def rows(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """All items of a list, by pages of two."""
        found, cursor = [], {}
        while True:
            page = self.get(path, limit=2, **query, **cursor)
            assert page.status == 200, page.body
            found += page.json["items"]
            if page.json["next"] is None:
                return found
            cursor = {"cursor": page.json["next"]}

    def table(self, path: str, **query: Any) -> list[dict[str, Any]]:
        answer = self.get(path, headers=PARQUET, **query)
        assert (answer.status, answer.headers["content-type"]) == (200, tables.MEDIA_TYPE), answer.body
        assert int(answer.headers["content-length"]) == len(answer.body)
        return pq.read_table(io.BytesIO(answer.body)).to_pylist()

    def grant(self, **what: str) -> None:
        operations.make_grant(self.service, "mine", "theirs", **what)
        self.service.access.forget()

    def audited(self) -> list[tuple[str, str, str, int]]:
        self.service.audit.flush()
        rows = self.service.database.read(lambda session: session.scalars(select(AuditRow)).all())
        return [(row.action, row.target, row.outcome, row.requests) for row in rows if row.action in {"read", "denied"}]


@pytest.fixture
def ask(service: Service) -> Iterator[Asker]:
    keys = {}
    for project in ("mine", "theirs"):
        operations.create_project(service, project)
        keys[project] = operations.make_key(service, project, label="reader", scope="read").text
    with running(service) as server:
        yield Asker(server, service, keys)


@pytest.fixture
def filled(ask: Asker) -> tuple[str, str, str]:
    """Two views and a snapshot of the first."""
    first, second = fill(ask.store), fill(ask.store, KEYS[:3], recipe=2)
    withdraw(ask.store, [first], keys=[KEYS[-1]], reason="consent")
    put_run(ask.store, "cv-1", trainer={"kind": "trainer", "models": [{"name": "image", "mean": 0.7}]})
    put_run(ask.store, "run-1", start={"studies": 4, "started_at": "2026-01-02T03:04:05+00:00"})
    snapshot = ask.store.make_snapshot(first)
    reindex(ask.service, "mine")
    return first, second, snapshot


# Answers


def test_views_tell_what_they_hold(ask: Asker, filled: tuple[str, str, str]) -> None:
    found = ask.rows("/views")
    assert [one["id"] for one in found] == sorted(filled[:2])
    first = next(one for one in found if one["id"] == filled[0])
    assert (first["entries"], first["withdrawn"], first["patients"]) == (len(KEYS) - 1, 1, 4)
    assert (first["encoder"], first["trained"], first["shape"]) == ("mini", False, [2, 3, 4, 4])
    assert [_times(one) for one in ask.table("/views")] == [_times(one) for one in found]


def _times(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose times are moments, whatever it came in."""
    return {
        name: datetime.fromisoformat(value) if isinstance(value, str) and name.endswith("_at") else value
        for name, value in row.items()
    }


def test_entries_are_found_and_are_the_same_in_both_formats(ask: Asker, filled: tuple[str, str, str]) -> None:
    found = ask.rows("/entries", patient="MM_00[0-2]", modality="PET", state="all")
    expected = {
        (view, *vars_of(key))
        for view, key in entry_rows(ask.service, "mine")
        if key.modality == "PET" and key.patient < "MM_003"
    }
    assert {(one["view"], one["patient"], one["modality"], one["roi"]) for one in found} == expected
    in_table = ask.table("/entries", patient="MM_00[0-2]", modality="PET", state="all")
    assert [_times(one) for one in in_table] == [_times(one) for one in found]
    assert all(one["written_at"].tzinfo is not None for one in in_table)


def vars_of(key: Any) -> tuple[str, str, str]:
    return key.patient, key.modality, key.roi


def test_coverage_is_the_same_in_both_formats(ask: Asker, filled: tuple[str, str, str]) -> None:
    path = f"/views/{filled[0]}/coverage"
    whole = ask.get(path).json
    assert (whole["view"], whole["patients"], whole["next"]) == (filled[0], 4, None)
    assert ask.rows(path) == whole["items"]
    cells = [
        {
            "patient": one["patient"],
            "modality": column["modality"],
            "roi": column["roi"],
            "number": None if cell == "withdrawn" else cell,
            "withdrawn": cell == "withdrawn",
        }
        for one in whole["items"]
        for column, cell in zip(whole["columns"], one["cells"], strict=True)
    ]
    assert ask.table(path) == cells
    assert sum(one["withdrawn"] for one in cells) == sum(one["withdrawn"] for one in whole["columns"]) == 1


def test_snapshots_and_whether_they_open(ask: Asker, filled: tuple[str, str, str]) -> None:
    first, second, snapshot = filled
    row = ask.rows("/snapshots")[0]
    assert (row["id"], row["view"], row["rows"]) == (snapshot, first, len(KEYS) - 1)
    assert [_times(one) for one in ask.table("/snapshots")] == [_times(row)]
    assert ask.rows("/snapshots", view=second) == []
    assert ask.get(f"/snapshots/{snapshot}").json == row | {"usable": True}
    later = ask.store.make_snapshot(second)
    assert ask.get(f"/snapshots/{later}").json["written_at"] is None
    withdraw(ask.store, keys=[KEYS[0]], reason="consent")
    ask.service.project_store("mine").objects._withdrawn.clear()
    assert ask.get(f"/snapshots/{snapshot}").json == row | {"usable": False}
    assert ask.get(f"/snapshots/{later}").status == 410


def test_runs_tell_their_models(ask: Asker, filled: tuple[str, str, str]) -> None:
    assert [one["id"] for one in ask.rows("/runs")] == ["run-1", "cv-1"]
    assert ask.rows("/runs", kind="trainer")[0]["summary"]["models"] == [{"name": "image", "mean": 0.7}]
    assert ask.get("/runs/cv-1").json == ask.rows("/runs", kind="trainer")[0]
    table = ask.table("/runs")
    assert json.loads(table[1]["summary"])["models"] == [{"name": "image", "mean": 0.7}]
    assert table[0]["started_at"] == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_what_is_published_over_http_is_found_at_once(ask: Asker) -> None:
    from store_schema.testing import example_view  # noqa: PLC0415

    writer = operations.make_key(ask.service, "mine", label="writer", scope="write").text
    view = example_view()
    headers = {"If-None-Match": "*"}
    for path, data in (
        (f"/views/{view.view_id}.json", view.to_bytes()),
        ("/runs/cv-2/trainer.json", b'{"models": []}'),
    ):
        assert ask.server.ask("PUT", f"{P}{path}", key=writer, headers=headers, body=data).status == 201
    assert [one["id"] for one in ask.rows("/views")] == [view.view_id]
    assert [one["id"] for one in ask.rows("/runs")] == ["cv-2"]
    publish(ask.store, view.view_id, KEYS[0], "A")
    made = ask.server.ask("POST", f"{P}/snapshots", key=writer, body={"view": view.view_id})
    assert made.status == 201
    assert [one["id"] for one in ask.rows("/snapshots")] == [made.json["id"]]


# Parquet


def test_parquet_without_a_limit_is_everything_and_with_one_a_page(
    ask: Asker, filled: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "PARQUET_PAGE", 3)
    monkeypatch.setattr(tables, "GROUP_ROWS", 5)
    monkeypatch.setattr(tables, "IN_MEMORY_BYTES", 10)
    whole = ask.table("/entries")
    assert [_times(one) for one in whole] == [_times(one) for one in ask.rows("/entries")]
    answer = ask.get("/entries", format="parquet", limit=4)
    assert pq.read_table(io.BytesIO(answer.body)).to_pylist() == whole[:4]
    following = ask.get("/entries", format="parquet", cursor=answer.headers["engram-next"])
    assert pq.read_table(io.BytesIO(following.body)).to_pylist() == whole[4:]
    assert "engram-next" not in following.headers
    groups = pq.ParquetFile(io.BytesIO(ask.get("/entries", format="parquet").body)).metadata
    assert groups.num_row_groups > 1


def test_parquet_ends_at_its_most_rows_and_says_what_follows(
    ask: Asker, filled: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "PARQUET_ROWS", 5)
    monkeypatch.setattr(routes, "PARQUET_PAGE", 3)
    answer = ask.get("/entries", headers=PARQUET)
    rest = ask.get("/entries", cursor=answer.headers["engram-next"]).json["items"]
    found = pq.read_table(io.BytesIO(answer.body)).to_pylist()
    assert len(found) == 5
    assert [_times(one) for one in [*found, *rest]] == [_times(one) for one in ask.rows("/entries")]


@pytest.mark.parametrize("path", ["/entries", "/views", "/snapshots", "/runs"])
def test_empty_lists_are_tables_too(ask: Asker, path: str) -> None:
    assert ask.table(path) == []
    assert ask.get(path).json == {"items": [], "next": None}


@pytest.mark.parametrize(
    ("accept", "query", "kind"),
    [
        ("*/*", {}, "application/json"),
        ("text/html", {}, "application/json"),
        (f"text/html, {tables.MEDIA_TYPE};q=0.9", {}, tables.MEDIA_TYPE),
        (tables.MEDIA_TYPE, {"format": "json"}, "application/json"),
        ("application/json", {"format": "parquet"}, tables.MEDIA_TYPE),
    ],
)
def test_format_is_what_was_asked_for(ask: Asker, accept: str, query: dict[str, str], kind: str) -> None:
    answer = ask.get("/views", headers={"Accept": accept}, **query)
    assert (answer.headers["content-type"], answer.headers["cache-control"]) == (kind, "no-store")


# Refusals


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/entries?patient=a,,b", 422),
        ("/entries?roi=%0a", 422),
        ("/entries?limit=0", 422),
        ("/entries?limit=1001", 422),
        ("/entries?since=yesterday", 422),
        ("/entries?state=dead", 422),
        ("/entries?pateint=a", 422),
        ("/entries?format=csv", 422),
        ("/entries?cursor=x", 404),
        ("/entries?format=parquet&cursor=x", 404),
        ("/snapshots?view=*", 422),
        ("/runs?kind=x", 422),
        ("/views/unknown-0123456789abcdef/coverage", 404),
        ("/views/%00/coverage", 404),
        ("/views/MM_001%0a/coverage", 404),
        ("/snapshots/abc", 404),
        (f"/snapshots/{'0' * 64}", 404),
        ("/snapshots/%00", 404),
        ("/runs/none", 404),
        ("/runs/%00", 404),
    ],
)
def test_what_is_malformed_or_not_there_is_refused_in_one_shape(ask: Asker, path: str, status: int) -> None:
    answer = ask.server.ask("GET", f"{P}{path}", key=ask.keys["mine"])
    assert (answer.status, answer.json["error"]["status"]) == (status, status)
    # What was asked for may be a patient's id, or bytes that no database takes.
    for _, target, _, _ in ask.audited():
        assert "MM_001" not in target
        assert target.isprintable()


PATHS = ["/views", "/entries", "/snapshots", "/runs", "/runs/cv-1"]


@pytest.mark.parametrize("path", PATHS)
def test_nobody_else_gets_in(ask: Asker, filled: tuple[str, str, str], path: str) -> None:
    for found in (path, f"/views/{filled[0]}/coverage", f"/snapshots/{filled[2]}"):
        assert ask.get(found, by="theirs").status == 403
        assert ask.server.ask("GET", f"{P}{found}").status == 401


# Grants


def test_granted_view_is_read_and_nothing_else(ask: Asker, filled: tuple[str, str, str]) -> None:
    first, second, snapshot = filled
    ask.grant(view=first)
    assert [one["id"] for one in ask.get("/views", by="theirs").json["items"]] == [first]
    assert {one["view"] for one in ask.get("/entries", by="theirs", state="all").json["items"]} == {first}
    assert ask.get(f"/views/{first}/coverage", by="theirs").json["patients"] == 4
    assert [one["id"] for one in ask.get("/snapshots", by="theirs").json["items"]] == [snapshot]
    assert ask.get(f"/snapshots/{snapshot}", by="theirs").status == 200
    for path in ("/runs", "/runs/cv-1", f"/views/{second}/coverage", f"/snapshots/{'0' * 64}"):
        assert ask.get(path, by="theirs").status == 403


def test_granted_snapshot_is_read_and_nothing_else(ask: Asker, filled: tuple[str, str, str]) -> None:
    _, second, other = filled
    granted = ask.store.make_snapshot(second, KEYS[:2])
    reindex(ask.service, "mine")
    ask.grant(snapshot=granted)
    assert ask.get("/views", by="theirs").json["items"] == []
    found = ask.get("/entries", by="theirs", state="all").json["items"]
    assert [(one["patient"], one["modality"], one["roi"]) for one in found] == sorted(map(vars_of, KEYS[:2]))
    assert [one["id"] for one in ask.get("/snapshots", by="theirs").json["items"]] == [granted]
    assert ask.get(f"/snapshots/{granted}", by="theirs").json["rows"] == 2
    for path in ("/runs", f"/views/{second}/coverage", f"/snapshots/{other}"):
        assert ask.get(path, by="theirs").status == 403


# Audit


def test_reads_are_counted_and_name_no_patient(ask: Asker, filled: tuple[str, str, str]) -> None:
    first, _, snapshot = filled
    for path in (
        "/entries?patient=MM_001",
        "/views",
        f"/views/{first}/coverage?patient=MM_001",
        f"/snapshots/{snapshot}",
        "/runs/cv-1",
    ):
        assert ask.server.ask("GET", f"{P}{path}", key=ask.keys["mine"]).status == 200
    assert ask.get("/runs", by="theirs").status == 403
    found = ask.audited()
    expected = {("catalogue", 2), (first, 1), (f"snapshot {snapshot}", 1), ("run cv-1", 1)}
    assert {(target, count) for action, target, _, count in found if action == "read"} == expected
    assert [outcome for action, _, outcome, _ in found if action == "denied"] == ["denied"]
    assert not any("MM_" in target for _, target, _, _ in found)


def test_refused_read_is_counted_as_denied_alone(ask: Asker, filled: tuple[str, str, str]) -> None:
    first, second, _ = filled
    ask.grant(view=first)
    assert ask.get(f"/views/{second}/coverage", by="theirs").status == 403
    assert ask.audited() == [("denied", second, "denied", 1)]


@pytest.mark.parametrize(
    "path", ["/views/MM_001/coverage", "/views/%00/coverage", "/snapshots/MM_001", "/runs/MM_001", "/runs/%00"]
)
def test_denials_name_nothing_that_was_made_up(ask: Asker, filled: tuple[str, str, str], path: str) -> None:
    ask.grant(view=filled[0])
    assert ask.server.ask("GET", f"{P}{path}", key=ask.keys["theirs"]).status in {403, 404}
    for _, target, _, _ in ask.audited():
        assert target in {"view", "snapshot", "run"}


def test_openapi_describes_every_route_with_examples(ask: Asker) -> None:
    schema = ask.server.ask("GET", "/openapi.json").json
    mine = {
        path: one["get"] for path, one in schema["paths"].items() if "catalogue" in one.get("get", {}).get("tags", ())
    }
    assert len(mine) == 7
    for path, operation in mine.items():
        assert operation["summary"], path
        content = operation["responses"]["200"]["content"]
        assert "$ref" in json.dumps(content["application/json"]), path
    names = {one["name"] for one in mine["/v1/projects/{project}/entries"]["parameters"]}
    assert names >= {"view", "patient", "modality", "roi", "since", "until", "state", "cursor", "limit", "format"}
