"""Has the model of each fold of a run score its test patients on each view, and measures how far the risks hold; fits nothing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from store_schema.errors import CohortError
from trainer.cohort import Cohort
from trainer.metrics import harrell_c
from trainer.predicting import pairs, risk_group
from trainer.robustness.agreement import LEAST_SUBJECTS, rank_stability
from trainer.robustness.embeddings import agreement
from trainer.robustness.fold_models import FoldModel, RunRow
from trainer.robustness.reading import Compared
from trainer.robustness.results import Agreement, FoldRobustness, FoldsTest, JudgedModel, JudgedRow, RiskRobustness
from trainer.robustness.risks import Series, agreements, change_of_c
from trainer.stats import paired_contrast
from trainer.summary import pooled_risks

Score = Callable[[int, FoldModel, str, Sequence[str]], Series]
"""Log-risks that the model of a fold gives to some patients on the snapshot of an id."""
OUT_OF_FOLD = (
    "risks are out of fold: the models of the run's {folds} folds were made again, gave the very risks that the run recorded, and "
    "scored their test patients on every view, their preprocessing as it was; how models fitted on perturbed embeddings would do "
    "is not told"
)
HEADER = (
    "patient",
    "view",
    "repeat",
    "fold",
    "log_risk_base",
    "log_risk",
    "z_base",
    "z",
    "risk_group_base",
    "risk_group",
)


@dataclass(frozen=True, eq=False)
class FoldViews:
    """Risks that the models of a run's folds give their test patients, whom they were not fitted on, on each view."""

    row: RunRow
    models: Mapping[int, FoldModel]
    """Of the folds that read images."""
    cohort: Cohort
    """Who has what the row reads in every view."""
    patients: tuple[tuple[str, ...], ...]
    """Of these the test patients of each fold."""
    risks: tuple[tuple[Series, ...], ...]
    """Log-risks by view, the base first, and fold; higher is worse."""

    @cached_property
    def log_risk(self) -> tuple[Series, ...]:
        """Of each view, the base first: risks in standard deviations of each fold's training patients, averaged over repeats.

        References
        ----------
        Protocol section 6 (Fig. 4).
        """
        return tuple(self._pooled(risks) for risks in self.risks)

    def _pooled(self, risks: Sequence[Series]) -> Series:
        fits = [
            result.model_copy(update={"patients": mine, "log_risk": tuple(risk.tolist())})
            for result, mine, risk in zip(self.row.results, self.patients, risks, strict=True)
        ]
        pooled = pooled_risks(fits)
        return np.array([pooled[patient] for patient in self.cohort.patients])

    def robustness(self, place: int, *, seed: int, resamples: int) -> RiskRobustness:
        """How the out-of-fold risks on one perturbed view agree with those on the base, over all patients and fold by fold."""
        base, perturbed = self.log_risk[0], self.log_risk[place]
        changed = np.concatenate(
            [before != after for before, after in zip(self._groups(0), self._groups(place), strict=True)]
        )
        folds = tuple(self._fold(fold, place) for fold in range(len(self.patients)))
        return RiskRobustness(
            changed_group=float(changed.mean()),
            c=change_of_c(base, perturbed, self.cohort, seed=seed, resamples=resamples),
            folds=folds,
            over_folds=over_folds(folds, test_to_train=self.row.run.splits.test_to_train),
            **agreements(base, perturbed),
        )

    def _fold(self, fold: int, place: int) -> FoldRobustness:
        mine = self.cohort.rows(self.patients[fold])
        time, event = self.cohort.time[mine], self.cohort.event[mine]
        base, perturbed = self.risks[0][fold], self.risks[place][fold]
        few = len(mine) < LEAST_SUBJECTS
        c: dict[str, Any]
        try:
            before, after = (harrell_c(risk=risk, time=time, event=event).c for risk in (base, perturbed))
            c = {"c_base": before, "c": after, "change": after - before}
        except CohortError as error:
            c = {"reason": str(error)}
        return FoldRobustness(
            fold=fold,
            repeat=self.row.results[fold].repeat,
            patients=len(mine),
            events=int(event.sum()),
            icc=Agreement(value=None, reason="fewer than 3 patients") if few else agreement(base, perturbed),
            spearman=None if few else rank_stability(base, perturbed).spearman,
            **c,
        )

    def _groups(self, place: int) -> tuple[np.ndarray, ...]:
        """Risk group of every fold's test patients by quartiles of its training patients; 0 where no image is read."""
        return tuple(
            risk_group(self.models[fold].card, risk) if fold in self.models else np.zeros(len(risk), dtype=np.int64)
            for fold, risk in enumerate(self.risks[place])
        )

    @property
    def judged(self) -> JudgedModel:
        """The row."""
        run, line = self.row.run, self.row.line
        row = JudgedRow(
            run_sha256=self.row.record_sha256,
            folds=len(run.splits),
            repeats=run.splits.repeats,
            without_images=self._without_images,
            patients=len(self.cohort),
            patients_of_run=len(run.cohort),
            tuned=line.way,
            tried=line.tried,
        )
        return JudgedModel(name=line.label, card_sha256=None, apparent=False, row=row)

    @property
    def notes(self) -> tuple[str, ...]:
        """Whose risks they are, who is left out, and what else makes them other than a reader would think."""
        splits, line = self.row.run.splits, self.row.line
        told = [OUT_OF_FOLD.format(folds=len(splits))]
        if splits.repeats > 1:
            told.append(
                f"over all patients, risks are averages over {splits.repeats} repeats, which hold better than those of one model: "
                "these stand fold by fold"
            )
        if line.way == "paper":
            told.append(
                f"{line.label} was tuned on the reported folds, best of {line.tried} settings: each c is OPTIMISTIC, and so may "
                "its change be"
            )
        if self._without_images:
            folds = ", ".join(map(str, self._without_images))
            told.append(f"in fold {folds} the row chose a model without images, whose risks no perturbation changes")
        everybody = len(self.row.run.cohort)
        if len(self.cohort) < everybody:
            told.append(
                f"{everybody - len(self.cohort)} of the run's {everybody} patients lack an entry in some view, or have one made "
                "from other files, and are left out: c on the base is not that of the run"
            )
        return tuple(told)

    @property
    def _without_images(self) -> tuple[int, ...]:
        return tuple(fold for fold in range(len(self.patients)) if fold not in self.models)

    def lines(self, views: Sequence[str]) -> Iterator[Sequence[Any]]:
        """Risks, standardised risks and risk groups by view, fold and patient; no group where a fold reads no images."""
        yield HEADER
        for place, view in enumerate(views, start=1):
            groups = self._groups(0), self._groups(place)
            for fold, mine in enumerate(self.patients):
                result = self.row.results[fold]
                for row, patient in enumerate(mine):
                    pair = [float(self.risks[one][fold][row]) for one in (0, place)]
                    z = [(risk - result.train_mean) / result.train_sd for risk in pair]
                    group = [int(one[fold][row]) or None for one in groups]
                    yield patient, view, result.repeat, fold, *pair, *z, *group


