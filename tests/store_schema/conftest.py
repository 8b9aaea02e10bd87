"""A folder store with three committed entries, and a double of the service over an empty one."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from store_schema import EntryKey, Snapshot, Store, create_store
from store_schema.testing import digest_of, example_entry, example_view

KEYS = tuple(EntryKey(patient, "CT", roi) for patient, roi in (("a", "skeleton"), ("a", "spine"), ("b.2", "skeleton")))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return create_store(tmp_path / "store")


@pytest.fixture
def view(store: Store) -> str:
    """A view with the entries `keys`; entry i is `example_entry(i)`."""
    view_id = store.put_view(example_view())
    for i, key in enumerate(KEYS):
        store.publish(view_id, key, example_entry(i), input_sha256=digest_of(str(key)))
    return view_id


@pytest.fixture
def keys() -> tuple[EntryKey, ...]:
    return KEYS


@pytest.fixture
def snapshot(store: Store, view: str) -> Snapshot:
    return store.snapshot(store.make_snapshot(view))


def _sibling(name: str) -> Any:
    """A module beside this one that is no test."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture
def doubles() -> Any:
    """The module of the service's double."""
    return _sibling("service_double")


@pytest.fixture
def service(doubles: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A double of the service over an empty store, with its key in the environment."""
    monkeypatch.setenv("ENGRAM_API_KEY", doubles.KEY)
    with doubles.ServiceDouble(create_store(f"memory://{uuid4().hex}")) as running:
        yield running
