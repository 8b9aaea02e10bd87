"""The labels of each set against what upstream's packages say, written down here once more from their files."""

from typing import get_args

import pytest

from extractor.config import LabelSetName
from extractor.label_sets import LABEL_SETS, PARTS, WHOLE, map_column, parts_needed

SOME = [
    ("totalsegmentator", WHOLE, {25: "sacrum", 26: "vertebrae_S1", 27: "vertebrae_L5", 50: "vertebrae_C1"}),
    ("totalsegmentator", WHOLE, {69: "humerus_left", 78: "hip_right", 91: "skull", 92: "rib_left_1", 116: "sternum"}),
    ("totalsegmentator_v1", WHOLE, {18: "vertebrae_L5", 23: "vertebrae_T12", 41: "vertebrae_C1", 58: "rib_left_1"}),
    ("totalsegmentator_v1", WHOLE, {81: "rib_right_12", 82: "humerus_left", 91: "hip_right", 92: "sacrum"}),
    ("moose_2", "vertebrae", {1: "vertebra_C1", 8: "vertebra_T1", 24: "vertebra_L5", 25: "vertebra_S1", 28: "sacrum"}),
    ("moose_2", "ribs", {1: "rib_left_1", 13: "rib_right_1", 24: "rib_right_12", 25: "sternum"}),
    ("moose_2", "peripheral_bones", {9: "humerus_left", 17: "fingers_left", 23: "skull", 31: "ulna_right"}),
    ("moose_3", "vertebrae", {25: "vertebra_L6", 26: "hip_left", 27: "hip_right", 28: "sacrum"}),
    ("moose_3", "ribs", {13: "rib_left_13", 14: "rib_right_1", 26: "rib_right_13", 27: "sternum"}),
    ("moose_3", "peripheral_bones", {9: "fingers_left", 11: "humerus_left", 17: "patella_left", 23: "skull"}),
    ("moose_all_bones_v1", WHOLE, {9: "pelvis", 12: "ribcage", 15: "spine", 16: "sternum", 20: "ulna"}),
]


@pytest.mark.parametrize(("label_set", "part", "names"), SOME)
def test_labels_mean_what_upstream_says(label_set, part, names):
    bones = LABEL_SETS[label_set][part].bones
    assert {label: bones[label] for label in names} == names


@pytest.mark.parametrize(
    ("label_set", "part", "bones", "spine", "last"),
    [
        ("totalsegmentator", WHOLE, 26 + 10 + 26, 26, 117),
        ("totalsegmentator_v1", WHOLE, 24 + 24 + 11, 25, 104),
        ("moose_2", "vertebrae", 28, 26, 28),
        ("moose_2", "ribs", 25, 0, 25),
        ("moose_2", "peripheral_bones", 31, 0, 34),
        ("moose_3", "vertebrae", 28, 26, 28),
        ("moose_3", "ribs", 27, 0, 27),
        ("moose_3", "peripheral_bones", 31, 0, 31),
        ("moose_all_bones_v1", WHOLE, 20, 1, 20),
    ],
)
def test_sets_have_as_many_bones_and_vertebrae_as_upstreams(label_set, part, bones, spine, last):
    file = LABEL_SETS[label_set][part]
    assert (len(file.bones), len(file.spine), file.last) == (bones, spine, last)
    assert max(file.bones) <= last


def test_the_spine_runs_from_head_to_feet_and_sides_are_pairs():
    file = LABEL_SETS["totalsegmentator"][WHOLE]
    assert file.spine == tuple(range(50, 24, -1))
    assert file.sides == ((69, 70), (71, 72), (73, 74), (75, 76), (77, 78))
    assert LABEL_SETS["moose_3"]["vertebrae"].sides == ((26, 27),)


def test_the_settings_know_every_set_and_no_other():
    assert get_args(LabelSetName) == tuple(LABEL_SETS)


def test_the_spine_needs_vertebrae_alone_and_the_skeleton_every_part():
    assert parts_needed("moose_3", ("spine_dilated",)) == ("vertebrae",)
    assert parts_needed("moose_3", ("spine_dilated", "skeleton")) == ("vertebrae", "ribs", "peripheral_bones")
    assert parts_needed("totalsegmentator", ("spine_dilated",)) == (WHOLE,)
    assert parts_needed("moose_3", ()) == ()
    assert [map_column(part) for part in (WHOLE, *PARTS)] == [
        "label_map",
        "label_map_vertebrae",
        "label_map_ribs",
        "label_map_peripheral_bones",
    ]
