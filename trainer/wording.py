"""Says figures as text, the same on the terminal and on the page; computes nothing."""

from collections.abc import Iterable
from typing import Literal

from trainer.measures.row_measures import Estimate
from trainer.results import ContrastResult, FoldScore, Row

CHOSEN_BY = {"nested": "inside the training folds", "paper": "on the reported folds: OPTIMISTIC"}
"""Folds by which a tuned row's settings were chosen."""


def chosen_text(tried: int, tuned: Literal["nested", "paper"] | None) -> str:
    """From how many settings a figure's own was chosen, and by which folds; empty where nothing was chosen."""
    return "" if tuned is None else f"best of {tried} settings, chosen {CHOSEN_BY[tuned]}"


def tuning_text(row: Row) -> str:
    """How a row was tuned; empty where it was not."""
    return chosen_text(row.tried, row.tuned)


def named(row: Row) -> str:
    """What a row is called, and how it was tuned."""
    return row.label if row.tuned is None else f"{row.label} ({tuning_text(row)})"


def tunings_text(rows: Iterable[Row]) -> str:
    """How several rows were tuned, each way once; empty where none was."""
    return "; ".join(dict.fromkeys(filter(None, map(tuning_text, rows))))


def mean_text(row: Row) -> str:
    """Mean and standard error with three decimals."""
    if row.mean is None:
        return "incomplete"
    return f"{row.mean:.3f}" + ("" if row.se is None else f" ± {row.se:.3f}")


def estimate_text(found: Estimate, digits: int = 3) -> str:
    """Figure with its 95% interval, or why there is none."""
    if found.value is None:
        return f"none ({found.reason})"
    span = (
        "" if found.low is None or found.high is None else f" [95% {found.low:.{digits}f} to {found.high:.{digits}f}]"
    )
    return f"{found.value:.{digits}f}{span}"


def p_text(p: float | None) -> str:
    """Probability for a table; a dash where it was not computed."""
    if p is None:
        return "–"
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"


def scores_text(row: Row, most: int = 10) -> str:
    """Fold by fold, or how many there are where they are too many for a line."""
    if len(row.scores) > most and not any(score.centre for score in row.scores):
        values = [score.c for score in row.scores if score.c is not None]
        span = f"{min(values):.3f} to {max(values):.3f}" if values else "none done"
        return f"{len(row.scores)} scores, {span}"
    return " ".join(_score_text(score) for score in row.scores)


def _score_text(score: FoldScore) -> str:
    """Figure of a fold, after the centre that it is, where it is one."""
    told = "failed" if score.c is None else f"{score.c:.3f}"
    return told if score.centre is None else f"{score.centre} {told}"


def slope_text(slope: float, low: float | None, high: float | None) -> str:
    """Calibration slope with its interval, and what it means where it is not 1."""
    span = "" if low is None or high is None else f" [95% {low:.2f} to {high:.2f}]"
    spread = "; risks and survival curves spread too far" if high is not None and high < 1 else ""
    return f"{slope:.2f}{span} in cross-validation{spread}"


def contrast_text(found: ContrastResult) -> str:
    """A contrast as one line: what, how much, how sure, and what weakens it."""
    kind = "claim   " if found.primary else "contrast"
    if found.mean is None:
        return f"{kind} {found.label}: incomplete"
    span = "" if found.low is None else f" [95% {found.low:+.3f} to {found.high:+.3f}]"
    p = f", p {p_text(found.p_two_sided)}" + ("" if found.p_holm is None else f" (Holm {p_text(found.p_holm)})")
    note = "" if found.note is None else f"; {found.note}"
    return f"{kind} {found.label}: Δc {found.mean:+.3f}{span}{p}, {found.folds} folds{note}"
