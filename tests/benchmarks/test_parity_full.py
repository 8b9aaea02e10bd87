"""The engine against the stock predictor at full size: three real patients, PET and CT, every mode, 12 kept slices.

Prints one table row for each; run it with `make bench`, or
`ENGRAM_REAL_DATA=… pytest tests/benchmarks/test_parity_full.py -s -m bench`.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the usual name
import torch

from extractor.memory import embed_volume
from extractor.prompts import seeded_points
from extractor.segmenter import load_segmenter, save_checkpoint
from extractor.streams import MODES, Stream

pytestmark = [pytest.mark.bench, pytest.mark.real, pytest.mark.timeout(3600)]

KEPT_SLICES = 12
PATIENTS = ("STS_001", "STS_004", "STS_005")  # the first that keep twelve slices or more
HEADER = "| patient | modality | mode | prompt | relative error | equal | within one step | masks equal | engine s | stock s |"


def load_stock():
    path = Path(__file__).parents[1] / "extractor" / "stock_predictor.py"
    spec = importlib.util.spec_from_file_location("stock_predictor", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


stock = load_stock()


@pytest.fixture(scope="module")
def sts() -> Path:
    root = os.environ.get("ENGRAM_REAL_DATA")
    if root is None:
        pytest.skip("ENGRAM_REAL_DATA is not set: no real images to compare on")
    return Path(root) / "sts"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Our engine and the stock predictor on one saved random checkpoint of the full architecture."""
    checkpoint = tmp_path_factory.mktemp("weights") / "medsam2-random.pt"
    save_checkpoint(load_segmenter("medsam2", "random:0"), checkpoint)
    return load_segmenter("medsam2", str(checkpoint)), stock.build_predictor(stock.MEDSAM2_CHANGES, checkpoint)


@pytest.fixture(scope="module")
def table():
    print(f"\n{torch.get_num_threads()} thread(s), torch {torch.__version__}\n{HEADER}\n{'|---' * 10}|")


def read_case(folder: Path, modality: str) -> tuple[np.ndarray, Stream]:
    """Window, kept slices and boxes by protocol.md sections 1 and 2, written here without the engine's own steps."""
    ct = sitk.DICOMOrient(sitk.ReadImage(str(folder / "CT.nii.gz"), sitk.sitkFloat32), "LPS")
    mask = sitk.DICOMOrient(sitk.ReadImage(str(folder / "MASK_CT.nii.gz"), sitk.sitkUInt8), "LPS")
    pet = sitk.Resample(
        sitk.ReadImage(str(folder / "PET.nii.gz"), sitk.sitkFloat32), ct, sitk.Transform(), sitk.sitkLinear, 0.0
    )
    image, (low, high) = {"CT": (ct, (-500, 1300)), "PET": (pet, (0, 10))}[modality]
    grey = np.clip((sitk.GetArrayFromImage(image) - low) / (high - low), 0, 1) * 255
    mask_zyx = sitk.GetArrayFromImage(mask) > 0
    slices = np.flatnonzero(mask_zyx.any(axis=(1, 2)))[::-1][::2][:KEPT_SLICES]
    assert len(slices) == KEPT_SLICES
    boxes = []
    for z in slices:
        rows, columns = np.nonzero(mask_zyx[z])
        boxes.append([columns.min(), rows.min(), columns.max(), rows.max()])
    kept = tuple(int(z) for z in slices)
    key = int(np.argmax([mask_zyx[z].sum() for z in kept]))
    points = seeded_points(mask_zyx.astype(np.uint8), kept, entry=f"{folder.name}/{modality}/tumour")
    stream = Stream("tumour", kept, np.array(boxes), points=points, mask_zyx=mask_zyx.astype(np.uint8), key=key)
    return np.round(grey).astype(np.uint8), stream


def prompts_of(stream: Stream):
    masks = [stream.mask_zyx[z].astype(bool) for z in stream.slices]
    return stream.prompt, {"box": stream.boxes, "points": stream.points, "mask": masks}[stream.prompt]


@pytest.mark.parametrize(
    ("mode", "prompt"), [*((mode, "box") for mode in MODES), ("sequential", "points"), ("sequential", "mask")]
)
@pytest.mark.parametrize("modality", ["PET", "CT"])
@pytest.mark.parametrize("patient", PATIENTS)
def test_full_engine_agrees_with_the_stock_predictor_on_real_patients(
    pair, sts, table, patient, modality, mode, prompt
):
    segmenter, predictor = pair
    image_zyx, plain = read_case(sts / patient, modality)
    stream = replace(plain, mode=mode, prompt=prompt)
    made = {}
    started = time.perf_counter()
    embed_volume(
        segmenter,
        image_zyx,
        [stream],
        layouts=("paper", "raw", "pooled", "thirds"),
        observe=lambda name, rank, memory, logits: made.update({rank: stock.StockFrame(memory, logits)}),
    )
    between = time.perf_counter()
    theirs = stock.run_stock(predictor, image_zyx, stream.slices, prompts_of(stream), mode, key=stream.key)
    engine_s, stock_s = between - started, time.perf_counter() - between
    found = stock.compare([made[rank] for rank in range(len(made))], theirs)
    print(
        f"| {patient} | {modality} | {mode} | {prompt} | {found.relative_error:.1e} | {found.share_equal:.6f} "
        f"| {found.share_within_one_step:.6f} | {'yes' if found.masks_equal else 'NO'} "
        f"| {engine_s:.1f} | {stock_s:.1f} |"
    )
    assert found.holds, found
