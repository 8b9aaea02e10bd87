"""Says why rows of a run miss a fold, and which settings of a search could not be fitted; knows no cluster and no file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainer.config import RunConfig
from trainer.results import Failure
from trainer.selection import Line
from trainer.task import Part
from trainer.task_results import InnerScore, JobFault

FIRST_REASON = "the first because: "
"""Stands in a note before what an error said, which may name a patient."""

Place = tuple[str, int, int, int]
"""Fitted model, row of its search table, permutation, fold."""


@dataclass(frozen=True)
class Faults:
    """Fits that no try can do, of outer folds and of inner parts."""

    outer: Mapping[Place, JobFault]
    inner: Mapping[Place, InnerScore]
    """The first of each place."""

    @classmethod
    def of(cls, outer: Sequence[JobFault], inner: Sequence[InnerScore]) -> "Faults":
        """Sorted by place."""
        first: dict[Place, InnerScore] = {}
        for score in inner:
            if score.fault is not None:
                first.setdefault((score.model, score.candidate, score.permutation, score.fold), score)
        return cls({(one.model, one.candidate, one.permutation, one.fold): one for one in outer}, first)

    def reason(self, place: Place) -> str | None:
        """Why the fits of a place failed; None where none did."""
        if place in self.outer:
            return self.outer[place].reason
        return self.inner[place].fault if place in self.inner else None


def row_failures(config: RunConfig, lines: Sequence[Line], faults: Faults) -> tuple[Failure, ...]:
    """A failure for each fold that a row misses because its fit, or every setting that it could choose, failed.

    Permuted outcomes that nobody asked for are no failure: `permutation_notes` tells of them.
    """
    found: list[Failure] = []
    asked = config.permuted_control != "auto"
    for line in lines:
        for (permutation, fold), pick in line.picks.items():
            if permutation and not asked:
                continue
            fault = faults.outer.get((pick.model, pick.candidate, permutation, fold))
            if fault is not None:
                found.append(_failure(line, permutation, fold, fault.reason))
        for permutation, fold in line.missing:
            found.append(_failure(line, permutation, fold, _no_choice(config, line, faults, permutation, fold)))
    return tuple(found)


def permutation_notes(config: RunConfig, faults: Faults) -> tuple[str, ...]:
    """A sentence for each row without a permutation p because a fit on permuted outcomes failed that nobody had asked for."""
    if config.permuted_control != "auto":
        return ()
    lost: dict[str, list[JobFault]] = {}
    for (name, _, permutation, _), fault in faults.outer.items():
        if permutation:
            lost.setdefault(name, []).append(fault)
    return tuple(
        f"{name} has no permutation p: {len(found)} fits on permuted outcomes failed, {FIRST_REASON}{found[0].reason}"
        for name, found in lost.items()
    )


def pruning_notes(config: RunConfig) -> tuple[str, ...]:
    """A sentence that early pruning left out fits, and of which models."""
    keep = config.search.keep
    pruned = [name for name, tried in config.candidates.items() if len(tried) > 1]
    if keep is None or not pruned:
        return ()
    told = f"the best {keep:.0%} of the settings on the first fold, two at least, went on to the others"
    return (f"early pruning: of {', '.join(pruned)} {told}",)


def setting_notes(config: RunConfig, faults: Faults) -> tuple[str, ...]:
    """A sentence for each searched model of which settings failed: a search that lost settings says so."""
    lost: dict[str, dict[int, str]] = {}
    for place in (*faults.outer, *faults.inner):
        name, candidate, *_ = place
        if len(config.candidates[name]) > 1:
            lost.setdefault(name, {}).setdefault(candidate, faults.reason(place) or "")
    return tuple(
        f"{len(settings)} of {len(config.candidates[name])} settings of {name} could not be fitted in some fold and were not "
        f"chosen there, {FIRST_REASON}{next(iter(settings.values()))}"
        for name, settings in lost.items()
    )


def _failure(line: Line, permutation: int, fold: int, reason: str) -> Failure:
    part = Part(permutation=permutation, fold=fold)
    return Failure(task_id="", label=f"{line.label}, {part.label}", reason=reason)


def _no_choice(config: RunConfig, line: Line, faults: Faults, permutation: int, fold: int) -> str:
    places = [
        (member, candidate, permutation, fold)
        for member in config.members[line.row]
        for candidate in range(len(config.candidates[member]))
    ]
    reasons = [reason for reason in map(faults.reason, places) if reason is not None]
    if not reasons:
        return "not all settings were scored, since a task failed"
    return f"none of {line.tried} settings could be chosen: {reasons[0]}"
