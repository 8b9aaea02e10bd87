"""The claim test where there is nothing to claim, with networks: an MLP head over four configurations, the paper's way beside it.

The null is that of `test_null_claim`: covariates, time and event of the synthetic cohort stay together, image rows are permuted.
Jobs, inner folds, seeds and fits are the trainer's own; only the images come from memory, not from a store.
"""

import importlib.util
import io
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats

from extractor.phantom_table import clinical_table, draw_factors, patient_ids
from trainer.cohort import Cohort, build_cohort
from trainer.columns import Columns
from trainer.config import RunConfig, parse_config
from trainer.dispatch import Workers
from trainer.fold import fold_of
from trainer.jobs import first_jobs, grouped
from trainer.judging import Asked, train
from trainer.metrics import harrell_c
from trainer.part_data import PartData
from trainer.plan import Inputs
from trainer.run import cross_validate
from trainer.splits import make_splits
from trainer.stats import corrected_t, paired_contrast
from trainer.stored_images import StoredImages


def sibling(name):
    """The test module beside this one; importlib mode puts no test folder on the path."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


null = sibling("test_null_claim")
FOLDS, INNER, CONFIGURATIONS = null.FOLDS, null.INNER, 4
NOMINAL, CONFIDENCE = 0.025, 0.999
REPLICATES, SOAK_REPLICATES = 3, 100
COLUMNS = {
    "time": "pfs_months",
    "time_unit": "months",
    "event": "pfs_event",
    "continuous": ["age"],
    "categorical": ["sex", "riss"],
}
SEARCH = {"fit.learning_rate": {"log": [5e-3, 5e-2]}, "fit.weight_decay": {"log": [1.0, 30.0]}}
NETWORK = {"kind": "network", "clinical": True, "hidden": [16], "search": SEARCH}
BOTH = {**NETWORK, "name": "both", "view": "given", "images": {"roi": "given", "modalities": ["PET"]}, "head": "vector"}
ALONE = {**NETWORK, "name": "alone"}


def limit(replicates: int) -> int:
    """False claims that a test at its nominal level exceeds once in a thousand times: 8 of 100."""
    return int(stats.binom.ppf(CONFIDENCE, replicates, NOMINAL))


def config_of(*, repeats: int, epochs: int, models=(BOTH, ALONE)) -> RunConfig:
    fit = {"epochs": epochs, "min_epochs": min(3, epochs), "patience": 10, "min_validation_events": 5}
    return parse_config(
        {
            "columns": COLUMNS,
            "splits": {"folds": FOLDS, "repeats": repeats},
            "fit": fit,
            "search": {"points": CONFIGURATIONS, "inner_folds": INNER, "mode": "both"},
            "models": list(models),
        }
    )


def table_of(seed: int) -> pd.DataFrame:
    return clinical_table(draw_factors(null.N, seed), seed)


def images_of(seed: int, *, planted: bool) -> np.ndarray:
    """Vectors that belong to other patients; where they are planted, each to its own."""
    if planted:
        factors = draw_factors(null.N, seed)
        return np.stack([factors.z, np.log(factors.marrow_suv), np.log1p(factors.lesion_suv)], axis=1)
    return null.cohort(seed)[1]


class Replicate:
    """c of every job of a run whose images lie in memory, by (model, configuration, outer fold, inner fold)."""

    def __init__(self, config: RunConfig, seed: int, *, planted: bool = False) -> None:
        self.config, self.number = config, FOLDS * config.splits.repeats
        self.cohort: Cohort = build_cohort(table_of(seed), Columns(**COLUMNS), {})
        assert list(self.cohort.patients) == patient_ids(null.N)
        self.splits = make_splits(self.cohort, folds=FOLDS, repeats=config.splits.repeats, seed=config.splits.seed)
        self.images = StoredImages({"PET": images_of(seed, planted=planted)})
        self.part = cache(self._part)
        self.c = dict(self._fitted())

    def _part(self, name, part):
        """What every configuration of a model is fitted and judged on: they differ in settings of the fit alone."""
        model = self.config.candidates[name][0]
        return PartData.of(
            model,
            cohort=self.cohort,
            fold=fold_of(part, self.cohort, self.splits, INNER),
            stream=(part.fold,) if part.inner is None else (part.fold, 1 + part.inner),
            split_seed=self.splits.seed,
            rules=self.config.preprocessing,
            images=None if model.images is None else self.images,
        )

    def _fitted(self):
        jobs = first_jobs(self.config, permutations=[0], folds=self.number)
        for group in grouped(jobs, most=self.config.fit_together):
            asked = [Asked(job.model, job.seed, self.part(job.model.name, job.part)) for job in group]
            for job, one, trained in zip(group, asked, train(asked), strict=True):
                assert not isinstance(trained, Exception), trained
                test = one.data.fold.test
                time, event = one.data.outcome(test)
                score = harrell_c(risk=trained.predict(one.data, test).log_risk, time=time, event=event).c
                yield (job.model.name, job.candidate, job.part.fold, job.part.inner), score

    def scores(self, model: str, fold: int, inner: int | None) -> np.ndarray:
        """Of every configuration on one part."""
        return np.array([self.c[model, tried, fold, inner] for tried in range(CONFIGURATIONS)])

    def nested(self, model: str) -> np.ndarray:
        """c of each outer fold by the configuration that its own inner folds chose."""
        chosen = [
            np.mean([self.scores(model, fold, inner) for inner in range(INNER)], axis=0).argmax()
            for fold in range(self.number)
        ]
        return np.array([self.c[model, int(best), fold, None] for fold, best in enumerate(chosen)])

    def papers_way(self, model: str) -> np.ndarray:
        """c of the first dealing's folds by the one configuration that is best on these very folds."""
        every = np.array([self.scores(model, fold, None) for fold in range(FOLDS)])
        return every[:, every.mean(axis=0).argmax()]

    def claims(self) -> tuple[bool, bool]:
        """Whether image + clinical − clinical is called a finding: by the claim test, and by the paper's plain t over 5 folds."""
        claim = paired_contrast(self.nested("both"), self.nested("alone"), test_to_train=1 / (FOLDS - 1))
        paper = corrected_t(self.papers_way("both") - self.papers_way("alone"), test_to_train=0.0)
        return (
            claim.mean > 0 and claim.p_two_sided < 0.05,
            paper.mean > 0 and paper.p_two_sided is not None and paper.p_two_sided < 0.05,
        )


