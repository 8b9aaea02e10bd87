"""Deals a cohort into outer folds once and keeps them for every model; knows nothing of covariates or models."""

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict, ValidationError

from store_schema.errors import AlreadyExistsError, CohortError, ConfigError, SchemaError, UsageError
from trainer.cohort import Cohort
from trainer.dealing import Method, deal
from trainer.metrics import comparable_pairs
from trainer.tables import shown

INNER_STREAM = 1
"""Keeps the random numbers of inner splits apart from those of outer ones, which use 0."""
SEARCH_STREAM = 3
"""The same for the inner folds by which settings are chosen; 2 is taken by `trainer.judging`, 4 by `trainer.linear`."""


@dataclass(frozen=True)
class Fold:
    """One outer fold: who trains and who is judged, each sorted."""

    index: int
    """0 … repeats * folds - 1; names the fold in results and seeds."""
    repeat: int
    """Which dealing of the whole cohort it belongs to."""
    train: tuple[str, ...]
    """Outer training part."""
    test: tuple[str, ...]
    """Outer test part."""


class Splits(BaseModel):
    """Outer folds of a cohort, by patient id, with what they were dealt from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Literal["engram-splits-1"] = "engram-splits-1"
    cohort_sha256: str
    """`Cohort.digest` of the cohort that was dealt."""
    method: Method
    """How patients were dealt."""
    grouped_by: Literal["person", "centre"] | None
    """What was kept in one fold."""
    seed: int
    """Seed of the dealing."""
    folds: int
    """Folds per repeat."""
    repeats: int
    """Dealings of the whole cohort."""
    test: tuple[tuple[str, ...], ...]
    """Test patients of each fold, sorted; folds of one repeat stand together."""

    def __len__(self) -> int:
        return len(self.test)

    def fold(self, index: int) -> Fold:
        """Fold number `index`, counted through all repeats."""
        if not 0 <= index < len(self):
            raise UsageError(f"fold {index} is not one of 0 to {len(self) - 1}")
        repeat = index // self.folds
        parts = range(repeat * self.folds, (repeat + 1) * self.folds)
        train = sorted(patient for part in parts if part != index for patient in self.test[part])
        return Fold(index=index, repeat=repeat, train=tuple(train), test=self.test[index])

    @property
    def test_to_train(self) -> float:
        """Test patients for each training patient, for the corrected t-test: 1/(folds - 1), of centres the mean over folds."""
        if self.grouped_by != "centre":
            return 1 / (self.folds - 1)
        everybody = sum(len(part) for part in self.test[: self.folds])
        return sum(len(part) / (everybody - len(part)) for part in self.test) / len(self.test)

    def outer(self) -> tuple[Fold, ...]:
        """Give every fold of every repeat, in order."""
        return tuple(self.fold(index) for index in range(len(self)))

    def check(self, cohort: Cohort) -> "Splits":
        """Return these splits if they were dealt from this cohort and cover it once per repeat.

        Raises
        ------
        CohortError
            If they belong to another cohort, or do not part it.
        """
        if self.cohort_sha256 != cohort.digest:
            mine, theirs = {name for part in self.test for name in part}, set(cohort.patients)
            raise CohortError(
                f"the splits were dealt from another cohort ({self.cohort_sha256[:12]}, {len(mine)} patients) than "
                f"this one ({cohort.digest[:12]}, {len(theirs)} patients); only in the splits: "
                f"{shown(sorted(mine - theirs)) or 'nobody'}; only in the cohort: "
                f"{shown(sorted(theirs - mine)) or 'nobody'}. Use the same table and entries, or a new output folder"
            )
        for repeat in range(self.repeats):
            dealt = sorted(name for part in self.test[repeat * self.folds :][: self.folds] for name in part)
            if dealt != sorted(cohort.patients) or len(self.test) != self.folds * self.repeats:
                raise CohortError(f"the splits do not part the cohort: repeat {repeat} deals {len(dealt)} patients")
        return self

    def to_json(self) -> str:
        """Give the file's text; equal splits give equal texts."""
        return self.model_dump_json(indent=1) + "\n"


@dataclass(frozen=True)
class InnerSplit:
    """Two parts of an outer training fold, each sorted."""

    fit: tuple[str, ...]
    """Patients whose gradients move the weights."""
    watch: tuple[str, ...]
    """Patients whose loss decides when to stop."""


