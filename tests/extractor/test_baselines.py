"""Baseline encoders against torchvision, timm and sam2 themselves, loaded from files in the published layout."""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from PIL import Image

from extractor.baseline_layouts import Baseline, HieraBuilder, last_maps, mean_vector, pooled
from extractor.baseline_pass import HieraPass, Region, slice_vectors
from extractor.baseline_weights import PUBLISHED, fetch_published
from extractor.baselines import SliceEncoder, cut, load_encoder, network_input
from extractor.batching import BatchSizes
from extractor.config import EncoderFacts, ExtractConfig, views_of
from extractor.memory import FeatureTap, embed_volume
from extractor.segmenter import load_segmenter
from extractor.streams import Stream
from extractor.weights import seeded
from store_schema.errors import ConfigError, WeightsError

RNG = np.random.default_rng(5)
SLICE = RNG.integers(0, 256, (90, 130), dtype=np.uint8)
VIT = "vit_base_patch16_224.augreg_in21k_ft_in1k"


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory) -> Path:
    """torchvision's own state dict, as published: bare, classifier included, with running statistics that are not 0 and 1."""
    path = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    with seeded(1):
        network = torchvision.models.resnet50(weights=None)
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def vit_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    with seeded(2):
        network = timm.create_model(VIT, pretrained=False)
    safetensors.torch.save_file(network.state_dict(), path)
    return path


def resized(image: np.ndarray) -> np.ndarray:
    return np.array(Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC))


