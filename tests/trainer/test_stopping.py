"""Course of a fit: which epochs are kept, when it is over, and what it refuses."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store_schema.errors import ConfigError, TaskError
from trainer.spec import FitConfig
from trainer.stopping import Course, divergence


def followed(config, watched, *, stops=True):
    """Record of a fit with these validation losses, and the last epoch whose weights were kept."""
    course, kept = Course(config, epochs=config.epochs, stops=stops), 0
    for loss in watched:
        if course.hear(0.0, loss):
            kept = course.epoch
        if course.over:
            break
    return course.record(), kept


@given(
    watched=st.lists(st.floats(0, 1), min_size=30, max_size=30),
    patience=st.integers(1, 8),
    least=st.integers(1, 40),
    tolerance=st.sampled_from([0.0, 0.05]),
)
def test_the_best_epoch_lies_patience_before_the_end_and_no_later_loss_is_lower(watched, patience, least, tolerance):
    config = FitConfig(epochs=30, patience=patience, min_epochs=least, tolerance=tolerance)
    record, kept = followed(config, watched)
    least = min(least, 30)
    assert kept == record.best_epoch >= least
    assert record.epochs_run == min(30, record.best_epoch + patience)
    heard = np.array(record.validation_loss)
    assert heard.tolist() == watched[: record.epochs_run]
    assert (heard[least - 1 :] >= heard[record.best_epoch - 1] - tolerance).all()
    assert record.reason == ("patience" if record.epochs_run < 30 else "epochs")


def test_a_fit_that_does_not_stop_keeps_its_last_epoch_and_its_curve():
    record, kept = followed(FitConfig(epochs=5, patience=1, min_epochs=1), [5.0, 1.0, 2.0, 3.0, 4.0], stops=False)
    assert (kept, record.best_epoch, record.reason, len(record.validation_loss)) == (5, 5, "fixed", 5)


@pytest.mark.parametrize(
    ("events", "given_epochs", "epochs", "stops"),
    [(10, None, 9, True), (10, 3, 9, True), (9, 3, 3, False), (None, 3, 3, False), (None, None, 9, False)],
)
def test_a_validation_part_with_enough_events_decides_and_else_the_number_given(events, given_epochs, epochs, stops):
    course = Course.of(FitConfig(epochs=9, min_epochs=9), watched_events=events, fixed_epochs=given_epochs)
    while not course.over:
        course.hear(0.0, 1.0)
    assert course.epoch == epochs
    assert (course.record().reason == "fixed") == (not stops)


def test_a_fit_of_which_nothing_says_how_long_is_refused():
    with pytest.raises(ConfigError, match="has 9 events, and early stopping needs 10"):
        Course.of(FitConfig(), watched_events=9, fixed_epochs=None)
    for number in (0, 101):
        with pytest.raises(ConfigError, match=f"1 to 100 .* got {number}"):
            Course.of(FitConfig(), watched_events=None, fixed_epochs=number)


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)])
def test_numbers_that_are_not_finite_are_an_error_with_epoch_and_settings(loss, norm):
    error = divergence(loss, norm, epoch=7, config=FitConfig(learning_rate=0.5))
    assert isinstance(error, TaskError)
    assert "epoch 7" in str(error)
    assert "(0.5)" in str(error)
    assert divergence(1.0, 1.0, epoch=7, config=FitConfig()) is None