def make_splits(
    cohort: Cohort,
    *,
    folds: int = 5,
    seed: int,
    method: Method = "blocks",
    by_centre: bool = False,
    repeats: int = 1,
) -> Splits:
    """Outer folds of a cohort, stratified by event and time, the same for the same seed on any machine.

    A patient's several studies always share a fold.

    Parameters
    ----------
    cohort
        Who is dealt.
    folds
        Parts of the cohort; each is the test part once. As many as there are centres, with `by_centre`, leaves one
        centre out at a time.
    seed
        Seeds every draw; repeat r draws from its own stream.
    method
        ``blocks`` (default) or ``quantiles``; see `trainer.dealing.deal`.
    by_centre
        Keep each centre in one fold.
    repeats
        Dealings of the whole cohort.

    Raises
    ------
    ConfigError
        If folds or repeats are out of range, or no centre column was declared.
    CohortError
        If a fold has no comparable pair in its test or training part (an all-censored fold).

    References
    ----------
    Guinea-Pérez et al. 2026, section 2.4.1; protocol section 5.
    """
    _check_numbers(cohort, folds, repeats)
    grouped_by, groups = _groups(cohort, by_centre=by_centre)
    test: list[tuple[str, ...]] = []
    for repeat in range(repeats):
        rng = np.random.default_rng([seed, 0, repeat])
        number = deal(cohort.time, cohort.event, folds=folds, rng=rng, method=method, groups=groups)
        test += [_names(cohort, np.flatnonzero(number == fold)) for fold in range(folds)]
    splits = Splits(
        cohort_sha256=cohort.digest,
        method=method,
        grouped_by=grouped_by,
        seed=seed,
        folds=folds,
        repeats=repeats,
        test=tuple(test),
    )
    _refuse_all_censored(cohort, splits)
    return splits


def inner_split(
    cohort: Cohort,
    train: Sequence[str],
    *,
    seed: int,
    fold: int | Sequence[int],
    share: float = 0.2,
    method: Method = "blocks",
) -> InnerSplit:
    """Part a training part for early stopping, stratified like the outer folds.

    Parameters
    ----------
    cohort
        Holds the outcomes.
    train
        The training part; no other patient is looked at.
    seed, fold
        Seed of the run, and index of the outer fold, or several numbers that tell the part: each has its own stream.
    share
        Share to watch; 1/share is rounded to a whole number of parts, of which one is taken.
    method
        As in `make_splits`.

    Raises
    ------
    ConfigError
        If the share is not in (0, 0.5].
    CohortError
        If there are fewer training patients than parts.
    """
    if not 0 < share <= 0.5:
        raise ConfigError(f"the share to watch must be in (0, 0.5], got {share}")
    stream = (fold,) if isinstance(fold, int) else tuple(fold)
    rows, number = _dealt_part(cohort, train, round(1 / share), [seed, INNER_STREAM, *stream], method)
    return InnerSplit(fit=_names(cohort, rows[number != 0]), watch=_names(cohort, rows[number == 0]))


def inner_folds(cohort: Cohort, fold: Fold, *, folds: int, seed: int, method: Method = "blocks") -> tuple[Fold, ...]:
    """Folds of an outer training part, by which settings are chosen; the outer test part is not looked at.

    Each has the index and repeat of the outer fold.

    Raises
    ------
    CohortError
        If there are fewer training patients than parts, or a part has no comparable pair.
    """
    rows, number = _dealt_part(cohort, fold.train, folds, [seed, SEARCH_STREAM, fold.index], method)
    found = tuple(
        Fold(fold.index, fold.repeat, _names(cohort, rows[number != part]), _names(cohort, rows[number == part]))
        for part in range(folds)
    )
    for inner, part in enumerate(found):
        for name, patients in (("test", part.test), ("training", part.train)):
            chosen = cohort.rows(patients)
            told = f"the {name} part of inner fold {inner} of fold {fold.index}"
            _refuse_undecidable(cohort.time[chosen], cohort.event[chosen], told)
    return found


def _dealt_part(
    cohort: Cohort, train: Sequence[str], parts: int, stream: Sequence[int], method: Method
) -> tuple[Int[np.ndarray, " patient"], Int[np.ndarray, " patient"]]:
    """Rows of a training part, and the part that each is dealt to; one person's studies share one."""
    rows = np.sort(cohort.rows(train))
    if len(rows) < parts:
        raise CohortError(f"{len(rows)} training patients of fold {stream[2]} cannot be dealt into {parts} parts")
    rng = np.random.default_rng(stream)
    persons = [cohort.person[row] for row in rows]
    groups = persons if len(set(persons)) < len(persons) else None
    return rows, deal(cohort.time[rows], cohort.event[rows], folds=parts, rng=rng, method=method, groups=groups)


