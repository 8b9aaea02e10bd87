"""Says which label means which bone in the label maps of MOOSE and TotalSegmentator; knows no image and no file of a patient.

The numbers were read in the packages themselves:

- `totalsegmentator`: TotalSegmentator 2.18.0, `totalsegmentator/map_to_binary.py`, `class_map["total"]`; 2.0.5, 2.4.0 and 2.10.0
  agree on every number used here, but for the names of some ribs in 2.0.5.
- `totalsegmentator_v1`: TotalSegmentator 1.5.7, the same file, `class_map["total"]`; 2.18.0 has it as `total_v1`.
- `moose_2`: moosez 2.4.11, `moosez/constants.py`, `ORGAN_INDICES`; the same in 2.2.39, 2.3.0, 2.4.0 and 2.6.0 to 2.6.2.
- `moose_3`: moosez 2.6.4, the same table, and 2.6.3, in which the models were trained anew and the numbers moved; moosez 3.0.0
  loads the same weights, and moosez 3.2.2 gives the same numbers in its README. From 3.0 on the numbers themselves are in the
  weights: moosez 3.0.31 and later write them beside a label map, and `extractor segment` compares.
- `moose_all_bones_v1`: the model `clin_ct_all_bones_v1`, moosez 2.2.39 to 2.6.4, `ORGAN_INDICES`; 3.2.2 loads the same weights.

The `clin_ct_bones` of moosez 2.0 and 2.1 is in no set: those packages say nowhere what its labels are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count

WHOLE = ""
"""Name of the part that is the whole set: one file holds every bone."""
LEVELS = (
    *(f"C{n}" for n in range(1, 8)),
    *(f"T{n}" for n in range(1, 13)),
    *(f"L{n}" for n in range(1, 7)),
    "S1",
    "sacrum",
    "spine",
)
"""Names of vertebrae from superior to inferior; the sacrum counts as spine. `spine` is a label that holds them all."""


@dataclass(frozen=True)
class LabelFile:
    """What one label map file of a set holds."""

    bones: Mapping[int, str]
    """Name of each label that is a bone, as upstream writes it."""
    last: int
    """Highest label that such a file can hold, bone or not."""

    @property
    def spine(self) -> tuple[int, ...]:
        """Labels of vertebrae and sacrum, from superior to inferior; empty where the file holds none."""
        levels = {_level(name): label for label, name in self.bones.items()}
        return tuple(levels[level] for level in LEVELS if level in levels)

    @property
    def sides(self) -> tuple[tuple[int, int], ...]:
        """Left and right label of each paired bone. Ribs aside, whose names moved between versions."""
        labels = {name: label for label, name in self.bones.items()}
        lefts = [name for name in labels if name.endswith("_left")]
        return tuple((labels[name], labels[f"{name.removesuffix('_left')}_right"]) for name in lefts)

    def level(self, label: int) -> str:
        """What a vertebra is called for short: T7."""
        return _level(self.bones[label])


LabelSet = Mapping[str, LabelFile]
"""The files of a set by part; `WHOLE` where one file holds every bone."""


def map_column(part: str) -> str:
    """Column of the study table, and role of the file: `label_map`, or `label_map_vertebrae` for a part."""
    return f"label_map_{part}" if part else "label_map"


def parts_needed(label_set: str, wanted: Sequence[str]) -> tuple[str, ...]:
    """The parts of a set that the wanted regions are made of: every bone for `skeleton`, the vertebrae for `spine_dilated`."""
    files = LABEL_SETS[label_set]
    return tuple(part for part, file in files.items() if wanted and (file.spine or "skeleton" in wanted))


def _level(name: str) -> str:
    return name.rpartition("_")[2] if name.startswith("vertebra") else name


def _pairs(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}_{side}" for name in names for side in ("left", "right"))


def _numbered(names: Sequence[str], first: int = 1) -> dict[int, str]:
    return dict(zip(count(first), names, strict=False))


def _ribs(each_side: int) -> tuple[str, ...]:
    return tuple(f"rib_{side}_{n}" for side in ("left", "right") for n in range(1, each_side + 1))


def _vertebrae(word: str, levels: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{word}_{level}" for level in levels)


_FREE = LEVELS[:24]
"""C1 to L5."""
_LIMBS = _pairs("humerus", "scapula", "clavicula", "femur", "hip")
_TOTAL_2 = {
    **_numbered(("sacrum", *_vertebrae("vertebrae", ("S1", *reversed(_FREE)))), 25),
    **_numbered(_LIMBS, 69),
    **_numbered(("skull", *_ribs(12), "sternum"), 91),
}
_TOTAL_1 = {
    **_numbered(_vertebrae("vertebrae", tuple(reversed(_FREE))), 18),
    **_numbered((*_ribs(12), *_LIMBS, "sacrum"), 58),
}
_VERTEBRAE_2, _VERTEBRAE_3 = (
    _numbered((*_vertebrae("vertebra", (*_FREE, extra)), *_pairs("hip"), "sacrum")) for extra in ("S1", "L6")
)
_PERIPHERAL_2 = (
    *_pairs("carpal", "clavicle", "femur", "fibula", "humerus", "metacarpal", "metatarsal", "patella", "fingers"),
    *(*_pairs("radius", "scapula"), "skull", *_pairs("tarsal", "tibia", "toes", "ulna")),
)
_PERIPHERAL_3 = (
    *_pairs("carpal", "clavicle", "femur", "fibula", "fingers", "humerus", "metacarpal", "metatarsal", "patella"),
    *(*_pairs("radius", "scapula"), "skull", *_pairs("tarsal", "tibia", "toes", "ulna")),
)
_ALL_BONES = (
    *("carpal", "clavicle", "femur", "fibula", "humerus", "metacarpal", "metatarsal", "patella", "pelvis", "fingers"),
    *("radius", "ribcage", "scapula", "skull", "spine", "sternum", "tarsal", "tibia", "toes", "ulna"),
)

LABEL_SETS: Mapping[str, LabelSet] = {
    "totalsegmentator": {WHOLE: LabelFile(_TOTAL_2, last=117)},
    "totalsegmentator_v1": {WHOLE: LabelFile(_TOTAL_1, last=104)},
    "moose_2": {
        "vertebrae": LabelFile(_VERTEBRAE_2, last=28),
        "ribs": LabelFile(_numbered((*_ribs(12), "sternum")), last=25),
        # 32 to 34 are thyroid and bladder.
        "peripheral_bones": LabelFile(_numbered(_PERIPHERAL_2), last=34),
    },
    "moose_3": {
        "vertebrae": LabelFile(_VERTEBRAE_3, last=28),
        "ribs": LabelFile(_numbered((*_ribs(13), "sternum")), last=27),
        "peripheral_bones": LabelFile(_numbered(_PERIPHERAL_3), last=31),
    },
    "moose_all_bones_v1": {WHOLE: LabelFile(_numbered(_ALL_BONES), last=20)},
}
PARTS = tuple(dict.fromkeys(part for files in LABEL_SETS.values() for part in files if part))
"""Every part that some set comes in."""
