"""A simple body, evaluated on any grid: tissue, labels and lesions at millimetre coordinates; knows no outcome or file.

Coordinates are LPS millimetres: x towards left, y towards posterior, z towards superior; the spine runs along z.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from extractor.volumes import Grid

VERTEBRAE = 18
VERTEBRA_LABELS = tuple(range(27, 45))
"""TotalSegmentator's L5–C7, from inferior to superior."""
SACRUM, HIP_LEFT, HIP_RIGHT = 25, 77, 78
RIB_LEFT, RIB_RIGHT = 92, 104
"""First of twelve ribs on each side."""
SPINE_BOTTOM_MM, PITCH_MM, DISC_MM = 50.0, 14.0, 3.0
SPINE_TOP_MM = SPINE_BOTTOM_MM + VERTEBRAE * PITCH_MM
SPINE_Y_MM = 45.0
VERTEBRA_RADIUS_MM, CANAL_RADIUS_MM, ARCH_RADIUS_MM = 19.0, 8.0, 14.0
SACRUM_MM = (42.0, 24.0)
"""Half axes across and front to back; it reaches down to the edge of the image, so that the last slices hold marrow."""
CANAL_Y_MM = SPINE_Y_MM + VERTEBRA_RADIUS_MM + CANAL_RADIUS_MM - 2.0

INJECTED: Mapping[str, float] = {"soft": 0.7, "lung": 0.4, "bone": 0.9}
"""SUV of tissues without signal."""
HOUNSFIELD: Mapping[str, float] = {"air": -1000.0, "lung": -800.0, "soft": 40.0, "marrow": 220.0, "bone": 500.0}


@dataclass(frozen=True)
class Lesion:
    """A ball of raised uptake that falls off smoothly."""

    centre_xyz_mm: tuple[float, float, float]
    radius_mm: float
    """At this distance the uptake is e⁻¹ of the peak."""


@dataclass(frozen=True)
class Body:
    """One patient's shape."""

    size: float
    """Scale of all lengths in plane; 1 is the average patient."""
    lesions: tuple[Lesion, ...] = ()


@dataclass(frozen=True)
class Tissues:
    """What lies at each voxel of a grid: z, y, x."""

    inside: Bool[np.ndarray, "z y x"]
    lung: Bool[np.ndarray, "z y x"]
    labels: UInt8[np.ndarray, "z y x"]
    """TotalSegmentator labels; 0 is no bone."""
    upper_third: Bool[np.ndarray, "z y x"]
    """Slices at the level of the upper third of the spine."""

    @property
    def spine(self) -> Bool[np.ndarray, "z y x"]:
        """Vertebrae and sacrum."""
        return (self.labels >= SACRUM) & (self.labels <= VERTEBRA_LABELS[-1])


def coordinates_mm(
    grid: Grid,
) -> tuple[Float32[np.ndarray, "1 1 x"], Float32[np.ndarray, "1 y 1"], Float32[np.ndarray, "z 1 1"]]:
    """x, y and z of the voxel centres of an axis-aligned grid, shaped to broadcast to z, y, x."""
    axes = [
        np.float32(origin) + np.arange(size, dtype=np.float32) * np.float32(step)
        for origin, size, step in zip(grid.origin_xyz_mm, grid.size_xyz, grid.spacing_xyz_mm, strict=True)
    ]
    return axes[0][None, None, :], axes[1][None, :, None], axes[2][:, None, None]


def tissues(body: Body, grid: Grid) -> Tissues:
    """The body on a grid."""
    x, y, z = coordinates_mm(grid)
    x, y = x / np.float32(body.size), y / np.float32(body.size)
    inside = np.broadcast_to((x / 150) ** 2 + (y / 105) ** 2 <= 1, (z.size, y.size, x.size))
    lungs = ((np.abs(x) - 65) / 45) ** 2 + ((y + 10) / 60) ** 2 <= 1
    chest = (z > SPINE_BOTTOM_MM + 7 * PITCH_MM) & (z < SPINE_TOP_MM - PITCH_MM)
    upper = np.broadcast_to(z >= SPINE_TOP_MM - VERTEBRAE * PITCH_MM / 3, inside.shape)
    return Tissues(inside, lungs & chest & inside, _labels(x, y, z), upper)


