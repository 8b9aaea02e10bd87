"""The servers that tests share, of object storage and PostgreSQL: started by the first test that needs one, stopped at the end."""

import fcntl
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest

FOLDERS = {
    "radosgw": "ENGRAM_TEST_S3_FOLDER",
    "gcs": "ENGRAM_TEST_GCS_FOLDER",
    "azurite": "ENGRAM_TEST_AZURE_FOLDER",
    "postgres": "ENGRAM_TEST_POSTGRES_FOLDER",
}
"""Module of a server, and the variable that names the folder of the one that this run shares."""
REQUIRE = {
    "radosgw": "ENGRAM_REQUIRE_S3",
    "gcs": "ENGRAM_REQUIRE_GCS",
    "azurite": "ENGRAM_REQUIRE_AZURE",
    "postgres": "ENGRAM_REQUIRE_POSTGRES",
}
BUCKET = "engram-tests"


def _server(name: str) -> ModuleType:
    """tests/servers/NAME.py as a module; it is a script of its own too."""
    module_name = f"engram_test_{name}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, Path(__file__).parent / "servers" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[module_name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[module_name]


def pytest_configure(config: pytest.Config) -> None:
    """The first process of a run names the folders; its workers inherit the names."""
    if not hasattr(config, "workerinput"):
        for name, variable in FOLDERS.items():
            os.environ[variable] = str(Path(tempfile.gettempdir()) / f"engram-{name}-{uuid4().hex[:8]}")


def pytest_unconfigure(config: pytest.Config) -> None:
    """The first process stops the servers that any test started."""
    if hasattr(config, "workerinput"):
        return
    for name, variable in FOLDERS.items():
        folder = Path(os.environ[variable])
        if folder.exists():
            _server(name).kill(folder)
            shutil.rmtree(folder)
            Path(f"{folder}.lock").unlink(missing_ok=True)


def _usable(name: str, what: str) -> ModuleType:
    """The module of a server that is installed; else the test is skipped, or fails where the server is required."""
    module = _server(name)
    if not module.installed():
        why = f"{what} is not installed (`python tests/servers/{name}.py install`)"
        if os.environ.get(REQUIRE[name]):
            pytest.fail(why)
        pytest.skip(f"{why}: nothing is tested against a real server of it")
    return module


@contextmanager
def _shared(module: ModuleType, variable: str) -> Iterator[Any]:
    """The one server of this run; others wait until the block ends."""
    folder = Path(os.environ[variable])
    with Path(f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            module.apart("start", folder)
        yield module.running(folder)


@pytest.fixture(scope="session")
def radosgw() -> ModuleType:
    """The module that installs, starts, kills and restarts S3 servers."""
    return _usable("radosgw", "radosgw")


@pytest.fixture(scope="session")
def s3_server(radosgw: ModuleType) -> Iterator[Any]:
    """A real S3 server with an empty bucket; its address and keys are in the environment while this process has it."""
    with _for_clients(radosgw, FOLDERS["radosgw"], "AWS_PROFILE", lambda _: _make_bucket()) as server:
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


@contextmanager
def _for_clients(module: ModuleType, variable: str, unset: str, prepare: Callable[[Any], None]) -> Iterator[Any]:
    """The shared server, with what its clients read in the environment and no other setting of a name that begins so."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(unset)]:
            patch.delenv(name)
        with _shared(module, variable) as server:
            for name, value in server.environment.items():
                patch.setenv(name, value)
            prepare(server)
        yield server


@pytest.fixture(scope="session")
def gcs() -> Iterator[Any]:
    """An emulator of Google Cloud Storage with a bucket; its address is in the environment while this process has it."""
    module = _usable("gcs", "the emulator of Google Cloud Storage")
    with _for_clients(module, FOLDERS["gcs"], "GOOGLE_", lambda server: server.make_bucket(BUCKET)) as server:
        yield server


@pytest.fixture
def gcs_url(gcs: Any) -> str:
    """Address of an empty prefix in the emulator of Google Cloud Storage."""
    return f"gs://{BUCKET}/{uuid4().hex}"


@pytest.fixture(scope="session")
def azure() -> Iterator[Any]:
    """An emulator of Azure Blob Storage with a container; its address and key are in the environment while this process has it."""
    module = _usable("azurite", "the emulator of Azure Blob Storage")
    with _for_clients(module, FOLDERS["azurite"], "AZURE_", lambda server: server.make_container(BUCKET)) as server:
        yield server


@pytest.fixture
def azure_url(azure: Any) -> str:
    """Address of an empty prefix in the emulator of Azure Blob Storage."""
    return f"az://{BUCKET}/{uuid4().hex}"


@pytest.fixture(scope="session")
def postgres_server() -> ModuleType:
    """The module that installs, starts, kills and restarts PostgreSQL servers."""
    return _usable("postgres", "PostgreSQL")


@pytest.fixture(scope="session")
def postgres(postgres_server: ModuleType) -> Any:
    """A real PostgreSQL server that the whole run shares; make a database of your own in it."""
    with _shared(postgres_server, FOLDERS["postgres"]) as server:
        return server
