"""`extractor occlude` on a synthetic cohort: one entry a region with all its patches, resumed, and told what it cannot see."""

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from extractor.cli import main
from extractor.config import EncoderFacts, ExtractConfig, views_of
from extractor.entry_streams import stream_of
from extractor.memory import embed_volume
from extractor.occlusion_plan import PROBED, planned, timed
from extractor.occlusion_reach import Pace
from extractor.occlusion_rules import OcclusionRules, occlusion_view
from extractor.occlusion_study import Chosen
from extractor.patch_entry import Hiding
from extractor.phantom import write_cohort
from extractor.segmenter import load_segmenter
from extractor.study import prepare_study
from extractor.table import read_study_table
from store_schema import EntryKey, ViewSpec, open_store

SETTINGS = """
model: mini
weights: "random:0"
pet_units: suv
stride: 6
derive: [spine_dilated]
mode: {mode}
layouts: [paper, pooled]
"""
COARSE = ("--size-mm", "60", "--stride-mm", "45")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, n=2, seed=5)
    for mode in ("sequential", "upfront"):
        (folder / f"{mode}.yaml").write_text(SETTINGS.format(mode=mode))
    return folder


def occlude(cohort: Path, store: Path, *more: str, mode: str = "sequential"):
    arguments = [
        "occlude",
        str(cohort / "studies.csv"),
        "--store",
        str(store),
        "--config",
        str(cohort / f"{mode}.yaml"),
        "--scratch",
        str(cohort / "scratch"),
    ]
    return CliRunner().invoke(main, [*arguments, *COARSE, *more])


@pytest.fixture(scope="module")
def made(cohort, tmp_path_factory):
    """A store with one entry, and what the command said."""
    store = tmp_path_factory.mktemp("occluded") / "store"
    only = ("--patient", "P001", "--modality", "PET")
    return store, occlude(cohort, store, "--layout", "paper", *only), occlude(cohort, store, "--layout", "paper", *only)


def entry_of(store: Path, modality: str = "PET"):
    opened = open_store(str(store))
    (view,) = opened.view_ids()
    return opened, view, opened.read(view, EntryKey("P001", modality, "spine_dilated"))


def test_an_entry_holds_every_patch_and_verifies(made):
    store, first, again = made
    assert first.exit_code == 0, first.output
    assert "patches embedded and committed" in first.stdout
    opened, view, entry = entry_of(store)
    assert view.startswith("mini-untrained-sequential-paper-occluded-")
    told = entry.attributes["occlusion"]
    patches = told["patches_zyx"]
    assert len(patches) > 2
    assert entry.arrays["occluded_memory"].shape == (len(patches), 2, 32, 64, 64)
    assert entry.arrays["occluded_mean_map"].shape == (len(patches), 64, 64)
    assert entry.arrays["memory"].shape == (2, 32, 64, 64)
    assert entry.arrays["mask"].any()
    assert entry.arrays["backdrop"].ndim == 3
    assert set(told["seen_slices_z"]) == set(entry.attributes["kept_slices_z"])
    assert sorted(told["held_slices_z"]) == sorted(entry.attributes["kept_slices_z"])[:2]
    flags = opened.view(view).flags
    assert (flags["occlusion_size_mm"], flags["occlusion_stride_mm"], flags["occlusion_fill"]) == (60.0, 45.0, "mean")
    assert opened.verify().ok
    assert (
        f"[study 1/1] {len(patches)} of {len(patches)} patches of P001/PET/spine_dilated, left 0:00:00" in first.stderr
    )
    assert again.exit_code == 0
    assert "done: the current commit has this input" in again.stdout


def test_each_patch_is_the_embedding_of_the_image_with_the_patch_hidden(cohort, made):
    _, _, entry = entry_of(made[0])
    config = ExtractConfig(
        model="mini", weights="random:0", pet_units="suv", stride=6, derive=("spine_dilated",), layouts=("paper",)
    )
    row = next(row for row in read_study_table(cohort / "studies.csv", config) if row.patient == "P001")
    prepared = prepare_study(row.files, config.rules())
    image = prepared.images_zyx["PET"]
    stream = stream_of(EntryKey("P001", "PET", "spine_dilated"), config.memories["paper"].variant, prepared, 6)
    mini, told = load_segmenter("mini", "random:0"), entry.attributes["occlusion"]
    for number in (0, len(told["patches_zyx"]) - 1):
        z0, z1, y0, y1, x0, x1 = told["patches_zyx"][number]
        hidden = image.copy()
        hidden[z0:z1, y0:y1, x0:x1] = told["fill_grey"]
        (memory,) = embed_volume(mini, hidden, [stream], layouts=("paper",)).values()
        expected = memory.layouts["paper"]
        np.testing.assert_array_equal(entry.arrays["occluded_memory"][number], expected.memory.astype(np.float16))
        np.testing.assert_array_equal(entry.arrays["occluded_mean_map"][number], expected.mean_map)
    assert told["fill_grey"] == round(float(image.mean()))
    (whole,) = embed_volume(mini, image, [stream], layouts=("paper",)).values()
    np.testing.assert_array_equal(entry.arrays["memory"], whole.layouts["paper"].memory.astype(np.float16))


