"""Holds what a model is fitted and judged on: patients, outcomes, features; fits nothing and knows no task."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from trainer.batch import Batch, Inputs
from trainer.cohort import Cohort
from trainer.dealing import deal
from trainer.model_config import FittedModel
from trainer.preprocess import ClinicalPreprocessor, PreprocessRules
from trainer.splits import Fold
from trainer.stored_images import StoredImages


@dataclass(frozen=True, eq=False)
class PartData:
    """Features and outcomes of a part's patients; covariates are preprocessed by its training patients alone."""

    cohort: Cohort
    """Everybody, with the outcomes that the model is fitted on."""
    fold: Fold
    """Who trains and who is judged."""
    stream: tuple[int, ...]
    """Numbers that tell the part from every other, for the streams of its inner splits."""
    split_seed: int
    """Of outer and inner splits."""
    preprocessor: ClinicalPreprocessor | None
    """Fitted on the training patients; None where the model takes no covariate."""
    images: StoredImages | None
    """The model's stored tensors; None without images."""

    @classmethod
    def of(
        cls,
        model: FittedModel,
        *,
        cohort: Cohort,
        fold: Fold,
        stream: tuple[int, ...],
        split_seed: int,
        rules: PreprocessRules,
        images: StoredImages | None,
    ) -> "PartData":
        """Data of a part, its preprocessing fitted where the model takes covariates."""
        preprocessor = None
        if model.clinical:
            preprocessor = ClinicalPreprocessor.fit(cohort.frame.loc[list(fold.train)], rules)
        return cls(cohort, fold, stream, split_seed, preprocessor, images)

    def trained_by(self, patients: Sequence[str]) -> "PartData":
        """The same data with these patients as the training part: they alone preprocess the covariates."""
        preprocessor = None
        if self.preprocessor is not None:
            preprocessor = ClinicalPreprocessor.fit(self.cohort.frame.loc[list(patients)], self.preprocessor.rules)
        return replace(self, fold=replace(self.fold, train=tuple(patients)), preprocessor=preprocessor)

    def outcome(self, patients: Sequence[str]) -> tuple[Float[np.ndarray, " patient"], Bool[np.ndarray, " patient"]]:
        """Times and events."""
        rows = self.cohort.rows(patients)
        return self.cohort.time[rows], self.cohort.event[rows]

    def clinical(self, patients: Sequence[str]) -> Float[np.ndarray, "patient feature"] | None:
        """Covariates as features; None where the model takes none."""
        if self.preprocessor is None:
            return None
        return self.preprocessor.transform(self.cohort.frame.loc[list(patients)])

    def images_of(self, patients: Sequence[str]) -> dict[str, Float[np.ndarray, "patient ..."]]:
        """Stored tensors of these patients by modality; empty without images."""
        rows = self.cohort.rows(patients)
        return {} if self.images is None else {name: array[rows] for name, array in self.images.arrays.items()}

    def vectors(self, patients: Sequence[str]) -> Float[np.ndarray, "patient feature"]:
        """Vectors of these patients, the modalities' side by side; NaN where a feature is not known."""
        arrays = self.images_of(patients).values()
        return np.concatenate([np.empty((len(patients), 0)), *arrays], axis=1)

    @property
    def vector_names(self) -> tuple[str, ...]:
        """Names of the columns of `vectors`, as ``modality.feature``; features that the view does not name are counted."""
        if self.images is None:
            return ()
        return tuple(
            f"{modality}.{name}"
            for modality, array in self.images.arrays.items()
            for name in self.images.features or range(array.shape[1])
        )

    def inputs(self, patients: Sequence[str]) -> Inputs:
        """What a network sees of these patients; no outcome is looked at."""
        return Inputs.of(maps=self.images_of(patients), clinical=self.clinical(patients))

    def batch(self, patients: Sequence[str]) -> Batch:
        """The same with their outcomes, for fitting."""
        time, event = self.outcome(patients)
        return Batch.of(time=time, event=event, maps=self.images_of(patients), clinical=self.clinical(patients))

    def inner_parts(self, parts: int, *, purpose: int) -> Int[np.ndarray, " train"]:
        """Part of each training patient, 0 … parts - 1, for a choice inside the training part.

        A patient's several studies share one.

        Parameters
        ----------
        parts
            How many.
        purpose
            Number of the stream: choices for different purposes are dealt apart.

        Raises
        ------
        CohortError
            If there are fewer training patients than parts.
        """
        time, event = self.outcome(self.fold.train)
        persons = [self.cohort.person[row] for row in self.cohort.rows(self.fold.train)]
        groups = persons if len(set(persons)) < len(persons) else None
        rng = np.random.default_rng([self.split_seed, purpose, *self.stream])
        return deal(time, event, folds=parts, rng=rng, groups=groups)
