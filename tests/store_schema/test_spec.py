"""SPEC.md: its code runs as printed, and its names are those of the code."""

import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import store_schema
from store_schema.arrays import ARRAYS
from store_schema.keys import ID_PATTERN
from store_schema.testing import digest_of, example_entry, example_view
from store_schema.vectors import MISSING

SPEC = (Path(store_schema.__file__).parent / "SPEC.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", SPEC, flags=re.DOTALL)


@pytest.fixture
def folder_with_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = store_schema.create_store("store")
    view = store.put_view(example_view(name="medsam2-sequential-paper"))
    key = store_schema.EntryKey("P001", "PET", "skeleton")
    store.publish(view, key, example_entry(), input_sha256=digest_of("x"))


@pytest.mark.usefixtures("folder_with_a_store")
def test_the_ways_to_read_work_as_printed_and_agree() -> None:
    assert len(BLOCKS) == 6
    names: dict[str, object] = {}
    found = []
    for block in BLOCKS:
        exec(compile(block, "SPEC.md", "exec"), names)
        found.append(names.get("memory"))
    memory = example_entry().arrays["memory"]
    assert np.array_equal(names["entry"].arrays["memory"], memory)
    assert np.array_equal(found[3], memory)
    assert isinstance(found[4], xr.DataArray)
    assert np.array_equal(found[4].values, memory)
    assert np.array_equal(names["mask"], example_entry().arrays["mask"])
    assert np.array_equal(*[names["mean_maps"][names["key"]], example_entry().arrays["mean_map"]])


def test_table_of_arrays_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+)[^|]*\| ([\w, ]+) \|", SPEC, flags=re.MULTILINE)
    assert {name: (dtype, tuple(axes.strip().split(", "))) for name, dtype, axes in rows} == {
        name: (spec.dtype, spec.dimensions) for name, spec in ARRAYS.items()
    }


def test_the_value_that_stands_for_not_known_is_that_of_the_code() -> None:
    assert f"`missing`, {MISSING!r} " in SPEC.replace("\n", " ")


def test_pattern_of_ids_is_that_of_the_code() -> None:
    assert f"\n    {ID_PATTERN.pattern}\n" in SPEC


def test_every_public_name_can_be_imported() -> None:
    for name in store_schema.__all__:
        assert getattr(store_schema, name).__doc__ or name in {"ARRAYS", "State"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = store_schema.nothing
