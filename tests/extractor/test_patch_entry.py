"""An entry of occluded embeddings that is stopped anywhere ends as one that was not, and nothing kept is made again."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from extractor.batching import BatchSizes
from extractor.config import ExtractConfig
from extractor.occlusion_rules import OcclusionRules
from extractor.patch_entry import PART, Hiding, patch_entry, patches_of_part
from extractor.phantom import write_cohort
from extractor.segmenter import Segmenter, load_segmenter
from extractor.study import prepare_study
from extractor.table import read_study_table
from extractor.unfinished import Unfinished
from store_schema import Entry, EntryKey

RULES, INPUT = OcclusionRules(40, 30), "d" * 64
CONFIG = ExtractConfig(
    model="mini", weights="random:0", pet_units="suv", stride=6, derive=("spine_dilated",), layouts=("pooled",),
    mode="upfront", modalities=("PET",),
)  # fmt: skip


class StoppedError(Exception):
    """Stands for the end of the process."""


class Told:
    """Counts patches, and stops after so many were made."""

    def __init__(self, stop_after: int | None = None):
        self.total = self.old = self.new = 0
        self._stop_after = stop_after

    def begin(self, what, seconds):
        assert what == "P001/PET/spine_dilated"
        self.total = len(seconds)

    def kept(self, count):
        self.old += count

    def made(self):
        self.new += 1
        if self.new == self._stop_after:
            raise StoppedError


@pytest.fixture(scope="module")
def mini() -> Segmenter:
    return load_segmenter("mini", "random:0")


@pytest.fixture(scope="module")
def hiding(tmp_path_factory) -> Hiding:
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, n=1, seed=5, processes=0)
    row = next(row for row in read_study_table(folder / "studies.csv", CONFIG) if row.patient == "P001")
    prepared, product = prepare_study(row.files, CONFIG.rules()), CONFIG.memories["pooled"]
    return Hiding.of(
        EntryKey("P001", "PET", "spine_dilated"), prepared, product=product, rules=RULES, stride=6, grid_px=8
    )


def made(hiding: Hiding, segmenter: Segmenter, folder: Path, told: Told) -> Entry:
    unfinished = Unfinished(folder)
    return patch_entry(
        hiding,
        segmenter,
        bones=None,
        base_input_sha256=INPUT,
        parts_of=lambda digest: unfinished.of(INPUT, digest),
        told=told,
    )


@pytest.fixture(scope="module")
def whole(hiding, mini, tmp_path_factory) -> tuple[Entry, Told, Path]:
    """The entry, what was told of it, and where its parts lie."""
    told, folder = Told(), tmp_path_factory.mktemp("whole")
    return made(hiding, mini, folder, told), told, folder


def assert_alike(one: Entry, other: Entry) -> None:
    assert one.arrays.keys() == other.arrays.keys()
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array, other.arrays[name], err_msg=name)
        assert array.dtype == other.arrays[name].dtype
    assert one.attributes == other.attributes


def test_an_entry_stopped_again_and_again_ends_as_one_that_was_not_and_goes_on_where_it_was(
    hiding, mini, whole, tmp_path
):
    entry, all_of_it, _ = whole
    assert (all_of_it.old, all_of_it.new) == (0, all_of_it.total)
    assert all_of_it.total > 3 * PART
    kept, stops = 0, 0
    while stops < 50:
        told = Told(PART + 3)
        try:
            resumed = made(hiding, mini, tmp_path, told)
        except StoppedError:
            stops += 1
            assert told.old <= kept
            kept += PART
            continue
        break
    assert stops >= 2
    assert told.old + told.new == told.total
    assert told.new <= PART + 3
    assert_alike(resumed, entry)


def test_a_damaged_part_is_made_again(hiding, mini, whole, tmp_path):
    entry, _, folder = whole
    shutil.copytree(folder, tmp_path / "parts")
    files = sorted((tmp_path / "parts").rglob("*.part"))
    assert len(files) > 1
    files[0].write_bytes(files[0].read_bytes()[:-7])
    told = Told()
    assert_alike(made(hiding, mini, tmp_path / "parts", told), entry)
    assert told.new == PART


@pytest.mark.parametrize("change", ["fill", "patches", "weights", "batches"])
def test_nothing_is_taken_of_an_entry_made_otherwise(hiding, mini, whole, change):
    _, _, folder = whole
    other, segmenter = hiding, mini
    if change == "fill":
        other = replace(hiding, fill=hiding.fill + 1)
    elif change == "patches":
        other = replace(hiding, patches=hiding.patches[::-1])
    elif change == "weights":
        segmenter = load_segmenter("mini", "random:1")
    else:
        segmenter = replace(mini, batches=BatchSizes(slices=2))
    told = Told()
    made(other, segmenter, folder, told)
    assert (told.old, told.new) == (0, told.total)


def test_parts_hold_whole_batches(mini):
    sizes = [patches_of_part(replace(mini, batches=BatchSizes(streams=streams))) for streams in (1, 3, 8, 16)]
    assert sizes == [8, 9, 8, 16]