def _labels(
    x: Float32[np.ndarray, "1 1 x"], y: Float32[np.ndarray, "1 y 1"], z: Float32[np.ndarray, "z 1 1"]
) -> UInt8[np.ndarray, "z y x"]:
    """Bones, later ones over earlier ones."""
    level = np.floor((z - SPINE_BOTTOM_MM) / PITCH_MM).astype(int)
    within = (level >= 0) & (level < VERTEBRAE) & ((z - SPINE_BOTTOM_MM) % PITCH_MM < PITCH_MM - DISC_MM)
    names = np.array(VERTEBRA_LABELS, np.uint8)[np.clip(level, 0, VERTEBRAE - 1)]
    labels = np.zeros((z.size, y.size, x.size), np.uint8)
    for left, hip in ((True, HIP_LEFT), (False, HIP_RIGHT)):
        labels[_hip(x if left else -x, y, z)] = hip
    _add_ribs(labels, x, y, level, within)
    sacrum = ((x / SACRUM_MM[0]) ** 2 + ((y - SPINE_Y_MM) / SACRUM_MM[1]) ** 2 <= 1) & (z < SPINE_BOTTOM_MM - DISC_MM)
    labels[sacrum] = SACRUM
    canal = x**2 + (y - CANAL_Y_MM) ** 2
    bone = (x**2 + (y - SPINE_Y_MM) ** 2 <= VERTEBRA_RADIUS_MM**2) | (canal <= ARCH_RADIUS_MM**2)
    vertebra = bone & (canal > CANAL_RADIUS_MM**2) & within
    labels[vertebra] = np.broadcast_to(names, labels.shape)[vertebra]
    return labels


def _hip(
    x: Float32[np.ndarray, "1 1 x"], y: Float32[np.ndarray, "1 y 1"], z: Float32[np.ndarray, "z 1 1"]
) -> Bool[np.ndarray, "z y x"]:
    return np.asarray(((x - 75) / 22) ** 2 + ((y - 25) / 45) ** 2 + ((z - 30) / 45) ** 2 <= 1)


def _add_ribs(
    labels: UInt8[np.ndarray, "z y x"],
    x: Float32[np.ndarray, "1 1 x"],
    y: Float32[np.ndarray, "1 y 1"],
    level: np.ndarray,
    within: np.ndarray,
) -> None:
    """Twelve pairs of rings at the level of the thoracic vertebrae (the 6th to the 17th from below)."""
    ring = np.abs(np.sqrt((x / 128) ** 2 + (y / 88) ** 2) - 1) < 0.06
    number = 17 - level
    thoracic = within & (level >= 5) & (level < 17)
    for first, side in ((RIB_LEFT, x > 15), (RIB_RIGHT, x < -15)):
        where = ring & side & thoracic
        labels[where] = np.broadcast_to(np.clip(first + number - 1, first, first + 11), labels.shape)[where]


def lesion_profile(lesions: tuple[Lesion, ...], grid: Grid) -> Float32[np.ndarray, "z y x"]:
    """Uptake of the lesions relative to their peak, 0–1: the highest of them at each voxel."""
    x, y, z = coordinates_mm(grid)
    profile = np.zeros((z.size, y.size, x.size), np.float32)
    for lesion in lesions:
        cx, cy, cz = lesion.centre_xyz_mm
        near = np.flatnonzero(np.abs(z[:, 0, 0] - cz) < 3 * lesion.radius_mm)
        if near.size:
            part = slice(int(near[0]), int(near[-1]) + 1)
            distance_2 = (x - cx) ** 2 + (y - cy) ** 2 + (z[part] - cz) ** 2
            profile[part] = np.maximum(profile[part], np.exp(-distance_2 / np.float32(lesion.radius_mm**2)))
    return profile
