"""Names the ways in which prompts or images are disturbed on purpose, and how a view says so; knows no image and no box.

What is made with a perturbation is another view, which names it in its flags; the views of what is not disturbed know nothing of
it.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from extractor.perturbation_kinds import BOXES, SEEDED, SIGNED, UNITS, Kind


class Perturbation(BaseModel):
    """One disturbance, the same for every study of a run.

    - `padding`: boxes padded on each side by `size` mm, shrunk where it is negative, within the image.
    - `jitter`: each edge of a box moved by a normal of standard deviation `size` mm.
    - `dilate`, `erode`: the region's boundary moved by `size` mm in all three directions, before slices and boxes are taken.
    - `drop`: a share of the kept slices left out. `stride`: another stride.
    - `shift_x`, `shift_y`, `shift_z`: the PET moved against the CT by `size` mm towards left, posterior or superior.

    Negative controls:

    - `random_boxes`: boxes of the same size anywhere within the body.
    - `elsewhere`: there, but neither on the region nor on bones of a label map.
    - `constant`: every voxel at the volume's mean grey value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    size: float | None = Field(default=None, allow_inf_nan=False)
    """In mm; a share of 0 to 1 for `drop`; a whole number of slices for `stride`; none for the negative controls."""
    seed: int = Field(default=0, ge=0)
    """Of the kinds that draw."""

    @model_validator(mode="after")
    def _check(self) -> Perturbation:
        unit = UNITS.get(self.kind)
        if unit is None and self.size is not None:
            raise ValueError(f"{self.kind} has no size: leave it out")
        if unit is not None and self.size is None:
            raise ValueError(f"{self.kind} needs a size ({unit})")
        if self.size is not None and (wrong := _wrong(self.kind, self.size)):
            raise ValueError(f"the size of {self.kind} is {wrong}, got {self.size:g}")
        if self.seed and self.kind not in SEEDED:
            raise ValueError(f"{self.kind} draws nothing: leave the seed out")
        return self

    @property
    def amount(self) -> float:
        """The size of a kind that has one."""
        assert self.size is not None
        return self.size

    @property
    def seeded(self) -> bool:
        """Whether numbers depend on the name of an entry, by which it draws."""
        return self.kind in SEEDED

    @property
    def moves_boxes_only(self) -> bool:
        """Whether what is not prompted with a box stays as it was."""
        return self.kind in BOXES

    @property
    def flags(self) -> dict[str, bool | int | float | str]:
        """How a view says it."""
        told: dict[str, bool | int | float | str] = {"perturbation": self.kind}
        if self.size is not None:
            told[f"perturbation_size_{UNITS[self.kind]}"] = self.size
        return told | ({"perturbation_seed": self.seed} if self.seeded else {})

    @property
    def suffix(self) -> str:
        """What it adds to the name of a view: `-padding-5mm`, `-padding-minus5mm`, `-drop-0.25`, `-jitter-2mm-seed1`."""
        size = ""
        if self.size is not None:
            unit = {"mm": "mm"}.get(UNITS[self.kind], "")
            size = f"-{'minus' if self.size < 0 else ''}{_short(abs(self.size))}{unit}"
        return f"-{self.kind}{size}" + (f"-seed{self.seed}" if self.seed else "")

    def told(self) -> dict[str, Any]:
        """The same for an entry's attributes."""
        return self.model_dump(mode="json")


def _wrong(kind: str, size: float) -> str:
    """What the size of a kind must be where this one is not; nothing where it is."""
    if kind in SIGNED:
        return "" if size != 0 else "millimetres other than zero"
    if kind == "drop":
        return "" if 0 < size < 1 else "a share between 0 and 1"
    if kind == "stride":
        return "" if size >= 1 and size == int(size) else "a whole number of slices, 1 or more"
    return "" if size > 0 else "millimetres above zero"


def _short(size: float) -> str:
    """A number as a name can hold it: without a sign, and without an exponent."""
    return f"{size:.6f}".rstrip("0").rstrip(".")
