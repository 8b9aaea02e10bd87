"""Uno's c against scikit-survival and brute force, pair by pair."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sksurv.metrics import concordance_index_ipcw
from sksurv.util import Surv

from store_schema.errors import CohortError, TaskError, UsageError
from trainer.measures.censoring import Censoring
from trainer.measures.uno import uno_c
from trainer.metrics import harrell_c

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines are shared

patients = st.lists(st.tuples(st.integers(-2, 2), st.integers(1, 6), st.booleans()), min_size=1, max_size=20)


def columns(rows):
    risk, time, event = (np.array(column) for column in zip(*rows, strict=True))
    return risk.astype(float), time.astype(float), event


def brute_force(risk, time, event, following, tau):
    """Weighs pairs one by one, straight from the definition."""
    right = total = 0.0
    for i in np.flatnonzero(event & (time < tau)):
        weight = following(time[i])
        for j in range(len(time)):
            later = time[j] > time[i] or (time[j] == time[i] and not event[j])
            if later and weight > 0:
                total += weight**-2
                right += weight**-2 * ((risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j]))
    return right, total


@pytest.mark.parametrize("share", [0.5, 0.8, 1.0])
def test_uno_c_equals_scikit_survival(parts, share):
    train, test = parts
    censoring = Censoring.fit(time=train.time, event=train.event)
    tau = share * min(censoring.last, test.time.max())
    ours = uno_c(risk=test.risk, time=test.time, event=test.event, censoring=censoring, tau=tau)
    c = concordance_index_ipcw(train.y, test.y, test.risk, tau=tau, tied_tol=0.0)[0]
    assert ours.c == pytest.approx(c, abs=1e-9)
    assert (ours.tau, ours.beyond) == (tau, (test.time >= tau).sum())
    assert ours.events == (test.event & (test.time < tau)).sum()


def test_uno_c_without_tau_equals_scikit_survival(parts):
    _, test = parts
    # whoever is followed longest had the event: scikit-survival refuses an event where G has come to 0
    test.event[test.time == test.time.max()] = True
    y = Surv.from_arrays(test.event, test.time)
    censoring = Censoring.fit(time=test.time, event=test.event)
    c = concordance_index_ipcw(y, y, test.risk, tied_tol=0.0)[0]
    assert uno_c(risk=test.risk, time=test.time, event=test.event, censoring=censoring).c == pytest.approx(c, abs=1e-9)


@given(patients, patients, st.floats(0.5, 8))
@UNHURRIED
def test_uno_c_equals_brute_force_under_heavy_ties(kin, train, test, tau):
    (_, train_time, train_event), (risk, time, event) = columns(train), columns(test)
    censoring = Censoring.fit(time=train_time, event=train_event)
    tau = min(tau, censoring.end)
    right, total = brute_force(risk, time, event, lambda at: kin.following(train_time, train_event, at), tau)
    if total == 0:
        with pytest.raises(CohortError, match="no comparable pair"):
            uno_c(risk=risk, time=time, event=event, censoring=censoring, tau=tau)
        return
    ours = uno_c(risk=risk, time=time, event=event, censoring=censoring, tau=tau)
    assert ours.c == pytest.approx(right / total, abs=1e-9)


def test_uno_c_without_censoring_is_harrells(kin):
    test = kin.draw(4, times=30, risks=6, censored=0.0)
    censoring = Censoring.fit(time=test.time, event=test.event)
    ours = uno_c(risk=test.risk, time=test.time, event=test.event, censoring=censoring)
    theirs = harrell_c(risk=test.risk, time=test.time, event=test.event)
    assert ours.c == pytest.approx(theirs.c, abs=1e-12)
    assert ours.comparable == theirs.comparable


def test_tau_beyond_the_training_follow_up_is_cut_to_it_and_said_so(kin):
    train, test = kin.draw(5, n=60, times=20), kin.draw(6, n=60)
    censoring = Censoring.fit(time=train.time, event=train.event)
    test.time *= 3 * censoring.last / test.time.max()
    ours = uno_c(risk=test.risk, time=test.time, event=test.event, censoring=censoring, tau=1e9)
    assert ours.tau == censoring.end
    assert ours.beyond == (test.time >= censoring.end).sum() > 0
    assert ours.c == uno_c(risk=test.risk, time=test.time, event=test.event, censoring=censoring).c


def test_uno_c_of_turned_risks_is_one_minus_c(parts):
    train, test = parts
    censoring = Censoring.fit(time=train.time, event=train.event)
    plain, turned = (
        uno_c(risk=sign * test.risk, time=test.time, event=test.event, censoring=censoring).c for sign in (1, -1)
    )
    assert turned == pytest.approx(1 - plain, abs=1e-12)


def test_uno_c_of_five_thousand_patients_equals_weighing_event_by_event(kin):
    test = kin.draw(7, n=5_000, times=300, risks=2_000)
    censoring = Censoring.fit(time=test.time, event=test.event)
    right = total = 0.0
    for i in np.flatnonzero(test.event & (test.time < 200)):
        later = (test.time > test.time[i]) | ((test.time == test.time[i]) & ~test.event)
        weight = 1 / censoring.following(test.time[i : i + 1])[0] ** 2
        total += weight * later.sum()
        right += weight * ((test.risk[later] < test.risk[i]).sum() + 0.5 * (test.risk[later] == test.risk[i]).sum())
    ours = uno_c(risk=test.risk, time=test.time, event=test.event, censoring=censoring, tau=200)
    assert ours.c == pytest.approx(right / total, abs=1e-12)


def test_swapped_uneven_or_broken_arguments_are_refused(kin):
    test = kin.draw(8, n=5)
    censoring = Censoring.fit(time=test.time, event=test.event)
    with pytest.raises(UsageError, match="booleans"):
        uno_c(risk=test.risk, time=test.event, event=test.time, censoring=censoring)
    with pytest.raises(UsageError, match="one length"):
        uno_c(risk=test.risk[:4], time=test.time, event=test.event, censoring=censoring)
    with pytest.raises(TaskError, match="not finite"):
        uno_c(risk=np.full(5, np.nan), time=test.time, event=test.event, censoring=censoring)
