"""c within groups against scikit-survival and counting pairs."""

import numpy as np
import pandas as pd
import pytest
from sksurv.metrics import concordance_index_censored

from store_schema.errors import TaskError, UsageError
from trainer.measures.bootstrap import bootstrap_c
from trainer.measures.subgroups import MISSING, Judged, by_group, by_level, levels_of


def judged(test):
    return Judged(test.risk, test.time, test.event, range(len(test.time)))


def test_c_of_each_level_equals_scikit_survival_and_missing_is_last(kin):
    test = kin.draw(1, n=240, times=30)
    levels = np.random.default_rng(1).choice(["III", MISSING, "I", "zebra"], 240).tolist()
    groups = by_level(levels, judged(test))
    assert [group.label for group in groups] == ["I", "III", "zebra", MISSING]
    for group in groups:
        rows = np.array(levels) == group.label
        c = concordance_index_censored(test.event[rows], test.time[rows], test.risk[rows], tied_tol=0.0)[0]
        assert group.c == pytest.approx(c, abs=1e-12)
        assert (group.patients, group.events) == (rows.sum(), test.event[rows].sum())
        assert (group.low, group.high, group.reason) == (None, None, None)


def test_levels_with_few_events_or_no_pair_have_a_reason_and_no_c():
    time = np.concatenate((np.arange(1.0, 13.0), np.full(10, 5.0), np.arange(1.0, 10.0)))
    event = np.ones(31, dtype=bool)
    levels = ["fine"] * 12 + ["one time"] * 10 + ["few"] * 9
    few, fine, tied = by_level(levels, Judged(-time, time, event, range(31)))
    assert (few.c, few.reason, few.patients) == (None, "9 events, fewer than 10", 9)
    assert (fine.c, fine.reason) == (1.0, None)
    assert (tied.c, tied.reason) == (None, "no comparable pair")
    assert by_level(levels, Judged(-time, time, event, range(31)), least_events=9)[0].c == 1.0


def test_the_interval_of_a_level_is_the_bootstraps_of_its_persons(kin):
    test = kin.draw(2, n=120)
    levels = ["a", "b"] * 60
    persons = [f"P{row // 4}" for row in range(120)]
    group = by_level(levels, Judged(test.risk, test.time, test.event, persons), resamples=100, seed=4)[0]
    expected = bootstrap_c(
        risk=test.risk[::2], time=test.time[::2], event=test.event[::2], persons=persons[::2], seed=4, resamples=100
    )
    assert (group.low, group.high) == (expected.low, expected.high)
    assert group.low < group.c < group.high


def test_c_within_centres_counts_every_pair_of_one_centre(kin):
    test = kin.draw(3, n=90, times=12, risks=5)
    centres = np.random.default_rng(3).choice(["A", "B", "tiny"], 90, p=[0.5, 0.45, 0.05])
    found = by_group(centres.tolist(), judged(test))
    right = pairs = 0.0
    for i in np.flatnonzero(test.event):
        later = (test.time > test.time[i]) | ((test.time == test.time[i]) & ~test.event)
        mine = later & (centres == centres[i])
        pairs += mine.sum()
        right += (test.risk[mine] < test.risk[i]).sum() + 0.5 * (test.risk[mine] == test.risk[i]).sum()
    assert found.pairs == pairs
    assert found.within == pytest.approx(right / pairs, abs=1e-12)
    assert [group.label for group in found.groups] == ["A", "B", "tiny"]


def test_risks_that_only_tell_centres_apart_are_chance_within_them():
    time = np.arange(1.0, 41.0)
    event = np.ones(40, dtype=bool)
    centre_risk = np.repeat([1.0, 0.0], 20)
    found = by_group(["early"] * 20 + ["late"] * 20, Judged(centre_risk, time, event, range(40)))
    assert found.within == 0.5
    alone = by_group([str(row) for row in range(40)], Judged(centre_risk, time, event, range(40)))
    assert (alone.within, alone.pairs) == (None, 0)


def test_levels_keep_text_and_cut_numbers_at_their_median():
    frame = pd.DataFrame({"stage": ["I", None, "II"], "age": [50.0, np.nan, 70.0], "sex": [True, False, True]})
    assert levels_of(np.asarray(frame["stage"])) == ("I", MISSING, "II")
    assert levels_of(np.asarray(frame["age"])) == ("50", MISSING, "70")
    assert levels_of(np.asarray(frame["sex"])) == ("True", "False", "True")
    assert levels_of(np.array([1.0, 2, 3, 4, np.nan])) == ("< 2.5", "< 2.5", "≥ 2.5", "≥ 2.5", MISSING)
    # half have the least value: the cut is above it, or one level would hold everybody
    assert levels_of(np.array([0, 0, 0, 1, 7])) == ("< 1", "< 1", "< 1", "≥ 1", "≥ 1")
    assert levels_of(np.array([1.0, 1.0])) == ("1", "1")
    assert levels_of(np.array([np.nan, np.nan])) == (MISSING, MISSING)


def test_broken_arguments_are_refused(kin):
    test = kin.draw(4, n=5)
    with pytest.raises(UsageError, match="one label per patient, got 4 for 5"):
        by_level(["a"] * 4, judged(test))
    with pytest.raises(UsageError, match="one person per row, got 3 for 5"):
        Judged(test.risk, test.time, test.event, range(3))
    with pytest.raises(TaskError, match="not finite"):
        Judged(test.risk * np.nan, test.time, test.event, range(5))
