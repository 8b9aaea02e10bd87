"""Decides what is to be done for each entry of each view before any voxel is read; knows no network.

A source is first compared by its fingerprint (path, size, modification time) with the one the current commit recorded. Only
where that changed, or where the voxels lie in another file than the one named, does the run read voxels and compare digests.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from extractor.config import ExtractConfig
from extractor.outcome import PlanItem, State
from extractor.table import StudyRow
from store_schema import CommitRecord, EntryKey, Source, Store
from store_schema.errors import EngramError

HEADER_SUFFIXES = (".mhd", ".nhdr")
"""Files that hold a header and name the file of the voxels."""
MIXED_SUFFIXES = (".mha", ".nrrd")
"""Files that hold header and voxels, or a header alone."""
NAMES_A_FILE = re.compile(rb"^(data ?file\s*:|ElementDataFile\s*=(?!\s*LOCAL\b))", re.IGNORECASE | re.MULTILINE)
"""The line of a NRRD or MetaImage header that names a file of voxels."""
HEADER_BYTES = 2**16
"""More than any such header."""


def rois_of(row: StudyRow, config: ExtractConfig) -> tuple[str, ...]:
    """The ROIs of one study: its mask columns, then the derived regions."""
    return (*row.files.masks, *config.derive)


def sources_of(row: StudyRow, modality: str, roi: str) -> tuple[Source, ...]:
    """Fingerprints of the files that one entry is made from, by role.

    Raises
    ------
    FileNotFoundError
        If a file is gone since the plan was made.
    """
    region = f"mask:{roi}" if roi in row.files.masks else "label_map"
    roles = dict.fromkeys((modality, "CT", region))
    return tuple(_fingerprint(role, row.paths[role]) for role in roles)


def _fingerprint(role: str, path: str) -> Source:
    status = Path(path).stat()
    return Source(role=role, path=path, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns)


def make_plan(
    rows: Iterable[StudyRow], *, views: Mapping[str, str], store: Store, config: ExtractConfig
) -> list[PlanItem]:
    """What stands before each patient / modality / ROI in each view; `views` maps a layout to its view id.

    An item that cannot be judged (its commit is damaged, a file cannot be asked for) is refused with the reason; no other is.
    """
    names = _names_in(store)
    return [item for row in rows for item in plan_study(row, views=views, store=store, config=config, names=names)]


def plan_study(
    row: StudyRow, *, views: Mapping[str, str], store: Store, config: ExtractConfig, names: Names | None = None
) -> list[PlanItem]:
    """What stands before each item of one study; `names` are the ids that the study's must not resemble too closely."""
    unusable = _unusable(row)
    items: list[PlanItem] = []
    for modality in config.modalities:
        for roi in rois_of(row, config):
            key = EntryKey(row.patient, modality, roi)
            refusal = unusable or (names.refusal(key) if names else None)
            for layout, view_id in views.items():
                state, reason, number = ("refused", refusal, None) if refusal else _judged(row, key, store, view_id)
                items.append(PlanItem(row.patient, modality, roi, layout, state, reason, number))
    return items


@dataclass(frozen=True)
class Names:
    """Ids that stand in a store already, by the id without its case."""

    patients: defaultdict[str, set[str]]
    rois: defaultdict[str, set[str]]

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


def _names_in(store: Store) -> Names:
    """Patients and ROIs of all views; none where they cannot be listed."""
    names = Names(defaultdict(set), defaultdict(set))
    # What keeps a store from being listed is for `verify` to report: a courtesy to file systems must not stop a whole run.
    with suppress(EngramError):
        for key in (key for view_id in store.view_ids() for key in store.keys(view_id)):
            names.patients[key.patient.casefold()].add(key.patient)
            names.rois[key.roi.casefold()].add(key.roi)
    return names


def _unusable(row: StudyRow) -> str | None:
    """Why a study's files cannot be read at all; None where they can be tried."""
    try:
        missing = row.missing_files()
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    return f"file not found: {'; '.join(missing)}" if missing else None


def _judged(row: StudyRow, key: EntryKey, store: Store, view_id: str) -> tuple[State, str, int | None]:
    """State, reason, and number of the current commit."""
    try:
        current = store.current(view_id, key)
        state, reason = _state(current, sources_of(row, key.modality, key.roi))
    except (EngramError, OSError) as error:
        return "refused", f"{type(error).__name__}: {error}", None
    return state, reason, current.number if current else None


def _state(current: CommitRecord | None, sources: Sequence[Source]) -> tuple[State, str]:
    if current is None:
        return "new", "no commit holds this entry"
    if changed := changed_roles(current, sources):
        return "changed", f"{', '.join(changed)} differ(s) from the file committed: voxels are compared"
    if elsewhere := [source.role for source in sources if _names_a_file(source.path)]:
        return "changed", f"{', '.join(elsewhere)}: the voxels lie in another file than the one named, and are compared"
    return "done", "committed from these very files"


def _names_a_file(path: str) -> bool:
    """Whether an image file holds a header alone, so that its fingerprint says nothing of the voxels."""
    name = path.lower()
    if not name.endswith(MIXED_SUFFIXES):
        return name.endswith(HEADER_SUFFIXES)
    with Path(path).open("rb") as file:
        # A blank line ends a NRRD header; what follows are voxels.
        header = file.read(HEADER_BYTES).partition(b"\n\n")[0]
    return NAMES_A_FILE.search(header) is not None


def changed_roles(commit: CommitRecord, sources: Iterable[Source]) -> list[str]:
    """Roles whose file is not the one that the commit was made from."""
    recorded = {source.role: source for source in commit.sources}
    return [source.role for source in sources if recorded.get(source.role) != source]
