"""Reads and prepares the studies whose entries are to be occluded, with their bones; knows no network and no store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from extractor.config import ExtractConfig, Product
from extractor.fetch import fetched
from extractor.occlusion_bones import Bones, read_bones
from extractor.patches import PATCH_RECIPE
from extractor.plan import once, rois_of, sources_of
from extractor.study import PreparedStudy, prepare_study
from extractor.table import StudyRow
from extractor.work import drawn_for, input_sha256
from store_schema import EntryKey, Source
from store_schema.errors import UsageError
from store_schema.records import canonical_json, sha256


@dataclass(frozen=True)
class Chosen:
    """Which entries of a table are meant; what is empty stands for all."""

    patients: tuple[str, ...] = ()
    """As the store calls them."""
    modalities: tuple[str, ...] = ()
    rois: tuple[str, ...] = ()

    def rows(self, rows: Sequence[StudyRow], config: ExtractConfig) -> list[StudyRow]:
        """Those of the table that are meant.

        Raises
        ------
        UsageError
            If the table or the settings do not have what is named.
        """
        wanted = {row.patient: row for row in rows if not self.patients or row.patient in self.patients}
        if unknown := [patient for patient in self.patients if patient not in wanted]:
            raise UsageError(f"the table has no patient {', '.join(unknown)}.")
        for kind, asked, known in (
            ("modality", self.modalities, config.modalities),
            ("region", self.rois, {roi for row in rows for roi in rois_of(row, config)}),
        ):
            if unknown := [one for one in asked if one not in known]:
                raise UsageError(f"there is no {kind} {', '.join(unknown)}: there are {', '.join(sorted(known))}.")
        return list(wanted.values())

    def keys(self, row: StudyRow, config: ExtractConfig) -> list[EntryKey]:
        """Entries of a study."""
        return [
            EntryKey(row.patient, modality, roi)
            for modality in config.modalities
            for roi in rois_of(row, config)
            if (not self.modalities or modality in self.modalities) and (not self.rois or roi in self.rois)
        ]


def chosen_product(config: ExtractConfig, asked: str | None) -> tuple[str, Product]:
    """Name and layout of the settings that is to be occluded: the only one, or the one that is named.

    Raises
    ------
    UsageError
        If it has to be named, or is none.
    """
    made = config.memories
    if asked is None and len(made) != 1:
        raise UsageError(
            f"the settings make {', '.join(made) or 'no memories'}: say with --layout which is to be occluded."
        )
    name = asked or next(iter(made))
    if name not in made:
        raise UsageError(f"the settings make no {name!r}: they make {', '.join(made) or 'no memories'}.")
    return name, made[name]


@dataclass(frozen=True)
class OcclusionStudy:
    """A study read and prepared, its bones where it has a label map, and the fingerprints of its files."""

    prepared: PreparedStudy
    bones: Bones | None
    sources: Mapping[EntryKey, tuple[Source, ...]]

    @classmethod
    def read(cls, row: StudyRow, keys: Sequence[EntryKey], config: ExtractConfig) -> OcclusionStudy:
        """The study of a row.

        Raises
        ------
        EngramError, OSError
            If a file cannot be read, or is not what it should be.
        """
        # before any file is read: one that is replaced meanwhile then has another fingerprint
        look = once()
        sources = {key: sources_of(row, key.modality, key.roi, grid=config.grid, bones=True, look=look) for key in keys}
        with fetched(row.files) as files:
            prepared = prepare_study(files, config.rules())
            return cls(prepared, read_bones(files.label_maps, config.label_set, prepared.grid), sources)

    def digest(self, key: EntryKey, product: Product, view_id: str) -> str:
        """Digest of all that decides an entry of patches: its numbers' input, the bones, and how patches are laid."""
        told = {
            "input": self.input_sha256(key, product, view_id),
            "bones": None if self.bones is None else self.bones.sha256,
            "patches": PATCH_RECIPE,
        }
        return sha256(canonical_json(told))

    def input_sha256(self, key: EntryKey, product: Product, view_id: str) -> str:
        """Digest of all that decides the numbers of an entry of a view, as an extraction commits it.

        Raises
        ------
        StudyError
            If the region cannot be disturbed as the settings ask.
        """
        if key.roi in self.prepared.refused:
            raise self.prepared.refused[key.roi]
        name = drawn_for(key, product, self.prepared)
        return input_sha256(self.prepared, modality=key.modality, roi=key.roi, view_id=view_id, points_of=name)
