"""Finds the views that are compared, and reads the embeddings that all of them hold; computes no measure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from store_schema import EntryKey, Snapshot, Store, ViewSpec
from store_schema.errors import CohortError, NotCommittedError, UsageError
from trainer.features import mean_maps, vectors
from trainer.pins import refuse_several_inputs
from trainer.robustness.agreement import LEAST_SUBJECTS
from trainer.robustness.files import FileDifferences, file_differences

FLAG = "perturbation"
UNITS = ("mm", "share", "slices")


@dataclass(frozen=True)
class Compared:
    """Base and perturbed snapshots of one store."""

    store: Store
    base: Snapshot
    perturbed: tuple[Snapshot, ...]
    files: tuple[FileDifferences, ...] = ()
    """Of each perturbed view; none where nobody asked."""

    @property
    def all(self) -> tuple[Snapshot, ...]:
        """The base first."""
        return (self.base, *self.perturbed)

    @cached_property
    def other_files(self) -> frozenset[EntryKey]:
        """Entries that some perturbed view holds of other files than the base: they are judged nowhere."""
        return frozenset(key for one in self.files for key in one.other)

    def strangers(self, pairs: Collection[tuple[str, str]]) -> set[str]:
        """Patients of whom an entry of these modalities and regions is of other files somewhere."""
        return {key.patient for key in self.other_files if (key.modality, key.roi) in pairs}

    def common(self) -> dict[tuple[str, str], tuple[str, ...]]:
        """Patients that every view has, by modality and region, where they are enough.

        Raises
        ------
        CohortError
            If nowhere are there three.
        """
        keys = set.intersection(*(set(snapshot.keys) for snapshot in self.all)) - self.other_files
        found: dict[tuple[str, str], list[str]] = {}
        for key in sorted(keys):
            found.setdefault((key.modality, key.roi), []).append(key.patient)
        enough = {place: tuple(mine) for place, mine in found.items() if len(mine) >= LEAST_SUBJECTS}
        if not enough:
            held = ", ".join(f"{snapshot.view_id}: {len(snapshot)}" for snapshot in self.all)
            most = max(map(len, found.values()), default=0)
            raise CohortError(
                f"the views have {len(keys)} entries in common, {most} patients of one modality and region at most, and agreement "
                f"needs {LEAST_SUBJECTS}. Entries of each: {held}. Perturb the same studies as the base.{self._left_out}"
            )
        return enough

    @property
    def _left_out(self) -> str:
        return "".join(f" {note}." for one in self.files if one.other for note in one.notes[:1])


def compared(
    store: Store, base: str | Snapshot, perturbed: Sequence[str], *, latest: bool = False, any_files: bool = False
) -> Compared:
    """Snapshots of the views that are named, each by its id, its name or a snapshot's id; the base may be given itself.

    Parameters
    ----------
    latest
        Take the current commit of entries that were extracted from several inputs.
    any_files
        Do not look whether entries were made from the files of the base.

    Raises
    ------
    NotCommittedError
        If there is no such view or snapshot, or no entry of it.
    UsageError
        If a view is compared with itself, or holds other arrays than the base; if an entry has several live inputs.
    """
    if not perturbed:
        raise UsageError("there is nothing to compare: name perturbed views with --perturbed")
    first = base if isinstance(base, Snapshot) else snapshot_of(store, base, latest=latest)
    found = Compared(store, first, tuple(snapshot_of(store, one, latest=latest) for one in perturbed))
    ids = [snapshot.view_id for snapshot in found.all]
    if twice := sorted({one for one in ids if ids.count(one) > 1}):
        raise UsageError(f"view {', '.join(twice)} is named twice: base and perturbed views are each another view")
    shape = found.base.view.layout.shape
    for snapshot in found.perturbed:
        if snapshot.view.layout.shape != shape:
            raise UsageError(
                f"view {snapshot.view_id} holds arrays of {snapshot.view.layout.shape}, the base of {shape}: compare views of one "
                "layout and encoder"
            )
    return found if any_files else replace(found, files=file_differences(found.base, found.perturbed))


def refuse_foreign(views: Compared, whose: str) -> None:
    """Refuse to have a model score views that differ from its own in more than a perturbation.

    Parameters
    ----------
    whose
        The model, for the message.

    Raises
    ------
    UsageError
        If one does.
    """
    base = views.base.view
    flags = {name: value for name, value in base.flags.items() if not name.startswith(FLAG)}
    plain = base.model_copy(update={"flags": flags})
    told = {one.view_id: differences(plain, one.view) for one in views.perturbed}
    foreign = [f"{view} differs in {', '.join(names)}" for view, names in told.items() if names]
    if foreign:
        raise UsageError(
            f"{whose} reads view {views.base.view_id}, and {'; '.join(foreign)}, besides its perturbation: the model's numbers "
            "mean nothing on another view. Leave it out, or compare embeddings alone, without the model"
        )


def snapshot_of(store: Store, name: str, *, latest: bool = False) -> Snapshot:
    """The present entries of a view, or a snapshot by its id.

    Parameters
    ----------
    latest
        Take the current commit of entries that were extracted from several inputs.

    Raises
    ------
    NotCommittedError
        If there is neither, or the view holds no entry.
    UsageError
        If an entry of the view has several live inputs, and `latest` was not asked for.
    """
    view = view_or_snapshot(store, name)
    if isinstance(view, Snapshot):
        return view
    numbers = store.current_numbers(view)
    if not numbers:
        raise NotCommittedError(f"view {view} has no entry: run `extractor perturb` or `extractor run` to the end")
    if not latest:
        refuse_several_inputs(store, view, numbers, how="by the id of a snapshot instead of the view's")
    return store.snapshot(store.make_snapshot(view, numbers))


def base_of_run(store: Store, name: str, *, view: str, snapshot: str) -> Snapshot:
    """The snapshot that a run read, where the name is of its view or of itself.

    Parameters
    ----------
    name
        What was asked for as the base.
    view, snapshot
        Ids of what the run read.

    Raises
    ------
    NotCommittedError
        If the store does not hold what is named, or the run's snapshot.
    UsageError
        If something else is named.
    """
    found = view_or_snapshot(store, name)
    if found != view and not (isinstance(found, Snapshot) and found.id == snapshot):
        other = f"snapshot {found.id[:16]} of {found.view_id}" if isinstance(found, Snapshot) else f"view {found}"
        raise UsageError(
            f"the run read snapshot {snapshot[:16]} of view {view}, and the base is {other}: give --base {view}"
        )
    return store.snapshot(snapshot)


def view_or_snapshot(store: Store, name: str) -> str | Snapshot:
    """Id of the view that is named, or the snapshot of this id.

    Raises
    ------
    NotCommittedError
        If there is neither.
    """
    try:
        return store.resolve_view(name)
    except NotCommittedError as error:
        try:
            return store.snapshot(name)
        except NotCommittedError:
            raise error from None


def embeddings(
    store: Store, snapshot: Snapshot, modality: str, roi: str, patients: tuple[str, ...]
) -> Float[np.ndarray, "patient feature"]:
    """Mean maps as rows, or vectors with NaN where a feature is not known."""
    first = snapshot.commit(EntryKey(patients[0], modality, roi))
    read = mean_maps if "mean_map" in first.arrays else vectors
    return np.asarray(read(store.url, snapshot.id, modality, roi, patients), dtype=np.float64).reshape(
        len(patients), -1
    )


def perturbation_of(view: ViewSpec) -> tuple[str, float | None, Any, int | None]:
    """Kind, size, unit and seed, as a view's flags say them; its name as the kind where they say none."""
    kind, seed = view.flags.get(FLAG), view.flags.get(f"{FLAG}_seed")
    for unit in UNITS:
        size = view.flags.get(f"{FLAG}_size_{unit}")
        if size is not None:
            return str(kind), float(size), unit, None if seed is None else int(seed)
    return str(kind) if kind is not None else view.name, None, None, None if seed is None else int(seed)


def differences(base: ViewSpec, perturbed: ViewSpec) -> tuple[str, ...]:
    """What sets two views apart besides the perturbation that one of them names."""
    one, other = (view.model_dump(mode="json", exclude={"name"}) for view in (base, perturbed))
    other["flags"] = {name: value for name, value in other["flags"].items() if not name.startswith(FLAG)}
    if perturbed.flags.get(FLAG) == "stride":
        other["prompt"] = {**other["prompt"], "stride": one["prompt"]["stride"]}
    return tuple(sorted(name for name in one if one[name] != other[name]))
