"""Draws what hiding patches changes on slices and projections of a patient's image; computes no delta."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from trainer.image_grid import ImageGrid
from trainer.report.drawing import Drawn, draw
from trainer.sensitivity_map import largest_slice, strongest_along

COLOURS = "RdBu_r"
"""From blue over white to red: told apart by people who see few colours."""
OUTLINE = "#2bb673"
UNIT = "change of log-risk with the patch hidden (log-hazard)"
LEAST_OPACITY, MOST_OPACITY = 0.25, 0.9
GREYS = {"PET": "gray_r"}
"""High uptake is dark in PET, as it is read; every other image is bright where it is dense."""
GAP_IN, BAR_IN = 0.45, 1.0
"""Room for letters around a panel; and for the colour bar."""
WIDTH_IN = 7.2


@dataclass(frozen=True, eq=False)
class Overlay:
    """What is drawn of one image of a patient."""

    map_zyx: Float[np.ndarray, "z y x"]
    """Signed deltas, NaN outside of all patches."""
    mask_zyx: np.ndarray
    """The region."""
    backdrop_zyx: UInt8[np.ndarray, "row_z row_y row_x"]
    """Every so many voxels of the image."""
    step_zyx: tuple[int, int, int]
    """How many."""
    grid: ImageGrid
    modality: str


@dataclass(frozen=True, eq=False)
class _Panel:
    """One picture: superior up, the patient's left on the right; axial and sagittal with anterior up and to the left."""

    title: str
    letters: tuple[str, str, str, str]
    """At its left, right, top and bottom."""
    grey: UInt8[np.ndarray, "row column"]
    delta: Float[np.ndarray, "row column"]
    region: Bool[np.ndarray, "row column"]
    size_mm: tuple[float, float]
    """Width and height."""


def draw_overlay(name: str, overlay: Overlay, *, who: str, region: str) -> Drawn:
    """Slices where the region is largest, above projections, in the three planes, on one scale that is symmetric about 0."""
    limit = float(np.nanmax(np.abs(overlay.map_zyx)))
    panels = [*_slices(overlay), *_projections(overlay)]
    caption = (
        f"{who}, {overlay.modality}, {region}: change of the predicted log-risk when a patch is hidden. Red: hiding it raises the "
        "risk; blue: hiding it lowers the risk; no colour: no patch. Above, the slices in which the region (green outline) is "
        "largest; below, projections of the value of greatest magnitude along each line, on the image's maximum. "
        "R and L: the patient's right and left; S and I: superior and inferior; A and P: anterior and posterior."
    )
    peak = np.unravel_index(np.nanargmax(np.abs(overlay.map_zyx)), overlay.map_zyx.shape)
    said = (
        f"Changes from {np.nanmin(overlay.map_zyx):+.3g} to {np.nanmax(overlay.map_zyx):+.3g} log-hazard; the greatest at voxel "
        f"z {peak[0]}, y {peak[1]}, x {peak[2]}."
    )
    return draw(
        name, caption, said, _size(panels), lambda figure: _paint(figure, panels, limit or 1.0, overlay.modality)
    )


def _slices(overlay: Overlay) -> list[_Panel]:
    found = []
    for axis, plane in enumerate(("axial", "coronal", "sagittal")):
        step, most = overlay.step_zyx[axis], overlay.backdrop_zyx.shape[axis] - 1
        place = min(round(largest_slice(overlay.mask_zyx, axis) / step), most)

        def cut(array_zyx: np.ndarray, at: int, axis: int = axis) -> np.ndarray:
            return np.asarray(np.take(array_zyx, at, axis=axis))

        found.append(
            _panel(
                overlay,
                axis,
                f"{plane}, {'zyx'[axis]} {place * step}",
                grey=cut(overlay.backdrop_zyx, place),
                delta=cut(_thinned(overlay, overlay.map_zyx), place),
                region=cut(_thinned(overlay, overlay.mask_zyx), place) > 0,
            )
        )
    return found


def _projections(overlay: Overlay) -> list[_Panel]:
    return [
        _panel(
            overlay,
            axis,
            f"{plane} projection",
            grey=overlay.backdrop_zyx.max(axis=axis),
            delta=strongest_along(_thinned(overlay, overlay.map_zyx), axis),
            region=_thinned(overlay, overlay.mask_zyx).any(axis=axis),
        )
        for axis, plane in enumerate(("axial", "coronal", "sagittal"))
    ]


