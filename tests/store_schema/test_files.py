"""Files by path or address: fetched whole or not at all, told apart without reading, and secrets that stay here."""

import http.server
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar
from uuid import uuid4

import fsspec
import pytest

from store_schema.errors import UsageError
from store_schema.files import (
    Fingerprint,
    fingerprint,
    folder_of,
    is_remote,
    local_file,
    local_path,
    name_of,
    read_start,
    read_text,
    record_name,
    remember,
    remembered,
    resolve,
    without_secret,
)

SECRET = "AKIA-planted-signature/xyz"


@pytest.fixture
def remote() -> str:
    """Address of an empty folder that is not on this machine's disk."""
    return f"memory://{uuid4().hex}"


def put(address: str, data: bytes) -> str:
    with fsspec.open(address, "wb") as file:
        file.write(data)
    return address


class Answers(http.server.BaseHTTPRequestHandler):
    """Serves what the test put into `files`; a signed one only with its signature."""

    files: ClassVar[dict[str, bytes]] = {}
    signed: ClassVar[set[str]] = set()
    status: ClassVar[dict[str, int]] = {}
    cut: ClassVar[set[str]] = set()
    tag: ClassVar[bool] = True

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        data = self.files.get(path)
        status = self.status.get(path, 404 if data is None else 200)
        if path in self.signed and "signature=" not in query:
            status = 403
        self.send_response(status)
        body = data if data is not None and status == 200 else b"no"
        if self.tag:
            self.send_header("ETag", f'"{hash(body):x}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:3] if path in self.cut else body)

    do_HEAD = do_GET  # noqa: N815 - the server's name

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    """Address of an HTTP server."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()
    for held in (Answers.files, Answers.signed, Answers.status, Answers.cut):
        held.clear()
    Answers.tag = True


def test_a_local_file_is_given_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "ct.nii.gz"
    path.write_bytes(b"voxels")
    for place in (path, str(path), f"file://{path}"):
        with local_file(place) as local:
            assert local == path
        assert not is_remote(place)
    assert path.exists()


def test_a_remote_file_comes_whole_keeps_its_suffixes_and_leaves_nothing_behind(remote: str) -> None:
    place = put(f"{remote}/P1/ct.v2.nii.gz", b"voxels")
    with local_file(place) as local:
        assert local.read_bytes() == b"voxels"
        assert local.name.endswith(".nii.gz")
        assert sorted(local.parent.iterdir()) == [local]
    assert not local.parent.exists()


def test_a_remote_file_is_removed_although_the_block_fails(remote: str) -> None:
    place = put(f"{remote}/ct.nii", b"voxels")
    with pytest.raises(ZeroDivisionError), local_file(place) as local:
        raise ZeroDivisionError
    assert not local.parent.exists()


def test_files_beside_come_along(remote: str) -> None:
    place = put(f"{remote}/a/ct.mhd", b"header")
    put(f"{remote}/a/ct.raw", b"voxels")
    with local_file(place, beside=lambda path: [path.read_text().replace("header", "ct.raw")]) as local:
        assert (local.parent / "ct.raw").read_bytes() == b"voxels"


@pytest.mark.parametrize("name", ["../ct.raw", "/etc/passwd", "", "..", "a/b.raw", "a\\b.raw"])
def test_a_file_beside_that_lies_elsewhere_is_refused(remote: str, name: str) -> None:
    place = put(f"{remote}/a/ct.mhd", b"header")
    with pytest.raises(OSError, match="expected a file in the same folder"), local_file(place, beside=lambda _: [name]):
        pass


def test_a_presigned_header_cannot_bring_its_voxels(web: str) -> None:
    Answers.files["/ct.mhd"] = b"header"
    with (
        pytest.raises(OSError, match="nobody signed") as caught,
        local_file(f"{web}/ct.mhd?signature={SECRET}", beside=lambda _: ["ct.raw"]),
    ):
        pass
    assert SECRET not in str(caught.value)


def test_a_fingerprint_tells_a_file_from_another_and_from_a_later_one(tmp_path: Path, remote: str, web: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"123")
    assert fingerprint(path) == Fingerprint(3, path.stat().st_mtime_ns)
    first = fingerprint(put(f"{remote}/x", b"123"))
    assert first == fingerprint(f"{remote}/x")
    assert first.size_bytes == 3
    assert fingerprint(put(f"{remote}/x", b"321")) != first
    Answers.files["/x"] = b"123"
    tagged = fingerprint(f"{web}/x")
    assert (tagged.size_bytes, tagged.mtime_ns, tagged.decides) == (3, None, True)
    Answers.files["/x"] = b"321"
    assert fingerprint(f"{web}/x") != tagged


def test_a_size_alone_decides_nothing(web: str) -> None:
    Answers.files["/x"] = b"123"
    Answers.tag = False
    assert fingerprint(f"{web}/x") == Fingerprint(3)
    assert not fingerprint(f"{web}/x").decides


def test_s3_is_read_by_the_usual_environment(s3_url: str) -> None:
    place = put(f"{s3_url}/P1/ct.nii.gz", b"voxels")
    found = fingerprint(place)
    assert found.size_bytes == 6
    assert found.etag
    with local_file(place) as local:
        assert local.read_bytes() == b"voxels"
    assert read_start(place, 3) == b"vox"
    with pytest.raises(FileNotFoundError, match="is not there"):
        fingerprint(f"{s3_url}/P1/pet.nii.gz")


def test_a_wrong_key_is_told_without_repeating_it(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    code = (
        "import sys; from store_schema.files import fingerprint\n"
        "try: fingerprint(sys.argv[1])\n"
        "except PermissionError as error: print(error)"
    )
    # in a process of its own: file systems keep their clients
    done = subprocess.run([sys.executable, "-c", code, f"{s3_url}/x"], capture_output=True, text=True, check=True)
    assert "check the credentials" in done.stdout
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("status", "error"), [(404, FileNotFoundError), (403, PermissionError), (401, PermissionError)]
)
def test_what_a_server_answers_is_told(web: str, status: int, error: type[OSError]) -> None:
    Answers.status["/x.nii"] = status
    for ask in (fingerprint, read_text, lambda place: local_file(place).__enter__()):
        with pytest.raises(error) as caught:
            ask(f"{web}/x.nii?signature={SECRET}")
        assert SECRET not in str(caught.value)
        assert caught.value.__context__ is None


def test_a_server_that_fails_or_is_not_there_is_told(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store_schema.files.TRIES", 1)
    Answers.status["/x.nii"] = 500
    with pytest.raises(OSError, match="the server answered 500"):
        fingerprint(f"{web}/x.nii")
    with pytest.raises(OSError, match="check network") as caught:
        fingerprint(f"http://user:{SECRET}@127.0.0.1:9/x.nii?signature={SECRET}")
    assert SECRET not in str(caught.value)


def test_a_download_that_is_cut_short_is_no_file(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store_schema.files.TRIES", 1)
    Answers.files["/x.nii"] = b"voxels"
    Answers.cut.add("/x.nii")
    with pytest.raises(OSError, match=r"could not be read|came with"), local_file(f"{web}/x.nii"):
        pass


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nosuch://host/x.nii", "nothing here knows nosuch://"),
        ("gs://bucket/x.nii", "gcsfs"),
        ("az://container/x.nii", "adlfs"),
    ],
)
def test_a_scheme_that_nothing_reads_is_told_with_the_package_it_needs(address: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        fingerprint(address)


def test_a_presigned_address_is_read_and_shown_without_its_secret(web: str) -> None:
    Answers.files["/P1/ct.nii.gz"] = b"voxels"
    Answers.signed.add("/P1/ct.nii.gz")
    bare = without_secret(f"{web}/P1/ct.nii.gz?signature={SECRET}")
    assert SECRET not in bare
    assert bare.startswith(f"{web}/P1/ct.nii.gz#")
    assert without_secret(bare) == bare
    with local_file(bare) as local:
        assert local.read_bytes() == b"voxels"
    with pytest.raises(PermissionError):
        fingerprint(f"{web}/P1/ct.nii.gz")


def test_a_child_process_reads_what_its_parent_remembers_and_a_pickle_does_not(web: str) -> None:
    Answers.files["/ct.nii"] = b"voxels"
    Answers.signed.add("/ct.nii")
    bare = without_secret(f"{web}/ct.nii?signature={SECRET}")
    assert SECRET.encode() not in pickle.dumps(bare)
    secrets = {bare: remembered()[bare]}
    code = (
        "import json, sys; from store_schema.files import remember, read_text\n"
        "remember(json.loads(sys.stdin.read())); print(read_text(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, bare], input=json.dumps(secrets), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "voxels"


def test_what_is_remembered_can_be_taken_over() -> None:
    remember({"https://host/x#0": "https://host/x?a=1"})
    assert remembered()["https://host/x#0"] == "https://host/x?a=1"


def test_two_queries_are_two_places() -> None:
    one, other = (without_secret(f"https://pacs/get.nii?uid={uid}") for uid in (1, 2))
    assert one != other


@pytest.mark.parametrize(
    ("text", "beside", "expected"),
    [
        ("a/ct.nii", "/data/studies.csv", "/data/a/ct.nii"),
        ("../ct.nii", "/data/t/studies.csv", "/data/ct.nii"),
        ("/abs/ct.nii", "s3://bucket/studies.csv", "/abs/ct.nii"),
        ("a/ct.nii", "s3://bucket/studies.csv", "s3://bucket/a/ct.nii"),
        ("../a/ct.nii", "s3://bucket/t/studies.csv", "s3://bucket/a/ct.nii"),
        ("a/ct.nii", "https://host/t/studies.csv?sig=1", "https://host/t/a/ct.nii"),
        ("gs://b/ct.nii", "/data/studies.csv", "gs://b/ct.nii"),
        ("file:///data/ct.nii", "/x/studies.csv", "/data/ct.nii"),
    ],
)
def test_paths_are_relative_to_the_file_that_names_them(text: str, beside: str, expected: str) -> None:
    assert resolve(text, beside) == expected


def test_a_name_that_is_no_utf8_can_be_recorded() -> None:
    one, other = (record_name(os.fsdecode(name)) for name in (b"/m\xfcller/ct\xff.nii", b"/m\xf6ller/ct\xff.nii"))
    assert one.encode().endswith(b"/ct\\udcff.nii")
    assert one != other


def test_a_record_names_no_folder_of_this_machine_and_no_secret() -> None:
    one, other = record_name("/home/alice/a/ct.nii.gz"), record_name("/home/alice/b/ct.nii.gz")
    assert one.endswith("/ct.nii.gz")
    assert one != other
    assert "alice" not in one
    assert record_name(f"https://user:{SECRET}@host/P1/ct.nii?sig={SECRET}") == "https://host/P1/ct.nii"
    assert record_name("s3://bucket/P1/ct.nii") == "s3://bucket/P1/ct.nii"


@pytest.mark.parametrize(
    "address",
    [
        "https://host:8080/a@2/ct.nii",
        "s3://bucket/a:b@c.nii",
        "abfs://container@account/ct.nii",
        "https://host/a#b.nii",
        "sftp://user@host/ct.nii",
    ],
)
def test_an_address_without_a_secret_stays(address: str) -> None:
    assert without_secret(address) == address


def test_names_and_folders() -> None:
    assert name_of("https://host/a/ct.nii?path=/x/y") == "ct.nii"
    assert folder_of("https://host/a/ct.nii?path=/x/y") == "https://host/a"
    assert (name_of("/a/ct.nii"), folder_of("/a/ct.nii")) == ("ct.nii", "/a")
    assert local_path("s3://bucket/x") is None


def test_text_is_read_from_anywhere(tmp_path: Path, remote: str) -> None:
    (tmp_path / "x.yaml").write_text("ä: 1", encoding="utf-8")
    assert read_text(tmp_path / "x.yaml") == read_text(put(f"{remote}/x.yaml", "ä: 1".encode())) == "ä: 1"


def test_the_start_of_a_short_file_is_the_file(tmp_path: Path, remote: str, web: str) -> None:
    (tmp_path / "x").write_bytes(b"123")
    Answers.files["/x"] = b"123"
    for place in (tmp_path / "x", put(f"{remote}/x", b"123"), f"{web}/x"):
        assert read_start(place, 10) == b"123"
        assert read_start(place, 2) == b"12"


def test_help_of_programs_needs_no_file_system() -> None:
    code = "import sys, store_schema.files; print([m for m in ('fsspec', 's3fs', 'aiohttp') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
