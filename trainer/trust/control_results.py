"""Holds what is told of negative controls and the ablation, as their JSON file does; computes nothing."""

from typing import Any, Literal

from pydantic import ValidationError

from store_schema.errors import NotCommittedError, SchemaError
from trainer.run_folder import RunFolder
from trainer.task_results import Record
from trainer.trust.views import Role

CONTROLS_JSON, CONTROLS_CSV = "controls.json", "controls.csv"
Verdict = Literal["higher", "lower", "not told apart", "equal", "incomplete", "no verdict"]
"""Of the base against another view: only the first two are claims; the last says that the two may not be compared."""
Tuned = Literal["nested", "paper"]
"""How settings were chosen: inside the training folds, or on the reported ones, which is optimistic."""


class ControlRow(Record):
    """The judged model fitted on one view.

    Attributes
    ----------
    name
        Its row in the run that fitted it.
    label, what
        For people: what is varied, and how the view was made.
    role
        What the view is to the base.
    view, snapshot
        What was read.
    mode, layout
        How slices were prompted, and memories packed.
    head
        Where the view's arrays need another head than the base's; else None.
    differs
        Settings that set the view apart from the base besides what its role says.
    scores
        c of each fold, None where the fit failed.
    mean, se
        Over folds; se as in the tables of the study. None where a fold failed.
    low, high
        95% interval of the mean, with a variance that allows for shared training patients (Nadeau and Bengio), within 0 and 1.
    above_chance
        Whether that interval lies above 0.5; None without one, and where settings were chosen on the reported folds.
    tuned, tried
        How settings were chosen, and of how many.
    """

    name: str
    label: str
    what: str
    role: Role
    view: str
    snapshot: str
    mode: str
    layout: str
    head: str | None = None
    differs: tuple[str, ...] = ()
    scores: tuple[float | None, ...]
    mean: float | None = None
    se: float | None = None
    low: float | None = None
    high: float | None = None
    above_chance: bool | None = None
    tuned: Tuned | None = None
    tried: int = 1


class ControlContrast(Record):
    """What the base has over another view: c of the base less c of the view, on the same folds.

    Attributes
    ----------
    name
        Row that the base is held against.
    family
        Contrasts whose p-values were adjusted together (Holm).
    mean, se, t, df, p, low, high
        Corrected resampled t-test, two-sided, and its 95% interval; None where a row is incomplete, and t and p where the
        differences do not vary.
    p_holm
        Adjusted within the family.
    differences
        Fold by fold.
    verdict
        ``higher`` or ``lower`` only where the interval leaves out 0 and the adjusted p is at most 0.05; ``no verdict`` where
        settings were chosen on the reported folds, or from another number of settings.
    reading
        The same in words, ended by a full stop.
    note
        How tuned rows were chosen.
    """

    name: str
    family: Literal["controls", "ablation"]
    mean: float | None = None
    se: float | None = None
    t: float | None = None
    df: int | None = None
    p: float | None = None
    low: float | None = None
    high: float | None = None
    p_holm: float | None = None
    differences: tuple[float, ...] = ()
    verdict: Verdict
    reading: str
    note: str | None = None


class Permuted(Record):
    """The base fitted on permuted outcomes.

    Attributes
    ----------
    repeats
        Permutations.
    mean, se
        c over folds, or over permutations where there are several; None where a fit failed.
    band
        How far from 0.5 the mean may lie by chance; see `trainer.leaks.chance_band`.
    p
        Of the base's own c over the permutations; None where they are fewer than 19.
    tuned, tried
        How settings were chosen in each permutation, and of how many.
    reading
        In words, ended by a full stop.
    """

    repeats: int
    mean: float | None
    se: float | None
    band: float
    p: float | None
    reading: str
    tuned: Tuned | None = None
    tried: int = 1

    @property
    def at_chance(self) -> bool:
        """Whether it lies where chance puts a model that was not chosen by the reported folds."""
        return self.mean is not None and abs(self.mean - 0.5) <= self.band

    @property
    def is_best_of_several(self) -> bool:
        """Whether chance alone puts it above 0.5: the best of several by the very folds that are reported."""
        return self.tuned == "paper"


class Controls(Record):
    """All that was found.

    Attributes
    ----------
    row
        Row of the study whose model was fitted on each view.
    model
        Its settings.
    store_id, encoder_trained
        Where the views lie, and whether the base's encoder has trained weights.
    patients, events, folds, repeats
        Of the cohort: patients of the study whom every view here holds; folds of one repeat.
    same_folds
        Whether patients and folds are those of the study.
    study_mean
        c of the row in the study.
    rows
        The base first.
    contrasts
        Of every other row, in the same order.
    left_out
        Views that were found and not taken, each with the reason.
    failures
        Fits that failed.
    run
        Folder below this one that holds the fits.
    """

    layout: Literal["engram-controls-1"] = "engram-controls-1"
    row: str
    model: dict[str, Any]
    store_id: str
    encoder_trained: bool
    patients: int
    events: int
    folds: int
    repeats: int
    same_folds: bool
    study_mean: float | None
    rows: tuple[ControlRow, ...]
    contrasts: tuple[ControlContrast, ...]
    permuted: Permuted | None
    notes: tuple[str, ...]
    left_out: dict[str, str]
    failures: tuple[str, ...]
    run: str
    versions: dict[str, str]

    @property
    def base(self) -> ControlRow:
        """The row's own view."""
        return self.rows[0]

    def of(self, family: str) -> tuple[tuple[ControlRow, ControlContrast], ...]:
        """Rows of one family with what the base has over them."""
        rows = {row.name: row for row in self.rows}
        return tuple((rows[found.name], found) for found in self.contrasts if found.family == family)

    @property
    def complete(self) -> bool:
        """Whether every fit succeeded."""
        return not self.failures and all(row.mean is not None for row in self.rows)


def read_controls(folder: RunFolder) -> Controls:
    """What was found of controls, from their folder.

    Raises
    ------
    NotCommittedError
        If it was never finished.
    SchemaError
        If the file is something else.
    """
    data = folder.read(CONTROLS_JSON)
    if data is None:
        raise NotCommittedError(
            f"{folder.url} has no {CONTROLS_JSON}: `trainer trust` makes it; it resumes what was begun"
        )
    try:
        return Controls.model_validate_json(data)
    except ValidationError as error:
        raise SchemaError(f"{folder.url}/{CONTROLS_JSON} holds no controls: {error.errors()[0]['msg']}") from error
