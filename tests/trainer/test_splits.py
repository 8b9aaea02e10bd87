"""Outer and inner splits: balance, determinism, grouping, the file that is written once."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from store_schema.errors import AlreadyExistsError, CohortError, ConfigError, SchemaError, UsageError
from trainer.cohort import Cohort
from trainer.dealing import deal
from trainer.splits import Splits, inner_split, make_splits, parse_splits, read_splits, write_splits

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines are shared


def cohort_of(time, event, *, person=None, centre=None) -> Cohort:
    patients = tuple(f"P{row:04d}" for row in range(len(time)))
    return Cohort(
        patients=patients,
        person=tuple(person) if person is not None else patients,
        time=np.asarray(time, dtype=np.float64),
        event=np.asarray(event, dtype=bool),
        frame=pd.DataFrame(index=pd.Index(patients, name="patient")),
        time_unit="months",
        centre=None if centre is None else tuple(centre),
    )


def simulated(seed, n=227, **labels) -> Cohort:
    """Times in whole months, about 28% censored, as in the synthetic cohort."""
    rng = np.random.default_rng(seed)
    onset = 36 * rng.weibull(1.2, n) * np.exp(-0.6 * rng.normal(size=n))
    end = rng.uniform(6, 140, n)
    return cohort_of(np.ceil(np.minimum(onset, end)), onset <= end, **labels)


def test_folds_part_the_cohort_once_per_repeat():
    cohort = simulated(0)
    splits = make_splits(cohort, folds=5, seed=3, repeats=4)
    assert len(splits) == 20
    for repeat in range(4):
        dealt = [name for part in splits.test[repeat * 5 : repeat * 5 + 5] for name in part]
        assert sorted(dealt) == list(cohort.patients)
    for fold in splits.outer():
        assert not set(fold.train) & set(fold.test)
        assert sorted(fold.train + fold.test) == list(cohort.patients)
        assert (fold.index // 5, list(fold.test)) == (fold.repeat, sorted(fold.test))


@given(st.integers(0, 10**6), st.integers(10, 90), st.integers(2, 7), st.sampled_from(["blocks", "quantiles"]))
@UNHURRIED
def test_fold_sizes_differ_by_one_and_blocks_balance_events_within_two(seed, n, folds, method):
    rng = np.random.default_rng(seed)
    time, event = rng.integers(1, 20, n).astype(float), rng.random(n) < 0.6
    number = deal(time, event, folds=folds, rng=rng, method=method)
    sizes = np.bincount(number, minlength=folds)
    assert np.ptp(sizes) <= 1
    if method == "blocks":
        assert np.ptp(np.bincount(number[event], minlength=folds)) <= 2


def largest_ks(cohort, method, seed) -> float:
    """Largest distance between the times of one fold and those of the others."""
    number = deal(cohort.time, cohort.event, folds=5, rng=np.random.default_rng(seed), method=method)
    distances = (
        ks_2samp(cohort.time[number == fold], cohort.time[number != fold], method="asymp").statistic
        for fold in range(5)
    )
    return max(distances)


def test_blocks_make_fold_times_more_alike_than_quantiles():
    mean = {
        method: np.mean([largest_ks(simulated(seed), method, seed) for seed in range(200)])
        for method in ("blocks", "quantiles")
    }
    assert mean["blocks"] == pytest.approx(0.06, abs=0.01)
    assert mean["quantiles"] == pytest.approx(0.11, abs=0.01)


def test_same_seed_gives_the_same_folds_and_another_seed_others():
    cohort = simulated(1)
    assert make_splits(cohort, seed=5) == make_splits(cohort, seed=5)
    assert make_splits(cohort, seed=5).test != make_splits(cohort, seed=6).test
    repeated = make_splits(cohort, seed=5, repeats=2)
    assert repeated.test[:5] == make_splits(cohort, seed=5).test
    assert set(repeated.test[:5]).isdisjoint(repeated.test[5:])


def test_blocks_are_dealt_as_the_protocol_says_it_in_words():
    cohort = simulated(1, 60)
    facts = sorted(zip(cohort.event.tolist(), cohort.time.tolist(), cohort.patients, strict=True))
    rng = np.random.default_rng([11, 0, 0])
    test = [set() for _ in range(7)]
    while facts:
        block, facts = facts[:7], facts[7:]
        for (_, _, patient), fold in zip(block, rng.permutation(7).tolist(), strict=False):
            test[fold].add(patient)
    assert [set(part) for part in make_splits(cohort, folds=7, seed=11).test] == test


def test_centres_stay_together_and_as_many_folds_as_centres_leaves_one_out():
    centre = [f"C{row % 4}" for row in range(120)]
    cohort = simulated(2, 120, centre=centre)
    splits = make_splits(cohort, folds=4, seed=1, by_centre=True)
    assert splits.grouped_by == "centre"
    of = dict(zip(cohort.patients, centre, strict=True))
    assert sorted({of[name] for name in part} == {of[part[0]]} for part in splits.test) == [True] * 4


def test_uneven_centres_are_dealt_so_that_folds_stay_even():
    sizes = [40, 30, 20, 10, 10, 10]
    centre = [f"C{index}" for index, size in enumerate(sizes) for _ in range(size)]
    splits = make_splits(simulated(3, 120, centre=centre), folds=3, seed=0, by_centre=True)
    assert sorted(map(len, splits.test)) == [40, 40, 40]


def test_studies_of_one_patient_share_a_fold_and_folds_stay_even():
    person = [f"N{row // 2:03d}" for row in range(200)]
    cohort = simulated(4, 200, person=person)
    splits = make_splits(cohort, seed=0)
    of = dict(zip(cohort.patients, person, strict=True))
    homes = Counter(name for part in splits.test for name in {of[patient] for patient in part})
    assert splits.grouped_by == "person"
    assert set(homes.values()) == {1}
    assert np.ptp([len(part) for part in splits.test]) <= 2
    inner = inner_split(cohort, splits.fold(0).train, seed=0, fold=0)
    assert {of[name] for name in inner.watch}.isdisjoint(of[name] for name in inner.fit)


def test_grouping_by_centre_needs_centres_and_enough_of_them():
    with pytest.raises(ConfigError, match="declare `columns: centre`"):
        make_splits(simulated(5, 40), seed=0, by_centre=True)
    cohort = simulated(5, 40, centre=["A", "B"] * 20)
    with pytest.raises(CohortError, match=r"2 groups \(A, B\) cannot be dealt into 5 folds"):
        make_splits(cohort, seed=0, by_centre=True)


def test_all_censored_fold_is_refused_by_name_with_what_to_do():
    cohort = cohort_of(np.arange(1, 21), [row < 3 for row in range(20)])
    with pytest.raises(
        CohortError, match=r"the test part of fold \d is all-censored \(4 patients, 0 events\).*fewer folds"
    ):
        make_splits(cohort, folds=5, seed=0)


def test_fold_whose_only_event_comes_last_is_refused():
    cohort = cohort_of(np.arange(1, 21), [row >= 15 for row in range(20)], centre=["A"] * 10 + ["B"] * 10)
    with pytest.raises(CohortError, match="all-censored"):
        make_splits(cohort, folds=2, seed=0, by_centre=True)
    last = cohort_of([1, 2, 3, 4, 5, 9], [True, False, False, False, False, True], centre=["A"] * 3 + ["B"] * 3)
    with pytest.raises(CohortError, match=r"has no comparable pair \(3 patients, 1 events\)"):
        make_splits(last, folds=2, seed=0, by_centre=True)


@pytest.mark.parametrize(("folds", "repeats"), [(1, 1), (0, 1), (5, 0)])
def test_impossible_numbers_are_refused(folds, repeats):
    with pytest.raises(ConfigError, match="at least 2 folds"):
        make_splits(simulated(0, 40), folds=folds, seed=0, repeats=repeats)


def test_more_folds_than_patients_are_refused():
    with pytest.raises(CohortError, match="4 patients cannot be dealt into 5 folds"):
        make_splits(cohort_of([1, 2, 3, 4], [True] * 4), folds=5, seed=0)


def test_fold_number_out_of_range_is_refused():
    with pytest.raises(UsageError, match="fold 5 is not one of 0 to 4"):
        make_splits(simulated(0, 60), seed=0).fold(5)


def test_inner_split_watches_a_fifth_of_the_training_part_with_its_share_of_events():
    cohort = simulated(6)
    fold = make_splits(cohort, seed=0).fold(2)
    inner = inner_split(cohort, fold.train, seed=0, fold=2)
    assert sorted(inner.fit + inner.watch) == list(fold.train)
    assert abs(len(inner.watch) - len(fold.train) / 5) <= 1
    events = cohort.event[cohort.rows(fold.train)].sum()
    assert abs(cohort.event[cohort.rows(inner.watch)].sum() - events / 5) <= 2


def test_inner_split_ignores_every_patient_outside_the_training_part():
    cohort = simulated(7)
    fold = make_splits(cohort, seed=0).fold(1)
    time, event = cohort.time.copy(), cohort.event.copy()
    test = cohort.rows(fold.test)
    time[test], event[test] = time[test][::-1] + 100, ~event[test]
    assert inner_split(cohort_of(time, event), fold.train, seed=0, fold=1) == inner_split(
        cohort, fold.train, seed=0, fold=1
    )


def test_inner_split_has_a_stream_per_seed_and_fold_and_forgets_the_order_of_patients():
    cohort = simulated(8)
    train = make_splits(cohort, seed=0).fold(0).train
    plain = inner_split(cohort, train, seed=0, fold=0)
    assert inner_split(cohort, train[::-1], seed=0, fold=0) == plain
    assert inner_split(cohort, train, seed=0, fold=1) != plain
    assert inner_split(cohort, train, seed=1, fold=0) != plain


@pytest.mark.parametrize("share", [0.0, 0.6, -0.2])
def test_inner_split_refuses_an_impossible_share(share):
    cohort = simulated(8, 40)
    with pytest.raises(ConfigError, match=r"in \(0, 0.5\]"):
        inner_split(cohort, cohort.patients, seed=0, fold=0, share=share)


def test_splits_are_written_once_and_the_same_ones_reused(tmp_path):
    path = tmp_path / "run" / "splits.json"
    cohort = simulated(9)
    splits = make_splits(cohort, seed=0)
    assert write_splits(splits, path) == splits
    first = (path.read_bytes(), path.stat().st_mtime_ns)
    write_splits(make_splits(cohort, seed=0), path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == first
    assert read_splits(path, cohort) == splits
    assert [file.name for file in path.parent.iterdir()] == ["splits.json"]


def test_other_splits_are_refused_and_the_file_is_left_alone(tmp_path):
    path = tmp_path / "splits.json"
    cohort = simulated(9)
    write_splits(make_splits(cohort, seed=0), path)
    before = path.read_bytes()
    with pytest.raises(AlreadyExistsError, match="seed 0 there, 1 here"):
        write_splits(make_splits(cohort, seed=1), path)
    assert path.read_bytes() == before


def test_of_two_writers_at_once_one_wins_and_the_file_is_its_own(tmp_path):
    barrier = threading.Barrier(2)
    splits = [make_splits(simulated(9, 60), seed=seed) for seed in (1, 2)]

    def race(mine):
        barrier.wait()
        try:
            return write_splits(mine, tmp_path / "splits.json").seed
        except AlreadyExistsError:
            return None

    with ThreadPoolExecutor(2) as writers:
        won = [seed for seed in writers.map(race, splits) if seed is not None]
    assert [read_splits(tmp_path / "splits.json").seed] == won


def test_splits_of_another_cohort_are_refused_with_who_differs(tmp_path):
    path = tmp_path / "splits.json"
    cohort = simulated(9, 60)
    write_splits(make_splits(cohort, seed=0), path)
    with pytest.raises(CohortError, match=r"another cohort .*only in the splits: P0059; only in the cohort: nobody"):
        read_splits(path, cohort_of(cohort.time[:-1], cohort.event[:-1]))
    with pytest.raises(CohortError, match="another cohort"):
        read_splits(path, cohort_of(cohort.time + 1, cohort.event))


def test_altered_folds_are_refused_though_the_digest_is_right():
    cohort = simulated(9, 60)
    splits = make_splits(cohort, seed=0)
    doubled = splits.model_copy(update={"test": (splits.test[1], *splits.test[1:])})
    with pytest.raises(CohortError, match="do not part the cohort"):
        doubled.check(cohort)


@pytest.mark.parametrize("text", [b"", b"{}", b'{"layout": "engram-splits-9"}', b"\xff"])
def test_other_files_are_not_read_as_splits(text):
    with pytest.raises(SchemaError, match="not a file of splits"):
        parse_splits(text)


def test_splits_survive_their_text_unchanged():
    splits = make_splits(simulated(10, 60), folds=3, seed=2, method="quantiles", repeats=2)
    assert parse_splits(splits.to_json()) == splits
    assert isinstance(parse_splits(splits.to_json().encode()), Splits)


def test_centres_of_unlike_size_weigh_in_the_corrected_test():
    centre = ["A"] * 60 + ["B"] * 30 + ["C"] * 10
    splits = make_splits(simulated(4, 100, centre=centre), folds=3, seed=0, by_centre=True)
    assert splits.test_to_train == pytest.approx(np.mean([60 / 40, 30 / 70, 10 / 90]))
    assert make_splits(simulated(4, 100), folds=4, seed=0).test_to_train == pytest.approx(1 / 3)
