"""Occluded embeddings made in parts: the numbers of a whole pass over the occluded image, and nothing done twice."""

from dataclasses import replace

import numpy as np
import pytest

from extractor.batching import BatchSizes
from extractor.layouts import LAYOUTS
from extractor.memory import embed_volume
from extractor.occlusion import Occluder
from extractor.occlusion_reach import Patch, Visits
from extractor.prompts import seeded_points
from extractor.segmenter import Segmenter, load_segmenter
from extractor.streams import MODES, Stream
from store_schema.errors import ImageError, MaskError

SLICES, KEY, FILL = (13, 11, 9, 7, 5, 3, 1), 2, 90
PATCHES = {
    "key slice and its neighbour": Patch((8, 10, 12), (12, 30, 40)),
    "uppermost": Patch((13, 4, 4), (14, 40, 50)),
    "lowest": Patch((0, 4, 4), (3, 40, 50)),
    "middle": Patch((4, 16, 20), (6, 28, 36)),
    "between kept slices": Patch((4, 16, 20), (5, 28, 36)),
    "all of them": Patch((0, 10, 10), (14, 30, 30)),
}


@pytest.fixture(scope="module")
def mini() -> Segmenter:
    return load_segmenter("mini", "random:5")


def volume(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = rng.integers(40, 120, (14, 12, 15), dtype=np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    noise[:, 16:28, 20:36] += 100
    return noise


def stream(mode: str, prompt: str = "box") -> Stream:
    mask_zyx = np.zeros((14, 48, 60), np.uint8)
    mask_zyx[:, 14:30, 18:38] = 1
    boxes = np.tile((18, 14, 37, 29), (len(SLICES), 1))
    points = seeded_points(mask_zyx, SLICES, entry="P1/CT/a")
    return Stream("a", SLICES, boxes, mode, prompt, points, mask_zyx, KEY)


def hidden(image_zyx: np.ndarray, patch: Patch) -> np.ndarray:
    """The occluded image, by plain indexing."""
    occluded = image_zyx.copy()
    occluded[tuple(slice(*ends) for ends in zip(patch.start_zyx, patch.stop_zyx, strict=True))] = FILL
    return occluded


def whole(segmenter: Segmenter, patch: Patch, one: Stream):
    """All of it again."""
    return embed_volume(segmenter, hidden(volume(), patch), [one], layouts=LAYOUTS)["a"]


class Counted:
    """How many slices were encoded and remembered, and how often memory attention was asked."""

    def __init__(self, segmenter):
        self.encoded = self.attended = self.remembered = 0
        network = segmenter.network
        self._hooks = [
            network.image_encoder.register_forward_pre_hook(lambda _module, given: self._encode(len(given[0]))),
            network.memory_attention.register_forward_pre_hook(lambda *_: self._attend(), with_kwargs=True),
            network.memory_encoder.register_forward_pre_hook(lambda *_: self._remember(), with_kwargs=True),
        ]

    def _encode(self, slices):
        self.encoded += slices

    def _attend(self):
        self.attended += 1

    def _remember(self):
        self.remembered += 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for hook in self._hooks:
            hook.remove()


@pytest.mark.parametrize("prompt", ["box", "points", "mask"])
@pytest.mark.parametrize("mode", MODES)
def test_each_patch_gives_the_numbers_of_a_whole_pass_over_the_occluded_image(mini, mode, prompt):
    one = stream(mode, prompt)
    made = {}
    with Occluder(mini, volume(), one, layouts=LAYOUTS, fill=FILL) as occluder:
        for name, patch in PATCHES.items():
            with Counted(mini) as counted:
                (made[name],) = occluder.embed([patch])
            assert occluder.reach.visits(patch) == Visits(counted.encoded, counted.remembered), name
        baseline = occluder.baseline
        assert min(occluder.pace.encode_s, occluder.pace.propagate_s) > 0
    assert made.pop("between kept slices") is None
    for name, memory in made.items():
        expected = whole(mini, PATCHES[name], one)
        for layout in LAYOUTS:
            np.testing.assert_array_equal(memory.layouts[layout].memory, expected.layouts[layout].memory, err_msg=name)
            np.testing.assert_array_equal(memory.layouts[layout].mean_map, expected.layouts[layout].mean_map)
            assert memory.layouts[layout].valid == expected.layouts[layout].valid
        assert not np.array_equal(memory.layouts["pooled"].memory, baseline.layouts["pooled"].memory), name


@pytest.mark.parametrize("mode", MODES)
def test_the_baseline_is_the_pass_over_the_whole_image(mini, mode):
    expected = embed_volume(mini, volume(), [stream(mode)], layouts=LAYOUTS)["a"]
    with Occluder(mini, volume(), stream(mode), layouts=LAYOUTS, fill=FILL) as occluder:
        for layout in LAYOUTS:
            np.testing.assert_array_equal(occluder.baseline.layouts[layout].memory, expected.layouts[layout].memory)


@pytest.mark.parametrize(
    ("mode", "patch", "encoded", "attended"),
    [
        ("upfront", "middle", 1, 0),
        ("sequential", "middle", 1, 3),
        ("sequential", "uppermost", 1, 6),
        ("sequential", "lowest", 1, 1),
        ("first", "middle", 1, 3),
        ("key_slice", "middle", 1, 3),
        ("key_slice", "uppermost", 1, 1),
        ("key_slice", "key slice and its neighbour", 2, 6),
        ("sequential", "between kept slices", 0, 0),
        ("sequential", "all of them", 7, 6),
    ],
)
def test_only_what_a_patch_can_change_is_done_again(mini, mode, patch, encoded, attended):
    with Occluder(mini, volume(), stream(mode), layouts=("pooled",), fill=FILL) as occluder, Counted(mini) as counted:
        list(occluder.embed([PATCHES[patch]]))
    assert (counted.encoded, counted.attended) == (encoded, attended)


@pytest.mark.parametrize(
    ("mode", "layout", "seen"),
    [
        ("upfront", "paper", {5, 6}),
        ("upfront", "pooled", set(range(7))),
        ("upfront", "thirds", set(range(7))),
        ("sequential", "paper", set(range(7))),
        ("first", "paper", set(range(7))),
        ("key_slice", "paper", set(range(7))),
    ],
)
def test_what_a_layout_cannot_see_is_told_and_changes_nothing(mini, mode, layout, seen):
    one = stream(mode)
    with Occluder(mini, volume(), one, layouts=(layout,), fill=FILL) as occluder:
        assert occluder.reach.seen == seen
        baseline = occluder.baseline.layouts[layout].memory
        patches = [Patch((z, 10, 10), (z + 1, 30, 40)) for z in SLICES]
        made = list(occluder.embed(patches))
    for rank, (patch, memory) in enumerate(zip(patches, made, strict=True)):
        assert (memory is not None) == (rank in seen)
        again = whole(mini, patch, one).layouts[layout].memory
        assert np.array_equal(again, baseline) == (rank not in seen)


def test_with_masks_upfront_and_sequential_are_done_slice_by_slice(mini):
    with Occluder(mini, volume(), stream("sequential", "mask"), layouts=("paper",), fill=FILL) as occluder:
        assert occluder.reach.seen == {5, 6}


@pytest.mark.parametrize("mode", MODES)
def test_patches_that_share_batches_differ_from_those_alone_by_rounding(mini, mode):
    batched = replace(mini, batches=BatchSizes(slices=4, streams=3))
    patches = list(PATCHES.values())
    made = []
    for segmenter in (mini, batched):
        with Occluder(segmenter, volume(), stream(mode), layouts=("raw",), fill=FILL) as occluder:
            made.append(list(occluder.embed(patches)))
    for alone, together in zip(*made, strict=True):
        assert (alone is None) == (together is None)
        if alone is not None:
            np.testing.assert_allclose(together.layouts["raw"].memory, alone.layouts["raw"].memory, atol=0.02)


def test_features_that_do_not_fit_in_memory_lie_on_disk_and_are_the_same(mini, monkeypatch):
    patches = [PATCHES["middle"], PATCHES["uppermost"]]
    made = []
    for room in (2**30, 0):
        monkeypatch.setattr("extractor.occlusion.SHELF_BYTES", room)
        with Occluder(mini, volume(), stream("sequential"), layouts=("paper",), fill=FILL) as occluder:
            made.append(list(occluder.embed(patches)))
    for held, shelved in zip(*made, strict=True):
        np.testing.assert_array_equal(held.layouts["paper"].memory, shelved.layouts["paper"].memory)


def test_what_no_pass_could_take_is_refused(mini):
    with pytest.raises(ImageError, match="grey value of 0 to 255, got 300"):
        Occluder(mini, volume(), stream("first"), layouts=("paper",), fill=300)
    with pytest.raises(MaskError, match="outside the image"):
        Occluder(mini, volume()[:5], stream("first"), layouts=("paper",), fill=0)
