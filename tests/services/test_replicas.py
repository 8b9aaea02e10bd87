"""Several replicas over one PostgreSQL and one store: what one does the others know, keys and grants within seconds."""

import time

import pytest

from services import operations
from services.database.migrate import migrate
from services.service import Service
from services.settings import Settings
from store_schema import EntryKey, create_store, open_store
from store_schema.testing import digest_of, example_entry, example_view

KEY_CACHE_S = 1.0


@pytest.fixture
def replicas(tmp_path, postgres, beside, request):
    """Two servers; each has its own memory of keys and objects."""
    name = f"replicas_{tmp_path.name}".replace("-", "_").lower()
    url = postgres.make_database(name)
    settings = Settings(data=tmp_path / "data", database_url=url, reconcile_s=0, key_cache_s=KEY_CACHE_S)
    services = [Service.open(settings) for _ in range(2)]
    for service in services:
        migrate(service.database)
    running = beside("serving").running
    with running(services[0]) as first, running(services[1]) as second:
        yield first, second
    postgres.drop_database(name)


def test_what_one_replica_does_the_other_knows(replicas, monkeypatch):
    first, second = replicas
    operations.create_project(first.service, "alpha")
    operations.create_project(second.service, "beta")
    writer = operations.make_key(first.service, "alpha", label="w", scope="write").text
    admin = operations.make_key(second.service, "alpha", label="a", scope="admin").text
    guest = operations.make_key(second.service, "beta", label="g", scope="read").text
    monkeypatch.setenv("ENGRAM_API_KEY", writer)
    stores = [open_store(f"{one.url}/v1/projects/alpha") for one in replicas]
    view = stores[0].put_view(example_view())
    for number in range(6):
        key = EntryKey(f"P{number}", "CT", "spine")
        done = stores[number % 2].publish(view, key, example_entry(number), input_sha256=digest_of(str(number)))
        assert done.outcome == "committed"
        again = stores[(number + 1) % 2].publish(view, key, example_entry(number), input_sha256=digest_of(str(number)))
        assert (again.outcome, again.commit) == ("done", done.commit)
    snapshot = stores[0].make_snapshot(view)
    assert stores[1].make_snapshot(view) == snapshot
    for one in replicas:
        listed = one.ask("GET", "/v1/projects/alpha/entries", key=admin).json["items"]
        assert [entry["patient"] for entry in listed] == [f"P{number}" for number in range(6)]
    grant = operations.make_grant(first.service, "alpha", "beta", view=view, snapshot=None, expires_days=None)
    path = f"/v1/projects/alpha/snapshots/{snapshot}/zarr/P1/CT/spine/zarr.json"
    time.sleep(KEY_CACHE_S + 0.1)
    assert [one.ask("GET", path, key=guest).status for one in replicas] == [200, 200]
    operations.revoke_grant(first.service, "alpha", grant.id)
    operations.revoke_key(second.service, "alpha", writer.split("_")[1])
    time.sleep(KEY_CACHE_S + 0.1)
    assert [one.ask("GET", path, key=guest).status for one in replicas] == [403, 403]
    assert [one.ask("GET", path, key=writer).status for one in replicas] == [401, 401]
    for one in replicas:
        one.service.audit.flush()
    rows = first.ask("GET", "/v1/projects/alpha/audit?limit=1000", key=admin).json["items"]
    assert {row["action"] for row in rows} >= {
        "project",
        "key",
        "publish",
        "snapshot",
        "grant",
        "revoke",
        "read",
        "denied",
    }


def test_replicas_share_a_store_at_an_address(replicas, tmp_path):
    store = create_store(tmp_path / "elsewhere")
    first, second = replicas
    operations.create_project(first.service, "alpha", store.url)
    key = operations.make_key(second.service, "alpha", label="r", scope="read").text
    assert [one.ask("GET", "/v1/projects/alpha/engram.json", key=key).json["store_id"] for one in replicas] == [
        store.store_id
    ] * 2
