"""The store's promises on Azurite, Microsoft's emulator of Azure Blob Storage, and what is Azure's own way there."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner

from store_schema import create_store, open_store
from store_schema.cli import main
from store_schema.doctor import examine
from store_schema.errors import AlreadyExistsError, BackendError, ObjectMissingError
from store_schema.location import Location, open_location
from store_schema.testing import StoreContract

STRIDE = 41
"""Every so manyth byte is changed here; memory and folder change every one."""


class TestAzureStore(StoreContract):
    @pytest.fixture
    def url(self, azure_url: str, azure: Any) -> str:
        self.server = azure
        return azure_url

    def raw_get(self, url: str, path: str) -> bytes:
        return bytes(self.server.ask("GET", _place(url, path)))

    def raw_set(self, url: str, path: str, data: bytes) -> None:
        self.server.ask("PUT", _place(url, path), data, headers={"x-ms-blob-type": "BlockBlob"})

    def raw_delete(self, url: str, path: str) -> None:
        self.server.ask("DELETE", _place(url, path))

    def raw_paths(self, url: str) -> list[str]:
        container, _, root = _place(url, "").partition("/")
        query = {"restype": "container", "comp": "list", "prefix": root}
        told = ET.fromstring(self.server.ask("GET", container, query=query))
        assert not told.findtext("NextMarker")
        return [str(name.text).removeprefix(root) for name in told.iterfind("Blobs/Blob/Name")]

    def each_byte_changed(self, url: str, path: str) -> Iterator[None]:
        data = self.raw_get(url, path)
        for i in range(0, len(data), STRIDE):
            self.raw_set(url, path, data[:i] + bytes([data[i] ^ (1 << (i % 8))]) + data[i + 1 :])
            yield
        self.raw_set(url, path, data)


def _place(url: str, path: str) -> str:
    return f"{url.removeprefix('az://')}/{path}"


@pytest.fixture
def location(azure_url: str) -> Location:
    return open_location(azure_url)


def test_parts_of_an_object_also_from_its_end(location: Location) -> None:
    """Azure has no ranges that count from the end: the size is asked for first."""
    location.put("a/x", b"0123456789")
    location.put("a/empty", b"")
    assert location.get_part("a/x", start=2, end=5) == b"234"
    assert location.get_part("a/x", start=7) == b"789"
    assert location.get_part("a/x", start=-4) == b"6789"
    assert location.get_part("a/x", start=-40) == b"0123456789"
    assert location.get_part("a/empty", start=-4) == b""
    with pytest.raises(ObjectMissingError):
        location.get_part("a/absent", start=-4)
    with pytest.raises(BackendError, match="shorter than the part"):
        location.get_part("a/x", start=20, end=30)


def test_second_create_is_lost_and_deletion_is_for_good(location: Location) -> None:
    """Azure says 409 BlobAlreadyExists."""
    location.create("x", b"1")
    with pytest.raises(AlreadyExistsError):
        location.create("x", b"2")
    assert location.get("x") == b"1"
    location.delete("x")
    location.delete("x")
    with pytest.raises(ObjectMissingError):
        location.get("x")


def test_container_that_does_not_exist_is_no_empty_store(azure: Any) -> None:
    absent = open_location("az://engram-absent-container/x")
    for act in (absent.get, absent.paths, absent.children, lambda path: absent.put(path, b"1")):
        with pytest.raises(BackendError, match="does not exist"):
            act("engram.json")
    with pytest.raises(BackendError, match="does not exist"):
        open_store("az://engram-absent-container/x")


def test_more_objects_than_one_page_are_listed(location: Location) -> None:
    """Azure gives 5,000 in one answer."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: location.put(f"many/{i:04d}", b""), range(5003)))
    assert len(location.paths("many")) == len(location.children("many")) == 5003


def test_init_and_doctor_prove_the_server_and_leave_nothing(azure_url: str) -> None:
    assert [check for check in examine(open_location(azure_url)) if check.verdict != "ok"] == []
    assert open_location(azure_url).paths("") == []
    for command in ("init", "doctor"):
        done = CliRunner().invoke(main, [command, azure_url])
        assert done.exit_code == 0, done.output
    assert open_location(azure_url).paths("") == ["engram.json"]


def test_emulator_is_named_as_to_azures_own_clients(
    azure_url: str, azure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in azure.environment:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
    monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", f"http://127.0.0.1:{azure.port}")
    open_location(azure_url).put("x", b"1")
    assert open_location(azure_url).get("x") == b"1"


def test_wrong_key_is_told_without_repeating_it(azure_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "cGxhbnRlZC1rZXk=")
    with pytest.raises(BackendError, match="check the credentials") as caught:
        open_location(azure_url).get("x")
    assert "cGxhbnRlZC1rZXk" not in str(caught.value)


def test_missing_account_is_told(azure_url: str, azure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in azure.environment:
        monkeypatch.delenv(name)
    with pytest.raises(BackendError, match=r"Account must be specified.*check the settings"):
        open_location(azure_url).get("x")


def _with_rights(azure: Any, container: str, rights: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Leaves this process a signed access with these rights alone; gives its signature."""
    start, expiry = (f"{datetime.now(UTC) + timedelta(hours=hours):%Y-%m-%dT%H:%M:%SZ}" for hours in (-1, 1))
    version, of = "2020-12-06", f"/blob/{azure.account}/{container}"
    # Rights, start, expiry, resource, four that are empty, version, kind, and seven that are empty.
    said = [rights, start, expiry, of, "", "", "", version, "c", *[""] * 7]
    signature = azure.sign("\n".join(said))
    token = {"sp": rights, "st": start, "se": expiry, "sv": version, "sr": "c", "sig": signature}
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", urlencode(token))
    return str(signature)


def test_signed_access_without_the_right_to_delete_is_told(
    azure_url: str, azure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_store(azure_url)
    signature = _with_rights(azure, azure_url.removeprefix("az://").partition("/")[0], "rcwl", monkeypatch)
    location = open_location(azure_url)
    location.put("a", b"1")
    assert location.paths("") == ["a", "engram.json"]
    with pytest.raises(BackendError, match="the right to delete") as caught:
        location.delete("a")
    assert signature not in str(caught.value)
    assert location.get("a") == b"1"


def test_server_that_is_not_there_is_told(azure_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:9/devstoreaccount1")
    monkeypatch.setattr("store_schema.location.objects.TRIES", 1)
    monkeypatch.setattr("store_schema.location.clients.RETRIES_INSIDE", 1)
    with pytest.raises(BackendError, match="check network, endpoint and server"):
        open_location(azure_url).get("x")
