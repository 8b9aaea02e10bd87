"""Brings the risk of each patient from a kept model or from a run's out-of-fold predictions; fits nothing."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from store_schema import Snapshot, Store
from store_schema.errors import CohortError, UsageError
from store_schema.files import Place
from store_schema.pseudonyms import PlainIds
from trainer.cohort import build_cohort
from trainer.columns import Columns
from trainer.predicting import Newcomers, available, predict
from trainer.quality.results import RiskSource
from trainer.report.reading import FinishedRun, read_run
from trainer.run_folder import RunFolder
from trainer.saved import Card, card_sha256, read_model
from trainer.summary import pooled_risks
from trainer.tables import read_table


@dataclass(frozen=True)
class Risks:
    """Risks by key of the store; higher is worse."""

    source: RiskSource
    log_risk: Mapping[str, float]
    columns: Columns
    """Roles of columns as the model or run has them."""
    note: str
    """What a reader must know of these risks."""


def model_risks(url: str, store: Store, snapshots: Iterable[Snapshot], clinical: Place | None, ids: PlainIds) -> Risks:
    """Log-risks that a kept model gives to everybody who has what it reads.

    It reads the snapshot of its own view, where that is among those looked at, else the view's present entries.

    Raises
    ------
    UsageError, TableError, NotCommittedError, CohortError
        As `trainer.predicting.predict`.
    """
    card, trained = read_model(url)
    pinned = {snapshot.view_id: snapshot for snapshot in snapshots}
    own = None if card.view is None else pinned.get(card.view)
    asked = Newcomers(store.url, None if own is None else own.id, clinical, ids)
    scores = predict(card, trained, asked, times=())
    risks = dict(zip(scores.patients, scores.log_risk.tolist(), strict=True))
    source = RiskSource(name=card.name, kind="model", patients=len(risks), card_sha256=card_sha256(url))
    apparent = _fitted_on_these(card, own, clinical, ids)
    note = (
        f"model {card.name} was fitted on these very patients: its risks follow their outcomes more closely than a stranger's would"
        if apparent
        else f"whether model {card.name} was fitted on some of these patients cannot be told from its card"
    )
    return Risks(source, risks, card.columns, note)


def run_risks(url: str, row: str, store: Store) -> tuple[Risks, FinishedRun]:
    """Out-of-fold risks of a row of a finished run, standardised by each fold's training patients and averaged over repeats.

    Raises
    ------
    NotCommittedError, SchemaError, ObjectAlteredError
        If the folder holds no finished run, or is not what it was.
    UsageError
        If the run has no such row, or it is incomplete, or the run read another store.
    CohortError
        If a fold's model tells nobody apart, so that its risks have no scale.
    """
    run = read_run(RunFolder.open(url))
    if row not in run.names:
        raise UsageError(f"{url} has no row {row!r} of a model: name one of {', '.join(run.names)} with --row")
    if not any(found.label == row and found.mean is not None for found in run.results.of_kind("model")):
        raise UsageError(
            f"row {row!r} of {url} is incomplete, and patients of a fold that failed have no risk: run the same command of the run "
            "again before its risks are looked at"
        )
    read = run.record.get("store")
    if read is not None and read["id"] != store.store_id:
        raise UsageError(
            f"{url} read store {read['id']}, and {store.url} is {store.store_id}: equal ids may be other patients. Name the run's "
            "own store"
        )
    risks = pooled_risks(run.of(row))
    if not risks:
        raise CohortError(f"row {row!r} of {url}: a fold's model gives all patients one risk, which has no scale")
    note = (
        f"risks of {row} are out-of-fold, in standard deviations of each fold's training patients, averaged over repeats; folds "
        "share training patients"
    )
    source = RiskSource(name=row, kind="run", patients=len(risks))
    return Risks(source, risks, run.config.columns, note), run


def _fitted_on_these(card: Card, snapshot: Snapshot | None, clinical: Place | None, ids: PlainIds) -> bool:
    """Whether the cohort that the table and the model's own view make is the one that it was fitted on."""
    if clinical is None or (card.view is not None and snapshot is None):
        return False
    if not set(card.columns.used) <= set(read_table(clinical)[0].columns):
        return False
    entries = {} if snapshot is None else available(card, snapshot)
    return build_cohort(clinical, card.columns, entries, ids=ids).digest == card.training.cohort_digest
