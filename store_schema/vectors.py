"""Vectors of features as they are read: each by its name, what is not known as NaN; knows no image, table or statistic."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from store_schema.records import Layout

MISSING = float(np.finfo(np.float32).max)
"""Stands in a stored vector for a feature that is not known: no array of a store may hold NaN. Whoever overlooks it gets numbers
that are absurd, not plausible ones as 0 would be."""


def with_nan(layout: Layout, memory: np.ndarray) -> np.ndarray:
    """The memory of one entry, or of many, with NaN where the view says that a value stands for "not known"."""
    if layout.missing is None:
        return memory
    return np.where(memory == np.asarray(layout.missing, memory.dtype), np.asarray(np.nan, memory.dtype), memory)


def by_name(layout: Layout, memory: np.ndarray) -> Mapping[str, float]:
    """The features of one entry by their names, NaN where one is not known; empty where the view names no features."""
    values = with_nan(layout, memory).reshape(-1)
    return dict(zip(layout.features, values.tolist(), strict=True)) if layout.features is not None else {}
