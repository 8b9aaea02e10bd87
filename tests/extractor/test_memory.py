"""Memories of a volume: what they depend on, what they do not, and what is refused."""

from __future__ import annotations

import gc
import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from extractor.batching import BatchSizes
from extractor.layouts import LAYOUTS
from extractor.memory import Memory, Volume, embed_volume, embed_volumes
from extractor.network import Remembered
from extractor.segmenter import Segmenter, load_segmenter
from extractor.streams import MODES, Stream
from store_schema.errors import ConfigError, ImageError, MaskError


@pytest.fixture(scope="module")
def mini() -> Segmenter:
    return load_segmenter("mini", "random:5")


def make_image(depth: int = 14, seed: int = 0) -> np.ndarray:
    """Smooth noise with a bright column, 48 × 60 pixels in plane."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(40, 120, (depth, 12, 15), dtype=np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    noise[:, 16:28, 20:36] += 100
    return noise


def make_stream(roi: str, slices: tuple[int, ...], box: tuple[int, int, int, int] = (20, 16, 35, 27)) -> Stream:
    return Stream(roi, slices, np.tile(box, (len(slices), 1)))


def digest(memory: Memory) -> str:
    parts = [part for name in LAYOUTS for part in (memory.layouts[name].memory, memory.layouts[name].mean_map)]
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def embed(segmenter: Segmenter, image_zyx: np.ndarray, *streams: Stream, mode: str = "sequential", **options):
    return embed_volume(segmenter, image_zyx, [replace(s, mode=mode) for s in streams], layouts=LAYOUTS, **options)


def memories_of(segmenter: Segmenter, image_zyx: np.ndarray, stream: Stream, mode: str) -> list[np.ndarray]:
    made = []
    embed(segmenter, image_zyx, stream, mode=mode, observe=lambda r, f, memory, m: made.append(memory.float().numpy()))
    return made


@pytest.mark.parametrize("mode", MODES)
def test_regions_that_share_a_pass_equal_regions_alone_bit_for_bit(mini, mode):
    image_zyx = make_image()
    streams = [
        make_stream("tumour", (12, 10, 8, 6, 4, 2)),
        make_stream("spine", (11, 10, 7, 6, 5), (5, 3, 50, 40)),
        make_stream("liver", (3,), (0, 0, 59, 47)),
    ]
    together = embed(mini, image_zyx, *streams, mode=mode)
    alone = {stream.name: embed(mini, image_zyx, stream, mode=mode)[stream.name] for stream in streams}
    assert {roi: digest(memory) for roi, memory in together.items()} == {roi: digest(alone[roi]) for roi in alone}


def test_image_features_are_computed_once_for_each_slice_of_the_union(mini):
    encoded = []
    hook = mini.network.image_encoder.register_forward_hook(lambda *_: encoded.append(1))
    progress = []
    embed(
        mini,
        make_image(),
        make_stream("a", (12, 10, 8)),
        make_stream("b", (10, 9, 8)),
        on_slice=lambda done, total: progress.append((done, total)),
    )
    hook.remove()
    assert len(encoded) == 4
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_image_features_are_computed_once_for_all_modes_prompts_and_directions(mini):
    image_zyx, encoded, visits = make_image(), [], []
    mask_zyx = (image_zyx > 120).astype(np.uint8)
    stream = replace(make_stream("a", (12, 10, 8, 6)), key=2, mask_zyx=mask_zyx)
    streams = [replace(stream, name=mode, mode=mode) for mode in MODES]
    hook = mini.network.image_encoder.register_forward_hook(lambda *_: encoded.append(1))
    made = embed_volume(mini, image_zyx, streams, layouts=LAYOUTS, on_slice=lambda *done: visits.append(done))
    hook.remove()
    assert len(encoded) == 4
    assert visits == [(n, 6) for n in range(1, 7)]  # two slices above the key slice are passed again on the way up
    for mode in MODES:
        alone = embed_volume(mini, image_zyx, [replace(stream, mode=mode)], layouts=LAYOUTS)["a"]
        assert digest(made[mode]) == digest(alone), mode


def test_key_slice_alone_visits_each_slice_once(mini):
    visits = []
    stream = replace(make_stream("a", (12, 10, 8, 6)), mode="key_slice", key=2)
    embed_volume(mini, make_image(), [stream], layouts=("paper",), on_slice=lambda *done: visits.append(done))
    assert visits == [(n, 4) for n in range(1, 5)]


def test_mask_prompts_make_the_prompted_modes_one(mini):
    image_zyx = make_image()
    stream = replace(make_stream("a", (12, 9, 6, 3)), prompt="mask", mask_zyx=(image_zyx > 120).astype(np.uint8))
    modes = ("sequential", "sequential_direct", "upfront", "first")
    made = {mode: memories_of(mini, image_zyx, stream, mode) for mode in modes}
    for mode in modes[:3]:
        assert all(np.array_equal(a, b) for a, b in zip(made[mode], made["upfront"], strict=True))
    assert not np.array_equal(made["first"][1], made["upfront"][1])


def test_prompts_that_a_stream_lacks_are_refused(mini):
    stream, image_zyx = make_stream("a", (5, 4)), make_image()
    with pytest.raises(MaskError, match="prompted with points and has none"):
        embed(mini, image_zyx, replace(stream, prompt="points"))
    with pytest.raises(MaskError, match="prompted with its mask and has none"):
        embed(mini, image_zyx, replace(stream, prompt="mask", mask_zyx=np.ones((2, 2, 2), np.uint8)))
    with pytest.raises(MaskError, match="outside the image"):
        embed(mini, image_zyx, replace(stream, prompt="points", points=np.full((2, 3, 2), 60)))
    with pytest.raises(MaskError, match="rank 2"):
        embed(mini, image_zyx, replace(stream, key=2))


def volumes(mode: str) -> list[Volume]:
    """Two modalities of one study, and another study of another size with a slice less."""
    streams = [make_stream("a", (12, 9, 6, 3)), make_stream("b", (10, 9, 8), (2, 2, 40, 40))]
    streams = [replace(stream, mode=mode, key=1) for stream in streams]
    other = replace(make_stream("a", (4, 2, 1), (1, 2, 20, 30)), mode=mode, key=1)
    return [
        Volume(make_image(), streams),
        Volume(make_image(seed=1), streams),
        Volume(make_image(6, seed=2)[:, :40], [other]),
    ]


def attended(segmenter: Segmenter, act) -> tuple[object, list[int]]:
    """What an act gives, and how many streams each call of memory attention had."""
    sizes = []
    hook = segmenter.network.memory_attention.register_forward_pre_hook(
        lambda _module, _arguments, named: sizes.append(named["curr"][0].size(1)), with_kwargs=True
    )
    try:
        return act(), sizes
    finally:
        hook.remove()


@pytest.mark.parametrize("mode", MODES)
def test_volumes_side_by_side_equal_volumes_alone_bit_for_bit_where_nothing_shares_a_batch(mini, mode):
    together = embed_volumes(mini, volumes(mode), layouts=LAYOUTS)
    for volume, made in zip(volumes(mode), together, strict=True):
        alone = embed_volume(mini, volume.image_zyx, volume.streams, layouts=LAYOUTS)
        assert {name: digest(memory) for name, memory in made.items()} == {
            name: digest(memory) for name, memory in alone.items()
        }


@pytest.mark.parametrize("mode", MODES)
def test_volumes_side_by_side_share_batches_and_differ_from_volumes_alone_by_rounding(mini, mode):
    batched = replace(mini, batches=BatchSizes(slices=4, streams=8))
    together, sizes = attended(batched, lambda: embed_volumes(batched, volumes(mode), layouts=LAYOUTS))
    alone, apart = attended(
        mini, lambda: [embed_volume(mini, one.image_zyx, one.streams, layouts=LAYOUTS) for one in volumes(mode)]
    )
    assert sum(sizes) == sum(apart)
    assert mode == "upfront" or (max(sizes) >= 3 and len(sizes) <= len(apart) / 2)
    for ours, theirs in zip(together, alone, strict=True):
        for name, memory in theirs.items():
            for layout in LAYOUTS:
                found, expected = ours[name].layouts[layout].memory, memory.layouts[layout].memory
                np.testing.assert_allclose(found, expected, atol=0.02)


def test_a_volume_that_is_refused_leaves_the_others_alone(mini):
    wrong = Volume(make_image().astype(np.int16), [make_stream("a", (3,))])
    first, second, third = embed_volumes(mini, [volumes("first")[0], wrong, volumes("first")[2]], layouts=LAYOUTS)
    assert isinstance(second, ImageError)
    assert (set(first), set(third)) == ({"a", "b"}, {"a"})


def test_a_batch_that_does_not_fit_into_memory_is_halved(mini):
    tight = replace(mini, batches=BatchSizes(slices=4, streams=4))
    sizes = []

    def refuse(_module, inputs):
        sizes.append(len(inputs[0]))
        if len(inputs[0]) > 2:
            raise torch.OutOfMemoryError("planted")

    hook = mini.network.image_encoder.register_forward_pre_hook(refuse)
    made = embed(tight, make_image(), make_stream("a", (12, 9, 6, 3, 1)))["a"]
    hook.remove()
    assert sizes == [4, 2, 2, 1]
    wanted = embed(mini, make_image(), make_stream("a", (12, 9, 6, 3, 1)))["a"]
    np.testing.assert_allclose(made.layouts["raw"].memory, wanted.layouts["raw"].memory, atol=0.02)


@pytest.mark.parametrize("mode", MODES)
def test_each_slice_has_a_memory_of_its_own(mini, mode):
    made = memories_of(mini, make_image(), make_stream("a", (12, 9, 6, 3)), mode)
    assert len({memory.tobytes() for memory in made}) == 4
    assert all(np.abs(memory).max() < 10 and memory.std() > 0.01 for memory in made)


@pytest.mark.parametrize("mode", MODES)
def test_memory_depends_on_the_image_and_on_the_box(mini, mode):
    slices = (12, 9, 6, 3)
    reference = memories_of(mini, make_image(), make_stream("a", slices), mode)
    other_image = memories_of(mini, make_image(seed=1), make_stream("a", slices), mode)
    other_box = memories_of(mini, make_image(), make_stream("a", slices, (2, 2, 50, 40)), mode)
    assert all(not np.array_equal(a, b) for a, b in zip(reference, other_image, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(reference, other_box, strict=True))


def test_upfront_paper_sees_the_last_two_slices_only_and_pooled_sees_all(mini):
    stream, image_zyx = make_stream("a", (12, 9, 6, 3)), make_image()
    occluded = image_zyx.copy()
    occluded[12, 16:28, 20:36] = 0
    before, after = (embed(mini, image, stream, mode="upfront")["a"].layouts for image in (image_zyx, occluded))
    np.testing.assert_array_equal(before["paper"].memory, after["paper"].memory)
    for layout in ("pooled", "thirds", "raw"):
        assert not np.array_equal(before[layout].memory, after[layout].memory)


def test_sequential_memories_see_what_lies_above_them(mini):
    stream, image_zyx = make_stream("a", (12, 9, 6, 3)), make_image()
    occluded = image_zyx.copy()
    occluded[12] = 0
    before, after = (memories_of(mini, image, stream, "sequential") for image in (image_zyx, occluded))
    assert all(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_slices_between_the_kept_ones_do_not_matter(mini):
    stream, image_zyx = make_stream("a", (12, 9, 6, 3)), make_image()
    between = image_zyx.copy()
    between[[13, 11, 10, 8, 7, 5, 4, 2, 1, 0]] = 255
    assert digest(embed(mini, image_zyx, stream)["a"]) == digest(embed(mini, between, stream)["a"])


@pytest.mark.parametrize("mode", MODES)
def test_one_kept_slice_gives_one_valid_layer_and_a_warning(mini, mode):
    made = embed(mini, make_image(), make_stream("a", (5,)), mode=mode)["a"]
    assert made.single_slice
    assert {name: layout.valid_layers for name, layout in made.layouts.items()} == dict.fromkeys(LAYOUTS, 1)
    assert not embed(mini, make_image(), make_stream("a", (5, 4)), mode=mode)["a"].single_slice


def test_engine_holds_no_more_for_many_slices_than_attention_can_see(mini):
    held, memories = [], []

    def count(*_: object) -> None:
        entries = [entry for entry in gc.get_objects() if type(entry) is Remembered]
        held.append(len(entries))
        memories.append(sum(entry.memory is not None for entry in entries))

    embed(mini, make_image(30), make_stream("a", tuple(range(29, -1, -1))), on_slice=count)
    assert max(held) == held[-1] == 16  # the first slice and 15 pointers
    assert max(memories) == memories[-1] == 7


def test_memories_do_not_depend_on_the_process(mini):
    made = digest(embed(mini, make_image(), make_stream("a", (12, 9, 6)))["a"])
    program = (
        "import importlib.util, torch\n"
        f"spec = importlib.util.spec_from_file_location('cases', {str(Path(__file__))!r})\n"
        "cases = importlib.util.module_from_spec(spec); spec.loader.exec_module(cases)\n"
        "torch.manual_seed(99)\n"
        f"torch.set_num_threads({_threads()})\n"
        "mini = cases.load_segmenter('mini', 'random:5')\n"
        "print(cases.digest(cases.embed(mini, cases.make_image(), cases.make_stream('a', (12, 9, 6)))['a']))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == made


def _threads() -> int:
    return torch.get_num_threads()


def test_stage_times_are_filled_on_request(mini):
    timings_s: dict[str, float] = {}
    embed(mini, make_image(), make_stream("a", (5, 4)), timings_s=timings_s)
    assert set(timings_s) == {"image_encoder", "memory_attention", "mask_decoder", "memory_encoder", "layouts"}
    assert all(seconds > 0 for seconds in timings_s.values())


@pytest.mark.parametrize(
    ("stream", "named"),
    [
        (Stream("a", (), np.zeros((0, 4), int)), "keeps no slice"),
        (make_stream("a", (3, 5)), "superior to inferior"),
        (make_stream("a", (5, 5)), "superior to inferior"),
        (make_stream("a", (14, 5)), "outside the image of 60 × 48 × 14"),
        (make_stream("a", (5, -1)), "outside the image"),
        (make_stream("a", (5,), (0, 0, 60, 10)), "outside the image"),
        (make_stream("a", (5,), (9, 0, 8, 10)), "outside the image"),
        (Stream("a", (5, 4), np.zeros((1, 4), int)), r"boxes of shape \(1, 4\)"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(mini, stream, named):
    with pytest.raises(MaskError, match=named):
        embed(mini, make_image(), stream)


def test_a_region_prompted_twice_an_unknown_mode_and_other_images_are_refused(mini):
    stream = make_stream("a", (5,))
    with pytest.raises(MaskError, match="twice"):
        embed(mini, make_image(), stream, stream)
    with pytest.raises(ConfigError, match="sequential, upfront, first"):
        embed(mini, make_image(), stream, mode="backwards")
    with pytest.raises(ConfigError, match="'papers' is unknown"):
        embed_volume(mini, make_image(), [stream], layouts=("papers",))
    with pytest.raises(ImageError, match="float32"):
        embed(mini, make_image().astype(np.float32), stream)


def held_bytes(network: torch.nn.Module) -> int:
    """Bytes of all tensors alive but the network's own."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *network.buffers())}
    held = {}
    for one in gc.get_objects():
        if issubclass(type(one), torch.Tensor):  # isinstance() would wake proxies that warn
            storage = one.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
    return sum(size for place, size in held.items() if place not in own)


