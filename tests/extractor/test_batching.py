"""Batches: order, kinds, and what happens where memory does not suffice."""

import pytest
import torch

from extractor.batching import Batcher, BatchSizes, usual_batches
from store_schema.errors import ConfigError


def squares(limit_of_memory: int, seen: list[int]):
    def act(part):
        seen.append(len(part))
        if len(part) > limit_of_memory:
            raise torch.OutOfMemoryError("planted")
        return [one * one for one in part]

    return act


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_batches_give_what_single_items_give_in_order(limit):
    seen: list[int] = []
    assert Batcher(limit).run(range(7), squares(100, seen)) == [one * one for one in range(7)]
    assert max(seen) == min(limit, 7)


def test_out_of_memory_halves_the_batch_and_goes_on_with_the_smaller_one():
    seen: list[int] = []
    batcher = Batcher(16)
    assert batcher.run(range(10), squares(3, seen)) == [one * one for one in range(10)]
    assert seen == [10, 5, 2, 2, 2, 2, 2]
    assert (batcher.limit, batcher.halved) == (2, 2)
    assert batcher.run(range(4), squares(3, seen)) == [0, 1, 4, 9]
    assert seen[-2:] == [2, 2]


def test_an_item_that_does_not_fit_alone_raises():
    with pytest.raises(torch.OutOfMemoryError):
        Batcher(4).run([1, 2], squares(0, []))


def test_items_of_one_kind_share_batches_and_keep_their_places():
    parts = []

    def act(part):
        parts.append(list(part))
        return [f"{one}!" for one in part]

    assert Batcher(2).run_alike("aBcDeF", str.islower, act) == ["a!", "B!", "c!", "D!", "e!", "F!"]
    assert parts == [["a", "c"], ["e"], ["B", "D"], ["F"]]


def test_a_cpu_computes_one_by_one_and_sizes_are_checked():
    assert usual_batches("cpu").alone
    assert not usual_batches("cuda:1").alone
    with pytest.raises(ConfigError, match="0 slices"):
        BatchSizes(slices=0)
