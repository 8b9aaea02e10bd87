"""Locations beyond what every backend promises: the folder's own traps, and the URLs that are opened."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import BinaryIO

import pytest

from store_schema.errors import AlreadyExistsError, BackendError, ObjectMissingError, StoreError, UsageError
from store_schema.location import TEMPORARY, FolderLocation, MemoryLocation, open_location


class FullDisk(FolderLocation):
    """A folder whose disk is full after a few bytes of each object."""

    def _fill(self, file: BinaryIO, data: bytes) -> None:
        file.write(data[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("write", [FolderLocation.put, FolderLocation.create])
def test_full_disk_leaves_nothing_and_says_what_to_do(tmp_path: Path, write) -> None:
    with pytest.raises(BackendError, match=rf"could not write {tmp_path}/runs/r/x: No space left.*free space and run"):
        write(FullDisk(tmp_path), "runs/r/x", b"too many bytes")
    assert _files(tmp_path) == []


def test_file_size_limit_of_the_system_leaves_nothing(tmp_path: Path) -> None:
    """A true failure of write(2), in a process of its own: the first object fits, the second does not."""
    script = """
import resource, sys
from pathlib import Path
from store_schema.errors import BackendError
from store_schema.location import FolderLocation
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
location = FolderLocation(Path(sys.argv[1]))
location.create("data/small", b"x" * 500)
try:
    location.create("data/large", b"x" * 5000)
except BackendError as error:
    print(error)
print(location.paths("data"))
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert "could not write" in run.stdout
    assert "File too large" in run.stdout
    assert run.stdout.endswith("['data/small']\n")
    assert _files(tmp_path) == [tmp_path / "data/small"]


def test_unfinished_files_of_a_killed_writer_are_no_objects(tmp_path: Path) -> None:
    location = FolderLocation(tmp_path)
    location.put("data/a/x", b"whole")
    (tmp_path / "data/a" / f"{TEMPORARY}123").write_bytes(b"half")
    assert location.paths("data") == ["data/a/x"]
    assert location.children("data/a") == ["x"]


def test_writing_leaves_no_temporary_files(tmp_path: Path) -> None:
    location = FolderLocation(tmp_path)
    location.put("a/x", b"1")
    location.create("a/y", b"2")
    with pytest.raises(AlreadyExistsError):
        location.create("a/y", b"3")
    assert sorted(path.name for path in _files(tmp_path)) == ["x", "y"]


def test_link_out_of_the_store_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    root = tmp_path / "store"
    root.mkdir()
    (root / "data").symlink_to(outside)
    location = FolderLocation(root)
    for act in (location.get, location.size_bytes):
        with pytest.raises(StoreError, match="leads out of the store"):
            act("data/secret")
    with pytest.raises(StoreError, match="leads out of the store"):
        location.put("data/new", b"x")
    with pytest.raises(StoreError, match="leads out of the store"):
        location.paths("data")
    assert _files(outside) == [outside / "secret"]


def test_links_within_the_store_are_not_followed_in_circles(tmp_path: Path) -> None:
    location = FolderLocation(tmp_path)
    location.put("data/a/x", b"1")
    (tmp_path / "data/a/loop").symlink_to(tmp_path / "data")
    assert location.paths("data") == ["data/a/loop", "data/a/x"]


def test_store_may_itself_lie_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    FolderLocation(tmp_path / "link").put("a/x", b"1")
    assert FolderLocation(tmp_path / "real").get("a/x") == b"1"


def test_file_where_a_folder_is_needed_is_told(tmp_path: Path) -> None:
    location = FolderLocation(tmp_path)
    location.put("a", b"1")
    with pytest.raises(ObjectMissingError):
        location.get("a/b")
    assert location.size_bytes("a/b") is None
    assert location.paths("a") == location.children("a") == []
    with pytest.raises(BackendError, match="could not write"):
        location.create("a/b", b"2")


