"""Decides what is to be done for each entry of each view before any voxel is read; knows no network.

A source is first compared by its fingerprint (path, size, modification time) with the one the current commit recorded. Only
where that changed, or where the voxels lie in another file than the one named, does the run read voxels and compare digests.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from extractor.config import ExtractConfig
from extractor.image_files import HEADER_BYTES, HEADER_SUFFIXES, may_name_voxels, voxel_file
from extractor.label_sets import map_column
from extractor.outcome import PlanItem, State
from extractor.table import StudyRow
from store_schema import CommitRecord, EntryKey, Source, Store
from store_schema.commits import read_commit
from store_schema.errors import EngramError, EntryWithdrawnError
from store_schema.files import Fingerprint, is_remote, name_of, read_start
from store_schema.folders import fingerprint_of
from store_schema.parallel import each
from store_schema.withdrawals import withdrawn

Look = Callable[[str], Fingerprint]
"""Gives the fingerprint of a file or of a folder."""


def rois_of(row: StudyRow, config: ExtractConfig) -> tuple[str, ...]:
    """The ROIs of one study: its mask columns, then the derived regions."""
    return (*row.files.masks, *config.derive)


def once(look: Look = fingerprint_of) -> Look:
    """A look that asks for each file once, and gives or raises the same from then on."""
    seen: dict[str, Fingerprint | EngramError | OSError] = {}

    def looked(place: str) -> Fingerprint:
        if place not in seen:
            try:
                seen[place] = look(place)
            except (EngramError, OSError) as error:
                seen[place] = error
        found = seen[place]
        if isinstance(found, Exception):
            raise found
        return found

    return looked


def sources_of(
    row: StudyRow, modality: str, roi: str, *, grid: str = "ct", bones: bool = False, look: Look = fingerprint_of
) -> tuple[Source, ...]:
    """Fingerprints of the files that one entry is made from, by role.

    Parameters
    ----------
    grid
        Whose grid the entry lies on, ct or pet: that image decides its numbers too.
    bones
        Whether the bones of label maps decide them too.

    Raises
    ------
    OSError
        If a file is gone since the plan was made, or cannot be asked for.
    """
    return tuple(_source(role, row, look(row.paths[role])) for role in _roles(row, modality, roi, grid, bones=bones))


def _roles(row: StudyRow, modality: str, roi: str, grid: str, *, bones: bool) -> list[str]:
    maps = [map_column(part) for part in row.files.label_maps]
    regions = [f"mask:{roi}", *(maps if bones else ())] if roi in row.files.masks else maps
    return list(dict.fromkeys((modality, "CT", *(["PET"] if grid == "pet" else []), *regions)))


def _source(role: str, row: StudyRow, found: Fingerprint) -> Source:
    name = row.record_name(role)
    return Source(role=role, path=name, size_bytes=found.size_bytes, mtime_ns=found.mtime_ns, etag=found.etag)


def make_plan(
    rows: Iterable[StudyRow], *, views: Mapping[str, str], store: Store, config: ExtractConfig
) -> list[PlanItem]:
    """What stands before each patient / modality / ROI in each view; `views` maps a layout to its view id.

    An item that cannot be judged (its commit is damaged, a file cannot be asked for) is refused with the reason; no other is.
    """
    there = contents(store)
    plan_one = partial(plan_study, views=views, store=store, config=config, there=there)
    return [item for items in each(plan_one, rows, parallel=store.location.parallel) for item in items]


def plan_study(
    row: StudyRow, *, views: Mapping[str, str], store: Store, config: ExtractConfig, there: Contents | None = None
) -> list[PlanItem]:
    """What stands before each item of one study; `there` is what the store was seen to hold, and saves requests."""
    there, look = there or Contents(), once()
    unusable = _unusable(row, look)
    items: list[PlanItem] = []
    for modality in config.modalities:
        for roi in rois_of(row, config):
            key = EntryKey(row.patient, modality, roi)
            refusal = unusable or there.refusal(key)
            for layout, view_id in views.items():
                judged = _Judge(row, key, store, view_id, there, look, config.grid, config.asks_bones)
                state, reason, number = judged.withdrawn or (("refused", refusal, None) if refusal else judged.state)
                items.append(PlanItem(row.patient, modality, roi, layout, state, reason, number))
    return items


@dataclass(frozen=True)
class Contents:
    """What a store held when the plan was begun; empty where that was not looked at."""

    numbers: Mapping[str, Mapping[EntryKey, int]] = field(default_factory=dict)
    """Number of each entry's current commit, by view."""
    withdrawn: Mapping[str, frozenset[EntryKey]] = field(default_factory=dict)
    patients: Mapping[str, set[str]] = field(default_factory=dict)
    """Ids that stand in the store, by the id without its case."""
    rois: Mapping[str, set[str]] = field(default_factory=dict)

    def refusal(self, key: EntryKey) -> str | None:
        """Why this key would make two ids that differ by case alone; None where it would not."""
        for kind, name, taken in (("patient", key.patient, self.patients), ("ROI", key.roi, self.rois)):
            twins = taken.get(name.casefold(), set())
            if twins and name not in twins:
                return (
                    f"{kind} '{name}' differs by case alone from '{min(twins)}' in the store: not every file system keeps them "
                    "apart. Write it as the store does, or use another id"
                )
        return None


