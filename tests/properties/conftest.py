"""The places over which every law is held: memory with many examples, a folder and real object storage with fewer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings

from store_schema import Store, create_store


class Place:
    """Makes fresh stores side by side.

    Parameters
    ----------
    root
        Address below which the stores lie.
    share
        Every so manyth of the examples, and of the bytes of an object, that memory has.
    """

    def __init__(self, root: str, share: int) -> None:
        self.root, self.share = root, share

    def new(self) -> Store:
        """A store without a view."""
        return create_store(f"{self.root}{uuid4().hex}")

    def settings_of(self, examples: int) -> settings:
        """Of a law that has so many examples in memory."""
        return settings(max_examples=max(5, examples // self.share), deadline=None)

    def hold(self, law: Callable[..., None], examples: int, **strategies: Any) -> None:
        """Asserts a law of whatever the strategies draw."""
        self.settings_of(examples)(given(**strategies)(law))()

    def positions(self, length: int) -> range:
        """Of an object's bytes, those to try."""
        return range(0, length, self.share)


@pytest.fixture(params=["memory", "folder", "S3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    match request.param:
        case "memory":
            return Place(f"memory://{uuid4().hex}-", 1)
        case "folder":
            return Place(f"{tmp_path}/", 5)
        case _:
            return Place(f"{request.getfixturevalue('s3_url')}/", 15)
