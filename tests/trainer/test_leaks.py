"""Leak warnings: when a figure is too good, and how far a control may stray by chance."""

import numpy as np
import pytest

from trainer.leaks import LEAST_DISTANCE, chance_band, kin_warnings, leak_warnings
from trainer.metrics import harrell_c
from trainer.results import FoldScore, Row


def row(kind: str, mean: float | None, model: str = "m") -> Row:
    tests = dict.fromkeys(("se", "t", "df", "p_one_sided", "p_two_sided", "corrected_p_one_sided", "permutation_p"))
    score = FoldScore(fold=0, repeat=0, c=mean)
    return Row(label=f"{model} {kind}", kind=kind, model=model, scores=(score,), mean=mean, pooled_c=None, **tests)


@pytest.mark.parametrize(
    ("mean", "oracle", "warned"),
    [
        (0.75, None, False),
        (0.751, None, True),
        (0.78, 0.80, False),
        (0.81, 0.80, True),
        (0.74, 0.70, False),
        (0.76, 0.70, True),
        (None, None, False),
    ],
)
def test_a_c_above_075_is_believed_only_up_to_a_stated_oracle(mean, oracle, warned):
    rows = [row("model", mean)] + ([] if oracle is None else [row("oracle", oracle, "lp")])
    warnings = leak_warnings(rows, {})
    assert len(warnings) == warned
    assert all("m model" in text and f"{mean:.3f}" in text for text in warnings)


@pytest.mark.parametrize(
    ("ids", "warned"),
    [
        (["P001.S1", "P001.S2", "P002.S1"], True),
        (["P001.S1", "P002.S1", "P003"], False),
        ([f"centre{c}.{i:03d}" for c in "AB" for i in range(40)], False),
    ],
)
def test_ids_that_look_like_studies_of_one_patient_are_told(ids, warned):
    assert bool(kin_warnings(ids)) == warned


def test_the_highest_of_several_oracles_counts():
    assert leak_warnings([row("model", 0.79), row("oracle", 0.7, "z"), row("oracle", 0.8, "lp")], {}) == ()


@pytest.mark.parametrize(("mean", "warned"), [(0.5, False), (0.59, False), (0.61, True), (0.41, False), (0.39, True)])
def test_a_permuted_control_outside_its_band_is_told(mean, warned):
    assert len(leak_warnings([row("permuted", mean)], {"m": 0.1})) == warned


def test_the_best_of_several_on_permuted_outcomes_is_lucky_and_no_leak_is_read_from_it():
    best = row("permuted", 0.66).model_copy(update={"tuned": "paper", "tried": 64})
    (told,) = leak_warnings([best], {"m": 0.1})
    assert "best of 64 settings" in told
    assert "Something ties" not in told
    # no choice of the best makes it worse
    (told,) = leak_warnings([best.model_copy(update={"mean": 0.34})], {"m": 0.1})
    assert "Something ties" in told
    (told,) = leak_warnings([best.model_copy(update={"tuned": "nested"})], {"m": 0.1})
    assert "Something ties" in told


def parts(n: int, folds: int = 5):
    rng = np.random.default_rng(3)
    return [(rng.exponential(size=n // folds), rng.random(n // folds) < 0.7) for _ in range(folds)]


def test_the_band_is_three_standard_deviations_of_a_random_risks_mean_c():
    cohort, rng = parts(120), np.random.default_rng(11)
    means = [
        np.mean([harrell_c(risk=rng.normal(size=24), time=time, event=event).c for time, event in cohort])
        for _ in range(2000)
    ]
    assert chance_band(cohort, permutations=1) == pytest.approx(3 * np.std(means), rel=0.15)


def test_the_band_narrows_with_permutations_and_patients_but_not_below_its_least():
    assert chance_band(parts(120), permutations=4) == pytest.approx(chance_band(parts(120), permutations=1) / 2)
    assert chance_band(parts(1200), permutations=1) < chance_band(parts(120), permutations=1)
    assert chance_band(parts(1200), permutations=400) == LEAST_DISTANCE