def contents(store: Store) -> Contents:
    """What a store holds, by one listing a view; nothing where it cannot be listed."""
    patients: dict[str, set[str]] = defaultdict(set)
    rois: dict[str, set[str]] = defaultdict(set)
    try:
        numbers = {view_id: store.current_numbers(view_id) for view_id in store.view_ids()}
        gone = {view_id: frozenset(withdrawn(store.location, view_id)) for view_id in numbers}
    except EngramError:
        # What keeps a store from being listed is for `verify` to report: the entries of the table are asked for one by one.
        return Contents()
    for key in (key for held in (*numbers.values(), *gone.values()) for key in held):
        patients[key.patient.casefold()].add(key.patient)
        rois[key.roi.casefold()].add(key.roi)
    return Contents(numbers, gone, patients, rois)


def _unusable(row: StudyRow, look: Look) -> str | None:
    """Why a study's files cannot be read at all; None where they can be tried."""
    try:
        missing = row.missing_files()
        for role, place in row.paths.items():
            if is_remote(place):
                try:
                    look(place)
                except FileNotFoundError:
                    missing.append(f"{role} {place}")
    except (EngramError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return f"file not found: {'; '.join(missing)}" if missing else None


@dataclass(frozen=True)
class _Judge:
    """One entry of one view, and what is asked to judge it."""

    row: StudyRow
    key: EntryKey
    store: Store
    view_id: str
    there: Contents
    look: Look
    grid: str
    bones: bool

    @property
    def withdrawn(self) -> tuple[State, str, int | None] | None:
        """State and reason of an entry that stands in the view's list of withdrawn ones; None for any other."""
        if self.key not in self.there.withdrawn.get(self.view_id, ()):
            return None
        return "withdrawn", "withdrawn from the store: it is neither read nor written", None

    @property
    def state(self) -> tuple[State, str, int | None]:
        """State, reason, and number of the current commit."""
        try:
            current = self._current()
            roles = _roles(self.row, self.key.modality, self.key.roi, self.grid, bones=self.bones)
            state, reason = _state(current, {role: self._source(role) for role in roles}, self.row.paths)
        except EntryWithdrawnError:
            return "withdrawn", "withdrawn from the store: it is neither read nor written", None
        except (EngramError, OSError) as error:
            return "refused", f"{type(error).__name__}: {error}", None
        return state, reason, current.number if current else None

    def _source(self, role: str) -> Source:
        return _source(role, self.row, self.look(self.row.paths[role]))

    def _current(self) -> CommitRecord | None:
        numbers = self.there.numbers.get(self.view_id)
        if numbers is None:
            return self.store.current(self.view_id, self.key)
        number = numbers.get(self.key)
        return None if number is None else read_commit(self.store.location, self.view_id, self.key, number)


def _state(current: CommitRecord | None, sources: Mapping[str, Source], places: Mapping[str, str]) -> tuple[State, str]:
    if current is None:
        return "new", "no commit holds this entry"
    if changed := changed_roles(current, sources.values(), places):
        return "changed", f"{', '.join(changed)} differ(s) from the file committed: voxels are compared"
    if elsewhere := [role for role in sources if _names_a_file(places[role])]:
        return "changed", f"{', '.join(elsewhere)}: the voxels lie in another file than the one named, and are compared"
    if unsure := [role for role, source in sources.items() if source.mtime_ns is None and source.etag is None]:
        return "changed", f"{', '.join(unsure)}: the server tells neither time nor ETag, and voxels are compared"
    return "done", "committed from these very files"


def _names_a_file(place: str) -> bool:
    """Whether an image file holds a header alone, so that its fingerprint says nothing of the voxels."""
    name = name_of(place)
    if name.lower().endswith(HEADER_SUFFIXES) or not may_name_voxels(name):
        return name.lower().endswith(HEADER_SUFFIXES)
    return voxel_file(read_start(place, HEADER_BYTES)) is not None


def changed_roles(commit: CommitRecord, sources: Iterable[Source], places: Mapping[str, str]) -> list[str]:
    """Roles whose file is not the one that the commit was made from."""
    recorded = {source.role: source for source in commit.sources}
    return [source.role for source in sources if not _same(recorded.get(source.role), source, places[source.role])]


def _same(recorded: Source | None, source: Source, place: str) -> bool:
    if recorded is not None and recorded.path == place and not is_remote(place):
        # Commits of engram 0.1 name the whole path.
        recorded = recorded.model_copy(update={"path": source.path})
    return recorded == source
