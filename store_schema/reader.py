"""Reads what commits list and checks every byte of it; knows no name that a commit does not give it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from store_schema.arrays import decode
from store_schema.errors import NotCommittedError, SchemaError
from store_schema.keys import EntryKey
from store_schema.location import Location
from store_schema.records import CommitRecord, Json, check_object


@dataclass(frozen=True)
class StoredEntry:
    """An entry read through its commit, checked."""

    key: EntryKey
    commit: CommitRecord
    arrays: Mapping[str, np.ndarray]
    attributes: Mapping[str, Json]


Fetch = Callable[[CommitRecord, str], bytes]
"""Gives one checked object of a commit by its path relative to the attempt's folder."""


def read_entry(
    location: Location, commit: CommitRecord, *, arrays: Sequence[str] | None = None, fetch: Fetch | None = None
) -> StoredEntry:
    """An entry as one commit has it; all its arrays, or those asked for; `fetch` reads from elsewhere, such as a cache.

    Raises
    ------
    NotCommittedError
        If the commit lists no such array.
    ObjectMissingError, ObjectAlteredError
        If an object is not there, or is not the one committed.
    """
    names = tuple(commit.arrays) if arrays is None else tuple(arrays)
    unknown = [name for name in names if name not in commit.arrays]
    if unknown:
        raise NotCommittedError(f"{commit.view}/{commit.key} has no array {unknown}: it has {sorted(commit.arrays)}.")
    fetched = partial(read_object, location) if fetch is None else fetch
    decoded = {name: _read_array(location, commit, name, fetched) for name in names}
    return StoredEntry(commit.key, commit, decoded, commit.attributes)


def _read_array(location: Location, commit: CommitRecord, name: str, fetch: Fetch) -> np.ndarray:
    where = f"{location.url}/{commit.folder}"
    return decoded(commit.arrays[name], name, partial(fetch, commit), commit.objects, where=where)


def decoded(
    metadata: Mapping[str, Json], name: str, fetch: Callable[[str], bytes], objects: Mapping[str, object], *, where: str
) -> np.ndarray:
    """One array of a record that anybody may have written; see `store_schema.arrays.decode`.

    Raises
    ------
    ObjectMissingError, ObjectAlteredError
        If a chunk is not listed, or does not decode as the metadata says.
    SchemaError
        If the metadata is none of a Zarr array.
    """
    try:
        return decode(metadata, name, fetch, objects, where=where)
    except (TypeError, AttributeError) as error:
        raise SchemaError(
            f"{where}: the metadata of '{name}' is none of a Zarr v3 array ({error}): the record was written by another program."
        ) from error


def read_object(location: Location, commit: CommitRecord, path: str) -> bytes:
    """One object of a commit, checked against its size and digest.

    Parameters
    ----------
    path
        Relative to the attempt's folder.

    Raises
    ------
    NotCommittedError
        If the commit lists no such object.
    ObjectMissingError, ObjectAlteredError
        If it is not there, or its bytes are not those committed.
    """
    if path not in commit.objects:
        raise NotCommittedError(f"{commit.view}/{commit.key} commit {commit.number} lists no object '{path}'.")
    return checked(
        location.get(f"{commit.folder}/{path}"), commit, path, where=f"{location.url}/{commit.folder}/{path}"
    )


def checked(data: bytes, commit: CommitRecord, path: str, *, where: str) -> bytes:
    """The bytes themselves, if they are those that the commit lists under a path.

    Raises
    ------
    ObjectAlteredError, ObjectTruncatedError
        If they are others, or fewer.
    """
    todo = "Run `store-schema verify`, then restore or extract it again."
    return check_object(data, commit.objects[path], where=where, listed_by=f"commit {commit.number}", todo=todo)