def write_splits(splits: Splits, path: str | os.PathLike[str]) -> Splits:
    """Write the splits once; where the file is there already it must hold the same ones.

    Raises
    ------
    AlreadyExistsError
        If the file holds other splits; it is left as it is.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # written whole under another name and linked, so that a reader never sees half a file and a second writer loses
    staged = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with staged.open("x", encoding="utf-8") as file:
            file.write(splits.to_json())
            file.flush()
            os.fsync(file.fileno())
        os.link(staged, target)
    except FileExistsError:
        _refuse_other(splits, read_splits(target), target)
    finally:
        staged.unlink(missing_ok=True)
    return splits


def read_splits(path: str | os.PathLike[str], cohort: Cohort | None = None) -> Splits:
    """Read the splits of a file, checked against the cohort where one is given.

    Raises
    ------
    SchemaError
        If the file is not one of splits.
    CohortError
        If they were dealt from another cohort.
    """
    splits = parse_splits(Path(path).read_bytes(), where=str(path))
    return splits if cohort is None else splits.check(cohort)


def parse_splits(text: str | bytes, *, where: str = "the splits") -> Splits:
    """Read splits from the text that `Splits.to_json` wrote.

    Raises
    ------
    SchemaError
        If it is anything else.
    """
    try:
        return Splits.model_validate_json(text)
    except ValidationError as error:
        raise SchemaError(f"{where} is not a file of splits of layout engram-splits-1: {error}") from error


def _refuse_other(splits: Splits, found: Splits, path: Path) -> None:
    if found == splits:
        return
    mine, theirs = splits.model_dump(), found.model_dump()
    differing = [name for name in mine if mine[name] != theirs[name]]
    facts = ", ".join(f"{name} {theirs[name]!r} there, {mine[name]!r} here" for name in differing if name != "test")
    raise AlreadyExistsError(
        f"{path} holds other splits ({facts or 'other patients in the folds'}), and splits are written once. Use a new "
        "output folder, or the settings of the first run"
    )


def _check_numbers(cohort: Cohort, folds: int, repeats: int) -> None:
    if folds < 2 or repeats < 1:
        raise ConfigError(f"expected at least 2 folds and 1 repeat, got {folds} and {repeats}")
    if folds > len(cohort):
        raise CohortError(f"{len(cohort)} patients cannot be dealt into {folds} folds: use fewer folds")


def _groups(cohort: Cohort, *, by_centre: bool) -> tuple[Literal["person", "centre"] | None, Sequence[str] | None]:
    several = len(set(cohort.person)) < len(cohort)
    if not by_centre:
        return ("person", cohort.person) if several else (None, None)
    if cohort.centre is None:
        raise ConfigError("folds by centre need the centre of each patient: declare `columns: centre` in the config")
    pairs = {(person, centre) for person, centre in zip(cohort.person, cohort.centre, strict=True)}
    if len(pairs) > len(set(cohort.person)):
        raise CohortError("folds by centre need one centre per patient, and a patient has studies in two")
    return "centre", cohort.centre


def _names(cohort: Cohort, rows: Int[np.ndarray, " patient"]) -> tuple[str, ...]:
    return tuple(cohort.patients[row] for row in np.sort(rows))


def _refuse_all_censored(cohort: Cohort, splits: Splits) -> None:
    for fold in splits.outer():
        for part, patients in (("test", fold.test), ("training", fold.train)):
            rows = cohort.rows(patients)
            centres = sorted({cohort.centre[row] for row in rows}) if cohort.centre is not None else []
            named = f" ({', '.join(centres)})" if splits.grouped_by == "centre" and part == "test" else ""
            _refuse_undecidable(cohort.time[rows], cohort.event[rows], f"the {part} part of fold {fold.index}{named}")


def _refuse_undecidable(time: Float[np.ndarray, " patient"], event: Bool[np.ndarray, " patient"], part: str) -> None:
    if comparable_pairs(time=time, event=event) > 0:
        return
    fault = "is all-censored" if not event.any() else "has no comparable pair"
    raise CohortError(
        f"{part} {fault} ({len(time)} patients, {int(event.sum())} events): no model can be fitted or judged "
        "there. Use fewer folds, the method `blocks`, or no grouping by centre"
    )
