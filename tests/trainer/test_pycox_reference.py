"""Reference DeepSurv: pycox's own fit where it has no fault, and what goes round its faults."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from store_schema.errors import CohortError, TaskError
from trainer.batch import Batch
from trainer.fit import one_thread
from trainer.judging import Asked, judge
from trainer.metrics import harrell_c
from trainer.model_config import PycoxModel
from trainer.pycox_reference import _pycox_models, choose_pycox_epochs, fit_pycox

ELSEWHERE = """
import sys
import numpy as np
from trainer.batch import Batch
from trainer.model_config import PycoxModel
from trainer.pycox_reference import fit_pycox
a = np.load(sys.argv[1])
train, watch = (Batch.of(clinical=a["x"][s], time=a["time"][s], event=a["event"][s]) for s in (slice(0, 90), slice(90, 130)))
fitted = fit_pycox(PycoxModel.model_validate_json(sys.argv[2]), train=train, watch=watch, seed=5)
print(fitted.predict(a["x"]).tobytes().hex())
"""


def model(**settings):
    return PycoxModel.model_validate({"name": "pycox", "kind": "pycox", "hidden": [8], "dropout": 0.1, **settings})


def arrays(n=200, seed=0):
    """Covariates of which the first drives the hazard; times without ties."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    onset, censored = rng.exponential(30 * np.exp(-1.3 * x[:, 0])), rng.uniform(6, 140, n)
    return {"x": x, "time": np.minimum(onset, censored), "event": onset <= censored}


def batch(start, stop, **settings):
    made = {name: array[start:stop] for name, array in arrays(**settings).items()}
    return Batch.of(clinical=made["x"], time=made["time"], event=made["event"])


def test_full_batches_without_stopping_are_what_pycox_itself_fits():
    import torchtuples  # noqa: PLC0415

    # without dropout: their loader also draws from the stream that masks come from
    a, settings = arrays(80), model(epochs=12, learning_rate=0.02, dropout=0.0)
    fitted = fit_pycox(settings, train=batch(0, 80, n=80), watch=None, seed=3, fixed_epochs=12)
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = torchtuples.practical.MLPVanilla(3, [8], 1, True, 0.0, output_bias=False)
        optimiser = torch.optim.AdamW(net.parameters(), lr=0.02, weight_decay=settings.weight_decay)
        theirs = _pycox_models().CoxPH(net, optimiser)
        target = (a["time"].astype(np.float32), a["event"].astype(np.float32))
        theirs.fit(a["x"], target, batch_size=80, epochs=12, verbose=False, shuffle=False)
        expected = theirs.predict(a["x"]).squeeze(1)
    np.testing.assert_allclose(fitted.predict(a["x"]), expected, rtol=1e-5, atol=1e-6)
    assert fitted.record.reason == "fixed"
    assert len(fitted.record.train_loss) == 12


def test_it_stops_by_the_watched_loss_and_keeps_the_weights_of_its_best_epoch():
    train, watch = batch(0, 90), batch(90, 150)
    settings = model(learning_rate=0.1, patience=4, dropout=0.0)
    stopped = fit_pycox(settings, train=train, watch=watch, seed=0)
    record = stopped.record
    assert record.reason == "patience"
    assert record.epochs_run == len(record.train_loss) == len(record.validation_loss) == record.best_epoch + 4
    fixed = fit_pycox(settings, train=train, watch=None, seed=0, fixed_epochs=record.best_epoch)
    clinical = arrays()["x"]
    np.testing.assert_allclose(stopped.predict(clinical), fixed.predict(clinical), rtol=1e-6, atol=1e-7)


def test_every_fit_stops_anew():
    train, watch, settings = batch(0, 90), batch(90, 150), model(learning_rate=0.1, patience=4)
    first, second = (fit_pycox(settings, train=train, watch=watch, seed=0).record for _ in range(2))
    assert first == second


