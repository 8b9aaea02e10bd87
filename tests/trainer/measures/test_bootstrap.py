"""Bootstrap intervals against scipy's, and c of resamples against Harrell's c one by one."""

import numpy as np
import pytest
from scipy import stats

from store_schema.errors import CohortError, TaskError, UsageError
from trainer.measures import bootstrap as module
from trainer.measures.bootstrap import bootstrap, bootstrap_c
from trainer.metrics import harrell_c


def c_of(test):
    return lambda rows: harrell_c(risk=test.risk[rows], time=test.time[rows], event=test.event[rows]).c


@pytest.mark.parametrize("case", ["untied", "heavy_ties", "tiny"])
def test_interval_of_c_equals_harrells_c_of_each_resample(kin, case):
    test = kin.draw(1, **kin.cases[case])
    persons = [f"P{row // 2}" for row in range(len(test.time))]
    fast = bootstrap_c(risk=test.risk, time=test.time, event=test.event, persons=persons, seed=[3, 1], resamples=300)
    assert fast == bootstrap(c_of(test), persons=persons, seed=[3, 1], resamples=300)
    assert fast.resamples == 300


def test_many_rows_take_the_other_way_to_the_same_numbers(kin, monkeypatch):
    test = kin.draw(2, times=20)
    asked = {"risk": test.risk, "time": test.time, "event": test.event, "persons": range(150), "seed": 5}
    by_pairs = bootstrap_c(**asked, resamples=60)
    monkeypatch.setattr(module, "MOST_ROWS", 10)
    assert bootstrap_c(**asked, resamples=60) == by_pairs


def test_interval_of_a_mean_equals_scipys_percentile_bootstrap():
    values = np.random.default_rng(1).exponential(size=80)
    ours = bootstrap(lambda rows: values[rows].mean(), persons=range(80), seed=1, resamples=4000, confidence=0.9)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=4000, confidence_level=0.9, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)
    assert ours.redrawn == 0


def test_every_resample_holds_as_many_persons_each_with_all_rows():
    persons = ["a", "b", "b", "c", "c", "c", "d"]
    sizes = {"a": 1, "b": 2, "c": 3, "d": 1}

    def checked(rows):
        counts = np.bincount(rows, minlength=7)
        assert len({*counts[1:3]}) == len({*counts[3:6]}) == 1
        assert sum(counts[[0, 1, 3, 6]]) == len(sizes)
        return 0.0

    bootstrap(checked, persons=persons, seed=0, resamples=50)


def test_copies_of_persons_make_no_interval_narrower(kin):
    test = kin.draw(3, n=60)
    twice = {"risk": np.tile(test.risk, 2), "time": np.tile(test.time, 2), "event": np.tile(test.event, 2)}
    once = bootstrap_c(risk=test.risk, time=test.time, event=test.event, persons=range(60), seed=1)
    kept, torn = (bootstrap_c(**twice, persons=persons, seed=1) for persons in (2 * [*range(60)], range(120)))
    assert (kept.low, kept.high) == pytest.approx((once.low, once.high), abs=1e-12)
    assert torn.high - torn.low < 0.85 * (kept.high - kept.low)


def test_the_same_seed_gives_the_same_interval_and_another_another(kin):
    test = kin.draw(4)
    one, same, other = (
        bootstrap_c(risk=test.risk, time=test.time, event=test.event, persons=range(150), seed=seed)
        for seed in (1, 1, 2)
    )
    assert one == same
    assert one != other
    c = harrell_c(risk=test.risk, time=test.time, event=test.event).c
    assert one.low < c < one.high


def test_resamples_without_a_pair_are_drawn_again_and_counted():
    time, event = np.arange(1.0, 7.0), np.array([True, False, False, False, False, False])
    asked = {"risk": -time, "time": time, "event": event, "persons": range(6), "seed": 7, "resamples": 400}
    found = bootstrap_c(**asked)
    assert (found.low, found.high, found.resamples) == (1.0, 1.0, 400)
    # a pair needs the first patient and another: missed with probability (5/6)^6 + (1/6)^6 = 0.335
    assert found.redrawn / (found.redrawn + 400) == pytest.approx(0.335, abs=0.06)

    def c(rows):
        return harrell_c(risk=-time[rows], time=time[rows], event=event[rows]).c

    assert bootstrap(c, persons=range(6), seed=7, resamples=400) == found


def test_intervals_without_enough_values_are_refused():
    time = np.arange(1.0, 5.0)
    with pytest.raises(CohortError, match="500 of 500 resamples have no value"):
        bootstrap_c(risk=time, time=time, event=time < 0, persons=range(4), seed=0, resamples=50)


def test_broken_arguments_are_refused(kin):
    test = kin.draw(5, n=5)
    rest = {"time": test.time, "event": test.event, "persons": range(5), "seed": 0}
    with pytest.raises(UsageError, match="one person per row, got 4 for 5"):
        bootstrap_c(risk=test.risk, **{**rest, "persons": range(4)})
    with pytest.raises(TaskError, match="not finite"):
        bootstrap_c(risk=test.risk * np.nan, **rest)
    for wrong in ({"resamples": 0}, {"confidence": 1.0}, {"persons": []}):
        with pytest.raises(UsageError, match="expected rows, resamples and a confidence"):
            bootstrap(lambda rows: 0.0, **{"persons": range(5), "seed": 0, **wrong})
