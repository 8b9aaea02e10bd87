"""Chooses among tried settings by their scores, inside the folds or on them; knows nothing of how they were fitted."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from trainer.config import RunConfig
from trainer.task_results import InnerScore, JobResult

Way = Literal["nested", "paper"]


@dataclass(frozen=True)
class Pick:
    """The setting that a fold uses."""

    model: str
    """Fitted model; of a choice, one of its members."""
    candidate: int
    """Row of that model's search table."""
    score: float | None
    """Mean c by which it was chosen: over the inner folds, or over the reported ones. None where nothing was chosen from."""


Picks = dict[tuple[int, int], Pick]
"""By (permutation, fold)."""


@dataclass(frozen=True)
class Line:
    """A row of the results to be: which fits it is made of, and how they were chosen."""

    label: str
    """What the row is called; unique."""
    row: str
    """Name of the model or choice in the config."""
    way: Way | None
    """How its settings were chosen; None where there was nothing to choose."""
    tried: int
    """Settings that it was chosen from."""
    picks: Picks
    """What each fold uses."""
    missing: tuple[tuple[int, int], ...] = ()
    """(permutation, fold) for which no choice could be made."""

    def of(self, results: Iterable[JobResult]) -> tuple[JobResult, ...]:
        """Its results, under its label, by permutation and fold."""
        places = {(key, pick.model, pick.candidate) for key, pick in self.picks.items()}
        mine = [
            result.model_copy(update={"model": self.label})
            for result in results
            if ((result.permutation, result.fold), result.model, result.candidate) in places
        ]
        return tuple(sorted(mine, key=lambda result: (result.permutation, result.fold)))


def lines_of(
    config: RunConfig,
    outer: Sequence[JobResult],
    inner: Sequence[InnerScore],
    *,
    permutations: Iterable[int],
    folds: int,
) -> tuple[Line, ...]:
    """Rows of a run as far as its scores allow them: in the order of the config, nested before the paper's way."""
    numbers = tuple(permutations)
    found: list[Line] = []
    for row in config.members:
        tried = config.tried(row)
        mine = numbers if _is_control(config, row) else tuple(number for number in numbers if not number)
        places = tuple((number, fold) for number in mine for fold in range(folds))
        if row not in config.tuned:
            found.append(Line(row, row, None, tried, fixed_picks(row, permutations=mine, folds=folds)))
            continue
        if config.search.mode != "paper":
            picks = nested_picks(config, row, inner, permutations=mine, folds=folds)
            found.append(Line(row, row, "nested", tried, picks, tuple(place for place in places if place not in picks)))
        if config.search.mode != "nested":
            picks = paper_picks(config, row, outer, permutations=mine, folds=folds)
            label = row if config.search.mode == "paper" else f"{row} (paper's way)"
            found.append(
                Line(label, row, "paper", tried, picks, tuple(place for place in places if place not in picks))
            )
    return tuple(found)


def _is_control(config: RunConfig, row: str) -> bool:
    return config.control is not None and row in config.control.models


def fixed_picks(model: str, *, permutations: Iterable[int], folds: int) -> Picks:
    """Picks of a row that is not chosen: its one setting in every fold."""
    return {(permutation, fold): Pick(model, 0, None) for permutation in permutations for fold in range(folds)}


def kept_settings(config: RunConfig, model: str, first: Mapping[int, float | None]) -> tuple[int, ...]:
    """Settings that go on after the first fold, in their order: the best share of them, all where there is no early pruning.

    Parameters
    ----------
    first
        c of each setting on the first fold, None where it failed; nothing is kept before all settings have one.
    """
    number = len(config.candidates[model])
    if config.search.keep is None or number == 1:
        return tuple(range(number))
    if len(first) < number:
        return ()
    known = sorted((-c, setting) for setting, c in first.items() if c is not None)
    # two at least: one alone that fails later would leave the fold without a choice
    return tuple(sorted(setting for _, setting in known[: max(2, math.ceil(config.search.keep * number))]))