def test_name_beyond_the_file_system_is_told(tmp_path: Path) -> None:
    location = FolderLocation(tmp_path)
    for act in (location.get, location.size_bytes, location.paths, location.children):
        with pytest.raises(BackendError, match="the path is too long"):
            act("x" * 300)


def test_urls_of_one_folder_open_the_same_place(tmp_path: Path) -> None:
    folder = tmp_path / "with space#and%"
    open_location(folder).put("a/x", b"1")
    for address in (
        str(folder),
        f"file://{tmp_path}/with%20space%23and%25",
        f"file://localhost{tmp_path}/with%20space%23and%25",
    ):
        assert open_location(address).get("a/x") == b"1"
        assert open_location(address).url == str(folder)


def test_memory_is_one_place_by_name() -> None:
    open_location("memory://location-test").put("a/x", b"1")
    assert open_location("memory://location-test").get("a/x") == b"1"
    assert isinstance(open_location("memory://location-test"), MemoryLocation)
    assert open_location("memory://location-other").paths("a") == []


@pytest.mark.parametrize("address", ["nosuch://host/x", "memory://", "file://otherhost/x", "file://relative"])
def test_address_that_no_backend_serves_is_wrong_use(address: str) -> None:
    with pytest.raises(UsageError, match=r"use a folder's path, file:///PATH, s3://BUCKET"):
        open_location(address)


@pytest.mark.parametrize(
    "address", ["", " ", "s3:/bucket/store", "S3:bucket", "gs:/b", "https:/host/x", "file:/data", "memory:x"]
)
def test_half_an_address_is_no_folder(address: str) -> None:
    with pytest.raises(UsageError, match=r"use a folder's path"):
        open_location(address)
    assert open_location(f"./{address}").url.startswith(str(Path.cwd()))


@pytest.mark.parametrize("address", ["https://token-1234@host/store", "http://user@host/store"])
def test_token_in_a_web_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="carries a user or token") as caught:
        open_location(address)
    assert "token-1234" not in str(caught.value)


@pytest.fixture
def no_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment without any setting of S3."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return monkeypatch


class Refusing(BaseHTTPRequestHandler):
    """Finds the first write too slow, which S3 tells with status 400, and every deletion forbidden, which it tells with 200."""

    asked: list[str]

    def do_PUT(self) -> None:
        first = not self.asked
        self._answer(*(400, b"<Error><Code>RequestTimeout</Code></Error>") if first else (200, b""))

    def do_POST(self) -> None:
        denied = b"<Error><Key>store/a</Key><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self._answer(200, b"<DeleteResult>" + denied + b"</DeleteResult>")

    def _answer(self, status: int, body: bytes) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append(self.command)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"0"')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def refusing(no_aws: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What a server was asked that refuses."""
    asked: list[str] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Refusing,), {"asked": asked})) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        no_aws.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        no_aws.setenv("AWS_ACCESS_KEY_ID", "any")
        no_aws.setenv("AWS_SECRET_ACCESS_KEY", "anything")
        yield asked
        server.shutdown()


def test_request_that_came_too_slowly_is_made_again(refusing: list[str]) -> None:
    open_location("s3://bucket/store").put("a", b"1")
    assert refusing == ["PUT", "PUT"]


def test_forbidden_deletion_is_told_at_once(refusing: list[str]) -> None:
    with pytest.raises(BackendError, match="check the rights of the credentials, the right to delete"):
        open_location("s3://bucket/store").delete("a")
    assert refusing == ["POST"]


@pytest.mark.parametrize(
    "endpoint", ["ceph:8080", "nonsense", "http://", "https://user:secret@host", "http://host name"]
)
def test_endpoint_that_is_no_address_is_wrong_use(no_aws: pytest.MonkeyPatch, endpoint: str) -> None:
    no_aws.setenv("AWS_ENDPOINT_URL", endpoint)
    no_aws.setenv("AWS_ACCESS_KEY_ID", "any")
    with pytest.raises(UsageError, match="is no address: expected http://HOST:PORT") as caught:
        open_location("s3://bucket/store").get("a")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["http://", "http://host name", "https://user:secret@host"])
