"""The records of a store as frozen, checked values with one canonical JSON each; knows no backend and no array data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from store_schema.errors import ObjectAlteredError, ObjectTruncatedError, SchemaError
from store_schema.keys import MAX_VIEW_ID_LENGTH, EntryKey, check_id

SCHEMA: Literal[1] = 1
"""Version of the store's layout; a reader refuses any other."""

Json = Any
"""A value that JSON can hold."""
Sha256 = str
SEAL_BYTES = len(',"sha256":""}') + 64
MAX_REASON_LENGTH = 500
"""Characters of the reason in a tombstone."""


def canonical_json(value: Json) -> bytes:
    """The one way a value is written before it is digested: keys sorted, no spaces, UTF-8, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256(data: bytes) -> Sha256:
    """Digest in 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def seal(body: bytes) -> bytes:
    """A canonical JSON object with one more member at its end: `sha256`, the digest of the object without it."""
    return body[:-1] + b',"sha256":"' + sha256(body).encode() + b'"}'


def unseal(data: bytes, *, where: str) -> bytes:
    """The object that was sealed, byte for byte.

    Raises
    ------
    ObjectAlteredError
        If the bytes are not those that were sealed.
    """
    body = data[:-SEAL_BYTES] + b"}"
    if seal(body) != data:
        raise ObjectAlteredError(
            f"{where} does not end in its own digest: it was altered or cut. Restore it from a copy of the store; "
            "`store-schema verify` finds everything that is damaged."
        )
    return body


class Record(BaseModel):
    """Base of all records: frozen, and nothing in it that is not declared."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_bytes(self) -> bytes:
        """The canonical JSON of the record."""
        return canonical_json(self.model_dump(mode="json", by_alias=True))


def parse_record[R: Record](kind: type[R], data: bytes, *, where: str) -> R:
    """A record read from its bytes.

    Raises
    ------
    SchemaError
        If the bytes are no such record of this schema; names the place and what is wrong.
    """
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "record"
        raise SchemaError(
            f"{where} is not a {kind.__name__} of schema {SCHEMA}: {place}: {first['msg']} ({error.error_count()} problem(s)). "
            "It was written by another version, or altered."
        ) from error


def members(body: bytes) -> Mapping[str, Json]:
    """The members of a JSON object; none where the bytes are anything else."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def schema_of(body: bytes) -> Json:
    """What a record calls its schema; None where it does not say."""
    return members(body).get("schema")


class StoreRecord(Record):
    """`engram.json`: makes a folder a store."""

    schema_version: Literal[1] = Field(default=SCHEMA, alias="schema")
    store_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    """UUID4 in hex, drawn when the store was created."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Encoder(Record):
    """The frozen network of a view."""

    name: str
    image_size: int = Field(ge=1)
    """Edge of the network's input in pixels."""
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    trained: bool
    """False for random weights: such a view serves tests and demonstrations only."""


class Intensity(Record):
    """How voxel values of one modality become grey values 0–255."""

    unit: Literal["HU", "SUV", "relative"]
    low: float
    """Value that becomes 0; below is clipped."""
    high: float
    """Value that becomes 255; above is clipped."""
    outside: float
    """Value assumed outside the field of view."""


class Prompt(Record):
    """What the network was told on each slice, and in which order."""

    kind: Literal["box", "mask", "points", "none"]
    mode: str
    stride: int = Field(ge=1)
    """Every stride-th mask-bearing slice was kept."""


class Layout(Record):
    """How the memories of the slices are packed."""

    name: str
    shape: tuple[int, ...]
    """Memory layer, channel, row, column."""
    dtype: Literal["float32"] | None = None
    """Of `memory`; None means float16. Vectors of measured features need the range and the digits."""
    features: tuple[str, ...] | None = None
    """Name of each channel, where channels have names."""
    missing: float | None = None
    """Value that stands for "not known" and is never a feature's: read through `store_schema.vectors`, which gives NaN for it."""

    @model_serializer(mode="wrap")
    def _without_absent(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Json]:
        """Members that a layout does not have are not written: specifications that are older than they keep their ids."""
        return {name: value for name, value in serialize(self).items() if value is not None}

    @model_validator(mode="after")
    def _check(self) -> Self:
        vector = len(self.shape) == 4 and (self.shape[0], *self.shape[2:]) == (1, 1, 1)
        if not vector and (self.dtype, self.features, self.missing) != (None, None, None):
            raise ValueError(f"only vectors, 1 × F × 1 × 1, have a dtype, features or a missing value: {self.shape}")
        if self.features is not None and (len(self.features), len(set(self.features))) != (self.shape[1],) * 2:
            raise ValueError(f"{len(self.features)} feature names for {self.shape[1]} channels, each its own")
        return self


