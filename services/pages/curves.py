"""Lays out Kaplan–Meier curves and c-indices of folds as SVG, in numbers for a template; computes no statistic.

Colours are classes of the style sheet, and each curve has a line of its own kind: what is seen does not hang on colour.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.pages.templating import number_text, plural
from store_schema.published import PublishedCurve, PublishedModel, PublishedRiskGroups

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 62, 18, 14, 292
"""Edges of the field of the curves; below it stand the axis and the numbers at risk."""
AT_RISK_Y, LINE_Y = 362, 18
STEPS = {
    "months": (1, 2, 3, 6, 12, 24, 36, 48, 60, 120),
    "years": (0.5, 1, 2, 3, 5, 10),
    "days": (30, 90, 180, 365, 730, 1825),
}
MOST_TICKS = 9
CURVE_LOOKS = (("s1", "f1", None), ("s2", "f2", "7 3"))
"""Class of lines, class of fills, dashes."""
C_LOW, C_HIGH, C_WIDTH, C_HEIGHT = 0.3, 0.9, 180, 16
"""Range and size of the strip that shows c by fold."""


@dataclass(frozen=True)
class DrawnCurve:
    """One curve and its line of numbers at risk."""

    line: str
    fill: str
    dashes: str | None
    path: str
    band: str
    censored: str
    """Path of the ticks where patients leave."""
    label: str
    name: str
    """What its line of numbers at risk is called."""
    at_risk: tuple[int, ...]
    """At each tick of the time axis."""
    risk_y: int


@dataclass(frozen=True)
class DrawnGroups:
    """The figure of one model."""

    model: str
    curves: tuple[DrawnCurve, ...]
    ticks: tuple[tuple[float, str], ...]
    """Place and time of each tick."""
    levels: tuple[tuple[float, str], ...]
    unit: str
    described: str
    chi_squared: float
    nominal_p: float
    permutation_p: float | None


@dataclass(frozen=True)
class Strip:
    """c of each fold on a line from `C_LOW` to `C_HIGH`."""

    dots: tuple[float, ...]
    mean: float | None
    chance: float
    width: int = C_WIDTH
    height: int = C_HEIGHT


def drawn(groups: PublishedRiskGroups, *, last_time: float, unit: str) -> DrawnGroups:
    """The outer risk quartiles of one model."""
    times = _ticks(last_time, unit)
    pair = (groups.lowest, groups.highest)
    curves = tuple(_curve(one, number, times, last_time) for number, one in enumerate(pair))
    return DrawnGroups(
        model=groups.model,
        curves=curves,
        ticks=tuple((_x(time, last_time), f"{time:g}") for time in times),
        levels=tuple((_y(level / 4), f"{level / 4:g}") for level in range(5)),
        unit=unit,
        described=" ".join(_described(one, times, unit) for one in pair),
        chi_squared=groups.chi_squared,
        nominal_p=groups.nominal_p,
        permutation_p=groups.permutation_p,
    )


def strip(model: PublishedModel) -> Strip:
    """The folds of one row of the table."""
    scores = [score for score in model.scores if score is not None]
    mean = None if model.mean is None else _place(model.mean)
    return Strip(tuple(_place(score) for score in scores), mean, _place(0.5))


def _place(c: float) -> float:
    return round((min(C_HIGH, max(C_LOW, c)) - C_LOW) / (C_HIGH - C_LOW) * (C_WIDTH - 8) + 4, 1)


def _curve(curve: PublishedCurve, number: int, times: Sequence[float], last: float) -> DrawnCurve:
    line, fill, dashes = CURVE_LOOKS[number]
    upper, lower = _steps(curve.time, curve.high, last), _steps(curve.time, curve.low, last)
    gone = [
        (_x(time, last), _y(level))
        for time, level, left in zip(curve.time, curve.survival, curve.censored, strict=True)
        if left
    ]
    return DrawnCurve(
        line=line,
        fill=fill,
        dashes=dashes,
        path="M" + " L".join(f"{x} {y}" for x, y in _steps(curve.time, curve.survival, last)),
        band="M" + " L".join(f"{x} {y}" for x, y in [*upper, *reversed(lower)]) + " Z",
        censored=" ".join(f"M{x} {round(y - 4, 1)} v8" for x, y in dict.fromkeys(gone)),
        label=f"{curve.group} risk quartile: {plural(curve.patients, 'patient')}, {plural(curve.events, 'event')}",
        name=f"{curve.group} risk",
        at_risk=tuple(curve.at_risk_at(time) for time in times),
        risk_y=AT_RISK_Y + number * LINE_Y,
    )


def _steps(times: Iterable[float], levels: Iterable[float], last: float) -> list[tuple[float, float]]:
    """Corners of a step function from 1 at time 0 to the end of the axis; those nearer than a tenth of a pixel fall together."""
    points = [(_x(0, last), _y(1.0))]
    for time, level in zip(times, levels, strict=True):
        x, y = _x(time, last), _y(level)
        if y != points[-1][1]:
            points += [(x, points[-1][1]), (x, y)]
        end = x
    return [*points, (end, points[-1][1])]


def _x(time: float, last: float) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * min(1.0, max(0.0, time / last)), 1)


def _y(level: float) -> float:
    return round(BOTTOM - (BOTTOM - TOP) * min(1.0, max(0.0, level)), 1)


def _ticks(last: float, unit: str) -> tuple[float, ...]:
    """Round times from 0 to the end of the axis."""
    step = next((one for one in STEPS.get(unit, ()) if last / one < MOST_TICKS), last / (MOST_TICKS - 1))
    return tuple(step * number for number in range(int(last / step) + 1))


def _described(curve: PublishedCurve, times: Sequence[float], unit: str) -> str:
    middle = times[len(times) // 2]
    median = "not reached" if curve.median is None else f"{number_text(curve.median, 1)} {unit}"
    return (
        f"{curve.group.capitalize()} risk quartile: {plural(curve.patients, 'patient')}, {plural(curve.events, 'event')}, "
        f"median {median}, {curve.survival_at(middle):.0%} free of the event at {middle:g} {unit}."
    )
