"""The store's promises on a real S3 server, and what a client of another make sees there."""

import dataclasses
import json
import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
import s3fs
from click.testing import CliRunner

from store_schema import create_store, open_store
from store_schema.cli import main
from store_schema.copying import copy_store
from store_schema.doctor import examine
from store_schema.errors import AlreadyExistsError, BackendError, ObjectMissingError, UsageError
from store_schema.gc import collect_garbage
from store_schema.location import Location, open_location
from store_schema.testing import StoreContract, digest_of, example_entry, example_view
from store_schema.testing.base import KEY
from store_schema.usage import usage
from store_schema.withdraw import withdraw

STRIDE = 41
"""Every so manyth byte is changed here; memory and folder change every one."""


class TestS3Store(StoreContract):
    @pytest.fixture
    def url(self, s3_url: str) -> str:
        return s3_url

    def raw_get(self, url: str, path: str) -> bytes:
        return bytes(_files().cat_file(f"{url}/{path}"))

    def raw_set(self, url: str, path: str, data: bytes) -> None:
        _files().pipe_file(f"{url}/{path}", data)

    def raw_delete(self, url: str, path: str) -> None:
        _files().rm_file(f"{url}/{path}")

    def raw_paths(self, url: str) -> list[str]:
        root = url.removeprefix("s3://")
        return [path.removeprefix(f"{root}/") for path in _files().find(root)]

    def each_byte_changed(self, url: str, path: str) -> Iterator[None]:
        data = self.raw_get(url, path)
        for i in range(0, len(data), STRIDE):
            self.raw_set(url, path, data[:i] + bytes([data[i] ^ (1 << (i % 8))]) + data[i + 1 :])
            yield
        self.raw_set(url, path, data)


def _files() -> Any:
    return s3fs.S3FileSystem(use_listings_cache=False)


@pytest.fixture
def location(s3_url: str) -> Location:
    return open_location(s3_url)


def test_location_pickles_as_its_address_without_a_secret(location: Location, s3_server: Any) -> None:
    location.put("x", b"1")
    data = pickle.dumps(location)
    assert location.url.encode() in data
    assert s3_server.secret_key.encode() not in data
    assert pickle.loads(data).get("x") == b"1"


def test_parts_of_an_object(location: Location) -> None:
    location.put("a/x", b"0123456789")
    assert location.get_part("a/x", start=2, end=5) == b"234"
    assert location.get_part("a/x", start=7) == b"789"
    assert location.get_part("a/x", start=-4) == b"6789"
    with pytest.raises(BackendError, match="shorter than the part"):
        location.get_part("a/x", start=20, end=30)


def test_deleting_what_is_there_and_what_is_not(location: Location) -> None:
    location.put("a/x", b"1")
    location.delete("a/x")
    location.delete("a/x")
    assert location.size_bytes("a/x") is None
    with pytest.raises(ObjectMissingError):
        location.get("a/x")


def test_objects_tell_sizes_and_times_by_the_servers_clock(location: Location) -> None:
    before = location.now()
    location.put("a/x", b"12345")
    location.put("a/y/z", b"")
    location.put("ab", b"1")
    found = {one.path: one for one in location.objects("a")}
    assert {path: one.size_bytes for path, one in found.items()} == {"a/x": 5, "a/y/z": 0}
    assert all((one.modified - before).total_seconds() > -1 for one in found.values())
    assert sorted(location.paths("")) == ["a/x", "a/y/z", "ab"]
    assert location.children("") == ["a", "ab"]
    assert location.children("a") == ["x", "y"]


def test_more_objects_than_one_page_are_listed(location: Location) -> None:
    for i in range(1003):
        location.put(f"many/{i:04d}", b"")
    assert len(location.paths("many")) == len(location.children("many")) == 1003


def test_bucket_that_does_not_exist_is_no_empty_store(s3_server: Any) -> None:
    absent = open_location("s3://engram-absent-bucket/x")
    for act in (absent.get, absent.paths, absent.children, lambda path: absent.put(path, b"1")):
        with pytest.raises(BackendError, match=r"does not exist|NoSuchBucket"):
            act("engram.json")
    with pytest.raises(BackendError, match="does not exist"):
        open_store("s3://engram-absent-bucket/x")