def test_what_the_view_cannot_see_is_listed_apart(cohort, tmp_path):
    result = occlude(
        cohort, tmp_path / "s", "--layout", "paper", "--patient", "P001", "--modality", "CT", mode="upfront"
    )
    assert result.exit_code == 0, result.output
    _, _, entry = entry_of(tmp_path / "s", "CT")
    told = entry.attributes["occlusion"]
    assert sorted(told["seen_slices_z"]) == sorted(entry.attributes["kept_slices_z"])[:2]
    assert len(told["unseen_zyx"]) > len(told["patches_zyx"])
    for z0, z1, *_ in told["unseen_zyx"]:
        assert not any(z0 <= z < z1 for z in told["seen_slices_z"])


def test_an_entry_names_the_input_of_the_one_it_belongs_to_and_how_much_was_hidden(cohort, made, tmp_path):
    _, _, entry = entry_of(made[0])
    where = [str(cohort / "studies.csv"), "--store", str(tmp_path / "s"), "--config", str(cohort / "sequential.yaml")]
    assert CliRunner().invoke(main, ["run", *where, "--jobs", "0"]).exit_code == 0
    store = open_store(str(tmp_path / "s"))
    base = store.current(
        store.resolve_view("mini-untrained-sequential-paper"), EntryKey("P001", "PET", "spine_dilated")
    )
    told = entry.attributes["occlusion"]
    assert told["base_input_sha256"] == base.input_sha256
    under = np.zeros(entry.arrays["mask"].shape, bool)
    for z0, z1, y0, y1, x0, x1 in told["patches_zyx"] + told["unseen_zyx"]:
        under[z0:z1, y0:y1, x0:x1] = True
    inside = entry.arrays["mask"] != 0
    assert told["region_share"] == pytest.approx(under[inside].mean())
    held = told["held_slices_z"]
    assert told["held_region_share"] == pytest.approx(under[held][inside[held]].mean())
    assert under[held].any(axis=(1, 2)).all()
    assert f"under a patch lie {told['region_share']:.0%} of the region" in made[1].stdout
    assert told["label_maps"] == {"known": ["label_map"], "missing": []}


def test_patches_are_named_by_the_bones_under_them(made):
    _, _, entry = entry_of(made[0])
    bones = entry.attributes["occlusion"]["bones"]
    assert len(bones) == len(entry.attributes["occlusion"]["patches_zyx"])
    named = [bone for bone in bones if bone is not None]
    assert named
    assert all(0 < share <= 1 and name for name, share in named)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "say with --layout which"),
        (("--layout", "raw"), "they make paper, pooled"),
        (("--layout", "paper", "--patient", "P9"), "no patient P9"),
        (("--layout", "paper", "--roi", "liver"), "no region liver: there are spine_dilated"),
        (("--layout", "paper", "--fill", "black"), "--fill is mean or a grey value"),
    ],
)
def test_a_wrong_call_exits_2_and_says_why(cohort, tmp_path, more, said):
    result = occlude(cohort, tmp_path / "s", *more)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_study_that_cannot_be_read_is_told_and_leaves_the_others_alone(cohort, tmp_path):
    table = (cohort / "studies.csv").read_text().replace("images/P001_ct", "absent/P001_ct", 1)
    broken = cohort / "broken.csv"
    broken.write_text(table)
    arguments = ["occlude", str(broken), "--store", str(tmp_path / "s"), "--config", str(cohort / "upfront.yaml")]
    arguments += ["--scratch", str(tmp_path / "scratch")]
    result = CliRunner().invoke(main, [*arguments, *COARSE, "--layout", "paper", "--modality", "CT"])
    assert result.exit_code == 1
    assert "P001 CT spine_dilated: failed: " in result.stdout
    assert "P002 CT spine_dilated: committed" in result.stdout


