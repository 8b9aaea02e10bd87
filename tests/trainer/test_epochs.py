"""Number of epochs by inner cross-validation: the argmin of the pooled curve, and what it refuses."""

import numpy as np
import pytest
import torch

from store_schema.errors import CohortError, UsageError
from trainer.batch import Batch
from trainer.epochs import choose_epochs
from trainer.fit import fit_model
from trainer.spec import FitConfig, ModelSpec

SPEC = ModelSpec(head=None, modalities=(), clinical_features=3, hidden=(8,))
PART = np.arange(45) % 3


def patients(*, censored=()):
    rng = np.random.default_rng(0)
    clinical, event = rng.normal(size=(45, 3)), rng.random(45) < 0.5
    event[list(censored)] = False
    time = np.ceil(36 * rng.exponential(size=45) * np.exp(-clinical[:, 0]))
    return Batch.of(clinical=clinical, time=time, event=event)


def test_the_chosen_epoch_is_the_lowest_of_the_curves_averaged_by_events():
    train, config = patients(), FitConfig(epochs=25, min_epochs=4, learning_rate=0.3)
    curves, events = [], []
    deaf = config.model_copy(update={"min_validation_events": 99})
    for name in range(3):
        fit, watch = (train.rows(torch.from_numpy(np.flatnonzero(rows))) for rows in (name != PART, name == PART))
        fitted = fit_model(SPEC, deaf, train=fit, validation=watch, seed=1, fixed_epochs=25)
        curves.append(fitted.record.validation_loss)
        events.append(watch.events)
    pooled = np.average(curves, axis=0, weights=events)
    chosen = choose_epochs(SPEC, config, train=train, part=PART, seed=1)
    assert chosen == 4 + int(np.argmin(pooled[3:]))
    assert 4 <= chosen < 25


def test_a_part_without_events_is_passed_over():
    train = patients(censored=np.flatnonzero(PART == 2))
    assert 1 <= choose_epochs(SPEC, FitConfig(epochs=3, min_epochs=1), train=train, part=PART, seed=0) <= 3


def test_no_epoch_before_the_least_one_is_chosen():
    config = FitConfig(epochs=5, min_epochs=9)
    assert choose_epochs(SPEC, config, train=patients(), part=PART, seed=0) == 5


def test_parts_that_cannot_decide_are_refused():
    config = FitConfig(epochs=2)
    with pytest.raises(UsageError, match="two inner parts"):
        choose_epochs(SPEC, config, train=patients(), part=np.zeros(45, dtype=int), seed=0)
    with pytest.raises(CohortError, match="all 45 training patients are censored"):
        choose_epochs(SPEC, config, train=patients(censored=range(45)), part=PART, seed=0)
