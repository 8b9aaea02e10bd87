"""Lays a grid of patches over a region in millimetres, and says what lies under each; knows no network and no store."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Bool, UInt8, UInt16

from extractor.occlusion_reach import Patch
from store_schema.errors import ConfigError, MaskError

MOST_PATCHES = 2000
"""Of one region: their memories take half a megabyte each."""
BACKDROP_MM = 4.0
"""About the voxel of a backdrop."""


PATCH_RECIPE = 2
"""Raised whenever our own code lays patches otherwise: entries with earlier ones are made again."""


def patch_grid(
    mask_zyx: UInt8[np.ndarray, "z y x"],
    spacing_xyz_mm: tuple[float, float, float],
    *,
    size_mm: float,
    stride_mm: float,
    needed_z: Collection[int] = (),
) -> tuple[Patch, ...]:
    """Patches on a regular grid whose centres lie inside the region, and one for each needed slice that none of them touches.

    The grid covers the region's bounding box and is centred on it. A patch ends on the voxel edges nearest to its own, and is one
    voxel at least: where size and stride are equal, patches tile the box without gaps or overlaps, whatever the spacing. Patches
    are cut where the image ends. They stand from superior to inferior.

    Parameters
    ----------
    needed_z
        Slices that decide an embedding. One that bears the region and lies under no patch gets a patch centred on the region in it,
        as thick as the grid is there.

    Raises
    ------
    ConfigError
        If size or stride is not above 0, or the patches are more than 2000.
    MaskError
        If no centre lies inside the region.

    References
    ----------
    Guinea-Pérez et al. 2026, Appendix A.
    """
    if min(size_mm, stride_mm) <= 0:
        raise ConfigError(f"patches need a size and a stride above 0 mm, got {size_mm:g} and {stride_mm:g}.")
    axes = [
        _Axis.of(np.flatnonzero(mask_zyx.any(axis=other)), step, size_mm, stride_mm)
        for other, step in zip(((1, 2), (0, 2), (0, 1)), spacing_xyz_mm[::-1], strict=True)
    ]
    places = [[(axis.voxel(at), axis.ends(at)) for at in axis.centres] for axis in axes]
    inside = [
        [ends for _, ends in three]
        for three in product(reversed(places[0]), places[1], places[2])
        if mask_zyx[tuple(voxel for voxel, _ in three)]
    ]
    if not inside:
        raise MaskError(
            f"no centre of a grid of {stride_mm:g} mm lies inside the region: choose a smaller stride, at most the region's width."
        )
    if len(inside) > MOST_PATCHES:
        raise ConfigError(
            f"{len(inside)} patches of a stride of {stride_mm:g} mm lie inside the region: at most {MOST_PATCHES} are "
            "taken. Choose a larger stride."
        )
    found = [_patch(ends, mask_zyx.shape) for ends in inside]
    for z in sorted(needed_z, reverse=True):
        if mask_zyx[z].any() and not any(patch.covers(z) for patch in found):
            found.append(_patch(_centred(mask_zyx[z], z, axes), mask_zyx.shape))
    return tuple(sorted(dict.fromkeys(found), key=lambda patch: -patch.start_zyx[0]))


@dataclass(frozen=True)
class _Axis:
    """Patches along one axis; places are in millimetres from the first voxel's lower edge."""

    step_mm: float
    size_mm: float
    stride_mm: float
    first_mm: float
    """Lower edge of the first stride."""
    count: int
    """Strides."""

    @classmethod
    def of(cls, inside: np.ndarray, step_mm: float, size_mm: float, stride_mm: float) -> _Axis:
        """Strides over the voxels inside, as many as cover them, centred on them."""
        if not inside.size:
            return cls(step_mm, size_mm, stride_mm, 0.0, 0)
        lower, upper = float(inside[0]) * step_mm, float(inside[-1] + 1) * step_mm
        count = max(1, math.ceil(round((upper - lower) / stride_mm, 6)))
        return cls(step_mm, size_mm, stride_mm, (lower + upper - count * stride_mm) / 2, count)

    @property
    def centres(self) -> list[int]:
        """Places of the patches, one for each voxel at most that their centres lie in."""
        return list({self.ends(at): at for at in reversed(range(self.count))}.values())[::-1]

    def voxel(self, at: int) -> int:
        """In which a patch's centre lies."""
        return math.floor(round((self.first_mm + (at + 0.5) * self.stride_mm) / self.step_mm, 6))

    def ends(self, at: int) -> tuple[int, int]:
        """First voxel of a patch and one past the last."""
        # from the strides' own edges: where size and stride are equal, one patch ends where the next begins to the last bit
        more = (self.size_mm - self.stride_mm) / 2
        start = self._edge(self.first_mm + at * self.stride_mm - more)
        stop = self._edge(self.first_mm + (at + 1) * self.stride_mm + more)
        return (start, stop) if start < stop else (self.voxel(at), self.voxel(at) + 1)

    def around(self, voxel: int) -> tuple[int, int]:
        """Ends of a patch whose centre is that of a voxel."""
        middle = (voxel + 0.5) * self.step_mm
        start, stop = self._edge(middle - self.size_mm / 2), self._edge(middle + self.size_mm / 2)
        return (start, stop) if start <= voxel < stop else (voxel, voxel + 1)

    def touching(self, voxel: int) -> tuple[int, int]:
        """Ends of the patch of the grid that a voxel lies under; of one around it where there is none."""
        under = (self.ends(at) for at in range(self.count))
        return next((ends for ends in under if ends[0] <= voxel < ends[1]), self.around(voxel))

    def _edge(self, place_mm: float) -> int:
        """The nearest voxel edge, halves upwards."""
        return math.floor(round(place_mm / self.step_mm, 6) + 0.5)


