"""Perturbations of masks, boxes, slices and images against brute force on small arrays; seeds; what views say of them."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractor.config import EncoderFacts, ExtractConfig, parse_config, views_of
from extractor.perturbation import Perturbation
from extractor.perturbation_kinds import UNITS
from extractor.perturbed_boxes import jittered, left_after_drop, misplaced, padded
from extractor.perturbed_masks import perturbed_image, perturbed_mask
from extractor.prompting import frames_of, told_of
from extractor.prompts import kept_slices, tight_boxes
from extractor.study import PreparedStudy
from extractor.surroundings import Surroundings
from extractor.volumes import Grid
from extractor.work import drawn_for, input_sha256
from store_schema import EntryKey
from store_schema.errors import ConfigError, StudyError

MINI = EncoderFacts(
    name="mini", image_size=128, weights_sha256="0" * 64, trained=False, flags={"fill_hole_area": 0}, features=256
)
RESNET = EncoderFacts(
    name="resnet50", image_size=224, weights_sha256="1" * 64, trained=True, flags={"antialias": True}, features=2048
)
BEFORE = {
    "paper": "mini-untrained-sequential-paper-e511090f9ef3bb9e",
    "pooled": "mini-untrained-sequential-pooled-3b5192df83191137",
    "thirds": "mini-untrained-sequential-thirds-bd2081d8cf430869",
    "raw": "mini-untrained-sequential-raw-e07f46a1dd4600c1",
    "hiera": "mini-untrained-hiera-94b74e196bf6416f",
    "resnet50-box": "resnet50-box-1fff42c01d96d19f",
}
"""Ids as they were before there was any perturbation."""
BEFORE_OTHERS = {
    "upfront-raw": "mini-untrained-upfront-raw-relativepet-petgrid-eaa601f29ae633a9",
    "upfront-points-raw": "mini-untrained-upfront-points-raw-relativepet-petgrid-0b7126267ac13d96",
}
SPACING = (1.5, 2.0, 4.0)
"""x, y, z in mm."""
GRID = Grid((20, 16, 6), (0.0, 0.0, 0.0), SPACING, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
KEY = EntryKey("P1", "PET", "roi")


def block() -> np.ndarray:
    mask = np.zeros((6, 16, 20), np.uint8)
    mask[1:5, 5:10, 6:14] = 1
    mask[2, 4, 7] = 1
    return mask


def study(perturb: Perturbation | None, mask: np.ndarray | None = None, around: Surroundings | None = None):
    mask = block() if mask is None else mask
    image = np.zeros(mask.shape, np.uint8)
    return PreparedStudy(
        {"PET": image}, {"roi": mask}, GRID, {"PET": "LPS"}, {"PET": "0"}, perturb=perturb, surroundings=around
    )


# Views


def test_views_without_a_perturbation_keep_the_ids_that_they_had():
    config = ExtractConfig(pet_units="suv", baselines=("hiera", "resnet50-box"))
    assert {name: view.view_id for name, view in views_of(config, MINI, {"resnet50": RESNET}).items()} == BEFORE
    other = ExtractConfig(
        pet_units="relative",
        grid="pet",
        mode="upfront",
        prompt=("box", "points"),
        layouts=("raw",),
        stride=3,
        precision="bfloat16",
    )
    assert {name: view.view_id for name, view in views_of(other, MINI).items()} == BEFORE_OTHERS


def test_a_perturbation_is_in_name_and_flags_of_memories_and_baselines():
    config = ExtractConfig(baselines=("resnet50-box",), perturb=Perturbation(kind="padding", size=5))
    views = views_of(config, MINI, {"resnet50": RESNET})
    assert views["paper"].name == "mini-untrained-sequential-paper-padding-5mm"
    assert views["paper"].flags == {"fill_hole_area": 0, "perturbation": "padding", "perturbation_size_mm": 5.0}
    assert views["resnet50-box"].name == "resnet50-box-padding-5mm"
    assert views["resnet50-box"].flags["perturbation"] == "padding"
    assert views["paper"].view_id not in BEFORE.values()


@pytest.mark.parametrize(
    ("perturb", "suffix", "flags"),
    [
        (Perturbation(kind="padding", size=-2.5), "-padding-minus2.5mm", {"perturbation_size_mm": -2.5}),
        (
            Perturbation(kind="drop", size=0.25, seed=3),
            "-drop-0.25-seed3",
            {"perturbation_size_share": 0.25, "perturbation_seed": 3},
        ),
        (Perturbation(kind="stride", size=4), "-stride-4", {"perturbation_size_slices": 4.0}),
        (Perturbation(kind="shift_z", size=10), "-shift_z-10mm", {"perturbation_size_mm": 10.0}),
        (Perturbation(kind="elsewhere"), "-elsewhere", {"perturbation_seed": 0}),
        (Perturbation(kind="constant"), "-constant", {}),
    ],
)
def test_name_and_flags_say_kind_size_and_seed(perturb, suffix, flags):
    assert perturb.suffix == suffix
    assert perturb.flags == {"perturbation": perturb.kind, **flags}


def test_each_kind_size_and_seed_is_a_view_of_its_own():
    made = [
        *(Perturbation(kind=kind, size=4 if unit != "share" else 0.5) for kind, unit in UNITS.items()),
        *(Perturbation(kind=kind) for kind in ("random_boxes", "elsewhere", "constant")),
        Perturbation(kind="padding", size=3),
        Perturbation(kind="jitter", size=2, seed=1),
        Perturbation(kind="elsewhere", seed=1),
    ]
    views = {views_of(ExtractConfig(perturb=one), MINI)["paper"].view_id for one in (None, *made)}
    assert len(views) == len(made) + 1


def test_a_stride_is_in_the_prompt_of_the_view():
    view = views_of(ExtractConfig(perturb=Perturbation(kind="stride", size=4)), MINI)["paper"]
    assert view.prompt.stride == 4


def test_a_name_too_long_for_a_view_is_cut():
    config = ExtractConfig(
        mode="sequential_direct",
        pet_units="relative",
        grid="pet",
        layouts=("pooled",),
        perturb=Perturbation(kind="random_boxes", seed=12),
    )
    view = views_of(config, MINI)["pooled"]
    assert len(view.name) <= 64
    assert view.flags["perturbation"] == "random_boxes"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"perturb": {"kind": "padding"}}, "padding needs a size"),
        ({"perturb": {"kind": "constant", "size": 1}}, "constant has no size"),
        ({"perturb": {"kind": "padding", "size": 0}}, "other than zero"),
        ({"perturb": {"kind": "drop", "size": 1}}, "a share between 0 and 1"),
        ({"perturb": {"kind": "stride", "size": 2.5}}, "a whole number of slices"),
        ({"perturb": {"kind": "erode", "size": -1}}, "millimetres above zero"),
        ({"perturb": {"kind": "padding", "size": 1, "seed": 1}}, "draws nothing"),
        ({"perturb": {"kind": "squeeze"}}, "perturb.kind"),
        ({"perturb": {"kind": "padding", "size": 1}, "prompt": ["box", "mask"]}, "prompt: mask has none"),
        ({"perturb": {"kind": "jitter", "size": 1}, "baselines": ["hiera"]}, "baseline hiera has none"),
        ({"perturb": {"kind": "shift_x", "size": 1}, "modalities": ["CT"]}, "moves the PET"),
        ({"perturb": {"kind": "stride", "size": 3}, "stride": 3}, "a stride of 3 is the settings' own"),
    ],
)
def test_what_would_change_nothing_or_cannot_be_is_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        parse_config(settings, origin="test")


def test_the_input_digest_without_a_perturbation_is_what_it_was():
    prepared = study(None)
    facts = {
        "view": "v",
        "modality": "PET",
        "image": "0",
        "grid": GRID.sha256(),
        "region": hashlib.sha256(block().tobytes()).hexdigest(),
        "region_shape_zyx": [6, 16, 20],
    }
    expected = hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    assert input_sha256(prepared, modality="PET", roi="roi", view_id="v") == expected


def test_what_is_drawn_by_name_has_the_name_in_its_digest():
    product = ExtractConfig().products["paper"]
    for kind, size, named in (
        ("padding", 2, False),
        ("jitter", 2, True),
        ("drop", 0.5, True),
        ("constant", None, False),
    ):
        prepared = study(Perturbation(kind=kind, size=size))
        assert (drawn_for(KEY, product, prepared) is not None) == named
    assert drawn_for(KEY, product, study(None)) is None


# Regions


def centres_mm(shape: tuple[int, ...]) -> np.ndarray:
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) * np.array(SPACING[::-1])


def near(of: np.ndarray, radius_mm: float) -> np.ndarray:
    """Voxels within the radius of one of `of`, by every pair."""
    at = centres_mm(of.shape)
    apart = np.linalg.norm(at.reshape(-1, 1, 3) - at[of].reshape(1, -1, 3), axis=2)
    return (apart <= radius_mm + 1e-6).any(axis=1).reshape(of.shape)


@pytest.mark.parametrize("size", [1.5, 2.0, 3.9, 4.0, 4.5])
def test_dilating_and_eroding_are_in_mm_along_all_axes(size):
    mask = block() != 0
    grown = perturbed_mask(block(), Perturbation(kind="dilate", size=size), SPACING, roi="roi")
    np.testing.assert_array_equal(grown != 0, near(mask, size))
    if size < 4.5:
        left = perturbed_mask(block(), Perturbation(kind="erode", size=size), SPACING, roi="roi")
        np.testing.assert_array_equal(left != 0, mask & ~near(~mask, size))
    assert grown.dtype == np.uint8


def test_the_border_of_the_image_erodes_nothing():
    mask = np.zeros((3, 6, 6), np.uint8)
    mask[:, :, :4] = 1
    left = perturbed_mask(mask, Perturbation(kind="erode", size=1.5), SPACING, roi="roi")
    expected = np.zeros_like(mask)
    expected[:, :, :3] = 1
    np.testing.assert_array_equal(left, expected)


def test_a_region_that_is_gone_or_stays_as_it_is_is_refused():
    with pytest.raises(StudyError, match="is gone when eroded by 20 mm"):
        perturbed_mask(block(), Perturbation(kind="erode", size=20), SPACING, roi="roi")
    with pytest.raises(StudyError, match="stays as it is with dilate by 1 mm"):
        perturbed_mask(block(), Perturbation(kind="dilate", size=1), SPACING, roi="roi")


def test_a_constant_image_is_the_mean_of_the_volume():
    image = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    flat = perturbed_image(image, Perturbation(kind="constant"))
    assert flat.dtype == np.uint8
    assert set(flat.ravel().tolist()) == {12}
    assert perturbed_image(image, Perturbation(kind="drop", size=0.5)) is image


# Boxes


def test_padding_is_in_mm_and_ends_at_the_image():
    boxes = np.array([[6, 5, 13, 9], [1, 0, 18, 15]])
    np.testing.assert_array_equal(padded(boxes, 6.0, (1.5, 2.0), (20, 16)), [[2, 2, 17, 12], [0, 0, 19, 15]])
    np.testing.assert_array_equal(padded(boxes, -3.0, (1.5, 2.0), (20, 16)), [[8, 7, 11, 7], [3, 2, 16, 13]])


def test_shrinking_ends_at_the_middle_pixel():
    np.testing.assert_array_equal(padded(np.array([[6, 5, 13, 9]]), -30.0, (1.5, 2.0), (20, 16)), [[9, 7, 9, 7]])


def test_padding_of_less_than_half_a_pixel_is_refused():
    with pytest.raises(StudyError, match=r"padding of 0.7 mm is less than half a pixel of 1.5 x 2 mm"):
        padded(np.array([[6, 5, 13, 9]]), 0.7, (1.5, 2.0), (20, 16))


BOX = st.tuples(st.integers(0, 19), st.integers(0, 15), st.integers(0, 19), st.integers(0, 15)).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)


@given(
    boxes=st.lists(BOX, min_size=1, max_size=4), size=st.floats(-60, 60).filter(lambda v: abs(v) >= 1), seed=st.text()
)
def test_no_box_is_inverted_or_outside_the_image(boxes, size, seed):
    slices = range(len(boxes))
    for made in (
        padded(np.array(boxes), size, (1.5, 2.0), (20, 16)),
        jittered(np.array(boxes), slices, abs(size), (1.5, 2.0), (20, 16), seed=seed),
    ):
        assert (made[:, :2] <= made[:, 2:]).all()
        assert (made >= 0).all()
        assert (made < [20, 16, 20, 16]).all()


def test_jitter_has_the_standard_deviation_asked_for_in_mm_and_no_bias():
    boxes = np.tile([500, 500, 700, 700], (4000, 1))
    moved_mm = (jittered(boxes, range(4000), 12.0, (1.5, 2.0), (1200, 1200), seed="s") - boxes) * [1.5, 2, 1.5, 2]
    np.testing.assert_allclose(moved_mm.std(axis=0), 12.0, rtol=0.04)
    np.testing.assert_allclose(moved_mm.mean(axis=0), 0.0, atol=0.8)
    assert (np.abs(np.corrcoef(moved_mm.T) - np.eye(4)) < 0.06).all()


def test_jitter_is_drawn_by_seed_and_slice():
    boxes, size = np.tile([60, 60, 90, 90], (3, 1)), (8.0, (1.0, 1.0), (200, 200))
    first = jittered(boxes, (9, 7, 5), *size, seed="0 a")
    np.testing.assert_array_equal(first, jittered(boxes, (9, 7, 5), *size, seed="0 a"))
    np.testing.assert_array_equal(first[1:], jittered(boxes[1:], (7, 5), *size, seed="0 a"))
    assert len({row.tobytes() for row in first}) == 3
    for other in ("1 a", "0 b"):
        assert (first != jittered(boxes, (9, 7, 5), *size, seed=other)).any()


@given(count=st.integers(1, 40), share=st.floats(0.01, 0.99), seed=st.text())
def test_dropping_leaves_out_the_share_and_keeps_one(count, share, seed):
    left = left_after_drop(count, share, seed=seed)
    assert left == sorted(set(left))
    assert set(left) <= set(range(count))
    assert len(left) == max(1, count - int(share * count + 0.5))
    assert left == left_after_drop(count, share, seed=seed)


def test_which_slices_are_dropped_depends_on_the_seed_and_each_can_be():
    drawn = [tuple(left_after_drop(6, 0.5, seed=str(seed))) for seed in range(60)]
    assert {rank for left in drawn for rank in left} == set(range(6))
    assert len(set(drawn)) > 10


def least_unwanted(unwanted: np.ndarray, width: int, height: int) -> tuple[int, set[tuple[int, int]]]:
    """The least number of unwanted pixels under a box, and where it is, by every place."""
    counts = {
        (x, y): int(unwanted[y : y + height, x : x + width].sum())
        for y in range(unwanted.shape[0] - height + 1)
        for x in range(unwanted.shape[1] - width + 1)
    }
    least = min(counts.values())
    return least, {place for place, count in counts.items() if count == least}


@pytest.mark.parametrize("density", [0.02, 0.5])
def test_a_misplaced_box_is_drawn_among_the_best_places(density):
    unwanted = np.random.default_rng(1).random((9, 11)) < density
    least, places = least_unwanted(unwanted, 4, 3)
    assert (least == 0) == (density < 0.1)
    drawn = [misplaced((2, 1, 5, 3), unwanted, seed=str(n)) for n in range(400)]
    assert {box[:2] for box, _ in drawn} == places
    for (x0, y0, x1, y1), share in drawn:
        assert (x1 - x0, y1 - y0) == (3, 2)
        assert share == pytest.approx(least / 12)
    assert drawn[7] == misplaced((2, 1, 5, 3), unwanted, seed="7")


def test_a_box_as_large_as_the_image_stays():
    unwanted = np.ones((4, 5), bool)
    assert misplaced((0, 0, 4, 3), unwanted, seed="s") == ((0, 0, 4, 3), 1.0)


# An entry's slices and boxes


def around(*, bones: bool) -> Surroundings:
    body = np.zeros((6, 16, 20), bool)
    body[:, 1:15, 1:19] = True
    bone = np.zeros_like(body)
    bone[:, 11:15] = True
    return Surroundings(body, bone if bones else None)


def small() -> np.ndarray:
    mask = np.zeros((6, 16, 20), np.uint8)
    mask[1:5, 6:9, 8:12] = 1
    return mask


def test_without_a_perturbation_frames_are_kept_slices_and_tight_boxes():
    slices, boxes = frames_of(study(None), KEY, 2)
    assert slices == kept_slices(block(), 2)
    np.testing.assert_array_equal(boxes, tight_boxes(block(), slices))
    assert told_of(study(None), "roi", (slices, boxes)) == {}


@pytest.mark.parametrize("kind", ["random_boxes", "elsewhere"])
def test_misplaced_boxes_lie_within_the_body_on_the_same_slices(kind):
    prepared = study(Perturbation(kind=kind), small(), around(bones=True))
    slices, boxes = frames_of(prepared, KEY, 1)
    assert slices == (4, 3, 2, 1)
    surroundings = prepared.surroundings
    for z, (x0, y0, x1, y1) in zip(slices, boxes, strict=True):
        assert (x1 - x0, y1 - y0) == (3, 2)
        under = np.s_[z, y0 : y1 + 1, x0 : x1 + 1]
        assert surroundings.body_zyx[under].all()
        if kind == "elsewhere":
            assert not small()[under].any()
            assert not surroundings.bones_zyx[under].any()
    told = told_of(prepared, "roi", (slices, boxes))["perturbation"]
    assert told["unwanted_share"] == [0.0] * 4
    assert told["bones_known"] is True


def test_without_a_place_elsewhere_takes_the_least_overlap_and_says_so():
    mask = np.zeros((6, 16, 20), np.uint8)
    mask[2, 1:15, 1:18] = 1
    prepared = study(Perturbation(kind="elsewhere"), mask, around(bones=False))
    slices, boxes = frames_of(prepared, KEY, 1)
    least, places = least_unwanted(~around(bones=False).body_zyx[2] | (mask[2] != 0), 17, 14)
    assert least > 0
    assert tuple(boxes[0][:2]) in places
    told = told_of(prepared, "roi", (slices, boxes))["perturbation"]
    assert told["unwanted_share"] == pytest.approx([least / (17 * 14)], abs=1e-6)
    assert told["bones_known"] is False


@pytest.mark.parametrize("kind", ["jitter", "random_boxes"])
def test_what_is_drawn_differs_between_entries_and_seeds_and_repeats(kind):
    size = 6 if kind == "jitter" else None

    def boxes(key: EntryKey, seed: int) -> bytes:
        prepared = study(Perturbation(kind=kind, size=size, seed=seed), small(), around(bones=False))
        return frames_of(prepared, key, 1)[1].tobytes()

    other = EntryKey("P2", "PET", "roi")
    assert boxes(KEY, 0) == boxes(KEY, 0)
    assert len({boxes(KEY, 0), boxes(KEY, 1), boxes(other, 0), boxes(replace(KEY, modality="CT"), 0)}) == 4


def test_dropped_slices_have_no_box():
    slices, boxes = frames_of(study(Perturbation(kind="drop", size=0.5)), KEY, 1)
    whole, all_boxes = frames_of(study(None), KEY, 1)
    assert len(slices) == 2
    assert list(slices) == sorted(slices, reverse=True)
    by_slice = dict(zip(whole, all_boxes.tolist(), strict=True))
    assert boxes.tolist() == [by_slice[z] for z in slices]


def single() -> np.ndarray:
    mask = np.zeros((6, 16, 20), np.uint8)
    mask[3, 5:10, 6:14] = 1
    return mask


def everywhere() -> np.ndarray:
    return np.ones((6, 16, 20), np.uint8)


@pytest.mark.parametrize(
    ("perturb", "mask"),
    [
        (Perturbation(kind="jitter", size=0.01), block()),
        (Perturbation(kind="drop", size=0.1), block()),
        (Perturbation(kind="drop", size=0.9), single()),
        (Perturbation(kind="padding", size=5), everywhere()),
        (Perturbation(kind="random_boxes"), everywhere()),
    ],
    ids=[
        "jitter of a hundredth of a mm",
        "a tenth of four slices",
        "the only slice",
        "boxes at the border",
        "full boxes",
    ],
)
def test_what_would_leave_every_slice_and_box_as_it_is_is_refused(perturb, mask):
    with pytest.raises(
        StudyError, match=rf"{perturb.suffix[1:]} leaves all slices and boxes of region 'roi' as they are"
    ):
        frames_of(study(perturb, mask, around(bones=False)), KEY, 1)


@pytest.mark.parametrize(("size", "pixels"), [(0.75, 1), (1.5, 1), (2.2, 1), (2.3, 2), (3.0, 2)])
def test_sizes_of_boxes_are_rounded_to_whole_pixels(size, pixels):
    square = (1.5, 1.5)
    made = padded(np.array([[6, 5, 13, 9]]), size, square, (40, 40))
    np.testing.assert_array_equal(made, [[6 - pixels, 5 - pixels, 13 + pixels, 9 + pixels]])
