"""Holds what is told of robustness, as its JSON file does; computes nothing."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

ROBUSTNESS, TABLE, ENTRIES, RISKS, FOLDS = "robustness.json", "robustness.csv", "entries.csv", "risks.csv", "folds.csv"
LEFT_OUT = "left_out.csv"
"""Entries of other files than the base's; written only where there are some."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Spread(_Record):
    """Median and quartiles of a measure over features or entries."""

    median: float
    lower: float
    """First quartile."""
    upper: float
    """Third quartile."""
    n: int


class Agreement(_Record):
    """ICC(2,1) with its 95% interval, or why there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


class Component(_Record):
    """Agreement along one principal component of the base embeddings."""

    explained: float
    """Share of the base embeddings' variance, 0–1."""
    icc: Agreement


class EmbeddingRobustness(_Record):
    """How the embeddings of one modality and region hold.

    Attributes
    ----------
    patients, features
        How many, and how many features a patient has.
    constant
        Features that are one number for all patients, or not known somewhere: they are left out of `icc`.
    icc
        ICC(2,1) of each feature, over features; None where all are constant, whose reason is `reason`.
    components
        The same of the first principal components.
    relative_l2
        ‖perturbed − base‖ / ‖base‖ of each patient, over patients; 0 is unchanged.
    cosine
        Cosine similarity of the two, over patients; 1 is unchanged.
    """

    modality: str
    roi: str
    patients: int
    features: int
    constant: int
    icc: Spread | None
    reason: str | None = None
    components: tuple[Component, ...] = ()
    relative_l2: Spread
    cosine: Spread


class CIndexChange(_Record):
    """Change of Harrell's c, perturbed − base, by a paired bootstrap over patients; or why there is none."""

    base: float | None = None
    perturbed: float | None = None
    change: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    resamples: int = 0
    redrawn: int = 0
    reason: str | None = None


class FoldRobustness(_Record):
    """How the risks that one fold's model gives its test patients hold.

    Attributes
    ----------
    fold, repeat
        Which of the run's folds.
    patients, events
        Test patients that all views hold.
    icc, spearman
        Of log-risks.
    c_base, c, change
        Harrell's c on the base and on the perturbed view, and c − c_base; None where there is no comparable pair, which `reason`
        says.
    """

    fold: int
    repeat: int
    patients: int
    events: int
    icc: Agreement
    spearman: float | None
    c_base: float | None = None
    c: float | None = None
    change: float | None = None
    reason: str | None = None


class FoldsTest(_Record):
    """Change of c over folds by the corrected resampled t-test, two-sided; or why there is none.

    Attributes
    ----------
    base, perturbed, change
        Means over folds of c on the base and on the perturbed view, and of their difference, perturbed − base.
    se, t, df, p, low, high
        Of the mean difference, with its 95% interval; t and p are None where it is the same in all folds, all None for one fold.
    folds
        How many.

    References
    ----------
    Nadeau and Bengio 2003.
    """

    base: float | None = None
    perturbed: float | None = None
    change: float | None = None
    se: float | None = None
    t: float | None = None
    df: int | None = None
    p: float | None = None
    low: float | None = None
    high: float | None = None
    folds: int = 0
    reason: str | None = None


class RiskRobustness(_Record):
    """How risks hold: those of a frozen model, or out-of-fold risks of the models of a run's folds.

    Of folds, risks are standardised by each fold's training patients (z) and averaged over repeats, as in the run's own pooled c.

    Attributes
    ----------
    patients
        Who were scored on both views.
    icc
        Of log-risks, of folds of z.
    spearman, kendall
        Of the same; None where one of the two is constant.
    mean_rank_change
        Mean absolute change of a patient's rank, in ranks.
    changed_group
        Share of patients in another of the model's risk groups, 0–1; of folds the share of their test patients.
    c
        Change of the c-index, where there are outcomes; of folds of the pooled one.
    folds
        Each fold alone; empty for a frozen model.
    over_folds
        Change of c over folds; None for a frozen model.
    """

    patients: int
    icc: Agreement
    spearman: float | None
    kendall: float | None
    mean_rank_change: float
    changed_group: float
    c: CIndexChange
    folds: tuple[FoldRobustness, ...] = ()
    over_folds: FoldsTest | None = None