class ViewSpec(Record):
    """One frozen way of making embeddings; two entries can be compared only within one view."""

    name: str
    """For people; not part of the identity."""
    encoder: Encoder
    intensity: dict[str, Intensity]
    prompt: Prompt
    layout: Layout
    flags: dict[str, bool | int | float | str] = Field(default_factory=dict)
    precision: Literal["float32", "bfloat16"]
    recipe: int = Field(ge=1)
    """Raised when our own code changes the numbers."""
    grid: Literal["ct", "pet"]
    regions: dict[str, Json] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        return check_id("view", name)

    @property
    def digest(self) -> Sha256:
        """Digest of everything but the name."""
        return sha256(canonical_json(self.model_dump(mode="json", exclude={"name"})))

    @property
    def view_id(self) -> str:
        """Name, hyphen, and the first 16 hex digits of the digest."""
        return f"{self.name}-{self.digest[:16]}"


def check_view_id(text: str) -> str:
    """The text itself, if it can be a view id."""
    return check_id("view", text, max_length=MAX_VIEW_ID_LENGTH)


class Source(Record):
    """A file that an entry was made from: its fingerprint, not its content."""

    role: str
    """CT, PET, label_map or label_map_PART, mask:ROI."""
    path: str
    size_bytes: int
    mtime_ns: int | None = None
    """Modification time of a local file in nanoseconds since 1970."""
    etag: str | None = None
    """Tag of a remote object."""


class ObjectRecord(Record):
    """One object of an attempt."""

    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


def check_object(data: bytes, expected: ObjectRecord, *, where: str, listed_by: str, todo: str) -> bytes:
    """The bytes themselves, if they are those that a record lists.

    Parameters
    ----------
    where, listed_by, todo
        For the error: the object, the record that lists it, and what to do.

    Raises
    ------
    ObjectTruncatedError
        If they are fewer.
    ObjectAlteredError
        If they are others.
    """
    if len(data) == expected.size_bytes and sha256(data) == expected.sha256:
        return data
    cut = len(data) < expected.size_bytes
    raise (ObjectTruncatedError if cut else ObjectAlteredError)(
        f"{where} has {len(data)} bytes with sha256 {sha256(data)[:16]}{', it was cut' if cut else ''}: {listed_by} lists "
        f"{expected.size_bytes} bytes with {expected.sha256[:16]}. {todo}"
    )


class SealedRecord(Record):
    """A record whose bytes end in their own digest, so that an altered one is known without asking another object."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)

    schema_version: Literal[1] = Field(default=SCHEMA, alias="schema")

    def to_bytes(self) -> bytes:
        """The canonical JSON, sealed."""
        return seal(super().to_bytes())


class EntryRecord(SealedRecord):
    """One number in the series of an entry: a commit, or the tombstone that ends the series."""

    view: str
    patient: str
    modality: str
    roi: str
    number: int = Field(ge=0)
    earlier_inputs: tuple[str, ...] = ()
    """Input digests of commits 0 … number - 1, in order."""
    written_at: str
    """UTC, ISO 8601, by the writer's clock; for people, never for order."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _ = self.key
        check_view_id(self.view)
        if len(self.earlier_inputs) != self.number:
            raise ValueError(f"commit {self.number} lists {len(self.earlier_inputs)} earlier inputs")
        return self

    @property
    def key(self) -> EntryKey:
        """What the entry is of."""
        return EntryKey(self.patient, self.modality, self.roi)


class CommitRecord(EntryRecord):
    """The create-only record that makes an attempt visible."""

    attempt: str = Field(pattern=r"^[0-9a-f]{32}$")
    """UUID4 in hex: one writer's data folder."""
    input_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    content_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    objects: dict[str, ObjectRecord]
    """By path relative to the attempt's folder."""
    arrays: dict[str, dict[str, Json]]
    """Zarr v3 metadata by array name, so that a reader needs no zarr.json."""
    attributes: dict[str, Json]
    """Attributes of the group: geometry, boxes, slices, valid layers."""
    sources: tuple[Source, ...] = ()
    versions: dict[str, str] = Field(default_factory=dict)
    timings_s: dict[str, float] = Field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Path of the attempt's data relative to the store's root."""
        return f"data/{self.view}/{self.key}/{self.attempt}"


class TombstoneRecord(EntryRecord):
    """The last record of an entry that was withdrawn: nothing of the entry may be read or written any more."""

    withdrawn: Literal[True] = True
    reason: str = Field(min_length=1, max_length=MAX_REASON_LENGTH)
    """Why, for people; no health data belongs here, since a tombstone is never deleted."""

    @field_validator("reason")
    @classmethod
    def _check_reason(cls, reason: str) -> str:
        if not reason.isprintable() or not reason.strip():
            raise ValueError("a reason is one line of printable text")
        return reason


class WithdrawnRecord(SealedRecord):
    """All withdrawn entries of a view as one object, so that a reader of thousands of entries asks once."""

    view: str
    number: int = Field(ge=0)
    """Lists are numbered and create-only as commits are; each holds all of the one before."""
    entries: dict[str, tuple[str, ...]]
    """Digests of an entry's erased objects by `patient/modality/roi`: what local caches must drop."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_view_id(self.view)
        for text in self.entries:
            EntryKey.parse(text)
        return self


class SnapshotHeader(Record):
    """First line of a snapshot: the one view it pins."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_version: Literal[1] = Field(default=SCHEMA, alias="schema")
    store_id: str
    view: str
    view_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """`ViewSpec.digest` of the view, whole."""
    rows: int = Field(ge=0)
