"""Parts a study table for runs that know nothing of each other, and tells when all parts are done; reads no voxel, runs nothing.

Each part is worked on by `extractor run --shard I/N`, such as one task of a SLURM array. All read the same table.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from extractor.config import ExtractConfig
from extractor.outcome import PlanItem
from extractor.plan import contents, make_plan, rois_of
from extractor.table import StudyRow
from store_schema import EntryKey, Store
from store_schema.errors import UsageError


@dataclass(frozen=True)
class Shard:
    """One of several parts of a study table."""

    number: int
    """From 1."""
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The part that `I/N` names.

        Raises
        ------
        UsageError
            If it names none.
        """
        match = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", text, re.ASCII)
        shard = cls(int(match[1]), int(match[2])) if match else None
        if shard is None or not 1 <= shard.number <= shard.count:
            raise UsageError(
                f"--shard {text[:40]!a} names no part: expected I/N with I from 1 to N, such as 3/8. In a SLURM array that begins "
                'at 1 (`sbatch --array=1-8`): --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT".'
            )
        return shard

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def part(self, rows: Sequence[StudyRow]) -> list[StudyRow]:
        """The studies of this part, in the table's order; all studies of a patient are in one part.

        Patients are sorted by the sha256 of their id in the store and dealt to the parts in turn. So the order of the table does
        not matter, every study is in exactly one part, and the parts differ by one patient at most.
        """
        patients = sorted({row.person for row in rows}, key=lambda person: hashlib.sha256(person.encode()).digest())
        mine = set(patients[self.number - 1 :: self.count])
        return [row for row in rows if row.person in mine]


@dataclass(frozen=True)
class Elsewhere:
    """What the store holds of the studies that other parts make."""

    held: tuple[PlanItem, ...]
    """Entries committed from these very files; the commit's number is with each."""
    missing: int
    """Entries that are not, as far as can be told without reading voxels."""


def elsewhere(rows: Sequence[StudyRow], *, views: Mapping[str, str], store: Store, config: ExtractConfig) -> Elsewhere:
    """Looks at the entries of other parts; files are asked for and commits read only once all entries are listed.

    Of any number of parts that look when they have committed their own, the last one to look sees all.
    """
    if absent := _not_listed(rows, views=views, store=store, config=config):
        return Elsewhere((), absent)
    plan = make_plan(rows, views=views, store=store, config=config)
    held = tuple(item for item in plan if item.state == "done")
    return Elsewhere(held, sum(item.state not in ("done", "withdrawn") for item in plan))


def _not_listed(rows: Sequence[StudyRow], *, views: Mapping[str, str], store: Store, config: ExtractConfig) -> int:
    """How many entries the store cannot hold, since no listing names them."""
    there = contents(store)
    keys = [
        EntryKey(row.patient, modality, roi)
        for row in rows
        for modality in config.modalities
        for roi in rois_of(row, config)
    ]
    return sum(
        key not in there.numbers[view_id] and key not in there.withdrawn[view_id]
        for view_id in views.values()
        if view_id in there.numbers
        for key in keys
    )
