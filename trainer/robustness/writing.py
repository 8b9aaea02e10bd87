"""Writes robustness as JSON and CSV; computes nothing."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from store_schema.errors import AlreadyExistsError
from trainer.robustness.measuring import Measured
from trainer.robustness.results import (
    ENTRIES,
    FOLDS,
    LEFT_OUT,
    RISKS,
    ROBUSTNESS,
    TABLE,
    PerturbedView,
    Robustness,
    Spread,
)
from trainer.robustness.risks import Risks
from trainer.run_folder import RUN, RunFolder
from trainer.saved import CARD

ICC_COLUMNS = ("icc", "icc_low", "icc_high")
FOLD_COLUMNS = ("fold", "repeat", "patients", "events", *ICC_COLUMNS, "spearman", "c_base", "c", "change", "reason")
COLUMNS = ("view", "kind", "size", "unit", "seed", "modality", "roi", "measure", "value", "low", "high", "n", "reason")


def write_robustness(measured: Measured, url: str) -> str:
    """Write the results into a folder of their own, over older ones; gives the folder's address.

    Raises
    ------
    AlreadyExistsError
        If the folder holds a run or a model.
    """
    folder = own_folder(url)
    folder.replace(TABLE, robustness_csv(measured.found))
    folder.replace(ENTRIES, _csv(("patient", "modality", "roi", "view", "relative_l2", "cosine"), _entries(measured)))
    _replace(folder, RISKS, None if measured.risks is None else _risks(measured.risks, measured.order))
    others = [
        [key.patient, key.modality, key.roi, one.view, why] for one in measured.files for key, why in one.other.items()
    ]
    _replace(folder, LEFT_OUT, _csv(("patient", "modality", "roi", "view", "reason"), others) if others else None)
    of_run = measured.found.model is not None and measured.found.model.row is not None
    _replace(folder, FOLDS, folds_csv(measured.found) if of_run else None)
    folder.replace(ROBUSTNESS, measured.found.model_dump_json(indent=1) + "\n")
    return folder.url


def _replace(folder: RunFolder, name: str, text: str | None) -> None:
    """Write a file, or take away that of an earlier call, which these results have not."""
    if text is not None:
        folder.replace(name, text)
    elif folder.location.exists(name):
        folder.location.delete(name)


def own_folder(url: str) -> RunFolder:
    """Folder of the results, which is nobody else's.

    Raises
    ------
    AlreadyExistsError
        If it holds a run or a model.
    """
    folder = RunFolder.open(url)
    for name, what in ((RUN, "a run"), (CARD, "a model")):
        if folder.read(name) is not None:
            raise AlreadyExistsError(
                f"{folder.url} holds {what}, whose files would be overwritten: use a folder of its own"
            )
    return folder


def folds_csv(found: Robustness) -> str:
    """One line per view and fold of the run."""
    header = ("view", "kind", "size", "unit", "seed", *FOLD_COLUMNS)
    return _csv(header, (line for view in found.views for line in _fold_lines(view)))


def robustness_csv(found: Robustness) -> str:
    """One line per view and measure: low and high are quartiles of spreads, and 95% intervals of all else."""
    return _csv(COLUMNS, (line for view in found.views for line in _lines(view)))


def _lines(view: PerturbedView) -> Iterator[list[Any]]:
    first = [view.view, view.kind, view.size, view.unit, view.seed]
    for one in view.embeddings:
        where = [*first, one.modality, one.roi]
        yield [*where, "icc of features", *_spread(one.icc), one.reason]
        for number, component in enumerate(one.components, start=1):
            told = component.icc
            yield [*where, f"icc of component {number}", told.value, told.low, told.high, one.patients, told.reason]
        yield [*where, "relative l2", *_spread(one.relative_l2), None]
        yield [*where, "cosine", *_spread(one.cosine), None]
    if view.risk is None:
        return
    risk, where = view.risk, [*first, None, None]
    yield [*where, "icc of risks", risk.icc.value, risk.icc.low, risk.icc.high, risk.patients, risk.icc.reason]
    for name in ("spearman", "kendall", "mean_rank_change", "changed_group"):
        yield [*where, name.replace("_", " "), getattr(risk, name), None, None, risk.patients, None]
    yield [*where, "change of c", risk.c.change, risk.c.low, risk.c.high, risk.patients, risk.c.reason]
    yield [*where, "p of the change of c", risk.c.p, None, None, risk.patients, risk.c.reason]
    if (test := risk.over_folds) is not None:
        yield [*where, "c of the base over folds", test.base, None, None, test.folds, test.reason]
        yield [*where, "c over folds", test.perturbed, None, None, test.folds, test.reason]
        yield [*where, "change of c over folds", test.change, test.low, test.high, test.folds, test.reason]
        yield [*where, "p of the change of c over folds", test.p, None, None, test.folds, test.reason]


def _spread(found: Spread | None) -> list[Any]:
    return [None] * 4 if found is None else [found.median, found.lower, found.upper, found.n]


def _entries(measured: Measured) -> Iterator[list[Any]]:
    for (view, modality, roi), (patients, moved) in measured.moved.items():
        for patient, far, near in zip(patients, moved.relative_l2.tolist(), moved.cosine.tolist(), strict=True):
            yield [patient, modality, roi, view, far, near]


def _fold_lines(view: PerturbedView) -> Iterator[list[Any]]:
    for one in () if view.risk is None else view.risk.folds:
        agreement = zip(ICC_COLUMNS, (one.icc.value, one.icc.low, one.icc.high), strict=True)
        told = one.model_dump(exclude={"icc"}) | dict(agreement)
        yield [view.view, view.kind, view.size, view.unit, view.seed, *(told[name] for name in FOLD_COLUMNS)]


def _risks(risks: Risks, views: Sequence[str]) -> str:
    header, *lines = risks.lines(views)
    return _csv(header, lines)


def _csv(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return text.getvalue()