def test_a_plan_counts_patches_and_tells_times_and_writes_nothing(cohort, made, tmp_path):
    planned = occlude(cohort, tmp_path / "none", "--layout", "paper", "--modality", "CT", "--dry-run", mode="upfront")
    assert planned.exit_code == 0, planned.output
    first, second, total = planned.stdout.splitlines()
    told = re.fullmatch(r"P001 CT spine_dilated: new: (\d+) patches, (\d+) can change it, about 0:00:\d\d", first)
    assert second.startswith("P002 CT spine_dilated: new: ")
    assert total.startswith("2 entries to make, ")
    assert not (tmp_path / "none").exists()
    assert not (cohort / "scratch").exists() or not list((cohort / "scratch").rglob("*.part"))
    occlude(cohort, tmp_path / "s", "--layout", "paper", "--patient", "P001", "--modality", "CT", mode="upfront")
    _, view, entry = entry_of(tmp_path / "s", "CT")
    patches = entry.attributes["occlusion"]
    seen = len(patches["patches_zyx"])
    assert told.groups() == (str(seen + len(patches["unseen_zyx"])), str(seen))
    assert total.endswith(f"view {view}")
    again = occlude(cohort, made[0], "--layout", "paper", "--patient", "P001", "--modality", "PET", "--dry-run")
    assert again.stdout.splitlines()[0] == "P001 PET spine_dilated: done"
    assert again.stdout.splitlines()[1].startswith("0 entries to make, 0 patches, about 0:00:00")


def test_a_plan_names_what_cannot_be_made(cohort, tmp_path):
    broken = cohort / "absent.csv"
    broken.write_text((cohort / "studies.csv").read_text().replace("images/P001_ct", "absent/P001_ct", 1))
    arguments = ["occlude", str(broken), "--store", str(tmp_path / "s"), "--config", str(cohort / "upfront.yaml")]
    result = CliRunner().invoke(main, [*arguments, *COARSE, "--layout", "paper", "--modality", "CT", "--dry-run"])
    assert result.exit_code == 1
    assert "P001 CT spine_dilated: failed: " in result.stdout
    assert "P002 CT spine_dilated: new: " in result.stdout


def test_the_time_of_a_plan_is_that_of_a_few_slices_times_what_is_to_be_done(cohort):
    """The pace is measured on nine slices, and all that a run does is counted."""
    config = ExtractConfig(
        model="mini", weights="random:0", pet_units="suv", stride=4, derive=("spine_dilated",), layouts=("paper",)
    )
    row = next(row for row in read_study_table(cohort / "studies.csv", config) if row.patient == "P001")
    key, product, rules = EntryKey("P001", "CT", "spine_dilated"), config.memories["paper"], OcclusionRules(60, 45)
    hiding = Hiding.of(key, prepare_study(row.files, config.rules()), product=product, rules=rules, stride=4, grid_px=8)
    assert len(hiding.stream.slices) > PROBED
    segmenter, slices = load_segmenter("mini", "random:0"), []
    hook = segmenter.network.image_encoder.register_forward_pre_hook(
        lambda _module, given: slices.append(len(given[0]))
    )
    pace = timed(hiding, segmenter)
    hook.remove()
    assert sum(slices) == PROBED
    assert min(pace.encode_s, pace.propagate_s) > 0
    (one,) = planned(
        [row],
        chosen=Chosen(modalities=("CT",)),
        config=config,
        product=product,
        rules=rules,
        segmenter=segmenter,
        state=lambda _key, _digest: "stale",
        view_id="v",
        clock=lambda _hiding, _segmenter: Pace(100.0, 1.0),
    )
    reach = hiding.reach(grid_px=segmenter.grid_px)
    visits = [reach.whole, *(reach.visits(patch) for patch in hiding.patches)]
    assert one.seconds == sum(100 * each.encoded + each.propagated for each in visits)
    assert (one.state, one.patches, one.to_do) == ("stale", len(hiding.patches), True)


@pytest.mark.parametrize("length", [20, 55, 56, 60, 64])
def test_the_name_of_an_occlusion_view_fits_whatever_the_name_of_the_view(length):
    facts = EncoderFacts(name="mini", image_size=128, weights_sha256="0" * 64, trained=False, flags={})
    base = views_of(ExtractConfig(model="mini", weights="random:0", layouts=("paper",)), facts)["paper"]
    base = base.model_copy(update={"name": ("abcdefgh-" * 8)[:length].rstrip("-")})
    made = ViewSpec.model_validate(occlusion_view(base, OcclusionRules()).model_dump())
    assert made.name.endswith("-occluded")
    assert len(made.name) <= 64
    assert made.name == f"{base.name}-occluded" or length > 55
    other = base.model_copy(update={"precision": "bfloat16"})
    assert occlusion_view(other, OcclusionRules()).view_id != made.view_id


def test_the_longest_name_that_settings_make_gets_an_occlusion_view():
    facts = EncoderFacts(name="medsam2", image_size=512, weights_sha256="0" * 64, trained=False, flags={})
    config = ExtractConfig(
        mode="sequential_direct", prompt="box", layouts=("pooled",), pet_units="relative", grid="pet",
        perturb={"kind": "random_boxes", "seed": 123456789},
    )  # fmt: skip
    base = views_of(config, facts)["pooled"]
    assert len(base.name) > 55
    assert len(occlusion_view(base, OcclusionRules()).name) <= 64