def _thinned(overlay: Overlay, array_zyx: np.ndarray) -> np.ndarray:
    """The voxels that the backdrop has."""
    z, y, x = overlay.step_zyx
    return array_zyx[::z, ::y, ::x]


def _panel(
    overlay: Overlay, axis: int, title: str, *, grey: np.ndarray, delta: np.ndarray, region: np.ndarray
) -> _Panel:
    """Rows downwards as they are looked at: z is stored upwards, y backwards, x to the patient's left."""
    spacing_zyx_mm = [step * mm for step, mm in zip(overlay.step_zyx, overlay.grid.spacing_xyz_mm[::-1], strict=True)]
    row_mm, column_mm = (mm for other, mm in enumerate(spacing_zyx_mm) if other != axis)
    letters = (("R", "L", "A", "P"), ("R", "L", "S", "I"), ("A", "P", "S", "I"))[axis]
    up = slice(None) if axis == 0 else slice(None, None, -1)
    size_mm = grey.shape[1] * column_mm, grey.shape[0] * row_mm
    return _Panel(title, letters, grey[up], delta[up], region[up], size_mm)


def _size(panels: list[_Panel]) -> tuple[float, float]:
    """Width and height in inches, so that three panels of one scale fill the width."""
    scale = (WIDTH_IN - BAR_IN - 3 * GAP_IN) / sum(panel.size_mm[0] for panel in panels[:3])
    highest = max(panel.size_mm[1] for panel in panels[:3]) * scale
    return WIDTH_IN, 2 * (min(highest, 4.5) + 0.75)


def _paint(figure: Any, panels: list[_Panel], limit: float, modality: str) -> None:
    norm = Normalize(-limit, limit)
    widths = [panel.size_mm[0] for panel in panels[:3]]
    grid = figure.subplots(2, 3, width_ratios=widths)
    for axes, panel in zip(grid.ravel(), panels, strict=True):
        _paint_panel(axes, panel, norm, GREYS.get(modality, "gray"))
    bar = figure.colorbar(ScalarMappable(norm, COLOURS), ax=grid, label=UNIT, shrink=0.7, aspect=30)
    # one small image in place of 256 strips
    bar.solids.set_rasterized(True)


def _paint_panel(axes: Any, panel: _Panel, norm: Normalize, greys: str) -> None:
    width, height = panel.size_mm
    place: dict[str, Any] = {"extent": (0, width, height, 0), "interpolation": "none"}
    axes.imshow(panel.grey, cmap=greys, vmin=0, vmax=255, **place)
    axes.imshow(_coloured(panel.delta, norm), **place)
    _outline(axes, panel)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    # the letter at the top stands between title and picture
    axes.set_title(panel.title, fontsize=9, pad=13)
    ends = ((-0.02, 0.5, "right", "center"), (1.02, 0.5, "left", "center"), (0.5, 1.01, "center", "bottom"))
    for (x, y, across, along), letter in zip((*ends, (0.5, -0.01, "center", "top")), panel.letters, strict=True):
        axes.text(x, y, letter, transform=axes.transAxes, ha=across, va=along, fontsize=8)


def _outline(axes: Any, panel: _Panel) -> None:
    if not panel.region.any() or min(panel.region.shape) < 2:
        return
    rows, columns = panel.region.shape
    row_mm, column_mm = panel.size_mm[1] / rows, panel.size_mm[0] / columns
    # a margin of nothing closes the outline of a region that reaches the edge
    padded = np.pad(panel.region.astype(float), 1)
    x, y = (np.arange(columns + 2) - 0.5) * column_mm, (np.arange(rows + 2) - 0.5) * row_mm
    axes.contour(x, y, padded, levels=[0.5], colors=[OUTLINE], linewidths=0.7)
    axes.set(xlim=(0, panel.size_mm[0]), ylim=(panel.size_mm[1], 0))


def _coloured(delta: Float[np.ndarray, "row column"], norm: Normalize) -> Float[np.ndarray, "row column 4"]:
    """Colours that let the image through where little changes, and wholly where there is no patch."""
    there = ~np.isnan(delta)
    known = np.where(there, delta, 0.0)
    to_colour: Callable[[np.ndarray], np.ndarray] = mpl.colormaps[COLOURS]
    colours = to_colour(np.asarray(norm(known)))
    share = np.abs(known) / float(norm.vmax or 1.0)
    colours[..., 3] = np.where(there, LEAST_OPACITY + (MOST_OPACITY - LEAST_OPACITY) * np.sqrt(share), 0.0)
    return colours
