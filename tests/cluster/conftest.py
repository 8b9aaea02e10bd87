"""Hosts on this machine, where network namespaces can be made, and Engram over several of them."""

import os
from collections.abc import Iterator
from types import ModuleType

import pytest
import s3fs

from .netns import lack, network
from .world import BUCKET, HOSTS, WORKERS, World

REQUIRE = "ENGRAM_REQUIRE_NETNS"


@pytest.fixture(scope="session")
def needs_namespaces() -> None:
    """Skips what asks for it where there are no namespaces, or fails where they are required."""
    why = lack()
    if why is not None:
        if os.environ.get(REQUIRE):
            pytest.fail(why)
        pytest.skip(f"{why}: nothing is tested over several hosts")


@pytest.fixture(scope="module")
def world(needs_namespaces: None, radosgw: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """S3 server, scheduler, workers, service and client, each on a host of its own; this process finds the S3 server too."""
    with network(HOSTS) as net, pytest.MonkeyPatch.context() as patch:
        made = World(net, tmp_path_factory.mktemp("hosts"))
        for name, value in made.start_s3().environment.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir(BUCKET)
        # Workers find the service's key when they start.
        made.start_service()
        made.start_scheduler()
        for name in WORKERS:
            made.start_worker(name)
        yield made
