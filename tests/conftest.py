"""The S3 server that tests share: started by the first test that needs it, stopped at the end of the run."""

import fcntl
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest

FOLDER = "ENGRAM_TEST_S3_FOLDER"
REQUIRE = "ENGRAM_REQUIRE_S3"
BUCKET = "engram-tests"


def _radosgw() -> ModuleType:
    """tests/servers/radosgw.py as a module; it is a script of its own too."""
    name = "engram_test_radosgw"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / "servers" / "radosgw.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


def pytest_configure(config: pytest.Config) -> None:
    """The first process of a run names the folder; its workers inherit the name."""
    if not hasattr(config, "workerinput"):
        os.environ[FOLDER] = str(Path(tempfile.gettempdir()) / f"engram-s3-{uuid4().hex[:8]}")


def pytest_unconfigure(config: pytest.Config) -> None:
    """The first process stops the server, if any test started one."""
    folder = Path(os.environ[FOLDER])
    if not hasattr(config, "workerinput") and folder.exists():
        _radosgw().kill(folder)
        shutil.rmtree(folder)
        Path(f"{folder}.lock").unlink(missing_ok=True)


@pytest.fixture(scope="session")
def radosgw() -> ModuleType:
    """The module that installs, starts, kills and restarts S3 servers."""
    module = _radosgw()
    if not module.installed():
        why = "radosgw is not installed (`python tests/servers/radosgw.py install`, as root, on Debian)"
        if os.environ.get(REQUIRE):
            pytest.fail(why)
        pytest.skip(f"{why}: nothing is tested against a real S3 server")
    return module


@pytest.fixture(scope="session")
def s3_server(radosgw: ModuleType) -> Iterator[Any]:
    """A real S3 server with an empty bucket; its address and keys are in the environment while this process has it."""
    folder = Path(os.environ[FOLDER])
    with Path(f"{folder}.lock").open("w") as lock, pytest.MonkeyPatch.context() as patch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            radosgw.apart("start", folder)
        server = radosgw.running(folder)
        for name, value in server.environment.items():
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        _make_bucket()
        fcntl.flock(lock, fcntl.LOCK_UN)
        yield server


def _make_bucket() -> None:
    import s3fs  # noqa: PLC0415 - only tests that need the server need it

    files = s3fs.S3FileSystem(skip_instance_cache=True)
    if not files.exists(BUCKET):
        files.mkdir(BUCKET)


@pytest.fixture
def s3_url(s3_server: Any) -> str:
    """Address of an empty prefix on the S3 server."""
    return f"s3://{BUCKET}/{uuid4().hex}"
