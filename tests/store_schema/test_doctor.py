"""The doctor finds each thing a backend may do wrong, tells the fix, and leaves nothing behind."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner

from store_schema import create_store, open_store
from store_schema.cli import main
from store_schema.doctor import Check, examine, sound
from store_schema.errors import BackendError, NotCommittedError, UsageError
from store_schema.location import Location, open_location
from store_schema.testing import WrappedLocation, digest_of, example_entry, example_view


class Overwriting(WrappedLocation):
    """Ignores that a name may be created only once."""

    def create(self, path: str, data: bytes) -> None:
        self.inner.put(path, data)


class Forbidding(WrappedLocation):
    """Answers 403 for an absent object, as AWS does to a caller without ListBucket."""

    def get(self, path: str) -> bytes:
        if not self.inner.exists(path):
            raise BackendError("status code: 403 Forbidden")
        return self.inner.get(path)


class Ranging(WrappedLocation):
    """Answers a range with the whole object."""

    def get_part(self, path: str, *, start: int = 0, end: int | None = None) -> bytes:
        return self.inner.get(path)


class ListingLate(WrappedLocation):
    """Lists what was there a while ago."""

    def paths(self, prefix: str) -> list[str]:
        return []


class Keeping(WrappedLocation):
    """Deletes nothing."""

    def delete(self, path: str) -> None:
        return


class Skewed(WrappedLocation):
    """Has a clock an hour ahead."""

    def now(self) -> datetime:
        return self.inner.now() + timedelta(hours=1)


@pytest.fixture(params=["memory", "folder"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return open_location(f"memory://{tmp_path}" if request.param == "memory" else tmp_path)


class AppendOnly(WrappedLocation):
    """Lets nobody delete, as a careful policy may."""

    def delete(self, path: str) -> None:
        raise BackendError("status code: 403 Forbidden")


def verdicts(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.verdict for check in checks if check.verdict != "ok"}


def test_sound_place_passes_every_check_and_keeps_nothing(location: Location) -> None:
    checks = examine(location)
    assert len(checks) == 9
    assert verdicts(checks) == {}
    assert sound(checks)
    assert location.paths("") == []


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (Overwriting, {"second create refused": "failed", "one winner of a race": "failed"}),
        (Forbidding, {"absent object": "failed"}),
        (Ranging, {"ranges": "failed", "suffix ranges": "failed"}),
        (ListingLate, {"listing": "failed"}),
        (Keeping, {"delete": "failed"}),
        (Skewed, {"clock": "warning"}),
    ],
)
def test_each_fault_is_found_and_nothing_else(
    location: Location, wrong: Callable[[Location], Location], expected: dict[str, str]
) -> None:
    checks = examine(wrong(location))
    assert verdicts(checks) == expected
    assert sound(checks) == ("failed" not in expected.values())


def test_absent_bucket_right_is_named(location: Location) -> None:
    (check,) = examine(Forbidding(location))
    assert "grant s3:ListBucket" in check.detail


# Over HTTP


@pytest.fixture
def serve() -> Iterator[Callable[[Any], str]]:
    """Starts servers with a handler each; gives their address."""
    servers: list[ThreadingHTTPServer] = []

    def start(handler: Any) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class Unconditional(BaseHTTPRequestHandler):
    """An object store that ignores If-None-Match, as some self-made ones do."""

    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes]

    def do_PUT(self) -> None:
        self.objects[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200, b"", {"ETag": '"0"'})

    def do_GET(self) -> None:
        if "?" in self.path:
            prefix = self.path.split("?")[0]
            self._answer(
                200, b"<ListBucketResult><Name>b</Name><KeyCount>0</KeyCount></ListBucketResult>" if prefix else b""
            )
        elif self.path in self.objects:
            self._answer(200, self.objects[self.path], {"Last-Modified": self.date_time_string(), "ETag": '"0"'})
        else:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    do_HEAD = do_GET  # noqa: N815 - the base class names it so

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200, b"<DeleteResult></DeleteResult>")

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


def test_server_that_ignores_conditions_is_no_place_for_a_store(
    serve: Callable[[Any], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    objects: dict[str, bytes] = {}
    monkeypatch.setenv("AWS_ENDPOINT_URL", serve(type("Handler", (Unconditional,), {"objects": objects})))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    done = CliRunner().invoke(main, ["init", "s3://bucket/store"])
    assert done.exit_code == 1
    assert "✗ second create refused" in done.output
    assert "ignores `If-None-Match: *`" in done.output
    assert not any(path.endswith("engram.json") for path in objects)
    # A program that makes its store by itself, as `extractor run` does, must not do what `init` refuses.
    with pytest.raises(BackendError, match="lets a name be created twice"):
        open_store("s3://bucket/store", create=True)


def test_stores_made_by_two_at_once_are_one(serve: Callable[[Any], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 may answer 409 to both, when neither has made it yet."""
    clashes: list[str] = []

    class Clashing(Unconditional):
        objects: ClassVar[dict[str, bytes]] = {}

        def do_PUT(self) -> None:
            if self.path in clashes and self.path not in self.objects:
                super().do_PUT()
                return
            self.rfile.read(int(self.headers["Content-Length"]))
            if self.path in self.objects:
                self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
                return
            clashes.append(self.path)
            self._answer(409, b"<Error><Code>ConditionalRequestConflict</Code></Error>")

    monkeypatch.setenv("AWS_ENDPOINT_URL", serve(Clashing))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    assert create_store("s3://bucket/store").store_id == open_store("s3://bucket/store").store_id
    assert len(clashes) == 1