def false_claims(seeds, config: RunConfig) -> np.ndarray:
    return np.sum([Replicate(config, seed).claims() for seed in seeds], axis=0)


def test_the_replicates_scores_are_those_of_a_run_on_the_same_table(tmp_path):
    config = config_of(repeats=1, epochs=3, models=[ALONE])
    table_of(5).to_csv(tmp_path / "clinical.csv", index=False)
    console, workers = Console(file=io.StringIO()), Workers(number=0)
    inputs = Inputs(str(tmp_path / "clinical.csv"))
    report = cross_validate(config, inputs, out=str(tmp_path / "run"), workers=workers, console=console)
    rows = {row.label: [score.c for score in row.scores] for row in report.results.rows}
    replicate = Replicate(config, 5)
    assert replicate.nested("alone").tolist() == rows["alone"]
    assert replicate.papers_way("alone").tolist() == rows["alone (paper's way)"]
    assert len({chosen.candidate for chosen in report.results.rows[0].chosen}) > 1


def test_images_that_belong_to_their_patients_are_claimed():
    nested, paper = Replicate(config_of(repeats=2, epochs=40), 1000, planted=True).claims()
    assert nested
    assert paper


def test_noise_is_hardly_ever_claimed_by_networks():
    claims, _ = false_claims(range(1000, 1000 + REPLICATES), config_of(repeats=1, epochs=5))
    assert claims <= limit(REPLICATES)


@pytest.mark.soak
def test_a_hundred_replicates_of_noise_with_networks():
    claims, paper = false_claims(range(SOAK_REPLICATES), config_of(repeats=10, epochs=40))
    told = f"MLP over {CONFIGURATIONS} configurations, outer {FOLDS} × 10, inner {INNER}"
    print(f"\n{SOAK_REPLICATES} replicates of noise, {told}:")
    nominal = NOMINAL * SOAK_REPLICATES
    print(f"claim test {claims} false claims (nominal {nominal:.1f}, limit {limit(100)}); the paper's way {paper}")
    assert claims <= limit(SOAK_REPLICATES)