def test_wrong_key_is_told_without_repeating_it(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret-key")
    with pytest.raises(BackendError, match="check the credentials") as caught:
        open_location(s3_url).get("x")
    assert "planted" not in str(caught.value)


def test_server_that_is_not_there_is_told(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("store_schema.location.objects.TRIES", 1)
    monkeypatch.setattr("store_schema.location.clients.RETRIES_INSIDE", 1)
    with pytest.raises(BackendError, match="check network, endpoint and server"):
        open_location(s3_url).get("x")


@pytest.mark.parametrize("kind", ["environment", "profile"])
def test_keys_come_from_environment_or_profile(
    s3_url: str, s3_server: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    create_store(s3_url)
    if kind == "profile":
        keys = f"aws_access_key_id = {s3_server.access_key}\naws_secret_access_key = {s3_server.secret_key}\n"
        (tmp_path / "credentials").write_text(f"[engram]\n{keys}")
        (tmp_path / "config").write_text(f"[profile engram]\nendpoint_url = {s3_server.endpoint}\nregion = us-east-1\n")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_PROFILE", "engram")
        for name in s3_server.environment:
            monkeypatch.delenv(name)
    assert open_store(s3_url).view_ids() == []


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///x",
        "s3://bucket/../x",
        "s3://key:secret@bucket/x",
        "s3://key:pass/secret@bucket/x",
        "s3://bucket/x?sig=secret",
    ],
)
def test_address_that_names_no_place_is_refused_without_its_secret(url: str) -> None:
    with pytest.raises((UsageError, Exception)) as caught:
        open_location(url)
    assert isinstance(caught.value, UsageError) or "not a path inside" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_client_used_before_a_fork_refuses_in_the_child(location: Location) -> None:
    location.put("x", b"1")
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            location.get("x")
            answer = "read"
        except BackendError as error:
            answer = str(error)
        os.write(write, answer.encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert "start workers by spawn" in os.read(read, 1000).decode()
    assert location.get("x") == b"1"


def test_spawned_process_opens_its_own_client(location: Location) -> None:
    location.put("x", b"spawned")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(location.get, ("x",)) == b"spawned"


def test_lost_race_is_told_as_such(location: Location) -> None:
    location.create("x", b"1")
    with pytest.raises(AlreadyExistsError):
        location.create("x", b"2")
    assert location.get("x") == b"1"


@pytest.fixture
def mark(s3_url: str) -> Callable[[str], None]:
    """Makes a folder as consoles and mounts do: an empty object whose name ends in a slash."""
    from botocore.session import Session  # noqa: PLC0415 - no other client here writes such names

    bucket, _, root = s3_url.removeprefix("s3://").partition("/")
    client = Session().create_client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name="us-east-1")
    return lambda folder: client.put_object(Bucket=bucket, Key=f"{root}/{folder}".rstrip("/") + "/", Body=b"")


def test_name_that_no_store_has_is_told_at_once_with_what_to_do(
    location: Location, mark: Callable[[str], None]
) -> None:
    """A client that refuses a whole listing for one name must not be asked six times, nor the network be blamed."""
    location.put("commits/x", b"1")
    mark("data//odd")
    with pytest.raises(BackendError, match=r"data//odd.*remove it with the server's own tools"):
        location.paths("data")
    assert location.paths("commits") == ["commits/x"]


def test_folder_made_in_a_console_is_no_object(location: Location, mark: Callable[[str], None]) -> None:
    location.put("a/b/x", b"1")
    location.put("a/empty", b"")
    for folder in ("", "a", "a/b"):
        mark(folder)
    assert location.paths("") == location.paths("a") == ["a/b/x", "a/empty"]
    assert location.paths("a/b") == ["a/b/x"]
    assert (location.children(""), location.children("a"), location.children("a/b")) == (["a"], ["b", "empty"], ["x"])


def test_store_below_folders_made_in_a_console_is_sound_and_cared_for(s3_url: str, mark: Callable[[str], None]) -> None:
    mark("")
    store = create_store(s3_url)
    assert copy_store(create_store(f"memory://{uuid4().hex}"), f"{s3_url}/copy").ok
    for path in open_location(f"{s3_url}/copy").paths(""):
        open_location(f"{s3_url}/copy").delete(path)
    view = store.put_view(example_view())
    store.publish(view, KEY, example_entry(), input_sha256=digest_of("x"))
    store.put_run("run-1", "record.json", KEY.patient.encode())
    for folder in ("data", f"data/{view}", f"data/{view}/{KEY.patient}", f"commits/{view}/{KEY}", "views", "runs"):
        mark(folder)
    mark("runs/empty")
    assert store.verify().findings == ()
    report = usage(store)
    assert report.objects == len(store.location.paths(""))
    assert sum(row.objects for row in report.rows if row.kind == "data") == 9
    assert store.keys(view) == [KEY]
    done = withdraw(store, patients=[KEY.patient], reason="test")
    assert (done.ok, done.objects, done.mentions) == (True, 9, ("runs/run-1/record.json",))


@pytest.fixture
def public(s3_server: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets anybody read a bucket, and makes this process somebody who has no keys."""

    def open_to_all(bucket: str) -> None:
        actions = {"Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject", "s3:ListBucket"]}
        policy = {"Statement": [actions | {"Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]}]}
        _files().call_s3("put_bucket_policy", Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17"} | policy))
        for name in s3_server.environment:
            if "KEY" in name or "TOKEN" in name:
                monkeypatch.delenv(name)
        for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
            monkeypatch.setenv(name, str(tmp_path / "none"))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    return open_to_all


def test_reader_without_the_right_to_write_is_shown_what_gc_would_remove(
    s3_server: Any, public: Callable[[str], None]
) -> None:
    bucket = f"engram-public-{uuid4().hex[:8]}"
    _files().mkdir(bucket)
    store = create_store(f"s3://{bucket}/store")
    store.publish(store.put_view(example_view()), KEY, example_entry(), input_sha256=digest_of("x"))
    mine = collect_garbage(store)
    public(bucket)
    theirs = open_store(f"s3://{bucket}/store")
    assert collect_garbage(theirs) == dataclasses.replace(mine, clock="machine")
    assert theirs.location.paths(".engram-probe") == []
    with pytest.raises(BackendError, match="check the credentials and their rights"):
        collect_garbage(theirs, dry_run=False)
    shown = CliRunner().invoke(main, ["gc", f"s3://{bucket}/store"])
    assert (shown.exit_code, "ages are by this machine's clock" in shown.stderr) == (0, True)


def test_init_and_doctor_prove_the_server_and_leave_nothing(s3_url: str) -> None:
    """Create-only names, races, absent keys, ranges, listing, clock, deletion: on the real server."""
    checks = examine(open_location(s3_url))
    assert {check.name for check in checks} >= {
        "second create refused", "one winner of a race", "absent object", "ranges", "suffix ranges", "listing", "delete", "clock",
    }  # fmt: skip
    assert [check for check in checks if check.verdict != "ok"] == []
    assert open_location(s3_url).paths("") == []
    for command in ("init", "doctor"):
        done = CliRunner().invoke(main, [command, s3_url])
        assert done.exit_code == 0, done.output
    assert open_location(s3_url).paths("") == ["engram.json"]