def test_store_behind_http_is_read_and_verified_and_never_written(serve: Callable[[Any], str], tmp_path: Path) -> None:
    made = create_store(tmp_path / "store")
    view = made.put_view(example_view())
    publication = made.publish(view, (key := _key()), example_entry(3), input_sha256=digest_of("a"))
    snapshot_id = made.make_snapshot(view)

    class Files(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    served = open_store(f"{serve(Files)}/store")
    assert served.current(view, key) == publication.commit
    assert (served.snapshot(snapshot_id).read(key).arrays["memory"] == example_entry(3).arrays["memory"]).all()
    assert served.current(view, _key("absent")) is None
    for ask in (served.view_ids, served.run_ids, lambda: served.keys(view), lambda: served.resolve_view("example")):
        with pytest.raises(UsageError, match="cannot be listed: give whole ids"):
            ask()
    with pytest.raises(NotCommittedError, match="has no record 'a' of run r"):
        served.read_run("r", "a")
    with pytest.raises(Exception, match="read over HTTP and cannot be written"):
        served.publish(view, key, example_entry(4), input_sha256=digest_of("b"))
    done = CliRunner().invoke(main, ["doctor", served.url, "--json"])
    report = json.loads(done.output)
    assert report["ok"]
    assert {check["name"]: check["verdict"] for check in report["checks"]} == {
        "absent object": "ok",
        "writing": "warning",
    }


def test_place_that_deletes_nothing_is_told_with_all_other_checks(location: Location) -> None:
    found = verdicts(examine(AppendOnly(location)))
    assert found["delete"] == "failed"
    assert found["probes removed"] == "warning"
    assert len(examine(AppendOnly(location))) == 10


def _key(patient: str = "P001") -> Any:
    from store_schema import EntryKey  # noqa: PLC0415 - one word in one place

    return EntryKey(patient, "PET", "spine")


def test_doctor_prints_a_line_for_each_check(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["doctor", str(tmp_path)])
    assert done.exit_code == 0
    assert done.output.count("✓") == 9
    assert done.output.endswith("fit for a store\n")
    assert list(tmp_path.iterdir()) == []


def test_init_of_a_store_that_is_there_keeps_it(tmp_path: Path) -> None:
    first = CliRunner().invoke(main, ["init", str(tmp_path)])
    assert first.exit_code == 0
    assert CliRunner().invoke(main, ["init", str(tmp_path)]).output == first.output
    assert [path.name for path in tmp_path.iterdir()] == ["engram.json"]
