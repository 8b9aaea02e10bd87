"""Bulk reading from the bucket itself by addresses that the service signs: the same bytes, checked, or those of the service."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from store_schema import BulkReader, EntryKey, Snapshot, open_store
from store_schema.direct import BATCH
from store_schema.disk_cache import DiskCache
from store_schema.errors import BackendError, ObjectAlteredError
from store_schema.remote import get_without_key
from store_schema.testing import digest_of, example_entry, example_view

KEYS = tuple(EntryKey(f"p{i:03d}", "CT", "skeleton") for i in range(BATCH + 6))


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Readers close connections whose answers they do not want."""


@pytest.fixture
def bucket(service: Any) -> Iterator[SimpleNamespace]:
    """A server that gives a store's objects to everybody who names the signature, and remembers what it was asked."""
    state = SimpleNamespace(asked=[], answer=lambda data: (200, data), location=service.store.location)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path, _, signature = self.path.partition("?")
            state.asked.append((path, dict(self.headers.items())))
            status, body = state.answer(state.location.get(path.removeprefix("/")))
            status = status if signature == "signature=planted" else 403
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with Quiet(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        state.url = f"http://127.0.0.1:{server.server_port}"
        yield state
        server.shutdown()


@pytest.fixture
def snapshot(service: Any) -> Snapshot:
    """As many entries as need two batches, read through the service."""
    view = service.store.put_view(example_view())
    for seed, key in enumerate(KEYS):
        service.store.publish(view, key, example_entry(seed), input_sha256=digest_of(str(key)))
    return open_store(service.url).snapshot(service.store.make_snapshot(view))


def memories(snapshot: Snapshot, **options: Any) -> list[np.ndarray]:
    reader = BulkReader(snapshot, ("memory", "mean_map"), **({"direct_bytes": 0} | options))
    return [entry.arrays["memory"] for entry in reader.read()]


def is_right(values: list[np.ndarray]) -> bool:
    expected = [example_entry(seed).arrays["memory"] for seed in range(len(KEYS))]
    return len(values) == len(expected) and all(map(np.array_equal, values, expected))


def through_service(service: Any, kind: str) -> int:
    """How many objects of a kind the service was asked for."""
    return sum(f"/{kind}/" in asked.path for asked in service.asked if asked.method == "GET")


def signed_by(service: Any, address: Callable[[str], str]) -> None:
    service.sign = address


def test_objects_come_from_the_bucket_and_the_key_stays(
    service: Any, bucket: Any, snapshot: Snapshot, doubles: Any
) -> None:
    signed_by(service, lambda path: f"{bucket.url}/{path}?signature=planted")
    assert is_right(memories(snapshot))
    assert len(bucket.asked) == 2 * len(KEYS)
    assert not [headers for _, headers in bucket.asked if "Authorization" in headers or doubles.KEY in str(headers)]
    assert (through_service(service, "data"), through_service(service, "commits")) == (0, len(KEYS))
    assert sum(asked.path.endswith("/sign") for asked in service.asked) == 2


def test_service_without_addresses_is_asked_once_and_read(service: Any, snapshot: Snapshot) -> None:
    assert is_right(memories(snapshot))
    assert through_service(service, "data") == 2 * len(KEYS)
    assert sum(asked.path.endswith("/sign") for asked in service.asked) == 1


def test_bucket_out_of_reach_is_given_up(service: Any, snapshot: Snapshot) -> None:
    signed_by(service, lambda path: f"http://127.0.0.1:9/{path}?signature=planted")
    assert is_right(memories(snapshot))
    assert through_service(service, "data") == 2 * len(KEYS)


@pytest.mark.parametrize("status", [301, 403, 404, 500])
def test_what_an_address_does_not_give_is_read_through_the_service(
    service: Any, bucket: Any, snapshot: Snapshot, status: int
) -> None:
    signed_by(service, lambda path: f"{bucket.url}/{path}?signature=planted")
    bucket.answer = lambda data: (status, data)
    assert is_right(memories(snapshot))
    assert through_service(service, "data") == 2 * len(KEYS)


def test_what_the_cache_has_is_not_read_again(service: Any, bucket: Any, snapshot: Snapshot, tmp_path: Any) -> None:
    signed_by(service, lambda path: f"{bucket.url}/{path}?signature=planted")
    cache = DiskCache(tmp_path / "cache")
    assert is_right(memories(snapshot, cache=cache))
    asked = len(bucket.asked)
    assert is_right(memories(snapshot, cache=cache))
    assert len(bucket.asked) == asked


@pytest.mark.parametrize("change", [lambda data: data[:-1] + b"x", lambda data: data + b"x" * 10_000, lambda _: b""])
def test_bytes_of_the_bucket_are_checked(
    service: Any, bucket: Any, snapshot: Snapshot, change: Callable[[bytes], bytes]
) -> None:
    signed_by(service, lambda path: f"{bucket.url}/{path}?signature=planted")
    bucket.answer = lambda data: (200, change(data))
    with pytest.raises(ObjectAlteredError, match=r"in the bucket of http") as caught:
        memories(snapshot)
    assert "planted" not in str(caught.value)


def test_small_objects_come_through_the_service(service: Any, bucket: Any, snapshot: Snapshot) -> None:
    """Signing them would take longer than giving them."""
    signed_by(service, lambda path: f"{bucket.url}/{path}?signature=planted")
    sizes = [one.size_bytes for path, one in snapshot.commit(KEYS[0]).objects.items() if path.startswith("memory/c")]
    assert is_right(memories(snapshot, direct_bytes=sizes[0] + 100))
    assert (bucket.asked, sum(asked.path.endswith("/sign") for asked in service.asked)) == ([], 0)


def test_address_is_no_part_of_an_error(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match=r"127\.0\.0\.1 does not answer") as caught:
        get_without_key("http://127.0.0.1:9/x?signature=planted", 10)
    assert "planted" not in str(caught.value)
    with pytest.raises(BackendError, match="ENGRAM_ALLOW_HTTP"):
        get_without_key("http://bucket.example.org/x?signature=planted", 10)
