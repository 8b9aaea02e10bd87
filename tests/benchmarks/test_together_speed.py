"""Clinical DeepSurv, 100 settings x 5 folds at once, beside fit_model and pycox one by one; nothing is asserted of a time.

Each round times the three in turn: all 500 fits of ours, a sample of the others. Every fit runs all its epochs, full batch, one
thread, and watches its validation part after each.
"""

import statistics
import time
import warnings

import numpy as np
import pytest
import torch

from trainer.batch import Batch
from trainer.fit import fit_model
from trainer.spec import FitConfig, ModelSpec
from trainer.together import FitJob, fit_together

with warnings.catch_warnings():
    # pycox 0.3.0 has "\in" in plain docstrings, a SyntaxWarning on Python 3.12 when it is first compiled
    warnings.simplefilter("ignore", SyntaxWarning)
    import torchtuples
    from pycox.models import CoxPH

pytestmark = pytest.mark.bench
PATIENTS, COVARIATES, HIDDEN, EPOCHS = 227, 8, 64, 50
SETTINGS, FOLDS, ROUNDS, SAMPLE = 100, 5, 5, 2


def parts():
    """Training and validation part of each fold: 145 or 146, and 36 patients."""
    rng = np.random.default_rng(0)
    clinical = rng.normal(size=(PATIENTS, COVARIATES))
    onset, censored = 36 * rng.exponential(size=PATIENTS) * np.exp(-clinical[:, 0]), rng.uniform(6, 140, PATIENTS)
    whole = Batch.of(clinical=clinical, time=np.ceil(np.minimum(onset, censored)), event=onset <= censored)
    outer = [torch.from_numpy(np.flatnonzero(np.arange(PATIENTS) % FOLDS != fold)) for fold in range(FOLDS)]
    return [(whole.rows(rows[36:]), whole.rows(rows[:36])) for rows in outer]


def all_jobs():
    folds = parts()
    for setting in range(SETTINGS):
        share = setting / SETTINGS
        spec = ModelSpec(
            head=None, modalities=(), clinical_features=COVARIATES, hidden=(HIDDEN,), dropout=0.1 + 0.4 * share
        )
        config = FitConfig(epochs=EPOCHS, patience=EPOCHS, learning_rate=10 ** (-3 + share))
        for seed, (train, watch) in enumerate(folds):
            yield FitJob(spec, config, train, watch, seed=seed)


def one(job):
    return fit_model(job.spec, job.config, train=job.train, validation=job.validation, seed=job.seed)


def by_pycox(job):
    net = torchtuples.practical.MLPVanilla(
        COVARIATES, [HIDDEN], 1, batch_norm=True, dropout=job.spec.dropout, output_bias=False
    )
    model = CoxPH(net, torch.optim.AdamW(net.parameters(), lr=job.config.learning_rate))
    (x, y), (watch_x, watch_y) = (
        (part.inputs.clinical, (part.time.float(), part.event.float())) for part in (job.train, job.validation)
    )
    model.fit(x, y, batch_size=len(x), epochs=EPOCHS, verbose=False, val_data=(watch_x, watch_y))


def seconds(act):
    """Of CPU, which on one thread are those of the clock, but for what other processes take of the core."""
    start = time.process_time()
    act()
    return time.process_time() - start


def floor(job):
    """FLOP of one fit: products with weights forwards, backwards but for the inputs, and over the validation part."""
    per_patient = 2 * HIDDEN * (COVARIATES + 1)
    return EPOCHS * (per_patient * (2 * len(job.train) + len(job.validation)) + 2 * HIDDEN * len(job.train))


def test_clinical_deepsurv_of_all_settings_and_folds():
    torch.set_num_threads(1)
    jobs = list(all_jobs())
    fitted = fit_together(jobs[:10])
    expected = [one(job) for job in jobs[:10]]
    for job, ours, theirs in zip(jobs, fitted, expected, strict=False):
        inputs = job.validation.inputs
        np.testing.assert_allclose(ours.predict(inputs).log_risk, theirs.predict(inputs).log_risk, rtol=1e-3, atol=1e-4)
    by_pycox(jobs[0])
    a, b = torch.randn(2, 1024, 1024)
    taken = {"together": [], "fit_model": [], "pycox": [], "sgemm": []}
    for number in range(ROUNDS):
        sample = jobs[number * 97 :][:SAMPLE]
        taken["together"].append(seconds(lambda: fit_together(jobs)) / len(jobs))
        taken["fit_model"].append(seconds(lambda s=sample: [one(job) for job in s]) / SAMPLE)
        taken["pycox"].append(seconds(lambda s=sample: [by_pycox(job) for job in s]) / SAMPLE)
        taken["sgemm"].append(seconds(lambda: [a @ b for _ in range(5)]) / 5)
    fit = {name: statistics.median(times) for name, times in taken.items()}
    rate = 2 * 1024**3 / fit["sgemm"]
    print(
        f"\nclinical DeepSurv, {SETTINGS} settings x {FOLDS} folds, {EPOCHS} epochs, one thread; CPU time, medians of {ROUNDS}"
    )
    for name in ("together", "fit_model", "pycox"):
        of = len(jobs) if name == "together" else ROUNDS * SAMPLE
        print(
            f"  {name:9}: {fit[name] * 1e3:7.2f} ms a fit, {fit[name] / EPOCHS * 1e3:6.3f} ms a step, "
            f"{fit[name] * len(jobs):6.1f} s for all ({of} measured), {fit[name] / fit['together']:5.1f} x"
        )
    share = floor(jobs[0]) / rate / fit["together"]
    print(
        f"  floor: {floor(jobs[0]) / rate * 1e3:.2f} ms a fit at {rate / 1e9:.0f} GFLOP/s (sgemm), {share:.0%} of it reached"
    )
