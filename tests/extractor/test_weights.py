"""Weights load strictly: tensors of another dtype are another network's, even where torch would cast them without a word."""

import pytest
import torch

from extractor.segmenter import load_segmenter, save_checkpoint
from extractor.weights import differences
from store_schema.errors import WeightsError


def test_equal_tensors_have_no_differences():
    tensors = {"a": torch.ones(2), "b": torch.ones(1, dtype=torch.int64)}
    assert differences(tensors, {name: tensor.clone() for name, tensor in tensors.items()}) == []


@pytest.mark.parametrize("dtype", [torch.int32, torch.float16, torch.bfloat16, torch.float64])
def test_tensors_of_another_dtype_are_named(dtype):
    found = {name: torch.ones(2, dtype=dtype) for name in "dcba"} | {"e": torch.ones(2)}
    expected = {name: torch.ones(2) for name in "abcde"}
    names = ", ".join(f"{name} {dtype} for torch.float32" for name in "abc")
    assert differences(found, expected) == [f"4 tensors of another dtype: {names}, …"]


@pytest.mark.parametrize("dtype", [torch.int32, torch.float16])
def test_a_checkpoint_cast_to_another_dtype_is_refused(tmp_path, dtype):
    path = tmp_path / "cast.pt"
    save_checkpoint(load_segmenter("mini", "random:3"), path)
    payload = torch.load(path, weights_only=True)
    payload["model"]["no_obj_ptr"] = payload["model"]["no_obj_ptr"].to(dtype)
    torch.save(payload, path)
    with pytest.raises(WeightsError, match=f"1 tensors of another dtype: no_obj_ptr {dtype} for torch.float32"):
        load_segmenter("mini", str(path))
