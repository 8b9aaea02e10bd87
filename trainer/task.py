"""Describes units of work, small enough to send anywhere; knows nothing of how they are done or spread."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from store_schema.records import canonical_json, sha256
from trainer.model_config import Candidate
from trainer.preprocess import PreprocessRules
from trainer.spec import Device


class _Described(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Part(_Described):
    """Which patients of a cohort train and which are judged.

    Attributes
    ----------
    permutation
        0 for the real outcomes, 1, 2, … for permuted ones.
    fold
        Index of the outer fold, counted through all repeats.
    inner
        None: the outer training part trains, the outer test part is judged. A number: that inner part of the outer training part is
        judged and the others train; the outer test part is not looked at.
    """

    permutation: int = 0
    fold: int
    inner: int | None = None

    @property
    def label(self) -> str:
        """What a person calls it."""
        inner = "" if self.inner is None else f", inner {self.inner}"
        permuted = f", permutation {self.permutation}" if self.permutation else ""
        return f"fold {self.fold}{inner}{permuted}"


class Job(_Described):
    """One model, all its settings given, on one part.

    Attributes
    ----------
    model
        What is fitted; its name is that of its row.
    candidate
        Row of the model's search table; 0 where nothing is searched.
    part
        On whom.
    seed
        Of weights, dropout and mini-batches.
    """

    model: Candidate
    candidate: int = 0
    part: Part
    seed: int

    @property
    def label(self) -> str:
        """What a person calls it."""
        return f"{self.model.name}, {self.part.label}"


class Task(_Described):
    """Jobs that are done together: one, or several small networks that are fitted as one. Holds no tensor, patient or secret.

    Attributes
    ----------
    store_url
        Store that every worker reaches; None for models without images.
    run_url
        Run folder that every worker reaches: cohort and splits are read there, and the result is written there.
    snapshots
        Id of the snapshot of each view that the jobs read, by the view's name in their settings.
    preprocessing
        How covariates become features.
    jobs
        What is done; which jobs stand together is part of the identity, since it decides the last digits.
    inner_folds
        Into how many parts an outer training part is dealt where a job judges one of them.
    permutation_seed
        Of the permutations; None where every job has the real outcomes.
    permuted_within_centres
        Whether permuted outcomes stay in their centre.
    device
        Where networks are fitted.
    cohort_sha256
        Digest of the run's cohort file: patients, outcomes and covariates.
    splits_sha256
        Digest of the file of splits of each permutation among the jobs.
    """

    layout: Literal["engram-task-2"] = "engram-task-2"
    store_url: str | None
    run_url: str
    snapshots: dict[str, str]
    preprocessing: PreprocessRules
    jobs: tuple[Job, ...]
    inner_folds: int
    permutation_seed: int | None = None
    permuted_within_centres: bool = False
    device: Device = "cpu"
    cohort_sha256: str
    splits_sha256: dict[int, str]

    @property
    def id(self) -> str:
        """Sha256 of what decides the numbers; addresses do not, so that a run folder can be moved and resumed."""
        return sha256(canonical_json(self.model_dump(mode="json", exclude={"store_url", "run_url"})))

    @property
    def label(self) -> str:
        """What a person calls it."""
        first, *others = self.jobs
        return first.label if not others else f"{first.label} and {len(others)} more fits"