class PerturbedView(_Record):
    """One perturbed view against the base.

    Attributes
    ----------
    view, snapshot
        What was read.
    kind
        Of the perturbation; the view's name where it names none.
    size, unit
        How much, in mm, a share, or slices; None for kinds without.
    seed
        Of the draws; None for kinds that draw nothing.
    differs
        What else sets the two views apart; their difference is then not of the perturbation alone.
    mark
        What tells it from another view of the same kind, size and seed; empty where there is none.
    """

    view: str
    snapshot: str
    kind: str
    size: float | None
    unit: Literal["mm", "share", "slices"] | None
    seed: int | None
    differs: tuple[str, ...]
    embeddings: tuple[EmbeddingRobustness, ...]
    risk: RiskRobustness | None
    mark: str = ""

    @property
    def label(self) -> str:
        """For people: kind, size and seed; no two views of one result have the same."""
        size = "" if self.size is None else f" {self.size:g}{f' {self.unit}' if self.unit == 'mm' else ''}"
        seed = f" (seed {self.seed})" if self.seed else ""
        return f"{self.kind}{size}{seed}{f' ({self.mark})' if self.mark else ''}"


def told_apart(views: Sequence[PerturbedView]) -> tuple[PerturbedView, ...]:
    """The same, those with one label marked by the beginning of their specifications' digests."""
    labels = [view.label for view in views]
    return tuple(
        view if labels.count(view.label) == 1 else view.model_copy(update={"mark": view.view[-16:-8]}) for view in views
    )


class JudgedRow(_Record):
    """The row of a run whose folds' models were made again.

    Attributes
    ----------
    run_sha256
        Digest of the run's record (`run.json`).
    folds, repeats
        Of all repeats together, and how often the cohort was dealt.
    without_images
        Folds whose choice reads no images: no perturbation changes their risks.
    patients, patients_of_run
        Who have what the row reads in every view, and the run's whole cohort.
    tuned, tried
        How settings were chosen, and of how many.
    """

    run_sha256: str
    folds: int
    repeats: int
    without_images: tuple[int, ...] = ()
    patients: int
    patients_of_run: int
    tuned: Literal["nested", "paper"] | None
    tried: int


class JudgedModel(_Record):
    """The model whose risks were judged, or the row of a run.

    Attributes
    ----------
    name
        Of the model, or the row's label.
    card_sha256
        Of the model's card; None for a row.
    apparent
        Whether the model was fitted on some of these very patients: c is then too good, on base and perturbed views alike; None
        where that cannot be told. Never for a row.
    seen
        Scored patients who may be among those it was fitted on; None for a row, and where nothing is known.
    row
        The row; None for a model.
    """

    name: str
    card_sha256: str | None
    apparent: bool | None
    seen: int | None = None
    row: JudgedRow | None = None


class Robustness(_Record):
    """All that was found.

    Attributes
    ----------
    base_view, base_snapshot, store_id
        What was taken for undisturbed, and where.
    entries
        Entries that every view holds, made from the same files.
    other_files
        Entries left out because some view holds them made from other files than the base.
    left_out
        Views that were found and not taken, each with the reason.
    risk_icc
        Of risks over the base and all perturbed views together; None without risks or with a single perturbed view.
    notes
        What a reader must know.
    """

    layout: Literal["engram-robustness-1"] = "engram-robustness-1"
    store_id: str
    base_view: str
    base_snapshot: str
    encoder_trained: bool
    entries: int
    other_files: int = 0
    left_out: dict[str, str] = Field(default_factory=dict)
    views: tuple[PerturbedView, ...]
    model: JudgedModel | None
    risk_icc: Agreement | None
    notes: tuple[str, ...]
    seed: int
    versions: dict[str, str]
