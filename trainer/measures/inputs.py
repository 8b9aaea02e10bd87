"""Refuses outcomes and predictions that no measure can be taken of; knows nothing of the measures."""

import numpy as np
from jaxtyping import Bool, Float

from store_schema.errors import TaskError, UsageError
from trainer.metrics import checked


def checked_outcome(
    time: Float[np.ndarray, " patient"], event: Bool[np.ndarray, " patient"]
) -> tuple[Float[np.ndarray, " patient"], Bool[np.ndarray, " patient"]]:
    """Outcomes as arrays of one length; errors as in `trainer.metrics.checked`."""
    _, time, event = checked(np.zeros(np.shape(time)), time, event)
    return time, event


def checked_survival(
    survival: Float[np.ndarray, "..."], shape: tuple[int, ...], *, axes: str
) -> Float[np.ndarray, "..."]:
    """Predicted probabilities of being free of the event, as an array of this shape.

    Parameters
    ----------
    axes
        What the shape counts, for the error: ``patients`` or ``patients, times``.

    Raises
    ------
    UsageError
        If the shape is another, or a value is below 0 or above 1, as a log-risk is.
    TaskError
        If a value is not a number, as a model that diverged gives it.
    """
    array = np.asarray(survival, dtype=np.float64)
    if array.shape != shape:
        raise UsageError(f"expected one survival probability per ({axes}), shape {shape}, got {array.shape}")
    if np.isnan(array).any():
        raise TaskError(f"{int(np.isnan(array).sum())} of {array.size} survival probabilities are not a number")
    if ((array < 0) | (array > 1)).any():
        raise UsageError(
            f"expected survival probabilities from 0 to 1, got {array.min():g} to {array.max():g}: "
            "a log-risk becomes one by the model's baseline hazard"
        )
    return array


def checked_times(times: Float[np.ndarray, " time"]) -> Float[np.ndarray, " time"]:
    """Times at which to judge, as an array that rises.

    Raises
    ------
    UsageError
        If there is none, one is not finite, or they do not rise.
    """
    array = np.asarray(times, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all() or (np.diff(array) <= 0).any():
        raise UsageError(f"expected rising times, at least one, got {times!r}")
    return array


def checked_horizon(horizon: float) -> float:
    """Time by which events are predicted.

    Raises
    ------
    UsageError
        If it is not a positive number.
    """
    if not (np.isfinite(horizon) and horizon > 0):
        raise UsageError(f"expected a horizon above 0, in the unit of the times, got {horizon!r}")
    return float(horizon)
