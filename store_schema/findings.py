"""What a verification says of one thing that is wrong, and how an error becomes that; checks nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from store_schema.errors import (
    EngramError,
    InvalidKeyError,
    NotCommittedError,
    ObjectAlteredError,
    ObjectMissingError,
    ObjectTruncatedError,
    SchemaError,
    StoreError,
)

Kind = Literal["missing", "altered", "truncated", "chain", "record", "twin", "withdrawn", "unknown", "unreadable"]
KINDS: Mapping[type[EngramError], Kind] = {
    ObjectMissingError: "missing",
    ObjectAlteredError: "altered",
    ObjectTruncatedError: "truncated",
    SchemaError: "record",
    InvalidKeyError: "record",
    NotCommittedError: "record",
    StoreError: "record",
}
"""By the very class: a path that leads out of the store is a plain StoreError, what a backend could not give is none of these."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    kind: Kind
    """`missing`, `altered` or `truncated` object (shorter than recorded), broken commit `chain`, malformed `record`, ids that
    differ by case alone (`twin`), data of an entry that was `withdrawn`, a path `unknown` to the layout, or an object that the
    backend could not give (`unreadable`)."""
    path: str
    detail: str


def tried[T](path: str, read: Callable[[], T]) -> tuple[T | None, list[Finding]]:
    """What a check gives, or what it raises as a finding."""
    try:
        return read(), []
    except EngramError as error:
        return None, [Finding(KINDS.get(type(error), "unreadable"), path, str(error))]
