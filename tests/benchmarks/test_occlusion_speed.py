"""Occluded embeddings made in parts beside whole passes over the occluded image: a real patient, a tenth of the slices hidden.

Nothing is asserted of a time. ENGRAM_BENCH_SLICES and ENGRAM_BENCH_MODEL set the size, ENGRAM_BENCH_DEVICE the device.
"""

import os
import statistics
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the usual name
import torch

from extractor.memory import embed_volume
from extractor.occlusion import Occluder
from extractor.occlusion_reach import Patch
from extractor.prompts import kept_slices, tight_boxes
from extractor.segmenter import load_segmenter
from extractor.streams import Stream

pytestmark = [pytest.mark.bench, pytest.mark.real, pytest.mark.timeout(7200)]
SLICES = int(os.environ.get("ENGRAM_BENCH_SLICES", "20"))
MODEL = os.environ.get("ENGRAM_BENCH_MODEL", "medsam2")
DEVICE = os.environ.get("ENGRAM_BENCH_DEVICE", "cpu")
PLACES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Where along the slices a patch lies, from the uppermost."""


def patient():
    """Grey CT and mask of a patient, as many of its slices as are asked for."""
    root = os.environ.get("ENGRAM_REAL_DATA")
    if root is None:
        pytest.skip("ENGRAM_REAL_DATA is not set: no real images to measure on")
    folder = Path(root) / "sts" / "STS_001"
    ct, mask = (
        sitk.GetArrayFromImage(sitk.DICOMOrient(sitk.ReadImage(str(folder / name)), "LPS"))
        for name in ("CT.nii.gz", "MASK_CT.nii.gz")
    )
    grey = np.round(np.clip((ct.astype(np.float32) + 500) / 1800, 0, 1) * 255).astype(np.uint8)
    return grey, (mask != 0).astype(np.uint8)


@pytest.mark.parametrize("mode", ["upfront", "sequential"])
def test_occluded_embeddings_in_parts_beside_whole_passes(mode):
    if not DEVICE.startswith("cuda"):
        torch.set_num_threads(1)
    image, mask = patient()
    slices = kept_slices(mask, 1)[:SLICES]
    boxes = tight_boxes(mask, slices)
    stream = Stream("tumour", slices, boxes, mode)
    segmenter = load_segmenter(MODEL, "random:0", device=DEVICE)
    thick = max(1, round(len(slices) / 10))
    layouts, whole, parts = ("pooled",), [], []
    started = time.perf_counter()
    with Occluder(segmenter, image, stream, layouts=layouts, fill=int(image.mean())) as occluder:
        once = time.perf_counter() - started
        for place in PLACES:
            first = min(round(place * len(slices)), len(slices) - thick)
            x0, y0, x1, y1 = (int(value) for value in boxes[first])
            patch = Patch((slices[first + thick - 1], y0, x0), (slices[first] + 1, (y0 + y1) // 2 + 1, x1 + 1))
            started = time.perf_counter()
            (made,) = occluder.embed([patch])
            parts.append(time.perf_counter() - started)
            hidden = image.copy()
            for z in range(patch.start_zyx[0], patch.stop_zyx[0]):
                hidden[z] = patch.hide(image[z], int(image.mean()))
            started = time.perf_counter()
            expected = embed_volume(segmenter, hidden, [stream], layouts=layouts)["tumour"]
            whole.append(time.perf_counter() - started)
            np.testing.assert_array_equal(made.layouts["pooled"].memory, expected.layouts["pooled"].memory)
    ratios = [full / part for full, part in zip(whole, parts, strict=True)]
    print(
        f"\n{mode}, {MODEL}, {DEVICE}, {len(slices)} slices, patches over {thick}: whole pass {statistics.median(whole):.1f} s, "
        f"in parts {statistics.mean(parts):.2f} s a patch; over all places {sum(whole) / sum(parts):.1f} x, by place from the top "
        f"{', '.join(f'{ratio:.1f}' for ratio in ratios)} x; once {once:.1f} s"
    )
