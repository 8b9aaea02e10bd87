"""Hosts on this machine, where network namespaces can be made."""

import os

import pytest

from .netns import lack

REQUIRE = "ENGRAM_REQUIRE_NETNS"


@pytest.fixture(scope="session")
def needs_namespaces() -> None:
    """Skips what asks for it where there are no namespaces, or fails where they are required."""
    why = lack()
    if why is not None:
        if os.environ.get(REQUIRE):
            pytest.fail(why)
        pytest.skip(f"{why}: nothing is tested over several hosts")
