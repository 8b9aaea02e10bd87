"""The store's promises in memory."""

from collections.abc import MutableMapping
from uuid import uuid4

import pytest

from store_schema.location import MemoryLocation, open_location
from store_schema.testing import StoreContract


def _objects(url: str) -> MutableMapping[str, bytes]:
    location = open_location(url)
    assert isinstance(location, MemoryLocation)
    return location._objects


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def url(self) -> str:
        return f"memory://{uuid4().hex}"

    def raw_get(self, url: str, path: str) -> bytes:
        return _objects(url)[path]

    def raw_set(self, url: str, path: str, data: bytes) -> None:
        _objects(url)[path] = data

    def raw_delete(self, url: str, path: str) -> None:
        del _objects(url)[path]

    def raw_paths(self, url: str) -> list[str]:
        return list(_objects(url))
