"""What tests of the extractor share."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def dicom() -> ModuleType:
    """The module that writes DICOM series for tests."""
    spec = importlib.util.spec_from_file_location("dicom_series", Path(__file__).with_name("dicom_series.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
