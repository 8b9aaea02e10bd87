"""The withdrawn entries of a view as one numbered list, which readers ask once before they read thousands; erases nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from store_schema.commits import MAX_TRIES, create_or_read, highest_number
from store_schema.errors import BackendError, ObjectAlteredError, ObjectMissingError, SchemaError
from store_schema.keys import EntryKey
from store_schema.location import Location
from store_schema.records import Sha256, WithdrawnRecord, parse_record, unseal


def withdrawn_path(view: str, number: int) -> str:
    """Path of a list relative to the store's root."""
    return f"withdrawn/{view}/{number:06d}.json"


def withdrawn(location: Location, view_id: str) -> Mapping[EntryKey, frozenset[Sha256]]:
    """The withdrawn entries of a view, with the digests of their erased objects, which caches must drop; empty without any.

    Costs one LIST (or one probe), and one GET where something was withdrawn.

    Raises
    ------
    ObjectAlteredError, SchemaError
        If the list is damaged: then nobody can say what may be read.
    """
    current = read_withdrawn(location, view_id)
    if current is None:
        return {}
    return {EntryKey.parse(text): frozenset(digests) for text, digests in current.entries.items()}


def listed(location: Location, view_id: str) -> Collection[EntryKey] | None:
    """Keys of the withdrawn entries of a view; None where the list is damaged, so that each entry's own records must be asked."""
    try:
        return withdrawn(location, view_id).keys()
    except (ObjectMissingError, ObjectAlteredError, SchemaError):
        return None


def read_withdrawn(location: Location, view_id: str) -> WithdrawnRecord | None:
    """The highest list of a view; None where nothing was withdrawn."""
    number = highest_number(location, f"withdrawn/{view_id}")
    if number is None:
        return None
    path = withdrawn_path(view_id, number)
    record = parse_record(WithdrawnRecord, unseal(location.get(path), where=path), where=path)
    if withdrawn_path(record.view, record.number) != path:
        raise SchemaError(f"{path} holds the list of another place: {withdrawn_path(record.view, record.number)}.")
    return record


def add_withdrawn(location: Location, view_id: str, erased: Mapping[EntryKey, Iterable[Sha256]]) -> None:
    """Adds entries to the list of a view; writes nothing where it holds them already.

    Raises
    ------
    BackendError
        If others added to the list again and again meanwhile.
    """
    for _ in range(MAX_TRIES):
        current = read_withdrawn(location, view_id)
        held = {} if current is None else dict(current.entries)
        entries = held | {
            str(key): tuple(sorted({*digests, *held.get(str(key), ())})) for key, digests in erased.items()
        }
        if entries == held:
            return
        record = WithdrawnRecord(view=view_id, number=0 if current is None else current.number + 1, entries=entries)
        if create_or_read(location, withdrawn_path(view_id, record.number), record.to_bytes()) is None:
            return
    raise BackendError(f"the withdrawn entries of {view_id} were changed {MAX_TRIES} times meanwhile; run it again.")
