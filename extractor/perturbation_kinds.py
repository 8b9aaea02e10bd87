"""Names the kinds of perturbation and what their sizes are in; imports nothing heavy, so that help is instant; knows no view."""

from __future__ import annotations

from typing import Literal

Kind = Literal[
    "padding",
    "jitter",
    "dilate",
    "erode",
    "drop",
    "stride",
    "shift_x",
    "shift_y",
    "shift_z",
    "random_boxes",
    "elsewhere",
    "constant",
]
UNITS: dict[str, str] = {
    "padding": "mm",
    "jitter": "mm",
    "dilate": "mm",
    "erode": "mm",
    "drop": "share",
    "stride": "slices",
    "shift_x": "mm",
    "shift_y": "mm",
    "shift_z": "mm",
}
"""What the size of a kind is in; the negative controls have none."""
SIGNED = ("padding", "shift_x", "shift_y", "shift_z")
"""Kinds whose size may be below zero."""
SEEDED = ("jitter", "drop", "random_boxes", "elsewhere")
PLACED = ("random_boxes", "elsewhere")
"""Kinds that put each box in another place within the body."""
BOXES = ("padding", "jitter", *PLACED)
"""Kinds that touch nothing but boxes."""
BOUNDARIES = ("dilate", "erode")
"""Kinds that move the boundary of a region."""
AXES = {"shift_x": 0, "shift_y": 1, "shift_z": 2}