@pytest.mark.parametrize("batch_size", [8, 256])
def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_stream_as_it_was(batch_size):
    train, watch = batch(0, 97), batch(97, 150)
    runs = []
    for global_seed, seed in ((1, 5), (2, 5), (2, 6)):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        made = fit_pycox(model(epochs=3, batch_size=batch_size), train=train, watch=watch, seed=seed)
        runs.append(made.predict(arrays()["x"]))
        assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[1], runs[2])


def test_another_process_gives_the_same_bits(tmp_path):
    np.savez(tmp_path / "arrays.npz", **arrays())
    here = fit_pycox(model(epochs=3), train=batch(0, 90), watch=batch(90, 130), seed=5).predict(arrays()["x"])
    command = [
        sys.executable,
        "-W",
        "ignore::SyntaxWarning",
        "-c",
        ELSEWHERE,
        str(tmp_path / "arrays.npz"),
        model(epochs=3).model_dump_json(),
    ]
    there = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "2"}
    )
    assert there.stdout.strip() == here.tobytes().hex()


def test_no_batch_is_without_events_or_of_one_patient():
    made = arrays(97)
    rare = Batch.of(clinical=made["x"], time=made["time"], event=np.arange(97) % 11 == 0)
    record = fit_pycox(model(epochs=4, batch_size=8), train=rare, watch=batch(97, 150), seed=0).record
    assert all(map(math.isfinite, record.train_loss))


def test_a_number_of_epochs_is_chosen_where_the_watched_part_is_too_small():
    train, settings = batch(0, 100), model(epochs=15, learning_rate=0.05)
    part = np.arange(100) % 4
    curves = [
        fit_pycox(
            settings,
            train=train.rows(torch.from_numpy(np.flatnonzero(part != number))),
            watch=train.rows(torch.from_numpy(np.flatnonzero(part == number))),
            seed=0,
            fixed_epochs=15,
        ).record.validation_loss
        for number in range(4)
    ]
    events = [int(train.event.numpy()[part == number].sum()) for number in range(4)]
    assert choose_pycox_epochs(settings, train=train, part=part, seed=0) == 1 + np.argmin(
        np.average(curves, axis=0, weights=events)
    )


def test_parts_without_events_and_losses_that_are_not_numbers_are_errors():
    nobody = Batch.of(clinical=arrays(30)["x"], time=arrays(30)["time"], event=np.zeros(30, dtype=bool))
    with pytest.raises(CohortError, match="got 30 patients with 0 events"):
        fit_pycox(model(), train=nobody, watch=batch(0, 40), seed=0)
    with pytest.raises(CohortError, match="that part has no event"):
        fit_pycox(model(), train=batch(0, 40), watch=nobody, seed=0)
    flat = Batch.of(clinical=np.empty((40, 0)), time=arrays(40)["time"], event=arrays(40)["event"])
    with pytest.raises(CohortError, match="no declared covariate varies"):
        fit_pycox(model(), train=flat, watch=flat, seed=0)
    with pytest.raises(CohortError, match="all 30 training patients are censored"):
        choose_pycox_epochs(model(), train=nobody, part=np.arange(30) % 3, seed=0)
    with pytest.raises(TaskError, match="stopped being finite"):
        fit_pycox(model(learning_rate=1e30, batch_norm=False), train=batch(0, 40), watch=batch(40, 90), seed=0)


@pytest.mark.parametrize("min_validation_events", [2, 40])
def test_a_reference_judges_a_fold_on_the_parts_that_our_networks_have(kit, make_part, min_validation_events):
    settings = model(epochs=8, learning_rate=0.05, min_validation_events=min_validation_events)
    table = kit.draw(100)
    data = make_part(settings, table)
    (judged,) = judge([Asked(settings, 0, data)])
    (again,) = judge([Asked(settings, 0, data)])
    np.testing.assert_array_equal(judged.test_risk, again.test_risk)
    assert judged.train_risk.shape == (80,)
    assert judged.curves.reason == ("fixed" if min_validation_events == 40 else "epochs")
    assert judged.alpha is None
    assert judged.coefficients is None
    time, event = data.outcome(data.fold.train)
    assert harrell_c(risk=judged.train_risk, time=time, event=event).c > 0.5
