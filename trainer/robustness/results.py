"""Holds what is told of robustness, as its JSON file does; computes nothing."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

ROBUSTNESS, TABLE, ENTRIES, RISKS = "robustness.json", "robustness.csv", "entries.csv", "risks.csv"


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


class RiskRobustness(_Record):
    """How the risks that a frozen model gives hold.

    Attributes
    ----------
    patients
        Who were scored on both views.
    icc
        Of log-risks.
    spearman, kendall
        Of log-risks; None where one of the two is constant.
    mean_rank_change
        Mean absolute change of a patient's rank, in ranks.
    changed_group
        Share of patients in another of the model's risk groups, 0–1.
    c
        Change of the c-index, where outcomes were given.
    """

    patients: int
    icc: Agreement
    spearman: float | None
    kendall: float | None
    mean_rank_change: float
    changed_group: float
    c: CIndexChange


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

    @property
    def label(self) -> str:
        """For people: kind, size and seed."""
        size = "" if self.size is None else f" {self.size:g}{f' {self.unit}' if self.unit == 'mm' else ''}"
        return f"{self.kind}{size}{f' (seed {self.seed})' if self.seed else ''}"


class JudgedModel(_Record):
    """The model whose risks were judged."""

    name: str
    card_sha256: str
    apparent: bool
    """Whether it was fitted on these very patients: c is then too good, on base and perturbed views alike."""


class Robustness(_Record):
    """All that was found.

    Attributes
    ----------
    base_view, base_snapshot, store_id
        What was taken for undisturbed, and where.
    entries
        Entries that every view holds.
    risk_icc
        Of risks over the base and all perturbed views together; None without a model or with a single perturbed view.
    notes
        What a reader must know.
    """

    layout: Literal["engram-robustness-1"] = "engram-robustness-1"
    store_id: str
    base_view: str
    base_snapshot: str
    encoder_trained: bool
    entries: int
    views: tuple[PerturbedView, ...]
    model: JudgedModel | None
    risk_icc: Agreement | None
    notes: tuple[str, ...]
    seed: int
    versions: dict[str, str]
