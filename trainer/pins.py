"""Decides which snapshot of each view a run reads; knows nothing of patients' outcomes, folds or models' insides."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from store_schema import EntryKey, Snapshot, Store
from store_schema.errors import NotCommittedError, UsageError
from trainer.config import RunConfig
from trainer.tables import shown

Wanted = Mapping[str, tuple[tuple[str, str], ...]]
"""For each view as the config names it: the (modality, roi) pairs that its models read."""


@dataclass(frozen=True)
class Pin:
    """One view of a run and the snapshot that it reads."""

    view: str
    """As the config names it."""
    snapshot: Snapshot
    pairs: tuple[tuple[str, str], ...]
    """(modality, roi) that the models read."""

    @property
    def available(self) -> dict[str, set[str]]:
        """For each label ``view/modality/roi``, the patients that have the entry."""
        return {
            f"{self.snapshot.view_id}/{modality}/{roi}": {
                key.patient for key in self.snapshot.keys if (key.modality, key.roi) == (modality, roi)
            }
            for modality, roi in self.pairs
        }


def wanted_entries(config: RunConfig) -> Wanted:
    """What the models of a config read, by view."""
    pairs: dict[str, dict[tuple[str, str], None]] = {}
    for model in (tried for several in config.candidates.values() for tried in several):
        if model.view is not None and model.images is not None:
            reads = {(modality, model.images.roi): None for modality in model.images.modalities}
            pairs.setdefault(model.view, {}).update(reads)
    return {view: tuple(found) for view, found in pairs.items()}


def pin_views(store: Store, wanted: Wanted, *, given: Iterable[str] = (), latest: bool = False) -> tuple[Pin, ...]:
    """Snapshots of the views: those given, and a new one of each other view.

    A new one pins the entries that the models read, and nothing else.

    Parameters
    ----------
    given
        Ids of snapshots, or unique beginnings.
    latest
        Pin the current commit of entries that were extracted from several inputs.

    Raises
    ------
    NotCommittedError
        If a view or snapshot is not in the store, or a view has no entry that the models read.
    UsageError
        If a given snapshot is of a view that the config does not name, two are of one view, or an entry has several
        live inputs.
    """
    names = {store.resolve_view(view): view for view in wanted}
    if len(names) < len(wanted):
        raise UsageError(f"the config names one view in two ways: {', '.join(wanted)}. Use one name for it")
    snapshots = _given(store, given, names)
    for view_id, view in names.items():
        if view_id not in snapshots:
            snapshots[view_id] = pinned_entries(store, view_id, wanted[view], latest=latest)
    return tuple(Pin(view, snapshots[view_id], wanted[view]) for view_id, view in names.items())


def _given(store: Store, ids: Iterable[str], names: Mapping[str, str]) -> dict[str, Snapshot]:
    snapshots: dict[str, Snapshot] = {}
    for text in ids:
        snapshot = store.snapshot(text)
        if snapshot.view_id not in names:
            raise UsageError(
                f"snapshot {text[:16]} is of view {snapshot.view_id}, which no model of the config reads: these read "
                f"{', '.join(names) or 'no view'}"
            )
        if snapshots.setdefault(snapshot.view_id, snapshot).id != snapshot.id:
            raise UsageError(f"two snapshots of view {snapshot.view_id} were given: a run reads one of each view")
    return snapshots


def pinned_entries(
    store: Store,
    view_id: str,
    pairs: tuple[tuple[str, str], ...],
    *,
    latest: bool = False,
    among: Collection[str] | None = None,
) -> Snapshot:
    """New snapshot of the present entries of a view that are read; equal entries give the same one.

    Parameters
    ----------
    pairs
        Modality and region of what is read.
    latest
        Pin the current commit of entries that were extracted from several inputs.
    among
        Patients that are looked at, as the store calls them; None for all.

    Raises
    ------
    NotCommittedError
        If there is no such entry.
    UsageError
        If an entry has several live inputs, and `latest` was not asked for.
    """
    numbers = {
        key: number for key, number in store.current_numbers(view_id).items() if among is None or key.patient in among
    }
    read = {key: number for key, number in numbers.items() if (key.modality, key.roi) in pairs}
    if not read:
        present = sorted({f"{key.modality}/{key.roi}" for key in numbers})
        raise NotCommittedError(
            f"view {view_id} has no entry {', '.join('/'.join(pair) for pair in pairs)}: it has "
            f"{', '.join(present) or 'none'}. Correct `images` in the config, or extract them"
        )
    if not latest:
        refuse_several_inputs(store, view_id, read)
    return store.snapshot(store.make_snapshot(view_id, read))


def refuse_several_inputs(
    store: Store, view_id: str, read: Mapping[EntryKey, int], *, how: str = "by --snapshot"
) -> None:
    """Refuse entries of a view that were extracted from several inputs, and of which nobody said which is meant.

    A first commit has one input; only later ones are looked at.

    Parameters
    ----------
    read
        Numbers of the commits that would be read.
    how
        How the caller's user says which are meant.

    Raises
    ------
    UsageError
        If there are such entries.
    """
    again = [store.commit(view_id, key, number=number) for key, number in read.items() if number > 0]
    several = sorted(str(c.key) for c in again if len({*c.earlier_inputs, c.input_sha256}) > 1)
    if several:
        raise UsageError(
            f"{len(several)} entries of {view_id} were extracted from several inputs ({shown(several, 5)}): say which are "
            f"meant {how}, or take the latest of each by --latest"
        )