def test_resnet50_is_torchvisions_with_identity_for_its_classifier(resnet_file):
    encoder = load_encoder("resnet50", str(resnet_file))
    reference = torchvision.models.resnet50(weights=None)
    reference.load_state_dict(torch.load(resnet_file, weights_only=True))
    reference.fc = torch.nn.Identity()
    reference.eval()
    official = torchvision.models.ResNet50_Weights.IMAGENET1K_V2.transforms()
    pixels = torch.from_numpy(resized(SLICE)).float().div(255).expand(3, -1, -1)
    inputs = torchvision.transforms.functional.normalize(pixels, official.mean, official.std)
    with torch.inference_mode():
        expected = reference(inputs[None])[0].numpy()
    (vector,) = encoder.vectors([SLICE])
    assert vector.shape == (2048,)
    assert encoder.trained
    np.testing.assert_allclose(vector, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_vit_gives_timms_class_token_with_the_statistics_it_was_trained_with(vit_file):
    encoder = load_encoder("vit", str(vit_file))
    reference = timm.create_model(VIT, pretrained=False)
    reference.load_state_dict(safetensors.torch.load_file(vit_file))
    reference.eval()
    config = timm.get_pretrained_cfg(VIT)
    pixels = torch.from_numpy(resized(SLICE)).float().div(255).expand(3, -1, -1)
    inputs = torchvision.transforms.functional.normalize(pixels, config.mean, config.std)[None]
    with torch.inference_mode():
        tokens = reference.forward_features(inputs)
        expected, head = tokens[0, 0].numpy(), reference.forward_head(tokens, pre_logits=True)[0].numpy()
    (vector,) = encoder.vectors([SLICE])
    assert vector.shape == (768,)
    np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(vector, head, rtol=1e-4, atol=1e-5)


def test_what_an_encoder_looks_at_are_the_pixels_of_the_slice_or_of_its_box():
    box = np.array([3, 5, 40, 60])
    np.testing.assert_array_equal(cut(SLICE, box), SLICE[5:61, 3:41])
    mean, std = (0.1, 0.2, 0.3), (1.0, 2.0, 4.0)
    got = network_input(cut(SLICE, box), mean, std).numpy()
    grey = resized(SLICE[5:61, 3:41]).astype(np.float64) / 255
    for channel in range(3):
        np.testing.assert_allclose(got[channel], (grey - mean[channel]) / std[channel], atol=1e-6)


def test_random_weights_are_seeded_marked_and_checked():
    first, again, other = (load_encoder("resnet50", f"random:{seed}") for seed in (0, 0, 1))
    assert first.weights_sha256 == again.weights_sha256 != other.weights_sha256
    assert not first.trained
    with pytest.raises(WeightsError, match="expected"):
        load_encoder("resnet50", "random:1", expected_sha256=first.weights_sha256)


def test_a_file_is_held_against_its_digest(resnet_file):
    encoder = load_encoder("resnet50", str(resnet_file))
    assert load_encoder("resnet50", str(resnet_file), expected_sha256=encoder.weights_sha256).trained
    with pytest.raises(WeightsError, match="has sha256"):
        load_encoder("resnet50", str(resnet_file), expected_sha256="0" * 64)


def test_counters_that_no_number_depends_on_may_be_absent(resnet_file, tmp_path):
    tensors = torch.load(resnet_file, weights_only=True)
    bare = {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
    torch.save({"state_dict": bare}, tmp_path / "old.pth")
    old = load_encoder("resnet50", str(tmp_path / "old.pth"))
    np.testing.assert_array_equal(
        old.vectors([SLICE])[0], load_encoder("resnet50", str(resnet_file)).vectors([SLICE])[0]
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no weights", "cannot be loaded as tensors alone"),
        ({"conv1.weight": torch.zeros(1)}, "missing: .*of another shape: conv1.weight"),
        ({"conv1.weight": "text"}, "hold conv1.weight: expected tensors"),
        ([torch.zeros(1)], "hold a list"),
        (pytest.raises, "cannot be loaded as tensors alone"),
    ],
    ids=["bytes", "shape", "text", "list", "code"],
)
def test_files_that_are_not_the_weights_are_refused(tmp_path, content, said):
    path = tmp_path / "w.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(WeightsError, match=said):
        load_encoder("resnet50", str(path))


def test_offline_the_error_says_what_to_download_and_where_it_belongs():
    def unreachable(_: object) -> str:
        raise OSError("no route to host")

    for name, published in PUBLISHED.items():
        with pytest.raises(WeightsError) as caught:
            load_encoder(name, None, fetch=lambda one: fetch_published(one, download=unreachable))
        for part in (published.file, published.address, f"baseline_weights: {{{name}: PATH}}", "no route to host"):
            assert part in str(caught.value)


def test_the_published_name_is_fetched_and_a_file_that_is_not_there_names_the_remedy(resnet_file, tmp_path):
    asked = []

    def fetch(published):
        asked.append(published.name)
        return str(resnet_file)

    assert load_encoder("resnet50", None, fetch=fetch).trained
    assert load_encoder("resnet50", "IMAGENET1K_V2", fetch=fetch).trained
    assert asked == ["IMAGENET1K_V2"] * 2
    with pytest.raises(WeightsError, match=r"cannot be read.*download https://download\.pytorch\.org"):
        load_encoder("resnet50", str(tmp_path / "absent.pth"))
    with pytest.raises(ConfigError, match="use one of resnet50, vit"):
        load_encoder("vgg", None)


# Packing


def test_a_vector_is_the_mean_of_the_slices_that_count():
    vectors = [RNG.normal(size=7).astype(np.float32) for _ in range(5)]
    np.testing.assert_allclose(mean_vector(vectors)[0, :, 0, 0], np.mean(vectors, axis=0, dtype=float), rtol=1e-6)
    assert Baseline("resnet50").counted((9, 7, 5, 3)) == (9, 7, 5, 3)
    assert Baseline("resnet50-box-last2").counted((9, 7, 5, 3)) == (5, 3)
    assert Baseline("resnet50-last2").counted((9,)) == (9,)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_last2_maps_are_the_channel_means_on_64_cells_padded_in_front(count):
    maps = {z: RNG.normal(size=(6, 8, 8)).astype(np.float32) for z in range(count)}
    builder = HieraBuilder(Baseline("hiera-last2"), sorted(maps, reverse=True))
    for z in sorted(maps, reverse=True):
        builder.take(z, maps[z])
    layout = last_maps(builder.in_order())
    expected = [np.kron(maps[z].mean(axis=0), np.ones((8, 8))) for z in (1, 0) if z < count]
    assert layout.memory.shape == (2, 1, 64, 64)
    assert layout.valid == (count > 1, True)
    np.testing.assert_allclose(layout.memory[-len(expected) :, 0], expected, atol=1e-6)
    assert not layout.memory[: 2 - len(expected)].any()
    np.testing.assert_allclose(layout.mean_map, np.mean(expected, axis=0), atol=1e-6)


# The segmentation network's image encoder alone


@pytest.fixture(scope="module")
def mini():
    return load_segmenter("mini", "random:0")


VOLUME = RNG.integers(0, 256, (7, 30, 40), dtype=np.uint8)
BOXES = np.array([[2, 3, 20, 25]] * 3)
REGIONS = {"a": Region((6, 4, 2), BOXES), "b": Region((3,), BOXES[:1])}


def reference(mini, z: int) -> np.ndarray:
    """sam2's own image encoder: the last level that its neck gives."""
    with mini.running():
        return mini.network.forward_image(mini.network_input(VOLUME[z]))["backbone_fpn"][-1][0].numpy()


def test_hiera_is_sam2s_image_encoder_alone_with_or_without_memories(mini):
    wanted = [(roi, Baseline(name)) for roi in REGIONS for name in ("hiera", "hiera-last2")]
    alone, shared = (HieraPass(wanted, REGIONS, whole=False) for _ in range(2))
    embed_volume(mini, VOLUME, [], layouts=(), tap=alone.tap)
    streams = [Stream(roi, region.slices, region.boxes) for roi, region in REGIONS.items()]
    seconds: dict[str, float] = {}
    memories = embed_volume(mini, VOLUME, streams, layouts=("paper",), tap=shared.tap, timings_s=seconds)
    without = embed_volume(mini, VOLUME, streams, layouts=("paper",))
    for roi, region in REGIONS.items():
        np.testing.assert_array_equal(memories[roi].layouts["paper"].memory, without[roi].layouts["paper"].memory)
        maps = [reference(mini, z) for z in region.slices]
        vector, last2 = (alone.finish()[roi, name] for name in ("hiera", "hiera-last2"))
        np.testing.assert_allclose(vector.memory[0, :, 0, 0], np.mean([pooled(m) for m in maps], axis=0), atol=1e-6)
        assert vector.mean_map is None
        means = [np.kron(one.mean(axis=0), np.ones((8, 8))) for one in maps[-2:]]
        np.testing.assert_allclose(last2.mean_map, np.mean(means, axis=0), atol=1e-6)
        for name in ("hiera", "hiera-last2"):
            np.testing.assert_array_equal(alone.finish()[roi, name].memory, shared.finish()[roi, name].memory)


def test_a_tap_costs_no_second_pass_of_the_image_encoder(mini):
    encoded, taken = [], []
    hook = mini.network.image_encoder.register_forward_hook(lambda _, images, __: encoded.append(len(images[0])))
    tap = FeatureTap(frozenset({6, 5, 2}), lambda z, features: taken.append((z, features.shape)))
    embed_volume(mini, VOLUME, [Stream("a", (6, 4, 2), BOXES)], layouts=("paper",), tap=tap)
    hook.remove()
    assert encoded == [1] * 4  # slices 6, 5, 4, 2, each once
    assert taken == [(z, (128, 8, 8)) for z in (6, 2, 5)]


def test_a_tap_is_given_each_slice_once_where_a_stream_comes_by_twice(mini):
    taken = []
    tap = FeatureTap(frozenset(range(7)), lambda z, _: taken.append(z))
    stream = Stream("a", (6, 4, 2), BOXES, mode="key_slice", key=1)
    tapped = embed_volume(mini, VOLUME, [stream], layouts=("paper",), tap=tap)["a"].layouts["paper"]
    assert sorted(taken) == list(range(7))
    alone = embed_volume(mini, VOLUME, [stream], layouts=("paper",))["a"].layouts["paper"]
    np.testing.assert_array_equal(tapped.memory, alone.memory)


def test_tapped_slices_share_no_batch_with_those_of_streams():
    sizes = []
    batched = replace(load_segmenter("mini", "random:0"), batches=BatchSizes(slices=2, streams=2))
    hook = batched.network.image_encoder.register_forward_hook(lambda _, images, __: sizes.append(len(images[0])))
    tap = FeatureTap(frozenset(range(7)), lambda *_: None)
    embed_volume(batched, VOLUME, [Stream("a", (6, 4, 2), BOXES)], layouts=("paper",), tap=tap)
    hook.remove()
    assert sizes == [2, 1, 2, 2]  # of the stream 6 and 4, then 2; then what is only tapped


class GreyEncoder(SliceEncoder):
    """Gives the mean grey of what it looks at, and keeps its shapes."""

    looked: ClassVar[list[tuple[int, ...]]] = []

    def vectors(self, slices):
        self.looked.extend(one.shape for one in slices)
        return [np.full(2048, one.mean(), np.float32) for one in slices]


def test_slices_that_regions_share_are_encoded_once_and_boxes_each():
    encoder = GreyEncoder("resnet50", "0" * 64, trained=False, network=torch.nn.Identity())
    regions = {"a": REGIONS["a"], "b": Region((4, 2), np.array([[0, 0, 9, 9], [1, 1, 4, 4]]))}
    wanted = [
        (roi, Baseline(name)) for roi in regions for name in ("resnet50", "resnet50-box", "resnet50-last2", "vit")
    ]
    made = slice_vectors(encoder, VOLUME, wanted, regions)
    assert sorted(encoder.looked) == sorted([(30, 40)] * 3 + [(23, 19)] * 3 + [(10, 10), (4, 4)])
    assert ("a", "vit") not in made
    assert made["a", "resnet50"].memory[0, 0, 0, 0] == pytest.approx(np.mean([VOLUME[z].mean() for z in (6, 4, 2)]))
    assert made["a", "resnet50-last2"].memory[0, 0, 0, 0] == pytest.approx(np.mean([VOLUME[z].mean() for z in (4, 2)]))
    boxes = [VOLUME[4, 0:10, 0:10].mean(), VOLUME[2, 1:5, 1:5].mean()]
    assert made["b", "resnet50-box"].memory[0, 0, 0, 0] == pytest.approx(np.mean(boxes))


# Views and settings

FACTS = EncoderFacts(name="mini", image_size=128, weights_sha256="0" * 64, trained=False, flags={}, features=128)
RESNET = FACTS.model_copy(update={"name": "resnet50", "trained": True, "features": 2048, "flags": {"read": "pool"}})


def test_every_option_of_a_baseline_is_another_view_and_memories_keep_theirs():
    plain = ExtractConfig(pet_units="suv")
    config = plain.model_copy(
        update={
            "baselines": ("resnet50", "resnet50-box", "resnet50-last2", "resnet50-box-last2", "hiera", "hiera-last2")
        }
    )
    views = views_of(config, FACTS, {"resnet50": RESNET})
    assert len({view.digest for view in views.values()}) == 10
    assert {name: views[name] for name in plain.products} == views_of(plain, FACTS)
    assert views["resnet50-box-last2"].view_id.startswith("resnet50-box-last2-")
    assert views["hiera-last2"].view_id.startswith("mini-untrained-hiera-last2-")
    assert views["hiera"].layout.model_dump() == {"name": "vector", "shape": (1, 128, 1, 1), "dtype": "float32"}
    assert views["hiera-last2"].layout.model_dump() == {"name": "last2-map", "shape": (2, 1, 64, 64)}
    other = views_of(config, FACTS, {"resnet50": RESNET.model_copy(update={"weights_sha256": "1" * 64})})
    assert other["resnet50"].digest != views["resnet50"].digest
    assert other["hiera"] == views["hiera"]


def test_a_run_of_slice_encoders_alone_needs_no_segmentation_network():
    config = ExtractConfig(layouts=(), baselines=("resnet50", "vit-box"))
    assert (config.needs_segmenter, config.slice_encoders) == (False, ("resnet50", "vit"))
    assert ExtractConfig(layouts=(), baselines=("hiera",)).needs_segmenter
    assert ExtractConfig(layouts=(), baselines=("hiera",)).slice_encoders == ()
