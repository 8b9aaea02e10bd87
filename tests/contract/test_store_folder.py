"""The store's promises on a folder."""

from pathlib import Path

import pytest

from store_schema.testing import StoreContract


class TestFolderStore(StoreContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return str(tmp_path / "store")

    def raw_get(self, url: str, path: str) -> bytes:
        return Path(url, path).read_bytes()

    def raw_set(self, url: str, path: str, data: bytes) -> None:
        place = Path(url, path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)

    def raw_delete(self, url: str, path: str) -> None:
        Path(url, path).unlink()

    def raw_paths(self, url: str) -> list[str]:
        return [str(path.relative_to(url)) for path in Path(url).rglob("*") if path.is_file()]
