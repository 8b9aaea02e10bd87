"""A perturbation that leaves all that an entry reads as it was is refused: by mode, layout, prompt and baseline."""

from dataclasses import replace

import numpy as np
import pytest

from extractor.baseline_layouts import Baseline
from extractor.config import Product, Variant
from extractor.entry_streams import Disturbance
from extractor.perturbation import Perturbation
from extractor.study import PreparedStudy
from extractor.volumes import Grid
from store_schema import EntryKey
from store_schema.errors import StudyError

GRID = Grid((20, 16, 12), (0.0, 0.0, 0.0), (1.5, 2.0, 4.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
KEY = EntryKey("P1", "PET", "roi")


def region() -> np.ndarray:
    """Ten slices; the upper eight have room to be padded, the lower two fill the image."""
    mask = np.zeros((12, 16, 20), np.uint8)
    mask[1:3] = 1
    mask[3:11, 5:10, 6:14] = 1
    return mask


def study(perturb: Perturbation, mask: np.ndarray, **more) -> PreparedStudy:
    image = np.zeros(mask.shape, np.uint8)
    return PreparedStudy({"PET": image}, {"roi": mask}, GRID, {"PET": "LPS"}, {"PET": "0"}, perturb=perturb, **more)


def check(
    prepared: PreparedStudy, mode: str, layout: str, *, prompt: str = "box", kept_every: int = 1, stride: int = 1
):
    Disturbance(prepared, stride, kept_every, 8).check(KEY, Product(Variant(mode, prompt), layout))


PADDED = Perturbation(kind="padding", size=4)


@pytest.mark.parametrize(
    ("mode", "layout"), [("sequential", "paper"), ("upfront", "pooled"), ("upfront", "raw"), ("first", "paper")]
)
def test_boxes_that_an_entry_reads_make_another_entry(mode, layout):
    check(study(PADDED, region()), mode, layout)


def test_upfront_paper_reads_the_last_two_slices_alone():
    with pytest.raises(StudyError, match=r"padding-4mm leaves every slice and prompt .* \(upfront, paper\)"):
        check(study(PADDED, region()), "upfront", "paper")


def test_one_prompt_modes_read_one_box_alone():
    upside_down = np.ascontiguousarray(region()[::-1])
    for mode in ("first", "key_slice"):
        with pytest.raises(StudyError, match=mode):
            check(study(PADDED, upside_down), mode, "pooled")
    check(study(PADDED, upside_down), "sequential", "pooled")


def test_slices_left_out_that_a_layout_does_not_hold_leave_it_as_it_was():
    refused = set()
    for seed in range(20):
        try:
            check(study(Perturbation(kind="drop", size=0.1, seed=seed), region()), "upfront", "paper")
        except StudyError:
            refused.add(seed)
        check(study(Perturbation(kind="drop", size=0.1, seed=seed), region()), "upfront", "pooled")
    assert 0 < len(refused) < 20


def test_a_stride_that_keeps_the_same_slices_is_refused():
    thin = np.zeros_like(region())
    thin[4:6, 5:10, 6:14] = 1
    prepared = study(Perturbation(kind="stride", size=3), thin)
    with pytest.raises(StudyError, match="stride-3"):
        check(prepared, "sequential", "pooled", stride=2, kept_every=3)
    check(study(Perturbation(kind="stride", size=3), region()), "sequential", "pooled", stride=2, kept_every=3)


def test_a_filled_hole_changes_a_mask_prompt_and_no_box():
    hollow = region()
    hollow[:, 7, 9] = 0
    prepared = study(Perturbation(kind="dilate", size=2), region(), undisturbed_zyx={"roi": hollow})
    with pytest.raises(StudyError, match="dilate-2mm"):
        check(prepared, "sequential", "pooled")
    check(prepared, "sequential", "pooled", prompt="mask")


def test_baselines_are_held_against_the_slices_and_boxes_that_they_read():
    disturbance = Disturbance(study(PADDED, region()), 1, 1, None)
    disturbance.check(KEY, Baseline("resnet50-box"))
    with pytest.raises(StudyError, match="baseline resnet50"):
        disturbance.check(KEY, Baseline("resnet50"))


def test_a_region_that_cannot_be_disturbed_tells_its_own_reason():
    gone = replace(
        study(Perturbation(kind="erode", size=9), region()), masks_zyx={}, refused={"roi": StudyError("gone")}
    )
    with pytest.raises(StudyError, match="gone"):
        check(gone, "sequential", "pooled")
