"""Writes robustness as JSON and CSV; computes nothing."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from store_schema.errors import AlreadyExistsError
from trainer.predicting import risk_group
from trainer.robustness.measuring import Measured
from trainer.robustness.results import ENTRIES, RISKS, ROBUSTNESS, TABLE, PerturbedView, Robustness, Spread
from trainer.run_folder import RUN, RunFolder
from trainer.saved import CARD

COLUMNS = ("view", "kind", "size", "unit", "seed", "modality", "roi", "measure", "value", "low", "high", "n", "reason")


def write_robustness(measured: Measured, url: str) -> str:
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
    folder.replace(TABLE, robustness_csv(measured.found))
    folder.replace(ENTRIES, _csv(("patient", "modality", "roi", "view", "relative_l2", "cosine"), _entries(measured)))
    if measured.risks is not None:
        header = ("patient", "view", "log_risk_base", "log_risk", "risk_group_base", "risk_group")
        folder.replace(RISKS, _csv(header, _risks(measured)))
    folder.replace(ROBUSTNESS, measured.found.model_dump_json(indent=1) + "\n")
    return folder.url


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


def _spread(found: Spread | None) -> list[Any]:
    return [None] * 4 if found is None else [found.median, found.lower, found.upper, found.n]


def _entries(measured: Measured) -> Iterator[list[Any]]:
    for (view, modality, roi), (patients, moved) in measured.moved.items():
        for patient, far, near in zip(patients, moved.relative_l2.tolist(), moved.cosine.tolist(), strict=True):
            yield [patient, modality, roi, view, far, near]


def _risks(measured: Measured) -> Iterator[list[Any]]:
    risks = measured.risks
    assert risks is not None
    groups = [risk_group(risks.card, risk) for risk in risks.log_risk]
    for place, view in enumerate(measured.order, start=1):
        for row, patient in enumerate(risks.cohort.patients):
            pair = (float(risks.log_risk[0][row]), float(risks.log_risk[place][row]))
            yield [patient, view, *pair, int(groups[0][row]), int(groups[place][row])]


def _csv(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return text.getvalue()
