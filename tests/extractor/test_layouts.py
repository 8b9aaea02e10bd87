"""Layouts against what the whole list of memories says, for streams of every length."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest

from extractor.layouts import (
    LAYOUTS,
    MEMORY_CHANNELS,
    Kept,
    average_channel_pairs,
    layout_builder,
    layout_shape,
    to_paper_plane,
)
from store_schema.errors import ConfigError

COUNTS = [1, 2, 3, 4, 6, 7, 8, 19]
MODES = ["sequential", "upfront"]


def memories_of(count: int, grid_px: int = 8, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return list(rng.normal(size=(count, MEMORY_CHANNELS, grid_px, grid_px)).astype(np.float32))


def pack(layout: str, memories: list[np.ndarray], mode: str = "sequential"):
    builder = layout_builder(layout, Kept(len(memories), mode, memories[0].shape[-1]))
    for rank, memory in enumerate(memories):
        builder.add(memory, rank)
    return builder.finish()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("image_size", [128, 512, 1024, 2048])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_has_the_shape_that_its_view_declares(layout, image_size, mode):
    made = pack(layout, memories_of(3, image_size // 16), mode)
    assert made.memory.shape == layout_shape(layout, image_size)
    assert made.mean_map.shape == made.memory.shape[2:]
    assert len(made.valid) == made.memory.shape[0]
    assert made.memory.dtype == made.mean_map.dtype == np.float32


def test_paper_shape_is_the_published_one_at_512_and_1024_px():
    assert layout_shape("paper", 512) == layout_shape("paper", 1024) == (2, 32, 64, 64)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", COUNTS)
def test_paper_holds_the_last_two_memories_with_neighbouring_channels_averaged(count, mode):
    memories = memories_of(count)
    made = pack("paper", memories, mode)
    assert made.valid == ((False, True) if count == 1 else (True, True))
    for layer, memory in zip((1, 0), reversed(memories[-2:]), strict=False):
        for channel, row, column in [(0, 0, 0), (5, 17, 40), (31, 63, 63)]:
            pair = memory[2 * channel : 2 * channel + 2, row // 8, column // 8]
            assert made.memory[layer, channel, row, column] == pytest.approx(pair.mean(), abs=1e-6)
    if count == 1:
        assert not made.memory[0].any()


@pytest.mark.parametrize("count", COUNTS)
def test_raw_sequential_keeps_the_first_memory_and_the_last_six_others(count):
    memories = memories_of(count)
    made = pack("raw", memories, "sequential")
    others = memories[1:][-6:]
    assert made.valid == (True, *(False,) * (6 - len(others)), *(True,) * len(others))
    np.testing.assert_array_equal(made.memory[0], memories[0])
    for back in range(1, len(others) + 1):
        np.testing.assert_array_equal(made.memory[-back], memories[-back])
    assert not made.memory[~np.array(made.valid)].any()


@pytest.mark.parametrize("count", COUNTS)
def test_raw_upfront_keeps_the_last_seven_memories(count):
    memories = memories_of(count)
    made = pack("raw", memories, "upfront")
    kept = min(count, 7)
    assert made.valid_layers == kept
    np.testing.assert_array_equal(made.memory[7 - kept :], memories[-kept:])
    assert not made.memory[: 7 - kept].any()


@pytest.mark.parametrize("count", COUNTS)
def test_pooled_is_the_mean_over_all_memories(count):
    memories = memories_of(count)
    made = pack("pooled", memories)
    assert made.valid == (True,)
    np.testing.assert_allclose(made.memory[0], np.mean(memories, axis=0, dtype=np.float64), atol=1e-6)


@pytest.mark.parametrize("count", COUNTS)
def test_thirds_are_means_of_slices_grouped_by_three_i_over_n(count):
    memories = memories_of(count)
    made = pack("thirds", memories)
    for part in range(3):
        members = [memory for i, memory in enumerate(memories) if (3 * i) // count == part]
        assert made.valid[part] == bool(members)
        expected = np.mean(members, axis=0, dtype=np.float64) if members else np.zeros(made.memory.shape[1:])
        np.testing.assert_allclose(made.memory[part], expected, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("layout", "count"), list(itertools.product(LAYOUTS, [1, 2, 5])))
def test_mean_map_averages_valid_layers_only(layout, count, mode):
    made = pack(layout, memories_of(count), mode)
    valid = [layer for layer, is_valid in zip(made.memory, made.valid, strict=True) if is_valid]
    np.testing.assert_allclose(made.mean_map, np.mean(valid, axis=(0, 1), dtype=np.float64), atol=1e-7)
    assert made.valid_layers == len(valid)


def test_mean_map_of_paper_is_the_mean_of_the_two_raw_memories_enlarged():
    memories = memories_of(4, grid_px=32)
    expected = np.mean(memories[-2:], axis=(0, 1), dtype=np.float64).repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_allclose(pack("paper", memories).mean_map, expected, atol=1e-6)


def test_paper_plane_enlarges_by_nearest_and_reduces_by_means():
    small = np.arange(2 * 32 * 32, dtype=np.float32).reshape(2, 32, 32)
    assert to_paper_plane(small)[1, 63, 2] == small[1, 31, 1]
    native = np.ones((2, 64, 64), np.float32)
    np.testing.assert_array_equal(to_paper_plane(native), native)
    large = np.arange(2 * 128 * 128, dtype=np.float32).reshape(2, 128, 128)
    assert to_paper_plane(large)[1, 3, 5] == large[1, 6:8, 10:12].mean()


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("place", [0.0, 0.4, 1.0])
def test_key_slice_layouts_hold_both_ends_and_the_key_slice(count, place):
    memories, key = memories_of(count), round(place * (count - 1))
    order = [*range(key, count), *range(key - 1, -1, -1)]

    def packed(layout: str):
        builder = layout_builder(layout, Kept(count, "key_slice", 8, key))
        for rank in order:
            builder.add(memories[rank], rank)
        return builder.finish()

    paper, raw = packed("paper"), packed("raw")
    ends = [memories[0], memories[-1]] if count > 1 else [memories[0]]
    assert paper.valid == (count > 1, True)
    for made, memory in zip(paper.memory[-len(ends) :], ends, strict=True):
        np.testing.assert_array_equal(made, to_paper_plane(average_channel_pairs(memory)))
    np.testing.assert_array_equal(raw.memory[0], memories[key])
    reverse, forward = memories[:key][:3][::-1], memories[key + 1 :][-3:]
    for part, wanted, valid in ((raw.memory[1:4], reverse, raw.valid[1:4]), (raw.memory[4:], forward, raw.valid[4:])):
        assert valid == (False,) * (3 - len(wanted)) + (True,) * len(wanted)
        assert all((made == memory).all() for made, memory in zip(part[3 - len(wanted) :], wanted, strict=True))
    np.testing.assert_allclose(packed("pooled").memory[0], np.mean(memories, axis=0), atol=1e-6)
    for part, made in enumerate(packed("thirds").memory):
        mine = [memory for rank, memory in enumerate(memories) if 3 * rank // count == part]
        np.testing.assert_allclose(made, np.mean(mine, axis=0) if mine else 0, atol=1e-6)


@pytest.mark.parametrize("mode", ["first", "sequential_direct"])
def test_other_modes_keep_the_last_seven_memories_raw(mode):
    memories = memories_of(9)
    np.testing.assert_array_equal(pack("raw", memories, mode).memory, memories[-7:])


def test_channel_pairs_are_neighbours():
    memory = np.arange(64, dtype=np.float32).reshape(64, 1, 1)
    np.testing.assert_array_equal(average_channel_pairs(memory).ravel(), np.arange(32) * 2 + 0.5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_of_a_layout_does_not_grow_with_the_slices(layout):
    def peak_bytes(count: int) -> int:
        builder = layout_builder(layout, Kept(count, "sequential", 32))
        tracemalloc.start()
        for i in range(count):
            builder.add(np.full((64, 32, 32), i, np.float32), i)
        builder.finish()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak_bytes(200) <= 1.05 * peak_bytes(20)


def test_unknown_layouts_and_unfit_grids_are_refused():
    with pytest.raises(ConfigError, match="paper, raw, pooled, thirds"):
        layout_shape("papers", 512)
    with pytest.raises(ConfigError, match="divides 64"):
        layout_shape("paper", 16 * 48)
    assert layout_shape("raw", 16 * 48) == (7, 64, 48, 48)
