"""Several modes and prompts of one run: one view each, one pass of the encoder, the numbers of runs apart."""

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from extractor.batching import BatchSizes
from extractor.config import EncoderFacts, ExtractConfig, views_of
from extractor.embedding import extract_study
from extractor.outcome import ItemOutcome
from extractor.plan import make_plan
from extractor.run import RunOptions, RunReport, run
from extractor.segmenter import Segmenter, load_segmenter
from extractor.table import read_study_table
from extractor.volumes import Grid, write_image
from extractor.work import StudyTask
from store_schema import Entry, EntryKey, Store, create_store, open_store

AXES = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
GRID = Grid((32, 28, 10), (0.0, 0.0, 0.0), (2.0, 2.5, 3.0), AXES)
MODES = ("sequential", "upfront", "first", "key_slice", "sequential_direct")
CONFIG = ExtractConfig(
    model="mini",
    weights="random:0",
    modalities=("CT",),
    layouts=("paper", "pooled"),
    mode=MODES,
    prompt=("box", "points"),
)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    write_image(rng.normal(0, 400, (10, 28, 32)).astype(np.float32), GRID, folder / "ct.nii.gz")
    for name, top in (("a", 9), ("b", 6)):
        mask = np.zeros((10, 28, 32), np.uint8)
        mask[1:top, 6:20, 8:24] = 1
        mask[3:5, 4:24, 6:28] = 1
        write_image(mask, GRID, folder / f"{name}.nii.gz")
    (folder / "s.csv").write_text("patient,ct,a,b\nP1,ct.nii.gz,a.nii.gz,b.nii.gz\n")
    return folder / "s.csv"


def extract(table: Path, store: Path, config: ExtractConfig = CONFIG) -> RunReport:
    return run(config, RunOptions(table, str(store), jobs=0), console=Console(quiet=True))


def digest(store: Store, view: str, roi: str) -> str:
    commit = store.current(view, EntryKey("P1", "CT", roi))
    assert commit is not None
    return commit.content_sha256


def test_each_variant_has_views_of_its_own_with_the_numbers_of_a_run_alone(table, tmp_path):
    together = extract(table, tmp_path / "all")
    assert not together.failed
    assert len(together.views) == len(set(together.views.values())) == 5 * 2 * 2
    all_of_it = open_store(str(tmp_path / "all"))
    apart = open_store(str(tmp_path / "apart"), create=True)
    seen: set[bytes] = set()
    for mode in MODES:
        for prompt in ("box", "points"):
            alone = extract(table, tmp_path / "apart", CONFIG.model_copy(update={"mode": mode, "prompt": prompt}))
            variant = mode if prompt == "box" else f"{mode}-{prompt}"
            for layout in CONFIG.layouts:
                view = together.views[f"{variant}-{layout}"]
                assert view == alone.views[layout]
                assert f"mini-untrained-{variant}-{layout}-" in view
                for roi in "ab":
                    key = EntryKey("P1", "CT", roi)
                    one, other = (store.read(view, key).arrays for store in (all_of_it, apart))
                    np.testing.assert_array_equal(one["memory"], other["memory"])
                    seen.add(one["memory"].tobytes())
    assert len(seen) == 5 * 2 * 2 * 2
    assert {item.state for item in extract(table, tmp_path / "all").plan} == {"done"}


def test_entries_say_what_was_prompted(table, tmp_path):
    config = CONFIG.model_copy(update={"mode": "key_slice", "prompt": "points", "layouts": ("paper",)})
    report = extract(table, tmp_path / "store", config)
    entry = open_store(str(tmp_path / "store")).read(report.views["paper"], EntryKey("P1", "CT", "a"))
    assert entry.attributes["key_slice_z"] in entry.attributes["kept_slices_z"]
    assert np.shape(entry.attributes["points_xy"]) == (len(entry.attributes["kept_slices_z"]), 3, 2)


def test_a_resumed_study_computes_the_batches_of_the_first_run(table, tmp_path):
    config = CONFIG.model_copy(update={"mode": "sequential", "prompt": "box", "layouts": ("paper",)})
    mini = load_segmenter("mini", "random:0")
    batched = Segmenter(**{**vars(mini), "batches": BatchSizes(slices=4, streams=4)})
    facts = EncoderFacts(
        name=mini.name,
        image_size=mini.image_size,
        weights_sha256=mini.weights_sha256,
        trained=False,
        flags=dict(mini.flags),
    )
    (row,) = read_study_table(table, config)
    specs = views_of(config, facts)

    def extracted(store: Store, refused: frozenset[tuple[str, str, str]] = frozenset()) -> list[ItemOutcome]:
        views = {name: store.put_view(view) for name, view in specs.items()}
        assert make_plan([row], views=views, store=store, config=config)
        return extract_study(StudyTask(row, config, views, refused=refused), segmenter=batched, store=store)

    whole, resumed = create_store(str(tmp_path / "whole")), create_store(str(tmp_path / "resumed"))
    extracted(whole)
    view = specs["paper"].view_id
    entry = whole.read(view, EntryKey("P1", "CT", "a"))
    # The first region was committed before the process died: its stream is computed again, for the sake of the batch.
    resumed.put_view(specs["paper"])
    first = whole.current(view, entry.key)
    assert first is not None
    resumed.publish(view, entry.key, Entry(entry.arrays, entry.attributes), input_sha256=first.input_sha256)
    outcomes = extracted(resumed)
    assert [outcome.result for outcome in outcomes] == ["done", "committed"]
    for roi in "ab":
        assert digest(resumed, view, roi) == digest(whole, view, roi)


def test_repeated_or_missing_modes_and_prompts_are_refused():
    with pytest.raises(ValueError, match="modes names the same thing twice"):
        ExtractConfig(mode=("first", "first"))
    with pytest.raises(ValueError, match="prompts is empty"):
        ExtractConfig(prompt=())
    assert ExtractConfig(mode=("first",)).products.keys() == ExtractConfig().products.keys()
