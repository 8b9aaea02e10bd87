"""Names of things in a store: patients, modalities, ROIs, views, runs; knows no path of any backend."""

from __future__ import annotations

import re
from dataclasses import dataclass
from sys import intern

from store_schema.errors import InvalidKeyError

ID_PATTERN = re.compile(r"[A-Za-z0-9]+([._-][A-Za-z0-9]+)*", re.ASCII)
MAX_ID_LENGTH = 64
MAX_VIEW_ID_LENGTH = MAX_ID_LENGTH + 1 + 16
"""A view id is its name, a hyphen and 16 hex digits."""
RESERVED = frozenset({"zarr.json"})
"""Names that mean something else to a Zarr reader where a patient, modality or ROI stands."""


def check_id(kind: str, text: str, *, max_length: int = MAX_ID_LENGTH) -> str:
    """The text itself, if it may stand in a path of a store.

    Parameters
    ----------
    kind
        What the id names, for the error: patient, modality, roi, view, run.
    text
        ASCII letters and digits in groups, joined by single dots, underscores or hyphens.

    Raises
    ------
    InvalidKeyError
        If the text is anything else: separators, leading or trailing or double dots, other scripts, control characters.
    """
    if not isinstance(text, str) or len(text) > max_length or not ID_PATTERN.fullmatch(text):
        raise InvalidKeyError(
            f"{ascii(text)[:80]} is not a {kind} id: expected 1 to {max_length} ASCII letters and digits, with single '.', '_' "
            "or '-' between them (not at an end)."
        )
    return text


def is_id(text: str, *, max_length: int = MAX_ID_LENGTH) -> bool:
    """Whether a text may stand in a path of a store; see `check_id`."""
    return len(text) <= max_length and ID_PATTERN.fullmatch(text) is not None


@dataclass(frozen=True, order=True, slots=True)
class EntryKey:
    """What an entry is of: one patient (or `patient.study`), one modality, one region of interest."""

    patient: str
    modality: str
    roi: str

    def __post_init__(self) -> None:
        for kind in ("patient", "modality", "roi"):
            text = check_id(kind, getattr(self, kind))
            if text.casefold() in RESERVED:
                raise InvalidKeyError(
                    f"'{text}' is not a {kind} id: readers of Zarr take it for metadata. Choose another."
                )

    def __str__(self) -> str:
        return f"{self.patient}/{self.modality}/{self.roi}"

    @classmethod
    def parse(cls, text: str) -> EntryKey:
        """The key written `patient/modality/roi`.

        Raises
        ------
        InvalidKeyError
            If there are not three segments, or one of them is not an id.
        """
        segments = text.split("/")
        if len(segments) != 3:
            raise InvalidKeyError(
                f"{ascii(text)[:200]} is not an entry key: expected 'patient/modality/roi', got {len(segments)} segment(s). "
                "List the store's keys with `store-schema ls URL VIEW`."
            )
        patient, modality, roi = segments
        # A store has few modalities and ROIs: each text is held once, however many keys have it.
        return cls(patient, intern(modality), intern(roi))
