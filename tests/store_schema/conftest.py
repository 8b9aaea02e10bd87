"""A folder store with three committed entries."""

from pathlib import Path

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
