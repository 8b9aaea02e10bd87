"""Fills reporting checklists (TRIPOD+AI, CLEAR) from a run as far as its data can, and names what a person must still write."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trainer.kaplan_meier import median_follow_up
from trainer.report.reading import FinishedRun

HUMAN = ""
"""Answer of an item that no data of a run can give."""


@dataclass(frozen=True)
class Item:
    """One item of a checklist, with what the run says to it."""

    number: str
    section: str
    topic: str
    """What is asked for, in short; the checklist itself has the full wording."""
    answer: str
    """Filled from the run; empty where a person must write it."""


@dataclass(frozen=True)
class Checklist:
    """A checklist with its items in order."""

    name: str
    reference: str
    items: tuple[Item, ...]

    @property
    def filled(self) -> int:
        """Items that the run answers at least in part."""
        return sum(bool(item.answer) for item in self.items)


TRIPOD_AI = (
    ("1", "Title", "Development or evaluation of a prediction model, population, outcome", HUMAN),
    ("2", "Abstract", "Structured summary (TRIPOD+AI for Abstracts)", HUMAN),
    ("3a", "Background", "Health-care context and rationale, existing models", HUMAN),
    ("3b", "Background", "Target population, intended purpose and users", HUMAN),
    ("3c", "Background", "Known health inequalities", HUMAN),
    ("4", "Objectives", "Development, validation or both", "objective"),
    ("5a", "Data", "Sources of data and why they represent the population", HUMAN),
    ("5b", "Data", "Dates of accrual and of the end of follow-up", HUMAN),
    ("6a", "Participants", "Setting and centres", "centres"),
    ("6b", "Participants", "Eligibility", "flow"),
    ("6c", "Participants", "Treatments received", HUMAN),
    ("7", "Data preparation", "Preprocessing and quality checks", "preparation"),
    ("8a", "Outcome", "Definition and time horizon", "outcome"),
    ("8b", "Outcome", "Consistency of assessment", HUMAN),
    ("8c", "Outcome", "Blinding of assessment", HUMAN),
    ("9a", "Predictors", "Choice of predictors", "predictors"),
    ("9b", "Predictors", "Definition and measurement", "predictors"),
    ("9c", "Predictors", "Blinding of assessment", HUMAN),
    ("10", "Sample size", "How it was arrived at, events per parameter", "sample"),
    ("11", "Missing data", "Handling", "missing"),
    ("12a", "Analytical methods", "Use and partition of data", "split"),
    ("12b", "Analytical methods", "Handling of predictors", "missing"),
    ("12c", "Analytical methods", "Model, building, tuning, internal validation", "models"),
    ("12d", "Analytical methods", "Heterogeneity between clusters", "centres"),
    ("12e", "Analytical methods", "Measures of performance, comparison", "metrics"),
    ("12f", "Analytical methods", "Model updating", "updating"),
    ("12g", "Analytical methods", "How predictions were computed", "prediction"),
    ("13", "Class imbalance", "Methods used", "imbalance"),
    ("14", "Fairness", "Approaches to fairness", HUMAN),
    ("15", "Model output", "What the model gives, risk groups", "output"),
    ("16", "Training versus evaluation", "Differences between the data", "split"),
    ("17", "Ethics", "Approval and consent", HUMAN),
    ("18a", "Open science", "Funding", HUMAN),
    ("18b", "Open science", "Conflicts of interest", HUMAN),
    ("18c", "Open science", "Protocol", "protocol"),
    ("18d", "Open science", "Registration", HUMAN),
    ("18e", "Open science", "Data sharing", "data"),
    ("18f", "Open science", "Code sharing", "code"),
    ("19", "Patient and public involvement", "Involvement", HUMAN),
    ("20a", "Results", "Flow of participants, follow-up", "flow"),
    ("20b", "Results", "Characteristics, missingness", "table_one"),
    ("20c", "Results", "Comparison of development and evaluation data", "split"),
    ("21", "Model development", "Participants and events in each analysis", "sizes"),
    ("22", "Model specification", "Full model", "specification"),
    ("23a", "Model performance", "Estimates with intervals", "performance"),
    ("23b", "Model performance", "Heterogeneity", "centres"),
    ("24", "Model updating", "Results", "updating"),
    ("25", "Interpretation", "Main results, fairness", HUMAN),
    ("26", "Limitations", "Limitations", "limits"),
    ("27a", "Usability", "Poor or missing input at use", "missing"),
    ("27b", "Usability", "Interaction with and expertise of users", HUMAN),
    ("27c", "Usability", "Next steps", HUMAN),
)

CLEAR = (
    ("1", "Title", "Radiomic methodology in the title", HUMAN),
    ("2", "Abstract", "Structured summary", HUMAN),
    ("3", "Keywords", "Keywords", HUMAN),
    ("4", "Introduction", "Background", HUMAN),
    ("5", "Introduction", "Rationale for radiomics", HUMAN),
    ("6", "Introduction", "Objectives", "objective"),
    ("7", "Study design", "Guidelines followed", "guidelines"),
    ("8", "Study design", "Ethics", HUMAN),
    ("9", "Study design", "Sample size", "sample"),
    ("10", "Study design", "Retrospective or prospective", HUMAN),
    ("11", "Study design", "Eligibility", "flow"),
    ("12", "Study design", "Flowchart of the technical pipeline", "pipeline"),
    ("13", "Data", "Source", HUMAN),
    ("14", "Data", "Overlap with earlier publications", HUMAN),
    ("15", "Data", "Split", "split"),
    ("16", "Data", "Imaging protocol", HUMAN),
    ("17", "Data", "Non-radiomic predictors", "predictors"),
    ("18", "Data", "Outcome", "outcome"),
    ("19", "Segmentation", "Strategy", "regions"),
    ("20", "Segmentation", "Operators", HUMAN),
    ("21", "Preprocessing", "Image preprocessing", "views"),
    ("22", "Preprocessing", "Resampling", "views"),
    ("23", "Preprocessing", "Discretisation", "views"),
    ("24", "Preprocessing", "Image types", "views"),
    ("25", "Feature extraction", "Method", "views"),
    ("26", "Feature extraction", "Feature classes", "views"),
    ("27", "Feature extraction", "Number of features", "views"),
    ("28", "Feature extraction", "Remaining parameters", "specification"),
    ("29", "Data preparation", "Missing data", "missing"),
    ("30", "Data preparation", "Class imbalance", "imbalance"),
    ("31", "Data preparation", "Reliability of segmentation", HUMAN),
    ("32", "Data preparation", "Scaling of features", "scaling"),
    ("33", "Data preparation", "Dimension reduction", "models"),
    ("34", "Modelling", "Algorithm", "models"),
    ("35", "Modelling", "Training and tuning", "tuning"),
    ("36", "Modelling", "Confounders", HUMAN),
    ("37", "Modelling", "Model selection", "tuning"),
    ("38", "Evaluation", "Internal or external testing", "split"),
    ("39", "Evaluation", "Performance metrics", "metrics"),
    ("40", "Evaluation", "Uncertainty", "metrics"),
    ("41", "Evaluation", "Comparison of performance", "contrasts"),
    ("42", "Evaluation", "Comparison with non-radiomic and combined models", "contrasts"),
    ("43", "Evaluation", "Interpretability", "interpretability"),
    ("44", "Results", "Characteristics", "table_one"),
    ("45", "Results", "Flowchart of eligibility", "flow"),
    ("46", "Results", "Statistics of features", HUMAN),
    ("47", "Results", "Model performance", "performance"),
    ("48", "Results", "Comparison with non-radiomic and combined models", "contrasts"),
    ("49", "Discussion", "Overview", HUMAN),
    ("50", "Discussion", "Earlier work", HUMAN),
    ("51", "Discussion", "Practical implications", HUMAN),
    ("52", "Discussion", "Strengths and limitations", "limits"),
    ("53", "Open science", "Images and segmentations", HUMAN),
    ("54", "Open science", "Features", "data"),
    ("55", "Open science", "Preprocessing settings", "specification"),
    ("56", "Open science", "Source code", "code"),
    ("57", "Open science", "Final model files", "output"),
    ("58", "Open science", "Ready-to-use system", "output"),
)


def checklists(run: FinishedRun) -> tuple[Checklist, ...]:
    """Both checklists for a finished run.

    References
    ----------
    Collins et al. 2024, BMJ 385:e078378 (TRIPOD+AI); Kocak et al. 2023, Insights Imaging 14:75 (CLEAR).
    """
    answers = _answers(run)
    return (
        Checklist("TRIPOD+AI", "Collins et al. 2024, BMJ 385:e078378", _items(TRIPOD_AI, answers)),
        Checklist("CLEAR", "Kocak et al. 2023, Insights into Imaging 14:75", _items(CLEAR, answers)),
    )


def _items(rows: tuple[tuple[str, str, str, str], ...], answers: Mapping[str, str]) -> tuple[Item, ...]:
    return tuple(Item(number, section, topic, answers[key] if key else HUMAN) for number, section, topic, key in rows)


def _answers(run: FinishedRun) -> dict[str, str]:
    """What the run says, by the key of the items."""
    return {**_cohort_answers(run), **_method_answers(run), **_result_answers(run), **_fixed_answers()}


def _cohort_answers(run: FinishedRun) -> dict[str, str]:
    cohort, columns = run.cohort, run.config.columns
    persons, events = len(set(cohort.person)), int(cohort.event.sum())
    follow_up = median_follow_up(cohort.time, cohort.event)
    followed = "not reached" if follow_up is None else f"{follow_up:.1f} {cohort.time_unit}"
    gone = "; ".join(f"{step.excluded} without: {step.reason}" for step in cohort.flow[1:] if step.excluded)
    missing = ", ".join(f"{name} {int(cohort.frame[name].isna().sum())}" for name in cohort.frame.columns)
    centres = "one centre, or no centre declared" if cohort.centre is None else f"{len(set(cohort.centre))} centres"
    ends = f"`{columns.event}` = {columns.event_value} at `{columns.time}` in {cohort.time_unit}"
    return {
        "flow": f"{cohort.flow[0].remaining} in the table, {len(cohort)} analysed ({gone or 'nobody excluded'}); section Patients",
        "outcome": f"{ends}; median follow-up {followed}",
        "predictors": f"covariates {', '.join(columns.covariates) or 'none'}; images as the views say (Settings)",
        "table_one": f"section Patients; missing values: {missing or 'no covariates'}",
        "sample": f"{persons} patients, {events} events; events per parameter in section Patients",
        "sizes": f"{persons} patients, {events} events; sizes of every fold in folds.csv",
        "centres": f"{centres}; folds {_by_centre(run)}",
    }


def _by_centre(run: FinishedRun) -> str:
    if run.config.splits.leave_one_centre_out:
        return "leave one centre out"
    return "keep centres together" if run.config.splits.by_centre else "not by centre"


def _dealt(run: FinishedRun) -> str:
    if run.config.splits.leave_one_centre_out:
        return "each of them one centre"
    if run.config.splits.by_centre:
        return "of whole centres, as even as they allow"
    return f"stratified ({run.splits.method}), by patient"


def _method_answers(run: FinishedRun) -> dict[str, str]:
    config = run.config
    splits, rules = run.splits, config.preprocessing
    tuned = [f"{row.label} ({row.tried} settings, {row.tuned})" for row in run.results.of_kind("model") if row.tuned]
    filled = f"continuous by the training {rules.continuous_missing}, categories by {rules.categorical_missing}"
    return {
        "split": f"{splits.folds} folds × {splits.repeats}, {_dealt(run)}; internal validation",
        "missing": f"{filled}, from the training part of each fold alone",
        "models": f"{len(config.models)} rows; kinds, heads and fusion in Settings",
        "tuning": f"tuned: {', '.join(tuned)}" if tuned else "no setting was searched by this run",
        "scaling": "maps and covariates standardised by the training part of each fold (Settings)",
        "regions": ", ".join(sorted({found.images.roi for found in config.fitted_models if found.images is not None}))
        or "none",
        "views": ", ".join(pin["view"] for pin in run.record["snapshots"]) or "no images were read",
        "objective": "development with internal validation (cross-validation)",
    }


def _result_answers(run: FinishedRun) -> dict[str, str]:
    rows = [row for row in run.results.of_kind("model") if row.mean is not None]
    best = max(rows, key=lambda row: row.mean or 0.0, default=None)
    claim = next((found for found in run.results.contrasts if found.primary), None)
    shown = (
        "no row is complete"
        if best is None
        else f"{len(rows)} rows; c up to {best.mean:.3f} ({best.label}); section Results"
    )
    compared = (
        "no contrast was declared" if claim is None else f"claim declared beforehand: {claim.label}; section Contrasts"
    )
    seconds = np.format_float_positional(round(run.seconds), trim="-")
    return {
        "performance": shown,
        "contrasts": compared,
        "specification": f"every setting in Settings; {seconds} s of fitting; seeds, snapshots and digests pinned",
        "data": f"features pinned by snapshot {', '.join(pin['snapshot'][:12] for pin in run.record['snapshots']) or '(none)'}",
        "code": f"engram {run.record['versions']['engram']}, Apache-2.0; source digest {run.record['versions']['code'][:12]}",
    }


def _fixed_answers() -> dict[str, str]:
    """What holds for every run, because the program does it so."""
    return {
        "preparation": "tables are read strictly: a cell that is no number, a time that is not positive, an id twice are refused",
        "metrics": "Harrell's c over folds with SE and t-tests, corrected for shared training patients; others in section Measures",
        "updating": "none; `trainer validate` shows a recalibration apart",
        "prediction": "out of fold, by models that never saw the patient; survival by Breslow's baseline hazard",
        "imbalance": "none: the partial likelihood needs no balanced classes; folds are stratified by event and time",
        "output": "log-risk, risk group and survival curve (`trainer fit`, `trainer predict`)",
        "protocol": "run.json holds every setting, written before the first fit; the claim is among them",
        "limits": "internal validation on one cohort; section What the figures mean",
        "guidelines": "TRIPOD+AI and CLEAR, this section",
        "pipeline": "volumes and masks → feature store → trainer, as the README draws it",
        "interpretability": "gate weights and coefficients where models have them",
    }
