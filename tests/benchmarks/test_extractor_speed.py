"""The engine beside the stock predictor driven the usual way: one real patient, PET and CT, two regions; same weights and device.

The second region is the tumour grown by 10 mm in plane, so that both keep the same slices, as regions of one skeleton do. The
ceiling is what the stock predictor's calls cost over what has to be computed, both from the stage times of the engine's own run;
protocol.md section 3 tells the calls. Rounds take turns; medians of them are printed. ENGRAM_BENCH_SLICES and
ENGRAM_BENCH_ROUNDS set the size, ENGRAM_BENCH_DEVICE the device.
"""

import importlib.util
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the usual name
import torch
from scipy import ndimage

from extractor.memory import embed_volume
from extractor.prompts import kept_slices, tight_boxes
from extractor.segmenter import load_segmenter, save_checkpoint
from extractor.streams import Stream

pytestmark = [pytest.mark.bench, pytest.mark.real, pytest.mark.timeout(7200)]
SLICES = int(os.environ.get("ENGRAM_BENCH_SLICES", "8"))
ROUNDS = int(os.environ.get("ENGRAM_BENCH_ROUNDS", "3"))
DEVICE = os.environ.get("ENGRAM_BENCH_DEVICE", "cpu")
GROWN_MM = 10.0
FLOPS = {"image_encoder": 62.8e9, "memory_attention": 48.3e9, "mask_decoder": 1.0e9, "memory_encoder": 2.9e9}
"""Per slice at 512 px, memory attention with seven memories: measured.md section 1."""
STOCK = {
    "sequential": {"image_encoder": 1, "memory_attention": 2, "mask_decoder": 2, "memory_encoder": 2},
    "upfront": {"image_encoder": 2, "memory_attention": 0, "mask_decoder": 1, "memory_encoder": 1},
}
"""Calls of each stage for one slice of one region by the stock predictor."""
OURS = {
    "sequential": {"memory_attention": 1, "mask_decoder": 2, "memory_encoder": 1},
    "upfront": {"memory_attention": 0, "mask_decoder": 1, "memory_encoder": 1},
}
"""The same, of what has to be computed; the image encoder runs once for all regions."""


def load_stock():
    path = Path(__file__).parents[1] / "extractor" / "stock_predictor.py"
    spec = importlib.util.spec_from_file_location("stock_predictor", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


stock = load_stock()


@pytest.fixture(scope="module")
def patient():
    """Grey images by modality, and both regions' masks, on the CT grid."""
    root = os.environ.get("ENGRAM_REAL_DATA")
    if root is None:
        pytest.skip("ENGRAM_REAL_DATA is not set: no real images to measure on")
    folder = Path(root) / "sts" / "STS_001"
    ct = sitk.DICOMOrient(sitk.ReadImage(str(folder / "CT.nii.gz"), sitk.sitkFloat32), "LPS")
    pet = sitk.Resample(
        sitk.ReadImage(str(folder / "PET.nii.gz"), sitk.sitkFloat32), ct, sitk.Transform(), sitk.sitkLinear, 0.0
    )
    mask = sitk.GetArrayFromImage(
        sitk.DICOMOrient(sitk.ReadImage(str(folder / "MASK_CT.nii.gz"), sitk.sitkUInt8), "LPS")
    )
    images = {}
    for name, image, low, high in (("CT", ct, -500, 1300), ("PET", pet, 0, 10)):
        grey = np.clip((sitk.GetArrayFromImage(image) - low) / (high - low), 0, 1) * 255
        images[name] = np.round(grey).astype(np.uint8)
    spacing_yx_mm = ct.GetSpacing()[1::-1]
    grown = np.stack([_grown(slice_yx, spacing_yx_mm) for slice_yx in mask])
    return images, {"tumour": mask, "grown": grown}


def _grown(mask_yx, spacing_yx_mm):
    if not mask_yx.any():
        return mask_yx
    return (ndimage.distance_transform_edt(mask_yx == 0, sampling=spacing_yx_mm) <= GROWN_MM).astype(np.uint8)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    checkpoint = tmp_path_factory.mktemp("weights") / "medsam2-random.pt"
    save_checkpoint(load_segmenter("medsam2", "random:0"), checkpoint)
    predictor = stock.build_predictor(stock.MEDSAM2_CHANGES, checkpoint).to(DEVICE)
    return load_segmenter("medsam2", str(checkpoint), device=DEVICE), predictor


def matmul_flops() -> float:
    """Rate of float32 matrix products on this device: the floor's divisor."""
    side = 4096 if DEVICE.startswith("cuda") else 1536
    a, b = torch.randn(2, side, side, device=DEVICE)
    rates = []
    for _ in range(5):
        _wait()
        begun = time.perf_counter()
        a @ b
        _wait()
        rates.append(2 * side**3 / (time.perf_counter() - begun))
    return max(rates)


def _wait() -> None:
    if DEVICE.startswith("cuda"):
        torch.cuda.synchronize()


@pytest.mark.parametrize("mode", ["upfront", "sequential"])
def test_speed_against_the_stock_predictor_and_the_ceiling(patient, pair, mode):
    images, masks = patient
    segmenter, predictor = pair
    streams = []
    for name, mask_zyx in masks.items():
        slices = kept_slices(mask_zyx, 2)[:SLICES]
        streams.append(Stream(name, slices, tight_boxes(mask_zyx, slices), mode))
    assert streams[0].slices == streams[1].slices
    walls: dict[str, list[float]] = {"stock": [], "engine": []}
    stages: dict[str, float] = {}
    for _ in range(ROUNDS):
        for way, seconds in walls.items():
            begun = time.perf_counter()
            for image_zyx in images.values():
                if way == "engine":
                    embed_volume(segmenter, image_zyx, streams, layouts=("paper",), timings_s=stages)
                else:
                    for stream in streams:
                        stock.run_stock(predictor, image_zyx, stream.slices, ("box", stream.boxes), mode)
            _wait()
            seconds.append(time.perf_counter() - begun)
    slices, visits = len(streams[0].slices) * len(images), len(streams[0].slices) * len(images) * len(streams)
    per_call = {name: stages[name] / ROUNDS / (visits * OURS[mode][name] or 1) for name in OURS[mode]}
    per_call["image_encoder"] = stages["image_encoder"] / ROUNDS / slices
    needed = slices * per_call["image_encoder"] + visits * sum(n * per_call[name] for name, n in OURS[mode].items())
    usual = visits * sum(n * per_call[name] for name, n in STOCK[mode].items())
    ratio = statistics.median(a / b for a, b in zip(walls["stock"], walls["engine"], strict=True))
    flops = slices * FLOPS["image_encoder"] + visits * sum(n * FLOPS[name] for name, n in OURS[mode].items())
    rate = matmul_flops()
    engine_s, stock_s = (statistics.median(walls[way]) for way in ("engine", "stock"))
    print(
        f"\n{mode}, {DEVICE}, torch {torch.__version__}, {torch.get_num_threads()} thread(s), {len(images)} modalities × "
        f"{len(streams)} regions × {len(streams[0].slices)} slices, medians of {ROUNDS}\n"
        f"stock {stock_s:.1f} s, engine {engine_s:.1f} s: {ratio:.2f} ×; ceiling from stage times {usual / needed:.2f} ×, reached "
        f"{ratio * needed / usual:.0%}; per call "
        + ", ".join(f"{name} {one_s * 1e3:.0f} ms" for name, one_s in per_call.items())
        + f"; floor {flops / rate:.1f} s ({flops / 1e12:.2f} TFLOP at {rate / 1e9:.0f} GFLOP/s)"
    )
    assert ratio > 1
