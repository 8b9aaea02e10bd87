"""The store's promises on an emulator of Google Cloud Storage, and what is Google's own way there.

What cannot be seen there: the emulator tells an absent bucket as an absent object (404 without a code, while Google says
NoSuchBucket), takes any token, and gives a listing in one page.
"""

import json
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from click.testing import CliRunner

from store_schema.cli import main
from store_schema.doctor import examine
from store_schema.errors import AlreadyExistsError, BackendError, ObjectMissingError, UsageError
from store_schema.location import open_location
from store_schema.testing import StoreContract

STRIDE = 41
"""Every so manyth byte is changed here; memory and folder change every one."""


class TestGcsStore(StoreContract):
    @pytest.fixture
    def url(self, gcs_url: str, gcs: Any) -> str:
        self.server = gcs
        return gcs_url

    def raw_get(self, url: str, path: str) -> bytes:
        return bytes(self.server.ask("GET", f"{_place(url, path)}?alt=media"))

    def raw_set(self, url: str, path: str, data: bytes) -> None:
        bucket, name = _named(url, path)
        self.server.ask("POST", f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={quote(name, safe='')}", data)

    def raw_delete(self, url: str, path: str) -> None:
        self.server.ask("DELETE", _place(url, path))

    def raw_paths(self, url: str) -> list[str]:
        bucket, root = _named(url, "")
        told = json.loads(self.server.ask("GET", f"/storage/v1/b/{bucket}/o?prefix={quote(root)}"))
        assert "nextPageToken" not in told
        return [one["name"].removeprefix(root) for one in told.get("items", [])]

    def each_byte_changed(self, url: str, path: str) -> Iterator[None]:
        data = self.raw_get(url, path)
        for i in range(0, len(data), STRIDE):
            self.raw_set(url, path, data[:i] + bytes([data[i] ^ (1 << (i % 8))]) + data[i + 1 :])
            yield
        self.raw_set(url, path, data)


def _named(url: str, path: str) -> tuple[str, str]:
    """Bucket and name of an object."""
    bucket, _, root = url.removeprefix("gs://").partition("/")
    return bucket, f"{root}/{path}"


def _place(url: str, path: str) -> str:
    bucket, name = _named(url, path)
    return f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}"


def test_parts_of_an_object(gcs_url: str) -> None:
    location = open_location(gcs_url)
    location.put("a/x", b"0123456789")
    assert location.get_part("a/x", start=2, end=5) == b"234"
    assert location.get_part("a/x", start=7) == b"789"
    assert location.get_part("a/x", start=-4) == b"6789"
    with pytest.raises(BackendError, match="shorter than the part"):
        location.get_part("a/x", start=20, end=30)


def test_second_create_is_lost_and_deletion_is_for_good(gcs_url: str) -> None:
    """Google says 412 where S3 says 409 or 412."""
    location = open_location(gcs_url)
    location.create("x", b"1")
    with pytest.raises(AlreadyExistsError):
        location.create("x", b"2")
    assert location.get("x") == b"1"
    location.delete("x")
    location.delete("x")
    with pytest.raises(ObjectMissingError):
        location.get("x")


def test_init_and_doctor_prove_the_server_and_leave_nothing(gcs_url: str) -> None:
    assert [check for check in examine(open_location(gcs_url)) if check.verdict != "ok"] == []
    assert open_location(gcs_url).paths("") == []
    for command in ("init", "doctor"):
        done = CliRunner().invoke(main, [command, gcs_url])
        assert done.exit_code == 0, done.output
    assert open_location(gcs_url).paths("") == ["engram.json"]


@pytest.mark.parametrize("form", ["http://127.0.0.1:PORT", "http://127.0.0.1:PORT/", "127.0.0.1:PORT"])
def test_emulator_is_named_as_to_googles_own_clients_and_gets_no_credential(
    gcs_url: str, gcs: Any, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """The machine's own token is never sent to it, and none is asked for."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", form.replace("PORT", str(gcs.port)))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent.json")
    open_location(gcs_url).put("x", b"1")
    assert open_location(gcs_url).get("x") == b"1"


def test_endpoint_and_token_come_from_googles_variables_as_well(
    gcs_url: str, gcs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_BASE_URL", os.environ["STORAGE_EMULATOR_HOST"])
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "planted-token")
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    location = open_location(gcs_url)
    location.create("x", b"1")
    assert location.get("x") == b"1"
    with pytest.raises(UsageError, match="has no signed addresses"):
        location.sign(["x"], seconds=60)


def test_server_that_is_not_there_is_told_without_the_token(gcs_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "planted-token")
    monkeypatch.setattr("store_schema.location.objects.TRIES", 1)
    monkeypatch.setattr("store_schema.location.clients.RETRIES_INSIDE", 1)
    with pytest.raises(BackendError, match="check network, endpoint and server") as caught:
        open_location(gcs_url).get("x")
    assert "planted" not in str(caught.value)
