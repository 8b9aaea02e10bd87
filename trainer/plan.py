"""Decides everything about a run before its first task: snapshots, cohort, folds, tasks; does none of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float

from store_schema import Store, open_store
from store_schema.errors import CohortError, UsageError
from store_schema.files import Place
from store_schema.pseudonyms import PlainIds, check_rule
from store_schema.records import sha256
from trainer.cohort import Cohort, build_cohort, check_table
from trainer.config import RunConfig
from trainer.features import check_view
from trainer.jobs import Pinned, tasks_of
from trainer.oracle import read_oracle
from trainer.pins import Pin, pin_views, wanted_entries
from trainer.run_folder import cohort_bytes
from trainer.splits import Splits, make_splits
from trainer.task import Job, Task


@dataclass(frozen=True)
class Inputs:
    """What a run reads."""

    clinical: Place
    """Clinical table: path or address."""
    store_url: str | None = None
    """Feature store; None for clinical models alone."""
    snapshots: tuple[str, ...] = ()
    """Ids of snapshots, or unique beginnings; a new one is made of each view without one."""
    oracle: Place | None = None
    """Table of known risks; wins over the config's."""
    latest: bool = False
    """Take the current commit of entries that were extracted from several inputs."""
    ids: PlainIds = field(default_factory=PlainIds)
    """What the store calls the tables' patients, and the filter of every text that leaves."""


@dataclass(frozen=True)
class Recorded:
    """What a run that was begun already reads."""

    store_id: str
    snapshots: Mapping[str, str]
    """By view id."""


@dataclass(frozen=True)
class Plan:
    """What a run will do; everything in it follows from the config and the inputs."""

    config: RunConfig
    clinical: Place
    store: Store | None
    pins: tuple[Pin, ...]
    cohort: Cohort
    splits: Mapping[int, Splits]
    """Of the real outcomes (0) and of each permutation."""
    oracle: Mapping[str, Float[np.ndarray, " patient"]]
    ids: PlainIds = field(default_factory=PlainIds)

    @cached_property
    def cohort_sha256(self) -> str:
        """Digest of the cohort's file."""
        return sha256(cohort_bytes(self.cohort))

    @cached_property
    def splits_sha256(self) -> dict[int, str]:
        """Digest of each file of splits."""
        return {number: sha256(splits.to_json().encode()) for number, splits in self.splits.items()}

    def cohort_of(self, permutation: int) -> Cohort:
        """Cohort with the outcomes of a permutation; 0 leaves them as they are."""
        return _permuted(self.config, self.cohort, permutation)

    def tasks(self, jobs: Sequence[Job], run_url: str) -> tuple[Task, ...]:
        """Tasks that do these jobs: those of one row that make a batched model together, every other job alone."""
        pinned = Pinned(
            store_url=None if self.store is None else self.store.url,
            run_url=run_url,
            snapshots={pin.view: pin.snapshot.id for pin in self.pins},
            cohort_sha256=self.cohort_sha256,
            splits_sha256=self.splits_sha256,
        )
        return tasks_of(self.config, jobs, pinned)


def make_plan(config: RunConfig, inputs: Inputs, *, recorded: Recorded | None = None) -> Plan:
    """Plan of a run.

    Parameters
    ----------
    config, inputs
        What is asked for.
    recorded
        What an earlier call of this run pinned: it is read again for each view of which no snapshot is given, so that
        a run resumes although the store has grown.

    Raises
    ------
    UsageError
        If the config and the inputs do not fit together.
    TableError
        If a table cannot be read as declared.
    CohortError
        If the patients do not allow the folds.
    StoreError
        If the store does not hold what is read.
    """
    return inputs.ids.filtered(lambda: _made(config, inputs, recorded))


def _made(config: RunConfig, inputs: Inputs, recorded: Recorded | None) -> Plan:
    store = _opened(config, inputs)
    # before anything is pinned: a table that cannot be used leaves no snapshot behind
    check_table(inputs.clinical, config.columns, inputs.ids)
    pins = () if store is None else _pins(store, config, inputs, recorded)
    _refuse_unreadable(config, pins)
    available = {label: patients for pin in pins for label, patients in pin.available.items()}
    cohort = _cohort(config, inputs, available)
    oracle = read_oracle(config, cohort, clinical=inputs.clinical, table=inputs.oracle, ids=inputs.ids)
    repeats = 0 if config.control is None else config.control.repeats
    splits = {number: _splits(config, cohort, number) for number in range(1 + repeats)}
    return Plan(config, inputs.clinical, store, pins, cohort, splits, oracle, inputs.ids)


def _refuse_unreadable(config: RunConfig, pins: Sequence[Pin]) -> None:
    """Refuse a head that cannot read its view, before anything is fitted."""
    views = {pin.view: pin.snapshot.view for pin in pins}
    for model in (tried for several in config.candidates.values() for tried in several):
        if model.view is not None:
            check_view(model, views[model.view])


def _cohort(config: RunConfig, inputs: Inputs, available: Mapping[str, set[str]]) -> Cohort:
    columns, required = config.columns, config.require_clinical
    return build_cohort(inputs.clinical, columns, available, require_clinical=required, ids=inputs.ids)


def _opened(config: RunConfig, inputs: Inputs) -> Store | None:
    if not config.views:
        if inputs.snapshots:
            raise UsageError("--snapshot was given, and no model of the config reads images")
        return None
    if inputs.store_url is None:
        raise UsageError(f"the config reads view {', '.join(config.views)}: name the feature store with --store URL")
    store = open_store(inputs.store_url)
    check_rule(store.location, inputs.ids)
    return store


def _pins(store: Store, config: RunConfig, inputs: Inputs, recorded: Recorded | None) -> tuple[Pin, ...]:
    given = inputs.snapshots
    if recorded is not None and recorded.store_id == store.store_id:
        named = {store.snapshot(snapshot).view_id for snapshot in given}
        views = {store.resolve_view(view) for view in config.views} - named
        given += tuple(snapshot for view, snapshot in recorded.snapshots.items() if view in views)
    return pin_views(store, wanted_entries(config), given=given, latest=inputs.latest)


def _splits(config: RunConfig, cohort: Cohort, permutation: int) -> Splits:
    """Folds dealt from the outcomes that they are used with: those of a permutation from permuted ones."""
    settings = config.splits
    alone = settings.leave_one_centre_out
    if alone and len(set(cohort.centre or ())) < 2:
        raise CohortError("leave_one_centre_out needs two centres, and all patients are of one: use folds of patients")
    return make_splits(
        _permuted(config, cohort, permutation),
        folds=len(set(cohort.centre or ())) if alone else settings.folds,
        seed=settings.seed,
        method=settings.method,
        by_centre=alone or settings.by_centre,
        repeats=settings.repeats,
    )


def _permuted(config: RunConfig, cohort: Cohort, permutation: int) -> Cohort:
    if not permutation or config.control is None:
        return cohort
    return cohort.permuted([config.control.seed, permutation], within_centres=config.splits.of_centres)
