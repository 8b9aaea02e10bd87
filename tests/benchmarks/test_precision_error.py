"""How far bfloat16 (automatic mixed precision) lies from float32 at full size, on a real patient; untrained weights.

ENGRAM_BENCH_DEVICE sets the device. A CPU without bfloat16 instructions is slow here.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the usual name

from extractor.memory import embed_volume
from extractor.prompts import kept_slices, tight_boxes
from extractor.segmenter import load_segmenter
from extractor.streams import Stream

pytestmark = [pytest.mark.bench, pytest.mark.real, pytest.mark.timeout(3600)]
DEVICE = os.environ.get("ENGRAM_BENCH_DEVICE", "cpu")
SLICES = int(os.environ.get("ENGRAM_BENCH_SLICES", "8"))


@pytest.fixture(scope="module")
def case() -> tuple[np.ndarray, np.ndarray]:
    root = os.environ.get("ENGRAM_REAL_DATA")
    if root is None:
        pytest.skip("ENGRAM_REAL_DATA is not set: no real images to measure on")
    folder = Path(root) / "sts" / "STS_001"
    ct = sitk.GetArrayFromImage(sitk.DICOMOrient(sitk.ReadImage(str(folder / "CT.nii.gz"), sitk.sitkFloat32), "LPS"))
    mask = sitk.DICOMOrient(sitk.ReadImage(str(folder / "MASK_CT.nii.gz"), sitk.sitkUInt8), "LPS")
    grey = np.round(np.clip((ct + 500) / 1800, 0, 1) * 255).astype(np.uint8)
    return grey, sitk.GetArrayFromImage(mask)


@pytest.mark.parametrize("mode", ["sequential", "upfront"])
def test_error_of_bfloat16(case, mode):
    image_zyx, mask_zyx = case
    slices = kept_slices(mask_zyx, 2)[:SLICES]
    stream = Stream("tumour", slices, tight_boxes(mask_zyx, slices), mode)
    memories, masks = {}, {}
    for precision in ("float32", "bfloat16"):
        made = []
        embed_volume(
            load_segmenter("medsam2", "random:0", device=DEVICE, precision=precision),
            image_zyx,
            [stream],
            layouts=("paper",),
            observe=lambda name, rank, memory, logits, made=made: made.append(
                (memory.float().cpu().numpy(), (logits > 0).cpu().numpy())
            ),
        )
        memories[precision] = np.stack([memory for memory, _ in made])
        masks[precision] = np.stack([mask for _, mask in made])
    exact, coarse = memories["float32"], memories["bfloat16"]
    error = np.linalg.norm(coarse - exact) / np.linalg.norm(exact)
    both = np.logical_and(masks["float32"], masks["bfloat16"]).sum()
    dice = 2 * both / max(1, masks["float32"].sum() + masks["bfloat16"].sum())
    print(f"\n| {DEVICE} | {mode} | {len(slices)} | {error:.2e} | {dice:.4f} |")
    assert error < 0.2
