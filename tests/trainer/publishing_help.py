"""A run folder to be changed, a store to publish it into, and what lies there then. Tests nothing."""

import shutil
from pathlib import Path

import pytest

from store_schema import Store, create_store
from store_schema.published import PublishedRun


@pytest.fixture
def copied(named_run, tmp_path) -> Path:
    """The run folder, to be changed."""
    shutil.copytree(named_run.run, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def store(tmp_path) -> Store:
    return create_store(tmp_path / "published")


def records_in(store: Store, run_id: str) -> dict[str, bytes]:
    """Every record of a run, by name."""
    return {name: store.read_run(run_id, name) for name in store.run_names(run_id)}


def summary_in(store: Store, run_id: str) -> PublishedRun:
    """The record that makes a run visible."""
    return PublishedRun.parse(store.read_run(run_id, "trainer.json"), where="")
