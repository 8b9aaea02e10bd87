"""Asks a kept model about one patient again and again, an image's embedding replaced; knows no store and no picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from store_schema import Layout
from trainer.cohort import without_outcomes
from trainer.features import as_read
from trainer.judging import Trained
from trainer.part_data import PartData
from trainer.saved import Card
from trainer.splits import Fold
from trainer.stored_images import StoredImages

BLOCK = 64
"""Embeddings asked about at once: pooled memories in float32 are 256 KiB each."""


@dataclass(frozen=True, eq=False)
class Asker:
    """A kept model, and how the view that it reads is laid out."""

    card: Card
    trained: Trained
    layout: Layout

    def log_risks(
        self, row: pd.DataFrame, embeddings: Mapping[str, Float[np.ndarray, "embedding ..."]]
    ) -> Float[np.ndarray, " embedding"]:
        """Log-risks of a patient by the ordinary path of prediction, once for each set of embeddings.

        Parameters
        ----------
        row
            The patient's covariates: one row.
        embeddings
            By modality, as entries hold what `trainer.features.array_read` names; all of one length, or of one that stands for all.
        """
        count = max(map(len, embeddings.values()))
        parts = [self._block(row, embeddings, start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]
        return np.concatenate(parts) if parts else np.empty(0)

    def _block(
        self, row: pd.DataFrame, embeddings: Mapping[str, Float[np.ndarray, "embedding ..."]], start: int, stop: int
    ) -> Float[np.ndarray, " embedding"]:
        images = self.card.model.images
        assert images is not None
        arrays = {}
        for modality in images.modalities:
            given = embeddings[modality]
            some = np.broadcast_to(given, (stop - start, *given.shape[1:])) if len(given) == 1 else given[start:stop]
            arrays[modality] = as_read(self.card.model, self.layout, some)
        return self._said(row, arrays, stop - start)

    def _said(self, row: pd.DataFrame, arrays: Mapping[str, np.ndarray], count: int) -> Float[np.ndarray, " embedding"]:
        names = _names(count)
        frame = pd.DataFrame(
            {name: pd.Series([row[name].iloc[0]] * count, index=names, dtype=row[name].dtype) for name in row.columns},
            index=names,
        )
        cohort = without_outcomes(tuple(names), frame, self.card.time_unit)
        nobody = Fold(index=0, repeat=0, train=(), test=cohort.patients)
        stored = StoredImages(arrays, self.layout.features or ())
        data = PartData(cohort, nobody, (0,), 0, self.card.preprocessing, stored)
        return self.trained.predict(data, cohort.patients).log_risk


def _names(count: int) -> pd.Index:
    """The patient once for each embedding, told apart."""
    return pd.Index([f"{number:06d}" for number in range(count)], dtype=object)


def deltas(
    asker: Asker,
    row: pd.DataFrame,
    as_it_is: Mapping[str, Float[np.ndarray, "..."]],
    *,
    modality: str,
    baseline: Float[np.ndarray, "..."],
    embeddings: Float[np.ndarray, "patch ..."],
    unseen: int,
) -> Float[np.ndarray, " patch"]:
    """Change of a patient's log-risk with each patch of one image hidden, above 0 where hiding raises it.

    Parameters
    ----------
    as_it_is
        Embeddings of the patient's images by modality.
    modality
        Image whose patches were hidden.
    baseline
        Embedding of that whole image, made as those with patches hidden.
    embeddings
        With each patch hidden that the view can see.
    unseen
        How many more patches there are, which the view cannot see: they change nothing.

    References
    ----------
    Guinea-Pérez et al. 2026, Appendix A, step 3, "risk delta".
    """
    others: dict[str, Float[np.ndarray, "1 ..."]] = {name: array[np.newaxis] for name, array in as_it_is.items()}
    whole = asker.log_risks(row, {**others, modality: baseline[np.newaxis]})
    hidden = asker.log_risks(row, {**others, modality: embeddings}) if len(embeddings) else np.empty(0)
    return np.concatenate([hidden - whole, np.zeros(unseen)])


def ranked(values: Sequence[float]) -> list[int]:
    """Places of values from the greatest magnitude down; the first of equals first."""
    return sorted(range(len(values)), key=lambda place: -abs(values[place]))
