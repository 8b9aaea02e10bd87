"""What the catalogue's routes take and give, with what OpenAPI says of it; knows no query."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.catalogue.coverage import Cell
from services.catalogue.queries import State
from services.routes.documented import ID_PATTERN, Moment

DEFAULT_LIMIT = 100
PARQUET_ROWS = 1_000_000
"""Of one file."""
_VIEW, _SNAPSHOT = "medsam2-0123456789abcdef", "5" * 64
_GLOB = "One or more globs with commas between them: `*` stands for anything, `?` for one character, `[ab]` for one of these."
type Glob = Annotated[str | None, Field(max_length=1000, description=_GLOB)]


class Asked(BaseModel):
    """Which part of a list, and how it is to be written."""

    model_config = ConfigDict(extra="forbid")

    cursor: str | None = Field(default=None, max_length=1000, description="`next` of the page before.")
    limit: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description=f"{DEFAULT_LIMIT} by default; a Parquet file without it holds everything, up to {PARQUET_ROWS} rows.",
    )
    format: Literal["json", "parquet"] | None = Field(
        default=None, description="Instead of the `Accept` header; JSON by default."
    )


class EntryQuery(Asked):
    """Which entries."""

    view: Glob = Field(default=None, examples=["medsam2-*"])
    patient: Glob = Field(default=None, examples=["MM_0*"])
    modality: Glob = Field(default=None, examples=["PET,CT"])
    roi: Glob = Field(default=None, examples=["spine*"])
    since: Moment | None = Field(default=None, description="Written then or later; UTC where no zone is given.")
    until: Moment | None = Field(default=None, description="Written before.")
    state: State = "live"


class CoverageQuery(Asked):
    """Which patients."""

    patient: Glob = None


class SnapshotQuery(Asked):
    """Which snapshots."""

    view: str | None = Field(
        default=None, max_length=81, pattern=ID_PATTERN, description="Id of their view.", examples=[_VIEW]
    )


class RunQuery(Asked):
    """Which runs."""

    kind: Literal["extractor", "trainer", "other"] | None = None


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class ViewOut(_Out):
    """A view and what the store holds of it."""

    id: str = Field(examples=[_VIEW])
    name: str = Field(examples=["medsam2"])
    encoder: str = Field(examples=["MedSAM2_latest"])
    trained: bool = Field(description="False for random weights: for tests and demonstrations only.")
    layout: str = Field(examples=["paper"])
    shape: list[int] = Field(description="Memory layer, channel, row, column.", examples=[[2, 32, 64, 64]])
    precision: str = Field(examples=["bfloat16"])
    grid: str = Field(examples=["ct"])
    entries: int = Field(description="That were not withdrawn, as in what follows.", examples=[908])
    patients: int = Field(examples=[227])
    withdrawn: int = Field(description="Entries that were withdrawn.")
    size_bytes: int = Field(description="Of all objects of the current commits.")
    written_at: datetime | None = Field(description="When the last entry was written, by its writer's clock.")


class ColumnOut(_Out):
    """A modality and ROI, counted over all patients of the view."""

    modality: str = Field(examples=["PET"])
    roi: str = Field(examples=["skeleton"])
    entries: int
    withdrawn: int


class PatientOut(_Out):
    """What a patient has, in the order of the columns."""

    patient: str = Field(examples=["MM_001"])
    cells: list[Cell] = Field(
        description="Number of the current commit, `withdrawn`, or null where there is no entry.",
        examples=[[0, 3, None, "withdrawn"]],
    )


class CoverageOut(_Out):
    """Part of a view's patients × (modality, ROI)."""

    view: str = Field(examples=[_VIEW])
    patients: int = Field(description="Of the whole view.", examples=[227])
    columns: list[ColumnOut]
    items: list[PatientOut]
    next: str | None = None


class EntryOut(_Out):
    """The current commit of an entry, or the tombstone that ended it; of a snapshot that was granted alone, the pinned commit."""

    view: str = Field(examples=[_VIEW])
    patient: str = Field(examples=["MM_001"])
    modality: str = Field(examples=["PET"])
    roi: str = Field(examples=["skeleton"])
    number: int = Field(description="Of the commit.", examples=[0])
    withdrawn: bool
    commit_sha256: str = Field(examples=["0" * 64])
    attempt: str | None = Field(description="Null where it was withdrawn, as the digests.", examples=["0" * 32])
    input_sha256: str | None
    content_sha256: str | None
    size_bytes: int = Field(examples=[1_048_576])
    written_at: datetime | None = Field(description="By the writer's clock; null where it told nothing readable.")


class SnapshotOut(_Out):
    """A snapshot."""

    id: str = Field(examples=[_SNAPSHOT])
    view: str = Field(examples=[_VIEW])
    rows: int = Field(description="Entries that it pins.", examples=[908])
    written_at: datetime | None = Field(description="By the server's clock; null where only the store knows it yet.")


class SnapshotDetail(SnapshotOut):
    """A snapshot, and whether it opens."""

    usable: bool = Field(description="False where it names entries that were withdrawn since: it refuses to open.")


class RunOut(_Out):
    """A run whose records lie in the store."""

    id: str = Field(examples=["20260102T030405Z-0123abcd"])
    kind: str = Field(description="trainer, extractor, or other.", examples=["trainer"])
    started_at: datetime | None
    summary: dict[str, Any] = Field(
        description="Of a trainer's run what its `trainer.json` says, models and c-index among it; of an extraction its counts. "
        "`records` names all its records, `damaged` those that cannot be read, `finished` says whether it ended.",
        examples=[{"records": ["results.json", "trainer.json"], "damaged": [], "finished": True, "models": []}],
    )


class ListOut[Item](BaseModel):
    """Part of a list, and the cursor of the next part; null where this is the last."""

    items: list[Item]
    next: str | None = None
