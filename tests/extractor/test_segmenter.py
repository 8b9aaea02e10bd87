"""Network, weights and single steps: repeatable, strict, and configured as sam2 ships it but for what is declared."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from hydra import compose
from omegaconf import OmegaConf
from PIL import Image

from extractor.architectures import FLAGS
from extractor.segmenter import Segmenter, load_segmenter, network_config, save_checkpoint
from extractor.weights import PUBLISHED, fetch_published, tensors_sha256
from store_schema.errors import ConfigError, WeightsError


@pytest.fixture(scope="module")
def mini() -> Segmenter:
    return load_segmenter("mini", "random:3")


@pytest.fixture
def checkpoint(mini, tmp_path) -> Path:
    path = tmp_path / "mini.pt"
    save_checkpoint(mini, path)
    return path


def rewrite(path: Path, change) -> Path:
    """The same checkpoint after `change` edited its payload in place."""
    payload = torch.load(path, weights_only=True)
    change(payload)
    torch.save(payload, path)
    return path


def test_random_weights_repeat_bit_for_bit_and_differ_by_seed(mini):
    again, other = load_segmenter("mini", "random:3"), load_segmenter("mini", "random:4")
    assert again.weights_sha256 == mini.weights_sha256 != other.weights_sha256
    for name, tensor in again.network.state_dict().items():
        assert torch.equal(tensor, mini.network.state_dict()[name]), name


def test_random_weights_neither_read_nor_move_the_global_generator(mini):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert load_segmenter("mini", "random:3").weights_sha256 == mini.weights_sha256
    assert torch.equal(torch.get_rng_state(), before)


def test_tensor_digest_follows_its_definition():
    tensors = {"b": torch.tensor([1.5, -2.0]), "a": torch.tensor([[3]], dtype=torch.int64)}
    expected = hashlib.sha256(
        b"a torch.int64 (1, 1)\n" + np.int64(3).tobytes() + b"b torch.float32 (2,)\n" + np.float32([1.5, -2]).tobytes()
    )
    assert tensors_sha256(tensors) == expected.hexdigest()


def test_network_is_frozen_and_in_evaluation_mode(mini):
    assert not mini.network.training
    assert not any(parameter.requires_grad for parameter in mini.network.parameters())


def test_mini_keeps_the_structure_of_the_published_network(mini):
    network = mini.network
    assert (mini.memory_channels, mini.grid_px, mini.image_size) == (64, 8, 128)
    assert (network.num_maskmem, network.max_obj_ptrs_in_encoder) == (7, 16)
    assert network.hidden_dim // network.mem_dim == 2  # a pointer is split into tokens, as in the full network
    for layer in network.memory_attention.layers:
        assert layer.self_attn.freqs_cis.shape[0] == layer.cross_attn_image.freqs_cis.shape[0] == mini.grid_px**2


def test_medsam2_is_sam2s_own_configuration_but_for_three_values_and_the_flags():
    shipped = OmegaConf.to_container(compose("configs/sam2.1/sam2.1_hiera_t.yaml").model)
    attention = shipped["memory_attention"]["layer"]
    assert (shipped["image_size"], attention["self_attention"]["feat_sizes"]) == (1024, [64, 64])
    shipped["image_size"] = 512
    attention["self_attention"]["feat_sizes"] = attention["cross_attention"]["feat_sizes"] = [32, 32]
    shipped["binarize_mask_from_pts_for_mem_enc"] = True
    shipped["sam_mask_decoder_extra_args"] = {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    }
    assert OmegaConf.to_container(network_config("medsam2")) == shipped


def test_medsam2_has_the_published_number_of_parameters():
    segmenter = load_segmenter("medsam2", "random:0")
    assert sum(parameter.numel() for parameter in segmenter.network.parameters()) == 38_962_498
    assert (segmenter.image_size, segmenter.grid_px, segmenter.trained) == (512, 32, False)


def test_flags_of_the_view_are_the_networks_own(mini):
    decoder = mini.network.sam_mask_decoder
    in_effect = {
        "binarize_mask_from_pts_for_mem_enc": mini.network.binarize_mask_from_pts_for_mem_enc,
        "dynamic_multimask_via_stability": decoder.dynamic_multimask_via_stability,
        "dynamic_multimask_stability_delta": decoder.dynamic_multimask_stability_delta,
        "dynamic_multimask_stability_thresh": decoder.dynamic_multimask_stability_thresh,
        "fill_hole_area": 0,
        "add_all_frames_to_correct_as_cond": False,
    }
    assert dict(mini.flags) == dict(FLAGS) == in_effect


def test_saved_random_weights_load_as_they_were_and_stay_marked_untrained(mini, checkpoint):
    loaded = load_segmenter("mini", str(checkpoint))
    assert loaded.weights_sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert tensors_sha256(loaded.network.state_dict()) == mini.weights_sha256
    assert not loaded.trained


def test_checkpoint_without_our_mark_counts_as_trained(checkpoint):
    assert load_segmenter("mini", str(rewrite(checkpoint, lambda payload: payload.pop("trained")))).trained


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda payload: payload["model"].pop("no_mem_embed"), "1 tensors missing: no_mem_embed"),
        (lambda payload: payload["model"].update(extra=torch.ones(1)), "1 tensors unexpected: extra"),
        (
            lambda payload: payload["model"].update(no_obj_ptr=torch.ones(1, 256)),
            r"no_obj_ptr \(1, 256\) for \(1, 128\)",
        ),
        (lambda payload: payload["model"]["no_obj_ptr"].fill_(torch.nan), "not finite: no_obj_ptr"),
        (lambda payload: payload["model"].update(no_obj_ptr=[1.0]), "not tensors: no_obj_ptr"),
        (lambda payload: payload.pop("model"), "keys trained: expected .* under 'model'"),
    ],
)
def test_checkpoint_of_another_network_is_refused_with_what_differs(checkpoint, change, named):
    with pytest.raises(WeightsError, match=named):
        load_segmenter("mini", str(rewrite(checkpoint, change)))


def test_checkpoint_of_the_other_model_is_refused_with_the_first_names_and_the_models(checkpoint):
    with pytest.raises(WeightsError, match=r"not one of medsam2: \d+ tensors missing: .*, …; .*medsam2, mini"):
        load_segmenter("medsam2", str(checkpoint))


class Payload:
    """Pickles as a call that would leave a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_code_in_a_checkpoint_is_refused_and_never_run(tmp_path):
    path, trace = tmp_path / "code.pt", tmp_path / "trace"
    torch.save({"model": Payload(trace)}, path)
    with pytest.raises(WeightsError, match="holds code"):
        load_segmenter("mini", str(path))
    assert not trace.exists()


