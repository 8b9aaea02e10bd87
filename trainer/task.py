"""Describes one unit of work, small enough to send anywhere; knows nothing of how it is done or spread."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from store_schema.records import canonical_json, sha256
from trainer.config import Model
from trainer.preprocess import PreprocessRules


class Task(BaseModel):
    """One fold of one model, on the real outcomes or on permuted ones. Holds no tensor, no patient and no secret.

    Attributes
    ----------
    store_url
        Store that every worker reaches; None for a model without images.
    run_url
        Run folder that every worker reaches: cohort and splits are read there, and the result is written there.
    snapshot
        Id of the snapshot that the images are read from.
    model
        What is fitted, with all its settings.
    preprocessing
        How covariates become features.
    fold
        Index of the outer fold, counted through all repeats.
    seed
        Of weights, dropout and mini-batches.
    permutation
        0 for the real outcomes, 1, 2, … for permuted ones.
    permutation_seed
        Of the permutations; None for the real outcomes.
    cohort_sha256
        Digest of the run's cohort file: patients, outcomes and covariates.
    splits_sha256
        Digest of the file of splits that the fold belongs to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Literal["engram-task-1"] = "engram-task-1"
    store_url: str | None
    run_url: str
    snapshot: str | None
    model: Model
    preprocessing: PreprocessRules
    fold: int
    seed: int
    permutation: int = 0
    permutation_seed: int | None = None
    cohort_sha256: str
    splits_sha256: str

    @property
    def id(self) -> str:
        """Sha256 of what decides the numbers; addresses do not, so that a run folder can be moved and resumed."""
        return sha256(canonical_json(self.model_dump(mode="json", exclude={"store_url", "run_url"})))

    @property
    def label(self) -> str:
        """What a person calls it."""
        permuted = f", permutation {self.permutation}" if self.permutation else ""
        return f"{self.model.name}, fold {self.fold}{permuted}"
