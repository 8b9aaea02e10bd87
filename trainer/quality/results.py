"""Holds what is told of the quality of embeddings, as its JSON file does; computes nothing and names no patient."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

QUALITY, TABLE = "quality.json", "quality.csv"
NORMS, DUPLICATES, DRIFT, ALIGNMENT = "norms.csv", "duplicates.csv", "drift.csv", "alignment.csv"

Severity = Literal["wrong", "look", "know"]
Scheme = Literal["free", "within event"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Finding(_Record):
    """Something that a person must look at.

    Attributes
    ----------
    severity
        ``wrong``: cannot be right; ``look``: likely a fault, or something that a model may learn in place of disease; ``know``:
        what limits the figures.
    view, entry
        Where: modality/region, or the regions' name alone of PET/CT alignment.
    """

    severity: Severity
    view: str
    entry: str
    text: str


class Extent(_Record):
    """Extremes, quartiles and median of numbers."""

    least: float
    lower: float
    """First quartile."""
    median: float
    upper: float
    """Third quartile."""
    largest: float
    n: int


class Outlying(_Record):
    """A size of each patient's embedding, and how many are far from the others.

    Attributes
    ----------
    extent
        None where it is not defined, whose reason is `reason`.
    outliers
        Patients whose modified z-score, 0.6745 (x − median)/MAD, is beyond the limit on either side; None where the MAD is 0.
    """

    extent: Extent | None
    outliers: int | None
    reason: str | None = None


class Pairs(_Record):
    """How near the embeddings of two patients come.

    Attributes
    ----------
    pairs
        All pairs of studies of different persons.
    relative_l2
        ‖a − b‖ / √((‖a‖² + ‖b‖²)/2) over all pairs; None with fewer than two patients.
    nearest_share
        Least distance of a pair over the median distance.
    same_input, same_content, equal, near
        Pairs of different persons: of one input digest; of one content digest; whose embeddings are equal number by number; and
        that are near. A pair counts once, where it is named first.
    same_person
        Pairs of studies of one person that are equal in one of the first three ways.
    edges, counts
        Histogram of log10 of the relative distance; pairs at distance 0 are not in it.
    """

    pairs: int
    relative_l2: Extent | None
    nearest_share: float | None
    same_input: int
    same_content: int
    equal: int
    near: int
    same_person: int
    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()

    @property
    def alike(self) -> int:
        """Pairs of different persons that cannot be told apart at all."""
        return self.same_input + self.same_content + self.equal


class PermutationTest(_Record):
    """A pseudo-F with its permutation p.

    Attributes
    ----------
    f
        Pseudo-F.
    r2
        Share of the variation within strata that lies between groups, 0–1.
    omega2
        The same less what chance alone would give; below 0 where it is less than that.
    p
        (1 + #) / (B + 1).
    p_holm
        Adjusted for all tests of the same kind of permutation.
    """

    f: float
    r2: float
    omega2: float
    p: float
    p_holm: float | None = None


class Drift(_Record):
    """Whether embeddings differ between groups of patients.

    Attributes
    ----------
    column
        Whose values are the groups.
    scheme
        How labels were permuted: ``free`` among all patients, or ``within event``, among those with the event and among the others.
    levels
        Patients of each group, one study each.
    left_out
        Patients without a value or outcome, or in a group that is too small.
    permutations
        B.
    location
        PERMANOVA; None where it cannot be done, whose reason is `reason`.
    spread
        PERMDISP.
    distance
        Mean distance to the group's centroid by group, in units of the cohort's own root mean square distance from its centre.
    """

    column: str
    scheme: Scheme
    levels: dict[str, int]
    left_out: int
    permutations: int
    location: PermutationTest | None
    spread: PermutationTest | None
    distance: dict[str, float] = {}
    reason: str | None = None


class Point(_Record):
    """A patient in a picture; no id, and not in the order of ids."""

    x: float
    y: float
    levels: dict[str, str | None] = {}
    quartile: int | None = None
    """Quarter of the risks, 1 (lowest) to 4; None where there is none."""


class Picture(_Record):
    """Embeddings in the plane.

    Attributes
    ----------
    explained
        Shares of variance along both axes; None of UMAP, whose distances have no scale.
    points
        Empty where there is none, whose reason is `reason`.
    """

    kind: Literal["PCA", "UMAP"]
    explained: tuple[float, float] | None = None
    points: tuple[Point, ...] = ()
    reason: str | None = None


class EmbeddingQuality(_Record):
    """The embeddings of one modality and region.

    Attributes
    ----------
    patients
        Entries of the snapshot.
    features
        Numbers of an embedding: pixels of the mean map, or features of a vector.
    left_out
        Entries with numbers that are not finite: they are counted, and left out of all that follows.
    not_finite
        Such numbers, in mean maps and memories.
    zero
        Entries that are 0 throughout.
    unknown
        Share of values of vectors that are not known, 0–1.
    sparse
        Features that are unknown for too many patients: left out of all distances.
    constant
        Features that are one number for all patients.
    channels, dead_channels
        Channels of the memory over its layers, and those that are one number for all patients; None of vectors.
    valid_layers
        Entries by their count of valid memory layers; empty where entries do not say.
    blank_layers
        Valid layers that are 0 throughout.
    norm
        L2 norm of the mean map or vector as it is stored; none of features with names, whose units differ.
    from_centre
        Distance from the cohort's mean, standardised, in root mean squares of that distance.
    effective_rank
        exp of the entropy of the shares of variance.
    participation
        (Σλ)² / Σλ² of the variances λ along principal components.
    most_rank
        What both can be at most: the lesser of features and patients less one.
    explained
        Shares of variance of the first ten components.
    """

    modality: str
    roi: str
    patients: int
    features: int
    left_out: int
    not_finite: int
    zero: int
    unknown: float
    sparse: int
    constant: int
    channels: int | None
    dead_channels: int | None
    valid_layers: dict[int, int]
    blank_layers: int
    norm: Outlying
    from_centre: Outlying
    effective_rank: float | None
    participation: float | None
    most_rank: int
    explained: tuple[float, ...]
    pairs: Pairs
    drift: tuple[Drift, ...] = ()
    pictures: tuple[Picture, ...] = ()

    @property
    def entry(self) -> str:
        """modality/roi."""
        return f"{self.modality}/{self.roi}"


class Correlation(_Record):
    """Spearman's rank correlation with a 95% interval by a bootstrap over patients, or why there is none."""

    spearman: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    reason: str | None = None


class AlignedPoint(_Record):
    """A patient of the scatter; no id, and not in the order of ids."""

    cosine: float
    log_risk: float | None


class Alignment(_Record):
    """How the embeddings of two modalities of one region go together; a description, no validation.

    Attributes
    ----------
    first, second
        Modalities.
    patients
        Who have both, one study each.
    cosine
        Of each patient's two centred embeddings.
    cka, cka_debiased, cka_p
        Linear CKA of the cohort, its debiased form, and the share of permutations of patients that reach the latter.
    rank
        Of a patient's own second embedding among all patients', by cosine with the first: 1 is the nearest.
    first_share
        Share of patients whose own one is the nearest; by chance 1/patients.
    rank_p
        Share of permutations of patients whose mean rank is as low.
    body_dice
        Overlap of body outlines in PET and CT that the extractor recorded, 0–1; None where it recorded none.
    poor_overlap
        Entries whose overlap is below 0.80.
    risk_cosine, risk_dice
        Correlation of cosine and overlap with the risk.
    """

    roi: str
    first: str
    second: str
    patients: int
    cosine: Extent | None
    cka: float | None
    cka_debiased: float | None
    cka_p: float | None
    rank: Extent | None
    first_share: float | None
    rank_p: float | None
    permutations: int
    body_dice: Extent | None
    poor_overlap: int
    risk_cosine: Correlation
    risk_dice: Correlation
    points: tuple[AlignedPoint, ...] = ()
    reason: str | None = None


class ViewQuality(_Record):
    """One view: the snapshot that was read, and what was found."""

    view: str
    snapshot: str
    encoder_trained: bool
    entries: int
    embeddings: tuple[EmbeddingQuality, ...]
    alignments: tuple[Alignment, ...]


class RiskSource(_Record):
    """Where risks come from.

    Attributes
    ----------
    name
        Of the model or of the run's row.
    kind
        ``model``: log-risks of a kept model; ``run``: out-of-fold log-risks, in standard deviations of each fold's training part.
    patients
        Who have one.
    """

    name: str
    kind: Literal["model", "run"]
    patients: int
    card_sha256: str | None = None


class Settings(_Record):
    """Limits by which things are called unusual.

    Attributes
    ----------
    near
        Relative L2 distance below which two patients are near-duplicates, where it is also below `share` of the median distance.
    outlier
        Modified z-score.
    least_group
        Patients of a group, below which it is left out.
    permutations
        Asked for; where there are many tests, more were made.
    """

    near: float
    share: float
    outlier: float
    least_group: int
    permutations: int
    resamples: int
    seed: int


class Quality(_Record):
    """All that was found.

    Attributes
    ----------
    findings
        What a person must look at, the worst first.
    groups
        Columns whose groups were compared.
    notes
        What a reader must know.
    """

    layout: Literal["engram-quality-1"] = "engram-quality-1"
    store_id: str
    views: tuple[ViewQuality, ...]
    findings: tuple[Finding, ...]
    groups: tuple[str, ...]
    risk: RiskSource | None
    notes: tuple[str, ...]
    settings: Settings
    versions: dict[str, str]
