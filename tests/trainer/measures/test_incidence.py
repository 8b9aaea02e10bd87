"""Cumulative incidence by risk quartile: against scikit-survival group by group, and what it is silent about."""

import numpy as np
import pytest
from sksurv.nonparametric import cumulative_incidence_competing_risks

from store_schema.errors import UsageError
from trainer.kaplan_meier import kaplan_meier
from trainer.measures.incidence import incidences
from trainer.measures.predictions import PooledPatients

CAUSES = ("relapse", "death")
HORIZONS = (6.0, 12.0)


def patients(seed=0, n=400, **changes) -> PooledPatients:
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=n)
    first = rng.exponential(20 * np.exp(-risk))
    second, censored = rng.exponential(25, n), rng.uniform(5, 60, n)
    time = np.ceil(np.minimum(np.minimum(first, second), censored))
    cause = np.where(censored <= np.minimum(first, second), 0, np.where(first <= second, 1, 2))
    facts = {"risk": risk, "time": time, "event": cause == 1, "persons": [str(row) for row in range(n)]}
    return PooledPatients(**facts, cause=cause, causes=CAUSES, **changes)


def test_each_quartile_equals_scikit_survival():
    held = patients()
    found = {(one.group, one.cause, one.horizon): one for one in incidences(held, horizons=HORIZONS)}
    assert len(found) == 5 * 2 * 2
    quartile = np.searchsorted(np.quantile(held.risk, [0.25, 0.5, 0.75]), held.risk)
    for number in range(4):
        mine = quartile == number
        times, curves = cumulative_incidence_competing_risks(held.cause[mine], held.time[mine])
        for code, cause in enumerate(CAUSES, start=1):
            for horizon in HORIZONS:
                one = found[str(number + 1), cause, horizon]
                at = np.searchsorted(times, horizon, side="right") - 1
                assert one.incidence == pytest.approx(curves[code][at], abs=1e-12)
                assert one.low <= one.incidence <= one.high
                assert one.events == ((held.cause[mine] == code) & (held.time[mine] <= horizon)).sum()
                alone = kaplan_meier(held.time[mine], held.cause[mine] == code)
                assert one.one_minus_km == pytest.approx(1 - alone.survival_at(np.array([horizon]))[0])
                assert one.one_minus_km >= one.incidence
    # risks that matter for relapse alone: its incidence rises with the quartile
    relapse = [found[str(number), "relapse", 12.0].incidence for number in range(1, 5)]
    assert relapse == sorted(relapse)
    assert relapse[3] > relapse[0] + 0.3


def test_incidences_of_all_causes_and_event_free_patients_add_up():
    held = patients(seed=3)
    found = [one for one in incidences(held, horizons=HORIZONS) if one.group == "all"]
    anything = kaplan_meier(held.time, held.cause > 0)
    for horizon, free in zip(HORIZONS, anything.survival_at(np.array(HORIZONS)), strict=True):
        assert sum(one.incidence for one in found if one.horizon == horizon) + free == pytest.approx(1, abs=1e-12)


def test_a_group_whose_follow_up_ends_before_has_no_figure_unless_nobody_is_left():
    held = patients()
    beyond = held.time.max() + 1
    for last, known in ((0, False), (1, True)):
        cause = np.where(held.time == held.time.max(), last, held.cause)
        groups = PooledPatients(None, held.time, cause == 1, held.persons, cause=cause, causes=CAUSES)
        found = incidences(groups, horizons=[beyond])
        assert [one.incidence is not None for one in found] == [known, known]
        assert [one.one_minus_km is not None for one in found] == [known, known]
        if known:
            assert sum(one.incidence for one in found) == pytest.approx(1)


def test_without_pooled_risks_there_is_one_group_and_without_causes_nothing():
    held = patients()
    unpooled = PooledPatients(None, held.time, held.event, held.persons, cause=held.cause, causes=CAUSES)
    assert {one.group for one in incidences(unpooled, horizons=HORIZONS)} == {"all"}
    assert incidences(PooledPatients(held.risk, held.time, held.event, held.persons), horizons=HORIZONS) == ()


def test_a_cause_without_a_name_is_refused():
    held = patients()
    with pytest.raises(UsageError, match="a name for each cause, got 1 for code 2"):
        PooledPatients(held.risk, held.time, held.event, held.persons, cause=held.cause, causes=("relapse",))