@pytest.mark.parametrize(
    ("variable", "address"),
    [("STORAGE_EMULATOR_HOST", "gs://b/s"), ("GOOGLE_BASE_URL", "gs://b/s"), ("AZURE_STORAGE_ENDPOINT", "az://b/s")],
)
def test_endpoint_of_google_or_azure_that_is_no_address_is_wrong_use(
    monkeypatch: pytest.MonkeyPatch, variable: str, address: str, endpoint: str
) -> None:
    monkeypatch.setenv(variable, endpoint)
    with pytest.raises(UsageError, match=rf"is no address: expected http://HOST:PORT.*{variable}") as caught:
        open_location(address).get("a")
    assert "secret" not in str(caught.value)


class Witness(BaseHTTPRequestHandler):
    """Notes what each request shows of who asks, and has no object."""

    shown: list[str | None]

    def do_GET(self) -> None:
        self.shown.append(self.headers["Authorization"])
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def witness() -> Iterator[tuple[str, list[str | None]]]:
    """Host and port of a server, and what it was shown."""
    shown: list[str | None] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Witness,), {"shown": shown})) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}", shown
        server.shutdown()


@pytest.mark.parametrize("variable", ["STORAGE_EMULATOR_HOST", "GOOGLE_BASE_URL"])
def test_emulator_is_shown_no_credential_and_an_endpoint_is(
    witness: tuple[str, list[str | None]], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    host, shown = witness
    monkeypatch.setenv(variable, f"http://{host}")
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "planted-token")
    with pytest.raises(ObjectMissingError):
        open_location("gs://bucket/store").get("a")
    assert shown == [f"Bearer {'emulator' if variable == 'STORAGE_EMULATOR_HOST' else 'planted-token'}"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"AWS_PROFILE": "nosuch"}, r"no AWS credentials could be had: .*nosuch.*check AWS_PROFILE"),
        ({"AWS_PROFILE": "broken"}, r"no AWS credentials could be had: .*custom-process"),
        (
            {"AWS_ACCESS_KEY_ID": "any"},
            r"s3://bucket/store cannot be opened: .*Missing SecretAccessKey.*check the settings",
        ),
    ],
)
def test_missing_credentials_are_told_with_what_to_set(
    no_aws: pytest.MonkeyPatch, tmp_path: Path, settings: dict[str, str], said: str
) -> None:
    (tmp_path / "config").write_text("[profile broken]\ncredential_process = /bin/false\n")
    for name, value in settings.items():
        no_aws.setenv(name, value)
    with pytest.raises(BackendError, match=said):
        open_location("s3://bucket/store").get("a")


def test_credentials_in_an_address_are_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        open_location("s3x://key:secret@bucket/path")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("write", ["put", "create"])
def test_an_object_is_synced_then_named_and_its_folders_are_synced_into_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    """What was acknowledged outlives a power cut: no file gets its name before its bytes are on disk, no name is left unsynced."""
    done: list[tuple[str, str]] = []
    sync, link, replace = os.fsync, os.link, Path.replace

    def synced(descriptor: int) -> None:
        done.append(("sync", os.fspath(Path(f"/proc/self/fd/{descriptor}").readlink())))
        sync(descriptor)

    def linked(source: os.PathLike[str], target: os.PathLike[str]) -> None:
        done.append(("name", os.fspath(target)))
        link(source, target)

    def replaced(self: Path, target: Path) -> Path:
        done.append(("name", os.fspath(target)))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "link", linked)
    monkeypatch.setattr(Path, "replace", replaced)
    root = tmp_path / "store"
    place = root / "a" / "b" / "object"
    getattr(FolderLocation(root), write)("a/b/object", b"bytes")
    named = done.index(("name", str(place)))
    kind, temporary = done[named - 1]
    assert kind == "sync"
    assert not Path(temporary).is_dir()
    before, after = ({path for kind, path in part if kind == "sync"} for part in (done[:named], done[named + 1 :]))
    assert str(place.parent) in after
    assert before >= {str(tmp_path), str(root), str(root / "a")}