@pytest.mark.parametrize(
    "data",
    [b"", b"not a checkpoint", pickle.dumps([1, 2], protocol=2), b"PK\x03\x04 cut"],
    ids=["empty", "text", "pickle", "zip"],
)
def test_files_that_are_no_checkpoint_are_refused(tmp_path, data):
    path = tmp_path / "bad.pt"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"bad\.pt"):
        load_segmenter("mini", str(path))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated_checkpoint_is_refused(checkpoint, share):
    data = checkpoint.read_bytes()
    checkpoint.write_bytes(data[: int(share * len(data))])
    with pytest.raises(WeightsError, match="damaged"):
        load_segmenter("mini", str(checkpoint))


def test_absent_checkpoint_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="cannot be read"):
        load_segmenter("mini", str(tmp_path / "absent.pt"))
    with pytest.raises(WeightsError, match="cannot be read"):
        load_segmenter("mini", str(tmp_path))


@pytest.mark.parametrize("weights", ["random", "random:", "random:x", "random:-1", "random:1.5"])
def test_random_weights_need_a_seed(weights):
    with pytest.raises(WeightsError, match="random:SEED"):
        load_segmenter("mini", weights)


def test_weights_of_another_digest_are_refused(mini, checkpoint):
    for weights in ("random:3", str(checkpoint)):
        with pytest.raises(WeightsError, match="expected " + "0" * 64):
            load_segmenter("mini", weights, expected_sha256="0" * 64)
    assert load_segmenter("mini", "random:3", expected_sha256=mini.weights_sha256.upper()).name == "mini"


def test_published_names_are_fetched_and_local_files_are_not(checkpoint, monkeypatch):
    asked = []

    def fetch(name: str) -> str:
        asked.append(name)
        return str(checkpoint)

    for name in PUBLISHED:
        load_segmenter("mini", name, fetch=fetch)
    assert tuple(asked) == PUBLISHED
    checkpoint.rename(checkpoint.with_name(PUBLISHED[0]))
    monkeypatch.chdir(checkpoint.parent)
    load_segmenter("mini", PUBLISHED[0], fetch=fetch)
    assert len(asked) == len(PUBLISHED)


@pytest.mark.parametrize(
    "error", [OfflineModeIsEnabled("offline"), LocalEntryNotFoundError("no cache"), TimeoutError()]
)
def test_published_weights_offline_are_an_error_that_says_what_to_do(error):
    def download(repository: str, name: str) -> str:
        assert (repository, name) == ("wanglab/MedSAM2", PUBLISHED[0])
        raise error

    with pytest.raises(WeightsError, match="Without network, download the file elsewhere"):
        fetch_published(PUBLISHED[0], download=download)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"model": "maxi"}, "medsam2, mini"),
        ({"device": "tpux"}, "cpu, cuda"),
        ({"precision": "float16"}, "float32 or bfloat16"),
    ],
)
def test_unknown_options_are_refused(options, named):
    with pytest.raises(ConfigError, match=named):
        load_segmenter(**{"model": "mini", "weights": "random:0", **options})


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_absent_gpu_is_an_error_not_a_fall_back():
    with pytest.raises(ConfigError, match="no CUDA device"):
        load_segmenter("mini", "random:0", device="cuda")


def test_network_input_is_the_slice_resized_by_pil_and_normalised(mini):
    slice_yx = np.random.default_rng(0).integers(0, 256, (33, 57), dtype=np.uint8)
    made = mini.network_input(slice_yx)
    rgb = np.asarray(Image.fromarray(slice_yx).convert("RGB").resize((128, 128), Image.Resampling.BICUBIC))
    expected = (rgb / 255.0 - np.float32((0.485, 0.456, 0.406))) / np.float32((0.229, 0.224, 0.225))
    assert made.dtype == torch.float32
    np.testing.assert_array_equal(made[0].numpy(), expected.transpose(2, 0, 1).astype(np.float32))


def test_box_corners_scale_by_native_width_and_height(mini):
    made = mini.box_prompt(np.array([10, 20, 30, 40]), shape_yx=(80, 160))
    np.testing.assert_array_equal(made.coordinates.numpy(), [[[8, 32], [24, 64]]])


def test_bfloat16_precision_stays_near_float32(mini):
    slice_yx = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    coarse = load_segmenter("mini", "random:3", precision="bfloat16")
    features = []
    for segmenter in (mini, coarse):
        with segmenter.running():
            features.append(segmenter.network.encode(segmenter.network_input(slice_yx)).levels[-1].float())
    error = torch.linalg.vector_norm(features[1] - features[0]) / torch.linalg.vector_norm(features[0])
    assert 0 < float(error) < 0.05
