"""What tests of the extractor share."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def sibling(name: str) -> ModuleType:
    """A module of this folder that holds no test."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def dicom() -> ModuleType:
    """The module that writes DICOM series for tests."""
    return sibling("dicom_series")


@pytest.fixture(scope="session")
def pages() -> ModuleType:
    """The module that reads pages for tests."""
    return sibling("pages")
