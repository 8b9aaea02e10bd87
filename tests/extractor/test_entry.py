"""What one study's entries hold, against the protocol computed here with SimpleITK and NumPy; what decides that they are made."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from rich.console import Console

from extractor.batching import BatchSizes
from extractor.config import EncoderFacts, ExtractConfig, views_of
from extractor.embedding import embed_studies, embed_study, extract_study
from extractor.memory import Memory, embed_volume
from extractor.plan import make_plan
from extractor.run import RunOptions, RunReport, run
from extractor.segmenter import Segmenter, load_segmenter
from extractor.streams import Stream
from extractor.study import prepare_study
from extractor.table import read_study_table
from extractor.volumes import Grid, write_image
from extractor.work import StudyTask, Write, input_sha256, load_study
from store_schema import Entry, EntryKey, Store, create_store, open_store

AXES = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
CT_GRID = Grid((40, 36, 12), (0.0, 0.0, 0.0), (2.0, 2.5, 3.0), AXES)
PET_GRID = Grid((20, 24, 12), (-5.0, -4.0, -2.0), (4.0, 4.5, 3.5), AXES)
PET_END_X_MM = -5.0 + 4.0 * 19.5
"""Right edge of the last PET voxel: a few voxels of region a lie beyond it."""
WINDOWS = {"CT": (-500, 1300), "PET": (0, 10)}
LAYOUTS = ("paper", "raw", "pooled", "thirds")
CONFIG = ExtractConfig(model="mini", weights="random:0", pet_units="suv", layouts=LAYOUTS)
PAPER = CONFIG.model_copy(update={"layouts": ("paper",)})
EVERY = {("PET", "a"), ("PET", "b"), ("CT", "a"), ("CT", "b")}


def write_study(folder: Path) -> Path:
    """Two images on grids of their own, a region over many slices with an arm beyond the PET, one on a single slice."""
    rng = np.random.default_rng(0)
    write_image(rng.normal(0, 400, (12, 36, 40)).astype(np.float32), CT_GRID, folder / "ct.nii.gz")
    write_image(rng.gamma(1, 3, (12, 24, 20)).astype(np.float32), PET_GRID, folder / "pet.nii.gz")
    masks = {name: np.zeros((12, 36, 40), np.uint8) for name in "ab"}
    masks["a"][1:10, 8:21, 10:25] = 1
    masks["a"][5, 10, 25:40] = 1
    masks["b"][6, 8:26, 12:20] = 1
    for name, mask in masks.items():
        write_image(mask, CT_GRID, folder / f"{name}.nii.gz")
    (folder / "s.csv").write_text("patient,ct,pet,a,b\nP1,ct.nii.gz,pet.nii.gz,a.nii.gz,b.nii.gz\n")
    return folder / "s.csv"


def extract(table: Path, config: ExtractConfig) -> RunReport:
    return run(config, RunOptions(table, str(table.parent / "store"), jobs=0), console=Console(quiet=True))


@pytest.fixture(scope="module")
def mini() -> Segmenter:
    return load_segmenter("mini", "random:0")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, RunReport]:
    """A folder with a study and the store made of it; tests leave it as it is."""
    table = write_study(tmp_path_factory.mktemp("study"))
    return table.parent, extract(table, CONFIG)


@dataclass(frozen=True)
class Expected:
    """What the protocol says of one image and one region."""

    mask: np.ndarray
    slices: list[int]
    boxes: list[list[int]]
    outside_share: float
    memory: Memory


def lps(path: Path) -> sitk.Image:
    return sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")


def box_of(mask_yx: np.ndarray) -> list[int]:
    rows, columns = np.nonzero(mask_yx)
    return [int(value) for value in (columns.min(), rows.min(), columns.max(), rows.max())]


def expected(folder: Path, modality: str, roi: str, segmenter: Segmenter) -> Expected:
    ct = lps(folder / "ct.nii.gz")
    pet = sitk.Resample(sitk.ReadImage(str(folder / "pet.nii.gz")), ct, sitk.Transform(), sitk.sitkLinear, 0.0)
    low, high = WINDOWS[modality]
    clipped = np.clip(sitk.GetArrayFromImage({"CT": ct, "PET": pet}[modality]), low, high)
    grey = np.rint((clipped - np.float32(low)) * np.float32(255 / (high - low))).astype(np.uint8)
    mask = sitk.GetArrayFromImage(lps(folder / f"{roi}.nii.gz"))
    slices = [z for z in reversed(range(len(mask))) if mask[z].any()][::2]
    boxes = [box_of(mask[z]) for z in slices]
    beyond = 2.0 * np.nonzero(mask)[2] > PET_END_X_MM
    stream = Stream(roi, tuple(slices), np.array(boxes))
    memory = embed_volume(segmenter, grey, [stream], layouts=LAYOUTS)[roi]
    return Expected(mask, slices, boxes, float(beyond.mean()) if modality == "PET" else 0.0, memory)


@pytest.mark.parametrize("modality", ["CT", "PET"])
@pytest.mark.parametrize("roi", ["a", "b"])
def test_a_stored_entry_is_what_the_protocol_says_of_its_own_image_and_region(made, mini, modality, roi):
    folder, report = made
    store, key = open_store(str(folder / "store")), EntryKey("P1", modality, roi)
    want = expected(folder, modality, roi, mini)
    assert (want.outside_share > 0) == ((modality, roi) == ("PET", "a"))
    for layout in LAYOUTS:
        entry, numbers = store.read(report.views[layout], key), want.memory.layouts[layout]
        np.testing.assert_array_equal(entry.arrays["memory"], numbers.memory.astype(np.float16))
        np.testing.assert_array_equal(entry.arrays["mean_map"], numbers.mean_map)
        assert entry.attributes["kept_slices_z"] == want.slices
        assert entry.attributes["boxes_xyxy"] == want.boxes
        assert entry.attributes["valid_layers"] == list(numbers.valid)
        assert entry.attributes["outside_share"] == pytest.approx(want.outside_share, rel=1e-12)
        assert entry.attributes["grid"]["spacing_xyz_mm"] == list(CT_GRID.spacing_xyz_mm)
    np.testing.assert_array_equal(store.read(report.views["paper"], key).arrays["mask"], want.mask)


def test_input_digest_changes_with_all_that_decides_the_numbers(made):
    folder, _ = made
    study = prepare_study(read_study_table(folder / "s.csv", CONFIG)[0].files, CONFIG.rules())
    flipped = study.masks_zyx["a"].copy()
    flipped[5, 0, 0] = 1
    cases = [
        (study, {}),
        (study, {"modality": "CT"}),
        (study, {"roi": "b"}),
        (study, {"view_id": "w"}),
        (replace(study, masks_zyx={**study.masks_zyx, "a": flipped}), {}),
        (replace(study, masks_zyx={**study.masks_zyx, "a": study.masks_zyx["a"].reshape(36, 12, 40)}), {}),
        (replace(study, grid=replace(study.grid, origin_xyz_mm=(1.0, 0.0, 0.0))), {}),
        (replace(study, source_sha256={**study.source_sha256, "PET": "0"}), {}),
    ]
    usual = {"modality": "PET", "roi": "a", "view_id": "v"}
    digests = [input_sha256(changed, **(usual | given)) for changed, given in cases]
    assert len(set(digests)) == len(cases)


def rewrite(
    path: Path, change: Callable[[np.ndarray], None] = lambda voxels: None, *, origin_x_mm: float = 0.0
) -> None:
    """The same image with `change` made to its voxels, and its origin moved."""
    image = sitk.ReadImage(str(path))
    voxels = sitk.GetArrayFromImage(image)
    change(voxels)
    changed = sitk.GetImageFromArray(voxels)
    changed.CopyInformation(image)
    changed.SetOrigin((image.GetOrigin()[0] + origin_x_mm, *image.GetOrigin()[1:]))
    sitk.WriteImage(changed, str(path))


def halve(voxels: np.ndarray) -> None:
    voxels //= 2


def grow(voxels: np.ndarray) -> None:
    voxels[5, 22, 12] = 1


@pytest.mark.parametrize(
    ("name", "act", "planned", "anew"),
    [
        ("ct", lambda path: rewrite(path, halve), EVERY, {("CT", "a"), ("CT", "b")}),
        ("ct", lambda path: rewrite(path, origin_x_mm=-1.0), EVERY, EVERY),
        ("ct", Path.touch, EVERY, set()),
        ("pet", lambda path: rewrite(path, halve), {("PET", "a"), ("PET", "b")}, {("PET", "a"), ("PET", "b")}),
        ("a", lambda path: rewrite(path, grow), {("PET", "a"), ("CT", "a")}, {("PET", "a"), ("CT", "a")}),
        ("a", Path.touch, {("PET", "a"), ("CT", "a")}, set()),
    ],
    ids=["ct-altered", "ct-moved", "ct-touched", "pet-altered", "mask-altered", "mask-touched"],
)
def test_a_changed_file_makes_anew_just_the_entries_whose_numbers_it_decides(tmp_path, name, act, planned, anew):
    table = write_study(tmp_path)
    assert {o.result for o in extract(table, PAPER).outcomes} == {"committed"}
    act(tmp_path / f"{name}.nii.gz")
    report = extract(table, PAPER)
    assert {(item.modality, item.roi) for item in report.plan if item.state == "changed"} == planned
    assert {item.state for item in report.plan} <= {"changed", "done"}
    assert {(o.modality, o.roi): o.number for o in report.outcomes if o.result == "committed"} == dict.fromkeys(anew, 1)
    assert sum(o.result == "done" for o in report.outcomes) == len(EVERY) - len(anew)


# The steps below `run`, with a network that lets something happen while it works.


@dataclass(frozen=True)
class WatchedSegmenter(Segmenter):
    """A segmenter that calls a function before each slice."""

    before: Callable[[], None] = lambda: None

    @contextmanager
    def running(self) -> Iterator[None]:
        self.before()
        with super().running():
            yield


def watched(segmenter: Segmenter, before: Callable[[], None]) -> Segmenter:
    return WatchedSegmenter(
        **{field.name: getattr(segmenter, field.name) for field in fields(segmenter)}, before=before
    )


def store_and_task(table: Path, segmenter: Segmenter, config: ExtractConfig) -> tuple[Store, StudyTask]:
    store = create_store(f"memory://{uuid4().hex}")
    facts = EncoderFacts(
        name=segmenter.name,
        image_size=segmenter.image_size,
        weights_sha256=segmenter.weights_sha256,
        trained=segmenter.trained,
        flags=dict(segmenter.flags),
    )
    views = {layout: store.put_view(view) for layout, view in views_of(config, facts).items()}
    return store, StudyTask(read_study_table(table, config)[0], config, views)


def test_a_file_replaced_while_the_network_works_is_not_taken_for_the_one_that_was_read(tmp_path, mini):
    table = write_study(tmp_path)
    store, task = store_and_task(table, mini, PAPER)
    replaced: list[bool] = []

    def replace_pet() -> None:
        if not replaced:
            rewrite(tmp_path / "pet.nii.gz", halve)
            replaced.append(True)

    first = extract_study(task, segmenter=watched(mini, replace_pet), store=store)
    assert replaced
    assert {o.result for o in first} == {"committed"}
    plan = make_plan([task.row], views=task.views, store=store, config=PAPER)
    assert {item.modality for item in plan if item.state == "changed"} == {"PET"}
    again = {(o.modality, o.roi): (o.result, o.number) for o in extract_study(task, segmenter=mini, store=store)}
    assert again == {
        ("PET", "a"): ("committed", 1),
        ("PET", "b"): ("committed", 1),
        ("CT", "a"): ("done", 0),
        ("CT", "b"): ("done", 0),
    }


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), MemoryError("no memory"), OSError("gone")])
def test_an_error_of_one_modality_fails_its_items_alone(tmp_path, mini, error):
    store, task = store_and_task(write_study(tmp_path), mini, PAPER)

    def fail_once_something_is_committed() -> None:
        if store.keys(task.views["paper"]):
            raise error

    outcomes = extract_study(task, segmenter=watched(mini, fail_once_something_is_committed), store=store)
    told = {(o.modality, o.roi): (o.result, o.reason) for o in outcomes}
    failure = ("failed", f"{type(error).__name__}: {error}")
    assert told == {
        ("PET", "a"): ("committed", "embedded and committed"),
        ("PET", "b"): ("committed", "embedded and committed"),
        ("CT", "a"): failure,
        ("CT", "b"): failure,
    }
    assert {o.result for o in extract_study(task, segmenter=mini, store=store)} == {"done", "committed"}


# Batches: what goes through a GPU together


def batched(segmenter: Segmenter) -> Segmenter:
    return replace(segmenter, batches=BatchSizes(slices=4, streams=8))


def attended(segmenter: Segmenter, act: Callable[[], object]) -> list[int]:
    """How many streams each call of memory attention had."""
    sizes: list[int] = []
    hook = segmenter.network.memory_attention.register_forward_pre_hook(
        lambda _module, _arguments, named: sizes.append(named["curr"][0].size(1)), with_kwargs=True
    )
    act()
    hook.remove()
    return sizes


def digests(store: Store, view: str) -> dict[str, str]:
    return {str(key): store.current(view, key).content_sha256 for key in store.keys(view)}


def test_modalities_of_a_study_share_batches_and_a_resumed_study_computes_those_of_the_first_run(tmp_path, mini):
    whole, task = store_and_task(write_study(tmp_path), mini, PAPER)
    view = task.views["paper"]
    sizes = attended(mini, lambda: extract_study(task, segmenter=batched(mini), store=whole))
    # region a in both modalities, slice by slice
    assert sizes == [2] * (len(range(1, 10, 2)) - 1)
    for left in ({"PET/b"}, {"CT/a"}, {"CT/a", "CT/b"}):
        resumed, again = store_and_task(tmp_path / "s.csv", mini, PAPER)
        for key in whole.keys(view):
            if f"{key.modality}/{key.roi}" not in left:
                entry, commit = whole.read(view, key), whole.current(view, key)
                made = Entry(entry.arrays, entry.attributes)
                resumed.publish(view, key, made, input_sha256=commit.input_sha256)
        outcomes = extract_study(again, segmenter=batched(mini), store=resumed)
        assert {f"{o.modality}/{o.roi}" for o in outcomes if o.result == "committed"} == left
        assert {o.result for o in outcomes} == {"committed", "done"}
        assert digests(resumed, view) == digests(whole, view)


def test_several_studies_in_one_batch_are_the_studies_alone_up_to_rounding(tmp_path, mini):
    alone, task = store_and_task(write_study(tmp_path), mini, PAPER)
    extract_study(task, segmenter=mini, store=alone)
    together, _ = store_and_task(tmp_path / "s.csv", mini, PAPER)
    tasks = [replace(task, row=replace(task.row, patient=f"P{number}")) for number in range(1, 4)]
    refused = frozenset(tasks[1].items())
    tasks[1] = replace(tasks[1], refused=refused)
    many = batched(mini)
    studies = [load_study(task, segmenter=many, store=together) for task in tasks]
    places: list[int] = []

    def embed() -> None:
        for place, made in embed_studies(studies):
            assert isinstance(made, Write)
            assert made().result == "committed"
            places.append(place)

    assert max(attended(mini, embed)) == 4
    assert sorted(places) == [0] * 4 + [2] * 4
    for patient in ("P1", "P3"):
        for modality, roi in itertools.product(("PET", "CT"), "ab"):
            ours = together.read(task.views["paper"], EntryKey(patient, modality, roi))
            theirs = alone.read(task.views["paper"], EntryKey("P1", modality, roi))
            np.testing.assert_allclose(ours.arrays["mean_map"], theirs.arrays["mean_map"], atol=1e-3)
            assert ours.attributes["boxes_xyxy"] == theirs.attributes["boxes_xyxy"]


def test_in_batches_too_a_modality_that_fails_leaves_the_other_alone(tmp_path, mini):
    store, task = store_and_task(write_study(tmp_path), mini, PAPER)
    loaded = load_study(task, segmenter=batched(mini), store=store)
    pet = loaded.open[0].this
    images = {**pet.prepared.images_zyx, "PET": pet.prepared.images_zyx["PET"].astype(np.int16)}
    broken = replace(pet, prepared=replace(pet.prepared, images_zyx=images))
    loaded = replace(loaded, open=(replace(loaded.open[0], this=broken), loaded.open[1]))
    found = [one() if isinstance(one, Write) else one for one in embed_study(loaded)]
    assert [(o.modality, o.roi, o.result) for o in found] == [
        ("PET", "a", "failed"), ("PET", "b", "failed"), ("CT", "a", "committed"), ("CT", "b", "committed"),
    ]  # fmt: skip
    assert "expected an image of uint8" in found[0].reason


def test_items_that_the_plan_refused_are_left_alone(tmp_path, mini):
    store, task = store_and_task(write_study(tmp_path), mini, PAPER)
    refused = frozenset({("PET", "a", "paper"), ("CT", "a", "paper")})
    outcomes = extract_study(replace(task, refused=refused), segmenter=mini, store=store)
    assert {(o.modality, o.roi, o.result) for o in outcomes} == {("PET", "b", "committed"), ("CT", "b", "committed")}
    assert {key.roi for key in store.keys(task.views["paper"])} == {"b"}
