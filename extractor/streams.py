"""Holds the prompts of one region of a volume, and refuses those that no pass could take; knows no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import get_args

import numpy as np
from jaxtyping import Int, UInt8

from extractor.layouts import Mode
from extractor.prompts import PromptKind
from store_schema.errors import ConfigError, ImageError, MaskError

MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True)
class Stream:
    """The prompts of one region: its kept slices are its frames 0 … N−1, whatever lies between them."""

    name: str
    """Of the region and, where there are several, of the way it is prompted; unique within a pass."""
    slices: tuple[int, ...]
    """z indices from superior to inferior: strictly falling, as stored z rises towards superior."""
    boxes: Int[np.ndarray, "slice 4"]
    """Inclusive x0, y0, x1, y1 in native pixels."""
    mode: Mode = "sequential"
    """Order of prompting; see `embed_volume`."""
    prompt: PromptKind = "box"
    points: Int[np.ndarray, "slice point 2"] | None = field(default=None, repr=False)
    """x, y in native pixels, inside the region; needed for prompts of this kind."""
    mask_zyx: UInt8[np.ndarray, "z y x"] | None = field(default=None, repr=False)
    """The region; needed for prompts of this kind."""
    key: int = 0
    """Rank of the slice that is prompted in mode `key_slice`."""


def check_streams(image_zyx: UInt8[np.ndarray, "z y x"], streams: Sequence[Stream]) -> None:
    """Refuse an image or prompts that a pass could not take.

    Raises
    ------
    MaskError
        If a stream has no slice, or prompts that do not lie in the image.
    ImageError
        If the image is not a volume of uint8.
    ConfigError
        If a mode is unknown.
    """
    if image_zyx.ndim != 3 or image_zyx.dtype != np.uint8:
        raise ImageError(
            f"expected an image of uint8 with axes z, y, x; got {image_zyx.dtype} of shape {image_zyx.shape}"
        )
    if len({stream.name for stream in streams}) != len(streams):
        raise MaskError(f"a region is prompted twice in one pass: {[stream.name for stream in streams]}")
    for stream in streams:
        if stream.mode not in MODES:
            raise ConfigError(f"mode {stream.mode!r} is unknown: use one of {', '.join(MODES)}")
        _check_slices(stream, image_zyx.shape)
        _check_prompts(stream, image_zyx.shape)


def _check_slices(stream: Stream, shape_zyx: tuple[int, ...]) -> None:
    slices = stream.slices
    if not slices:
        raise MaskError(f"region {stream.name} keeps no slice: its mask is empty")
    if any(upper <= lower for upper, lower in pairwise(slices)):
        raise MaskError(
            f"the slices of region {stream.name} must fall strictly in z, from superior to inferior: {slices}"
        )
    if slices[0] >= shape_zyx[0] or slices[-1] < 0:
        raise _outside(stream, shape_zyx)
    if not 0 <= stream.key < len(slices):
        raise MaskError(f"the key slice of region {stream.name} has rank {stream.key}: it keeps {len(slices)} slices")


def _check_prompts(stream: Stream, shape_zyx: tuple[int, ...]) -> None:
    boxes, count = np.asarray(stream.boxes), len(stream.slices)
    if boxes.shape != (count, 4):
        raise MaskError(
            f"region {stream.name} keeps {count} slices and has boxes of shape {boxes.shape}: expected ({count}, 4)"
        )
    corners = boxes.reshape(-1, 2, 2)
    points = np.zeros((count, 1, 2), int) if stream.points is None else np.asarray(stream.points)
    inside = all(((xy >= 0) & (xy < shape_zyx[:0:-1])).all() for xy in (corners, points))
    if not inside or (corners[:, 0] > corners[:, 1]).any():
        raise _outside(stream, shape_zyx)
    if stream.prompt == "points" and (stream.points is None or points.shape[0] != count or points.ndim != 3):
        raise MaskError(f"region {stream.name} is prompted with points and has none for each of its {count} slices")
    if stream.prompt == "mask" and (stream.mask_zyx is None or stream.mask_zyx.shape != shape_zyx):
        raise MaskError(f"region {stream.name} is prompted with its mask and has none on the image's grid")


def _outside(stream: Stream, shape_zyx: tuple[int, ...]) -> MaskError:
    depth, height, width = shape_zyx
    return MaskError(
        f"region {stream.name} has prompts outside the image of {width} × {height} × {depth} (x, y, z) voxels"
    )