def nested_picks(
    config: RunConfig, row: str, scores: Sequence[InnerScore], *, permutations: Iterable[int], folds: int
) -> Picks:
    """For each fold the setting with the best mean c over the inner folds of its training part; the first among equals.

    A setting that failed in an inner fold is not chosen. A fold whose scores are not all there yet has no pick, nor has one
    in which every setting failed.
    """
    found = _inner_means(scores)
    picks: Picks = {}
    for permutation in permutations:
        for fold in range(folds):
            settings = _in_play(config, row, found, permutation, fold)
            values = [found.get((member, tried, permutation, fold), []) for member, tried in settings]
            if all(len(several) == config.search.inner_folds for several in values):
                means = [None if None in several else float(np.mean(several)) for several in values]  # type: ignore[arg-type]
                _take_best(picks, (permutation, fold), settings, means)
    return picks


def paper_picks(
    config: RunConfig, row: str, results: Sequence[JobResult], *, permutations: Iterable[int], folds: int
) -> Picks:
    """In every fold the setting with the best mean c over the very folds that are reported: optimistic.

    References
    ----------
    Guinea-Pérez et al. 2026, section 2.4.1.
    """
    found: dict[tuple[str, int, int], list[float]] = {}
    for result in results:
        found.setdefault((result.model, result.candidate, result.permutation), []).append(result.c)
    picks: Picks = {}
    for permutation in permutations:
        # a setting that was pruned here is not chosen, also where the nested way had it fitted on every fold
        settings = [
            (member, tried)
            for member in config.members[row]
            for tried in kept_settings(config, member, first_fold(config, results, member, permutation))
        ]
        values = [found.get((member, tried, permutation), []) for member, tried in settings]
        means = [float(np.mean(several)) if len(several) == folds else None for several in values]
        for fold in range(folds):
            _take_best(picks, (permutation, fold), settings, means)
    return picks


def first_fold(
    config: RunConfig, results: Sequence[JobResult], member: str, permutation: int
) -> dict[int, float | None]:
    """The c of each setting on the first reported fold; None where its fit failed."""
    place = (member, permutation, 0)
    found = {one.candidate: one.c for one in results if (one.model, one.permutation, one.fold) == place}
    return {tried: found.get(tried) for tried in range(len(config.candidates[member]))}


def _in_play(
    config: RunConfig,
    row: str,
    found: Mapping[tuple[str, int, int, int], list[float | None]],
    permutation: int,
    fold: int,
) -> list[tuple[str, int]]:
    """Settings that a fold chooses from: those that early pruning kept; all, while their first scores are not all there."""
    settings: list[tuple[str, int]] = []
    for member in config.members[row]:
        every = range(len(config.candidates[member]))
        scores = {
            tried: found[member, tried, permutation, fold]
            for tried in every
            if (member, tried, permutation, fold) in found
        }
        first = {tried: several[0] for tried, several in scores.items()}
        kept = kept_settings(config, member, first) if len(first) == len(every) else tuple(every)
        settings += [(member, tried) for tried in kept]
    return settings


def _inner_means(scores: Iterable[InnerScore]) -> Mapping[tuple[str, int, int, int], list[float | None]]:
    found: dict[tuple[str, int, int, int], list[float | None]] = {}
    for score in sorted(scores, key=lambda score: score.inner):
        found.setdefault((score.model, score.candidate, score.permutation, score.fold), []).append(score.c)
    return found


def _take_best(
    picks: Picks, place: tuple[int, int], settings: Sequence[tuple[str, int]], means: Sequence[float | None]
) -> None:
    known = [(mean, setting) for mean, setting in zip(means, settings, strict=True) if mean is not None]
    if known:
        best, (model, candidate) = max(known, key=lambda pair: pair[0])
        picks[place] = Pick(model, candidate, best)