def _centred(mask_yx: UInt8[np.ndarray, "y x"], z: int, axes: Sequence[_Axis]) -> list[tuple[int, int]]:
    """Ends of a patch around the pixel of the region that lies nearest to its middle in one slice."""
    pixels_yx = np.argwhere(mask_yx)
    steps_mm = np.array([axis.step_mm for axis in axes[1:]])
    far = (((pixels_yx - pixels_yx.mean(axis=0)) * steps_mm) ** 2).sum(axis=1)
    y, x = (int(place) for place in pixels_yx[far.argmin()])
    return [axes[0].touching(z), axes[1].around(y), axes[2].around(x)]


def _patch(ends: Sequence[tuple[int, int]], shape: tuple[int, ...]) -> Patch:
    (z0, z1), (y0, y1), (x0, x1) = [
        (max(0, start), min(stop, size)) for (start, stop), size in zip(ends, shape, strict=True)
    ]
    return Patch((z0, y0, x0), (z1, y1, x1))


def under_patches(patches: Iterable[Patch], shape_zyx: tuple[int, ...]) -> Bool[np.ndarray, "z y x"]:
    """Which voxels of an image lie under a patch."""
    under = np.zeros(shape_zyx, dtype=bool)
    for patch in patches:
        under[_inside(patch)] = True
    return under


def covered_share(patch: Patch, covered_zyx: Bool[np.ndarray, "z y x"]) -> float:
    """Share of a patch that something covers, 0-1."""
    return float(covered_zyx[_inside(patch)].mean())


def _inside(patch: Patch) -> tuple[slice, ...]:
    return tuple(slice(*ends) for ends in zip(patch.start_zyx, patch.stop_zyx, strict=True))


def names_under(
    patch: Patch, labels_zyx: UInt16[np.ndarray, "z y x"], names: Mapping[int, str]
) -> tuple[str, float] | None:
    """The bone that fills most of a patch, and its share of the patch's voxels; None where there is none.

    Parameters
    ----------
    labels_zyx
        Label map on the patch's grid.
    names
        Of the labels that are bones.
    """
    inside = labels_zyx[_inside(patch)]
    counts = np.bincount(inside.ravel(), minlength=1)
    found = {label: int(counts[label]) for label in names if label < len(counts) and counts[label]}
    if not found:
        return None
    label = max(found, key=lambda one: (found[one], -one))
    return names[label], found[label] / inside.size


def backdrop(
    image_zyx: UInt8[np.ndarray, "z y x"], spacing_xyz_mm: tuple[float, float, float]
) -> tuple[UInt8[np.ndarray, "z y x"], tuple[int, int, int]]:
    """Every so many voxels of an image, about 4 mm apart, to draw on; and how many, along z, y and x."""
    step_z, step_y, step_x = (max(1, round(BACKDROP_MM / step)) for step in spacing_xyz_mm[::-1])
    return np.ascontiguousarray(image_zyx[::step_z, ::step_y, ::step_x]), (step_z, step_y, step_x)
