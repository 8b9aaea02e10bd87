"""Decides what is to be done for each entry of each view before any voxel is read; knows no network.

A source is first compared by its fingerprint (path, size, modification time) with the one the current commit recorded. Only
where that changed does the run read voxels and compare digests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from extractor.config import ExtractConfig
from extractor.outcome import PlanItem, State
from extractor.table import StudyRow
from store_schema import CommitRecord, EntryKey, Source, Store


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
    """What stands before each patient / modality / ROI in each view; `views` maps a layout to its view id."""
    items: list[PlanItem] = []
    for row in rows:
        missing = row.missing_files()
        for modality in config.modalities:
            for roi in rois_of(row, config):
                for layout, view_id in views.items():
                    key = EntryKey(row.patient, modality, roi)
                    current = None if missing else store.current(view_id, key)
                    state, reason = _state(row, key, missing, current)
                    number = current.number if current else None
                    items.append(PlanItem(row.patient, modality, roi, layout, state, reason, number))
    return items


def _state(row: StudyRow, key: EntryKey, missing: Sequence[str], current: CommitRecord | None) -> tuple[State, str]:
    if missing:
        return "refused", f"file not found: {'; '.join(missing)}"
    if current is None:
        return "new", "no commit holds this entry"
    changed = changed_roles(current, sources_of(row, key.modality, key.roi))
    if not changed:
        return "done", "committed from these very files"
    return "changed", f"{', '.join(changed)} differ(s) from the file committed: voxels are compared"


def changed_roles(commit: CommitRecord, sources: Iterable[Source]) -> list[str]:
    """Roles whose file is not the one that the commit was made from."""
    recorded = {source.role: source for source in commit.sources}
    return [source.role for source in sources if recorded.get(source.role) != source]
