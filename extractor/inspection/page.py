"""Draws the pictures of inspected studies and writes them as one page that needs no network; judges nothing.

A study is drawn and written at once, so that a page of thousands holds one study in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TextIO

import numpy as np

from extractor.config import ExtractConfig
from extractor.inspection.findings import RegionFacts
from extractor.inspection.study import Inspected
from extractor.pages import template
from extractor.pictures import (
    REGION_RGB,
    Colour,
    Picture,
    Plane,
    boxed,
    fused,
    inverted,
    outlined,
    outlined_all,
    panel,
    pixel_mm,
    projection,
)
from extractor.study import PreparedStudy

WHOLE_PX, SLICE_PX = 300, 240
"""Heights of projections and of slices."""
Kind = Literal["CT", "PET", "fused"]


@dataclass(frozen=True)
class Group:
    """Pictures that stand in one row, with the regions outlined in them."""

    title: str
    pictures: tuple[Picture, ...]
    regions: tuple[Mapping[str, Any], ...] = ()
    """Name and colour of each."""


class InspectionPage:
    """A page that grows by a study at a time; usable in a `with` block."""

    def __init__(self, path: Path, config: ExtractConfig, *, studies: int) -> None:
        self.path, self.config, self.studies = path, config, studies
        self.refused = self.written = 0
        self._file: TextIO

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("w", encoding="utf-8")
        head = template("inspect-head.html.jinja").render(
            studies=self.studies,
            grid=self.config.grid,
            window=self.config.window_hu,
            clip=self.config.clip_suv,
            relative=self.config.relative,
            stride=self.config.stride,
        )
        self._file.write(head)
        return self

    def add(self, inspected: Inspected) -> None:
        """Draws one study and writes its part of the page."""
        found = inspected.findings
        groups = () if inspected.prepared is None else tuple(_groups(inspected.prepared, found.patient, found.regions))
        self._file.write(template("inspect-study.html.jinja").render(found=found, groups=groups, place=self.written))
        self.written, self.refused = self.written + 1, self.refused + found.refused

    def __exit__(self, _kind: object, error: BaseException | None, _trace: TracebackType | None) -> None:
        if error is None:
            foot = template("inspect-foot.html.jinja")
            self._file.write(foot.render(refused=self.refused, studies=self.written, engram=version("engram")))
        self._file.close()


def _groups(prepared: PreparedStudy, patient: str, regions: tuple[RegionFacts, ...]) -> Iterator[Group]:
    yield _whole(prepared, patient)
    colours = dict(zip(prepared.masks_zyx, _colours(len(prepared.masks_zyx)), strict=True))
    for one in regions:
        yield _region(prepared, patient, one, colours[one.roi])


def _colours(count: int) -> list[Colour]:
    return [REGION_RGB[place % len(REGION_RGB)] for place in range(count)]


def _kinds(prepared: PreparedStudy) -> tuple[Kind, ...]:
    both = {"CT", "PET"} <= set(prepared.images_zyx)
    return ("CT", "PET", "fused") if both else tuple(prepared.images_zyx)  # type: ignore[arg-type]


def _shown(kind: Kind, ct: np.ndarray | None, pet: np.ndarray | None) -> np.ndarray:
    """Grey values or colours of one kind of picture."""
    if kind == "fused" and ct is not None and pet is not None:
        return fused(ct, pet)
    found = ct if kind == "CT" else pet
    assert found is not None
    return found if kind == "CT" else inverted(found)


def _whole(prepared: PreparedStudy, patient: str) -> Group:
    """Projections of everything, with the outline of every region."""
    planes: tuple[Plane, ...] = ("coronal", "sagittal")
    made = [_projected(prepared, patient, kind, plane) for kind in _kinds(prepared) for plane in planes]
    pairs = zip(prepared.masks_zyx, _colours(len(prepared.masks_zyx)), strict=True)
    return Group("Largest values along each ray", tuple(made), tuple({"roi": r, "colour": c} for r, c in pairs))


def _projected(prepared: PreparedStudy, patient: str, kind: Kind, plane: Plane) -> Picture:
    ct, pet = (
        None if name not in prepared.images_zyx else projection(prepared.images_zyx[name], plane)
        for name in ("CT", "PET")
    )
    mm = pixel_mm(prepared.grid.spacing_xyz_mm, plane)
    shown = panel(_shown(kind, ct, pet), pixel_mm=mm, height_px=WHOLE_PX)
    shown = outlined_all(shown, {roi: projection(mask != 0, plane) for roi, mask in prepared.masks_zyx.items()})
    named = f" with the outline of {', '.join(prepared.masks_zyx)}" if prepared.masks_zyx else ""
    return Picture.of(
        shown.rgb, f"{patient}: {plane} maximum projection of the {_name(kind)}{named}", f"{kind}, {plane}"
    )


def _name(kind: Kind) -> str:
    return "CT and PET fused" if kind == "fused" else kind


def _region(prepared: PreparedStudy, patient: str, one: RegionFacts, colour: Colour) -> Group:
    """The key slice in each kind of picture, then the uppermost and the lowest kept slice."""
    kinds = _kinds(prepared)
    z = one.key_slice_z
    made = [_slice(prepared, one, colour, patient=patient, kind=kind, z=z, what="key slice") for kind in kinds]
    ends = {one.kept_slices_z[0]: "uppermost", one.kept_slices_z[-1]: "lowest"}
    for z, what in ends.items():
        if z != one.key_slice_z:
            end = _slice(prepared, one, colour, patient=patient, kind=kinds[-1], z=z, what=f"{what} kept slice")
            made.append(end)
    title = f"{one.roi}: {one.volume_ml:.1f} ml, {len(one.kept_slices_z)} of {one.bearing_slices} slices kept"
    return Group(title, tuple(made))


def _slice(
    prepared: PreparedStudy, one: RegionFacts, colour: Colour, *, patient: str, kind: Kind, z: int, what: str
) -> Picture:
    ct, pet = (None if name not in prepared.images_zyx else prepared.images_zyx[name][z] for name in ("CT", "PET"))
    mm = pixel_mm(prepared.grid.spacing_xyz_mm, "axial")
    shown = panel(_shown(kind, ct, pet), pixel_mm=mm, height_px=SLICE_PX)
    shown = outlined(shown, prepared.masks_zyx[one.roi][z] != 0, colour)
    shown = boxed(shown, one.boxes_xyxy[one.kept_slices_z.index(z)])
    alt = f"{patient}: {what} of {one.roi}, z {z}, {_name(kind)}, with the region's outline and box"
    return Picture.of(shown.rgb, alt, f"{kind}, {what}, z {z}")
