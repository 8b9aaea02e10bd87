"""Writes the quality of embeddings as JSON and CSV; computes nothing."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from store_schema.errors import AlreadyExistsError
from trainer.quality.judging import Judged
from trainer.quality.measuring import Measured
from trainer.quality.results import (
    ALIGNMENT,
    DRIFT,
    DUPLICATES,
    NORMS,
    QUALITY,
    TABLE,
    Alignment,
    Correlation,
    Drift,
    EmbeddingQuality,
    Extent,
    Outlying,
    PermutationTest,
    Quality,
)
from trainer.quality.standard import modified_z
from trainer.run_folder import RUN, RunFolder
from trainer.saved import CARD

COLUMNS = ("view", "modality", "roi", "measure", "value", "low", "high", "n", "reason")
NORM_COLUMNS = (
    "patient", "view", "modality", "roi", "norm", "norm_z", "from_centre", "from_centre_z", "outlier", "not_finite", "valid_layers",
    "blank_layers",
)  # fmt: skip
PAIR_COLUMNS = (
    "view", "modality", "roi", "patient", "other", "same_person", "same_input", "same_content", "equal", "relative_l2",
    "share_of_median",
)  # fmt: skip
TEST_COLUMNS = ("f", "r2", "omega2", "p", "p_holm")
DRIFT_COLUMNS = (
    "view", "modality", "roi", "column", "permuted", "groups", "patients", "left_out", "permutations",
    *(f"location_{name}" for name in TEST_COLUMNS), *(f"spread_{name}" for name in TEST_COLUMNS), "reason",
)  # fmt: skip
ALIGNMENT_COLUMNS = ("patient", "view", "roi", "first", "second", "cosine", "rank", "of", "body_dice", "log_risk")


def write_quality(measured: Measured, url: str) -> str:
    """Write the results into a folder of their own, over older ones; gives the folder's address.

    Raises
    ------
    AlreadyExistsError
        If the folder holds a run or a model.
    """
    folder = RunFolder.open(url)
    for name, what in ((RUN, "a run"), (CARD, "a model")):
        if folder.read(name) is not None:
            raise AlreadyExistsError(
                f"{folder.url} holds {what}, whose files would be overwritten: use a folder of its own"
            )
    folder.replace(TABLE, quality_csv(measured.found))
    folder.replace(NORMS, _csv(NORM_COLUMNS, _norms(measured)))
    folder.replace(DUPLICATES, _csv(PAIR_COLUMNS, _pairs(measured)))
    folder.replace(DRIFT, _csv(DRIFT_COLUMNS, _drifts(measured.found)))
    folder.replace(ALIGNMENT, _csv(ALIGNMENT_COLUMNS, _aligned(measured)))
    folder.replace(QUALITY, measured.found.model_dump_json(indent=1) + "\n")
    return folder.url


def quality_csv(found: Quality) -> str:
    """One line per view, entry and measure: low and high are quartiles of sizes, and 95% intervals of correlations."""
    lines: list[list[Any]] = []
    for view in found.views:
        for one in view.embeddings:
            lines += [[view.view, one.modality, one.roi, *line] for line in _of_embeddings(one)]
        for pair in view.alignments:
            lines += [[view.view, f"{pair.first}+{pair.second}", pair.roi, *line] for line in _of_alignment(pair)]
    return _csv(COLUMNS, lines)


def _of_embeddings(one: EmbeddingQuality) -> Iterator[list[Any]]:
    n = one.patients
    counts = {
        "numbers not finite": one.not_finite,
        "entries not finite": one.left_out,
        "embeddings all zero": one.zero,
        "share of values not known": one.unknown,
        "features left out": one.sparse,
        "constant features": one.constant,
        "dead channels": one.dead_channels,
        "blank layers": one.blank_layers,
        **{f"entries with {layers} valid layers": entries for layers, entries in sorted(one.valid_layers.items())},
        "effective rank": one.effective_rank,
        "participation ratio": one.participation,
        **{f"variance of component {number}": share for number, share in enumerate(one.explained, start=1)},
    }
    yield from ([name, value, None, None, n, None] for name, value in counts.items())
    for name, sizes in (("norm", one.norm), ("distance from centre", one.from_centre)):
        yield _sizes(name, sizes)
        yield [f"outliers by {name}", sizes.outliers, None, None, n, sizes.reason]
    yield ["relative l2 of pairs", *_extent(one.pairs.relative_l2), None]
    for name in ("same_input", "same_content", "equal", "near", "same_person"):
        yield [f"pairs {name.replace('_', ' ')}", getattr(one.pairs, name), None, None, one.pairs.pairs, None]
    for drift in one.drift:
        yield from _of_drift(drift)


def _of_drift(drift: Drift) -> Iterator[list[Any]]:
    n = sum(drift.levels.values())
    for kind, test in (("location", drift.location), ("spread", drift.spread)):
        for name in ("r2", "omega2", "p", "p_holm"):
            value = None if test is None else getattr(test, name)
            yield [f"{name} of {kind} by {drift.column}, permuted {drift.scheme}", value, None, None, n, drift.reason]


def _of_alignment(pair: Alignment) -> Iterator[list[Any]]:
    yield ["cosine", *_extent(pair.cosine), None]
    yield ["rank of the own one", *_extent(pair.rank), pair.reason]
    for name in ("cka", "cka_debiased", "cka_p", "first_share", "rank_p"):
        yield [name.replace("_", " "), getattr(pair, name), None, None, pair.patients, pair.reason]
    yield ["body dice", *_extent(pair.body_dice), None if pair.body_dice else "the entries record no overlap"]
    yield ["spearman of cosine and risk", *_correlation(pair.risk_cosine)]
    yield ["spearman of body dice and risk", *_correlation(pair.risk_dice)]


def _sizes(name: str, sizes: Outlying) -> list[Any]:
    return [name, *_extent(sizes.extent), sizes.reason]


def _extent(found: Extent | None) -> list[Any]:
    return [None] * 4 if found is None else [found.median, found.lower, found.upper, found.n]


def _correlation(found: Correlation) -> list[Any]:
    return [found.spearman, found.low, found.high, found.n, found.reason]


def _where(one: Judged) -> list[Any]:
    place = one.found.place
    return [place.view, place.modality, place.roi]


def _norms(measured: Measured) -> Iterator[list[Any]]:
    limit = measured.found.settings.outlier
    for one in measured.embeddings:
        place, row_of = one.found.place, {int(row): number for number, row in enumerate(one.found.rows)}
        z = [modified_z(sizes) for sizes in (one.norms, one.from_centre)]
        for row, (patient, facts) in enumerate(zip(place.patients, place.facts, strict=True)):
            told: list[Any] = [None] * 5
            if (at := row_of.get(row)) is not None:
                deviations = [_known(float(each[at])) for each in z]
                far = any(abs(value) > limit for value in deviations if value is not None)
                told = [
                    _known(float(one.norms[at])),
                    deviations[0],
                    float(one.from_centre[at]),
                    deviations[1],
                    int(far),
                ]
            yield [patient, *_where(one), *told, facts.not_finite, facts.valid_layers, facts.blank_layers]


def _pairs(measured: Measured) -> Iterator[list[Any]]:
    for one in measured.embeddings:
        for pair in one.pairs:
            kinds = [int(getattr(pair, name)) for name in ("same_person", "same_input", "same_content", "equal")]
            far = [_known(pair.relative_l2), _known(pair.share_of_median)]
            yield [*_where(one), pair.patient, pair.other, *kinds, *far]


def _drifts(found: Quality) -> Iterator[list[Any]]:
    for view in found.views:
        for one in view.embeddings:
            for drift in one.drift:
                groups = "; ".join(f"{level}: {count}" for level, count in drift.levels.items())
                sizes = [groups, sum(drift.levels.values()), drift.left_out, drift.permutations]
                tests = [*_test(drift.location), *_test(drift.spread)]
                yield [view.view, one.modality, one.roi, drift.column, drift.scheme, *sizes, *tests, drift.reason]


def _test(test: PermutationTest | None) -> list[Any]:
    return [None if test is None else getattr(test, name) for name in TEST_COLUMNS]


def _aligned(measured: Measured) -> Iterator[list[Any]]:
    for one in measured.aligned:
        cells = zip(one.patients, one.own.tolist(), one.ranks.tolist(), one.body_dice.tolist(), strict=True)
        for patient, cosine, rank, dice in cells:
            first = [patient, one.view, one.roi, one.first, one.second]
            yield [*first, cosine, rank, len(one.patients), _known(dice), measured.log_risk.get(patient)]


def _known(value: float) -> float | None:
    """None for a number that is not defined."""
    return value if value == value else None  # noqa: PLR0124 - NaN alone differs from itself


def _csv(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return text.getvalue()