def in_all_views(row: RunRow, views: Compared) -> Cohort:
    """Patients of the run who have every entry that a fold of the row reads in every view, made from the files of the base.

    Raises
    ------
    CohortError
        If they are fewer than three.
    """
    wanted = {pair for model in row.models for pair in pairs(model)}
    having = [
        {key.patient for key in snapshot.keys if (key.modality, key.roi) == pair}
        for snapshot in views.perturbed
        for pair in wanted
    ]
    strangers = views.strangers(wanted)
    kept = [
        patient
        for patient in row.run.cohort.patients
        if patient not in strangers and all(patient in one for one in having)
    ]
    if len(kept) < LEAST_SUBJECTS:
        others = f" (of {len(strangers)} a view was made from other files)" if strangers else ""
        raise CohortError(
            f"{len(kept)} of the run's {len(row.run.cohort)} patients have what row {row.line.label!r} reads in every "
            f"view{others}: agreement needs {LEAST_SUBJECTS}. Perturb the studies of the run"
        )
    return row.run.cohort.part(kept)


def fold_views(
    row: RunRow, models: Mapping[int, FoldModel], views: Compared, cohort: Cohort, score: Score
) -> FoldViews:
    """Risks of every fold's test patients on every view.

    Parameters
    ----------
    models
        Of the folds that read images.
    cohort
        Who is scored, as `in_all_views` gives it.
    score
        Scores some of them.
    """
    held = set(cohort.patients)
    patients = tuple(tuple(one for one in result.patients if one in held) for result in row.results)
    base = tuple(_recorded(row, fold, mine) for fold, mine in enumerate(patients))
    scored = [_scored(base, models, snapshot.id, patients, score) for snapshot in views.perturbed]
    return FoldViews(row, models, cohort, patients, (base, *scored))


def over_folds(folds: Sequence[FoldRobustness], *, test_to_train: float) -> FoldsTest:
    """Change of c over folds by the corrected resampled t-test.

    Parameters
    ----------
    test_to_train
        Patients tested over patients trained on, as `Splits.test_to_train` gives it.
    """
    base = [one.c_base for one in folds if one.c_base is not None]
    perturbed = [one.c for one in folds if one.c is not None]
    if len(base) < len(folds):
        lost = ", ".join(str(one.fold) for one in folds if one.c_base is None)
        return FoldsTest(reason=f"fold {lost} has no comparable pair among the patients that all views hold")
    found = paired_contrast(perturbed, base, test_to_train=test_to_train)
    return FoldsTest(
        base=float(np.mean(base)),
        perturbed=float(np.mean(perturbed)),
        change=found.mean,
        se=found.se,
        t=found.t,
        df=found.df,
        p=found.p_two_sided,
        low=found.low,
        high=found.high,
        folds=len(folds),
    )


def _recorded(row: RunRow, fold: int, patients: Sequence[str]) -> Series:
    """Risks on the base, as the run recorded them."""
    result = row.results[fold]
    risk_of = dict(zip(result.patients, result.log_risk, strict=True))
    return np.array([risk_of[patient] for patient in patients], dtype=np.float64)


def _scored(
    base: Sequence[Series],
    models: Mapping[int, FoldModel],
    snapshot: str,
    patients: Sequence[Sequence[str]],
    score: Score,
) -> tuple[Series, ...]:
    """Risks by fold on the snapshot of this id; the base's where a fold reads no images."""
    return tuple(
        score(fold, models[fold], snapshot, mine) if fold in models and mine else base[fold]
        for fold, mine in enumerate(patients)
    )
