"""A run that makes baselines: one reading of the images, resume, plan, pseudonyms, snapshots, other processes, a wrong file."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from extractor.baselines import load_encoder
from extractor.cli import main
from extractor.config import ExtractConfig
from extractor.run import RunOptions, RunReport, run
from extractor.segmenter import load_segmenter
from extractor.study import prepare_study
from extractor.table import read_study_table
from extractor.volumes import Grid, write_image
from store_schema import EntryKey, open_store
from store_schema.bulk import BulkReader
from store_schema.errors import NotCommittedError, WeightsError
from store_schema.packs import open_pack
from store_schema.pseudonyms import Pseudonyms
from trainer.features import mean_maps

AXES = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
GRID = Grid((40, 36, 12), (0.0, 0.0, 0.0), (2.0, 2.5, 3.0), AXES)
STUDY = {"patient": "Anna", "ct": "ct.nii.gz", "pet": "pet.nii.gz", "a": "a.nii.gz", "b": "b.nii.gz"}
BOTH = ExtractConfig(
    model="mini",
    weights="random:0",
    pet_units="suv",
    modalities=("CT",),
    layouts=("paper",),
    baselines=("resnet50-last2", "resnet50-box-last2", "hiera", "hiera-last2"),
    baseline_weights={"resnet50": "random:0"},
)
HIERA = BOTH.model_copy(update={"layouts": (), "baselines": ("hiera", "hiera-last2")})


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """One study: region a on five kept slices, region b on one."""
    folder, rng = tmp_path_factory.mktemp("study"), np.random.default_rng(0)
    write_image(rng.normal(0, 400, (12, 36, 40)).astype(np.float32), GRID, folder / "ct.nii.gz")
    write_image(rng.gamma(1, 3, (12, 36, 40)).astype(np.float32), GRID, folder / "pet.nii.gz")
    masks = {name: np.zeros((12, 36, 40), np.uint8) for name in "ab"}
    masks["a"][1:10, 8:21, 10:25] = 1
    masks["b"][6, 8:26, 12:20] = 1
    for name, mask in masks.items():
        write_image(mask, GRID, folder / f"{name}.nii.gz")
    (folder / "s.csv").write_text(",".join(STUDY) + "\n" + ",".join(STUDY.values()) + "\n")
    return folder / "s.csv"


def extract(table: Path, store: Path, config: ExtractConfig, **options) -> RunReport:
    return run(config, RunOptions(table, str(store), **({"jobs": 0} | options)), console=Console(quiet=True))


@pytest.fixture(scope="module")
def made(table, tmp_path_factory) -> tuple[Path, RunReport]:
    """The store of a run with memories and baselines; tests leave it as it is."""
    store = tmp_path_factory.mktemp("made") / "store"
    return store, extract(table, store, BOTH)


def digests(report: RunReport, url: Path) -> dict[str, str]:
    store = open_store(str(url))
    return {
        f"{name}/{key}": store.current(view, key).content_sha256
        for name, view in report.views.items()
        for key in store.keys(view)
    }


def test_one_run_makes_memories_and_baselines_and_a_rerun_nothing(made, table):
    store, report = made
    assert {o.result for o in report.outcomes} == {"committed"}
    assert len(report.outcomes) == 2 * 5
    assert list(report.views) == ["paper", *BOTH.baselines]
    assert list(report.snapshots) == list(report.views)
    again = extract(table, store, BOTH)
    assert {item.state for item in again.plan} == {"done"}
    assert again.snapshots == report.snapshots
    assert open_store(str(store)).verify().ok


def test_stored_baselines_are_what_the_encoders_give_for_the_kept_slices(made, table):
    url, report = made
    store, resnet = open_store(str(url)), load_encoder("resnet50", "random:0")
    prepared = prepare_study(read_study_table(table, BOTH)[0].files, BOTH.rules())
    image = prepared.images_zyx["CT"]
    # Region a lies on slices 1 to 9: 9, 7, 5, 3, 1 are kept. Its box is 10 to 24 by 8 to 20, both ends in it.
    whole = np.mean(resnet.vectors([image[3], image[1]]), axis=0)
    boxes = np.mean(resnet.vectors([image[3][8:21, 10:25], image[1][8:21, 10:25]]), axis=0)
    key = EntryKey("Anna", "CT", "a")
    for name, expected in (("resnet50-last2", whole), ("resnet50-box-last2", boxes)):
        entry = store.read(report.views[name], key)
        assert set(entry.arrays) == {"memory"}
        assert entry.arrays["memory"].dtype == np.float32
        np.testing.assert_allclose(entry.arrays["memory"].ravel(), expected, rtol=1e-6)
        assert entry.attributes["kept_slices_z"] == [9, 7, 5, 3, 1]
    mini = load_segmenter("mini", "random:0")
    with mini.running():
        tops = [
            mini.network.forward_image(mini.network_input(image[z]))["backbone_fpn"][-1][0] for z in (9, 7, 5, 3, 1)
        ]
    maps = [one.numpy() for one in tops]
    vector = store.read(report.views["hiera"], key).arrays["memory"]
    np.testing.assert_allclose(vector.ravel(), np.mean(maps, axis=(0, 2, 3)), atol=1e-6)
    last2 = store.read(report.views["hiera-last2"], key)
    planes = [np.kron(one.mean(axis=0), np.ones((8, 8))) for one in maps[-2:]]
    np.testing.assert_allclose(last2.arrays["mean_map"], np.mean(planes, axis=0), atol=1e-6)
    np.testing.assert_allclose(last2.arrays["memory"][:, 0], planes, atol=2e-3)
    single = store.read(report.views["hiera-last2"], EntryKey("Anna", "CT", "b"))
    assert single.attributes["valid_layers"] == [False, True]
    assert single.attributes["warnings"]


def test_the_trainer_reads_the_map_and_is_told_that_vectors_have_none(made):
    url, report = made
    snapshots = report.snapshots
    maps = mean_maps(str(url), snapshots["hiera-last2"], "CT", "a", ("Anna",))
    stored = open_store(str(url)).read(report.views["hiera-last2"], EntryKey("Anna", "CT", "a")).arrays["mean_map"]
    np.testing.assert_array_equal(maps[0], stored)
    with pytest.raises(NotCommittedError, match="has no array"):
        mean_maps(str(url), snapshots["resnet50-last2"], "CT", "a", ("Anna",))


def test_vectors_are_packed_for_readers_of_cohorts_to_the_last_bit(made):
    url, report = made
    store = open_store(str(url))
    snapshot = store.snapshot(report.snapshots["resnet50-last2"])
    assert open_pack(snapshot, "memory") is not None
    stacked = BulkReader(snapshot, ("memory",)).stack("memory", snapshot.keys)
    assert stacked.dtype == np.float32
    for row, key in zip(stacked, snapshot.keys, strict=True):
        np.testing.assert_array_equal(row, store.read(report.views["resnet50-last2"], key).arrays["memory"])


def test_numbers_do_not_depend_on_what_else_a_run_makes_nor_on_its_processes(made, table, tmp_path):
    url, report = made
    alone = extract(table, tmp_path / "alone", HIERA)
    apart = extract(table, tmp_path / "apart", HIERA, jobs=1)
    mine, theirs, processes = (
        digests(one, store) for one, store in ((report, url), (alone, tmp_path / "alone"), (apart, tmp_path / "apart"))
    )
    assert theirs == processes
    # The first view of a run holds mask and preview too: the other one is the very same.
    assert {name: one for name, one in theirs.items() if name.startswith("hiera-last2")} == {
        name: one for name, one in mine.items() if name.startswith("hiera-last2")
    }
    first = EntryKey("Anna", "CT", "a")
    vectors = [
        open_store(str(store)).read(one.views["hiera"], first).arrays
        for store, one in ((url, report), (tmp_path / "alone", alone))
    ]
    np.testing.assert_array_equal(vectors[0]["memory"], vectors[1]["memory"])
    assert set(vectors[1]) == {"memory", "mask", "preview"}


def test_a_baseline_added_later_is_made_without_making_the_rest_again(table, tmp_path):
    first = HIERA.model_copy(update={"baselines": ("hiera",)})
    extract(table, tmp_path / "s", first)
    dry = extract(table, tmp_path / "s", HIERA, dry_run=True)
    assert {(item.layout, item.state) for item in dry.plan} == {("hiera", "done"), ("hiera-last2", "new")}
    later = extract(table, tmp_path / "s", HIERA)
    assert {(o.layout, o.result) for o in later.outcomes} == {("hiera", "done"), ("hiera-last2", "committed")}


def test_pseudonyms_and_places_of_weights_stay_out_of_the_store(table, tmp_path):
    weights = tmp_path / "secret-folder" / "resnet50.pth"
    weights.parent.mkdir()
    torch.save(load_network_tensors(), weights)
    config = BOTH.model_copy(
        update={"layouts": (), "baselines": ("resnet50-last2",), "baseline_weights": {"resnet50": str(weights)}}
    )
    report = extract(table, tmp_path / "s", config, ids=Pseudonyms(b"0" * 32))
    assert {o.result for o in report.outcomes} == {"committed"}
    store = open_store(str(tmp_path / "s"))
    view = store.view(report.views["resnet50-last2"])
    assert view.encoder.weights_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert view.name == "resnet50-last2"
    for path in (tmp_path / "s").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert b"Anna" not in data, path
            assert b"secret-folder" not in data, path
    start = json.loads(next((tmp_path / "s" / "runs").rglob("start.json")).read_text())
    assert start["settings"]["baseline_weights"] == {"resnet50": "resnet50.pth"}


def load_network_tensors() -> dict[str, torch.Tensor]:
    import torchvision  # noqa: PLC0415

    return torchvision.models.resnet50(weights=None).state_dict()


def test_a_wrong_file_fails_before_anything_is_written(table, tmp_path):
    (tmp_path / "w.pth").write_bytes(b"nothing")
    config = BOTH.model_copy(update={"baseline_weights": {"resnet50": str(tmp_path / "w.pth")}})
    with pytest.raises(WeightsError, match="cannot be loaded"):
        extract(table, tmp_path / "s", config)
    assert not (tmp_path / "s").exists()
    settings = tmp_path / "e.yaml"
    settings.write_text(
        f"layouts: []\nmodalities: [CT]\nbaselines: [resnet50]\nbaseline_weights: {{resnet50: {tmp_path / 'absent'}}}\n"
    )
    told = CliRunner().invoke(main, ["run", str(table), "--store", str(tmp_path / "s"), "--config", str(settings)])
    assert told.exit_code == 2
    assert "download https://download.pytorch.org/models/resnet50-11ad3fa6.pth" in told.output
