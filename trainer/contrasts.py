"""Compares models on the same folds: the claim, declared contrasts, the groups of a study; knows no store or file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from trainer.config import RunConfig
from trainer.model_config import Facets
from trainer.results import ContrastResult
from trainer.run_settings import ContrastSettings
from trainer.selection import Line
from trainer.splits import Splits
from trainer.stats import holm, paired_contrast

CONTRAST_FACTS = ("mean", "se", "t", "df", "p_two_sided", "low", "high", "differences")
"""Figures of a contrast as the test gives them."""

FEW = 4
"""Rows that a note calls by their names."""

Scores = Mapping[str, Float[np.ndarray, " fold"]]
"""c of every fold by the label of a row; rows that miss a fold are not in it."""


@dataclass(frozen=True)
class Group:
    """A contrast between two values of one facet of a study, over the pairs of rows that differ in nothing else."""

    label: str
    pairs: tuple[tuple[str, str], ...]
    """Names of the rows: first value, second value."""


def all_contrasts(
    config: RunConfig, lines: Sequence[Line], scores: Scores, splits: Splits
) -> tuple[ContrastResult, ...]:
    """The claim first, then every secondary contrast, whose p-values are adjusted together (Holm).

    Of a row that was tuned both ways the nested one is taken.

    Parameters
    ----------
    config
        Names the contrasts, and tells the facets by which a study's rows are grouped.
    lines
        Rows.
    scores
        Of the complete ones.
    splits
        How often the cohort was dealt, and into how many folds.

    References
    ----------
    Nadeau and Bengio 2003; Holm 1979; protocol section 6.
    """
    first_of: dict[str, Line] = {}
    for line in lines:
        first_of.setdefault(line.row, line)
    primary = config.primary_contrast
    secondary = [_declared(contrast, first_of, scores, splits, primary=False) for contrast in config.contrasts]
    secondary += [_of_group(group, first_of, scores, splits) for group in study_groups(config)]
    claim = () if primary is None else (_weakened(_declared(primary, first_of, scores, splits, primary=True), splits),)
    return (*claim, *_adjusted(secondary))


def _weakened(claim: ContrastResult, splits: Splits) -> ContrastResult:
    """The claim with a note where the cohort was dealt once: its test was made for repeats."""
    if splits.repeats > 1:
        return claim
    told = "folds dealt once: the claim test is meant for 10 repeats, 2 of convolutions on a CPU (splits: repeats)"
    if splits.grouped_by == "centre":
        told = "folds are centres: few and unlike, so that a mean over them is uncertain"
    return claim.model_copy(update={"note": "; ".join(filter(None, (told, claim.note)))})


def study_groups(config: RunConfig) -> tuple[Group, ...]:
    """Contrasts of the paper's discussion that the facets of a config's rows allow.

    References
    ----------
    Guinea-Pérez et al. 2026, section 4; protocol section 6 (contrasts printed as text).
    """
    image = _rows(config, lambda facets: facets.table == "image")
    masks = list(dict.fromkeys(facets.mask for facets in image.values()))
    asked = [
        ("downsampling", "averaging", "attention"),
        ("fusion", "concatenation", "gated"),
        ("origin", "PET", "CT"),
        *([("mask", masks[0], masks[1])] if len(masks) == 2 else []),
    ]
    found = [_matched(image, *facet) for facet in asked]
    clinical = [
        model.name
        for model in config.fitted_models
        if model.facets is not None and model.facets.table == "clinical" and model.kind == "network"
    ]
    multimodal = _rows(config, lambda facets: facets.table == "multimodal")
    if clinical:
        found.append(Group("multimodal − clinical", tuple((name, clinical[0]) for name in multimodal)))
    return tuple(group for group in found if group.pairs)


def _rows(config: RunConfig, wanted: Callable[[Facets], bool]) -> dict[str, Facets]:
    return {model.name: model.facets for model in config.models if model.facets is not None and wanted(model.facets)}


def _matched(rows: Mapping[str, Facets], facet: str, first: str, second: str) -> Group:
    """Pairs of rows that differ in this facet alone."""
    others = {
        tuple(value for name, value in facets.model_dump().items() if name != facet): name
        for name, facets in rows.items()
        if getattr(facets, facet) == second
    }
    pairs = []
    for name, facets in rows.items():
        rest = tuple(value for place, value in facets.model_dump().items() if place != facet)
        if getattr(facets, facet) == first and rest in others:
            pairs.append((name, others[rest]))
    return Group(f"{first} − {second}", tuple(pairs))


def _declared(
    contrast: ContrastSettings, lines: Mapping[str, Line], scores: Scores, splits: Splits, *, primary: bool
) -> ContrastResult:
    pair = (lines[contrast.first], lines[contrast.second])
    made = ContrastResult(
        label=contrast.label, first=contrast.first, second=contrast.second, primary=primary, folds=_folds(scores)
    )
    return _tested(made, [pair], scores, splits)


def _of_group(group: Group, lines: Mapping[str, Line], scores: Scores, splits: Splits) -> ContrastResult:
    pairs = [(lines[first], lines[second]) for first, second in group.pairs]
    first, second = group.label.split(" − ")
    label = f"{group.label} ({len(pairs)} pair{'' if len(pairs) == 1 else 's'})"
    made = ContrastResult(label=label, first=first, second=second, primary=False, folds=_folds(scores))
    return _tested(made, pairs, scores, splits)


def _folds(scores: Scores) -> int:
    return max((len(values) for values in scores.values()), default=0)


def _tested(
    contrast: ContrastResult, pairs: Sequence[tuple[Line, Line]], scores: Scores, splits: Splits
) -> ContrastResult:
    """Differences are averaged over the pairs within each fold, then tested over folds."""
    lines = [line for pair in pairs for line in pair]
    made = contrast.model_copy(update={"note": _tuned_note(lines)})
    if any(line.label not in scores for line in lines):
        return made
    one, two = (np.mean([scores[pair[side].label] for pair in pairs], axis=0) for side in (0, 1))
    found = paired_contrast(one, two, test_to_train=splits.test_to_train)
    return made.model_copy(update={name: getattr(found, name) for name in CONTRAST_FACTS})


def _tuned_note(lines: Sequence[Line]) -> str | None:
    """From how many settings the tuned rows of a contrast were chosen, and which of them on the reported folds."""
    tried = {line.label: line.tried for line in sorted(lines, key=lambda line: line.label) if line.way == "nested"}
    optimistic = {line.label: line.tried for line in sorted(lines, key=lambda line: line.label) if line.way == "paper"}
    told = [
        f"{said}: {_by_number(rows)}"
        for said, rows in (
            ("tuned inside the training folds", tried),
            ("tuned on the reported folds, OPTIMISTIC", optimistic),
        )
        if rows
    ]
    return "; ".join(told) or None


def _by_number(rows: Mapping[str, int]) -> str:
    """Rows with the settings tried of each; where all had as many and there are several, how many rows."""
    numbers = set(rows.values())
    if len(rows) > FEW and len(numbers) == 1:
        return f"{len(rows)} rows, best of {numbers.pop()} settings each"
    return ", ".join(f"{label} best of {number} settings" for label, number in rows.items())


def _adjusted(found: Sequence[ContrastResult]) -> tuple[ContrastResult, ...]:
    known = [contrast.p_two_sided for contrast in found if contrast.p_two_sided is not None]
    adjusted = iter(holm(known))
    return tuple(
        contrast if contrast.p_two_sided is None else contrast.model_copy(update={"p_holm": next(adjusted)})
        for contrast in found
    )