def peak_bytes(segmenter: Segmenter, depth: int, mode: str, every: int) -> int:
    """Most that the engine held after any slice of a stream of this depth, regions of two streams sharing the pass."""
    peak = 0

    def look(done: int, _total: int) -> None:
        nonlocal peak
        if done % every == 0:
            peak = max(peak, held_bytes(segmenter.network))

    slices = tuple(range(depth - 1, -1, -1))
    streams = [replace(make_stream(name, slices), mode=mode, key=depth // 2) for name in "ab"]
    embed_volume(segmenter, make_image(depth), streams, layouts=("pooled",), on_slice=look)
    return peak


@pytest.mark.parametrize("mode", MODES)
def test_engine_memory_does_not_grow_with_the_slices(mini, mode):
    few, many = (peak_bytes(mini, depth, mode, every=10) for depth in (40, 80))
    assert many <= 1.05 * few


@pytest.mark.bench
@pytest.mark.parametrize("mode", MODES)
def test_engine_memory_for_a_hundred_and_a_thousand_slices(mini, mode):
    few, many = (peak_bytes(mini, depth, mode, every=10) for depth in (100, 1000))
    print(f"\n| {mode} | {few / 2**20:.2f} | {many / 2**20:.2f} |")
    assert many <= 1.05 * few
