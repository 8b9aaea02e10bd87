"""Tells whether a kept model was fitted on patients whom it is asked about, by its card and snapshot; scores nobody."""

from collections.abc import Iterable
from dataclasses import dataclass

from store_schema import Store
from store_schema.errors import NotCommittedError, UsageError
from trainer.cohort import Cohort
from trainer.predicting import pairs
from trainer.saved import Card

APPARENT = "the model was fitted on these very patients: each c is too good, and so may its change be"


@dataclass(frozen=True)
class Overlap:
    """How many of the scored patients the model was fitted on, as far as that can be told."""

    scored: int
    least: int | None
    """Who were certainly among those it was fitted on; None where nothing can be told."""
    most: int | None
    """Who may have been."""

    @property
    def apparent(self) -> bool | None:
        """Whether some certainly were, so that its c is too good; None where that cannot be told."""
        if self.most == 0:
            return False
        return True if self.least else None

    @property
    def note(self) -> str | None:
        """What a reader must know of it, without a full stop; None where there is nothing to know."""
        if self.most is None or self.least is None:
            return (
                "whether the model was fitted on some of these patients cannot be told, since the snapshot that it was fitted on "
                "is not in this store: where it was, each c is too good"
            )
        if self.most == 0:
            return None
        if self.least == self.scored:
            return APPARENT
        if not self.least:
            return (
                f"the model may have been fitted on up to {self.most} of these {self.scored} patients, whom its snapshot holds "
                "too: where it was, each c is too good, and so may its change be"
            )
        number = str(self.most) if self.least == self.most else f"{self.least} to {self.most}"
        return (
            f"the model was fitted on {number} of these {self.scored} patients: each c is too good where it was, and so may its "
            "change be"
        )


def overlap(card: Card, store: Store, cohort: Cohort) -> Overlap:
    """How many of a cohort's patients a model was fitted on.

    The card names nobody. It names a snapshot, which held all patients that the model was fitted on and perhaps more (without
    outcomes or covariates), and tells how many they were: that bounds how many of the cohort were among them. A patient counts
    with every study.

    Parameters
    ----------
    store
        Where the cohort's entries lie, and the model's snapshot is looked for.
    """
    scored = len(cohort)
    if cohort.digest == card.training.cohort_digest:
        return Overlap(scored, scored, scored)
    held = _held(card, store)
    if held is None:
        return Overlap(scored, None, None)
    known = held | set(_persons(held))
    rows = zip(cohort.patients, cohort.person, strict=True)
    seen = [person for key, person in rows if person in known or key in held]
    # of the snapshot's so many at most were left out of the fit
    left = max(0, len(held) - card.training.patients)
    return Overlap(scored, max(0, len(set(seen)) - left), len(seen))


def _held(card: Card, store: Store) -> set[str] | None:
    """Patients of whom the model's snapshot holds what it reads; None where the store has no such snapshot."""
    if card.snapshot is None:
        return None
    try:
        snapshot = store.snapshot(card.snapshot)
    except (NotCommittedError, UsageError):
        return None
    having = [{key.patient for key in snapshot.keys if (key.modality, key.roi) == pair} for pair in pairs(card.model)]
    return set.intersection(*having)


def _persons(keys: Iterable[str]) -> Iterable[str]:
    """What a patient may be called whose studies have these keys: every beginning that ends before a full stop."""
    for key in keys:
        parts = key.split(".")
        yield from (".".join(parts[:end]) for end in range(1, len(parts)))
