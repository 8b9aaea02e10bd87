"""The commit protocol: numbered, create-only records decide what an entry is; knows no array and no clock.

A writer first writes its data under a new attempt, then creates commit n. If the name is taken, it reads what is there: its
own attempt means that an answer was lost and it had won; the same input means that somebody was faster; another input means
that n + 1 is next; a tombstone means that the entry was withdrawn and the series has ended. Nothing is ever overwritten, so
the highest number is the current record for everybody.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable
from typing import Literal

from store_schema.errors import (
    AlreadyExistsError,
    BackendError,
    EntryWithdrawnError,
    ObjectAlteredError,
    ObjectMissingError,
    SchemaError,
    StoreError,
)
from store_schema.keys import EntryKey
from store_schema.location import Location
from store_schema.records import SCHEMA, CommitRecord, TombstoneRecord, members, parse_record, schema_of, unseal

COMMIT_NAME = re.compile(r"([0-9]{6})\.json", re.ASCII)
State = Literal["new", "done", "superseded", "stale", "withdrawn"]
type Numbered = CommitRecord | TombstoneRecord
"""What may stand in the series of an entry."""
MAX_TRIES = 64
"""Races lost in a row before a writer gives up; each lost race is another input committed."""
MAX_FAILURES = 3
"""Creates of one name that the backend may fail, with nothing to be read there, before a writer gives up."""
GRACE_DAYS = 7.0
"""Age, by the server's clock, below which `gc` leaves an attempt alone."""
FRESH_S = GRACE_DAYS / 2 * 24 * 3600
"""Age of an attempt, by its writer's clock, above which the writer commits it no more: it starts another one."""


UNKNOWN_INPUT = "0" * 64
"""Stands in a tombstone for the input of a commit that is damaged."""


def commit_path(view: str, key: EntryKey, number: int) -> str:
    """Path of a commit relative to the store's root."""
    return f"commits/{view}/{key}/{number:06d}.json"


def read_record(location: Location, view: str, key: EntryKey, number: int) -> Numbered:
    """One record of an entry's series, commit or tombstone, checked to be the one its path says.

    Raises
    ------
    ObjectMissingError
        If there is no such record.
    ObjectAlteredError
        If its bytes are not those that were written.
    SchemaError
        If it is of another schema or names another entry.
    """
    path = commit_path(view, key, number)
    return parse_numbered(location.get(path), path=path)


def read_commit(location: Location, view: str, key: EntryKey, number: int) -> CommitRecord:
    """One commit; see `read_record`.

    Raises
    ------
    EntryWithdrawnError
        If a tombstone has this number.
    """
    return _committed(read_record(location, view, key, number))


def parse_numbered(data: bytes, *, path: str) -> Numbered:
    """A record from its bytes, checked against the digest in them; it must name the place it lies in."""
    body = unseal(data, where=path)
    record: Numbered
    if b'"withdrawn":true' in body and "withdrawn" in members(body):
        record = parse_record(TombstoneRecord, body, where=path)
    else:
        record = parse_record(CommitRecord, body, where=path)
    named = commit_path(record.view, record.key, record.number)
    if named != path:
        raise SchemaError(f"{path} holds the commit of another place: {named}.")
    return record


def parse_commit(data: bytes, *, path: str) -> CommitRecord:
    """A commit from its bytes; see `parse_numbered`.

    Raises
    ------
    EntryWithdrawnError
        If it is a tombstone.
    """
    return _committed(parse_numbered(data, path=path))


def _committed(record: Numbered) -> CommitRecord:
    if isinstance(record, TombstoneRecord):
        raise EntryWithdrawnError(
            f"{record.view}/{record.key} was withdrawn at {record.written_at} ({record.reason}): it can be neither read nor "
            "written. Leave it out of study tables and make a new snapshot."
        )
    return record


def highest_number(location: Location, folder: str) -> int | None:
    """Highest number of the records in a folder: one LIST, or probes where the backend cannot list; None without any."""
    if location.can_list:
        return max(numbers_in(location.children(folder)), default=None)
    return highest(lambda number: location.exists(f"{folder}/{number:06d}.json"))


def current_number(location: Location, view: str, key: EntryKey) -> int | None:
    """Number of the last record of an entry, commit or tombstone; see `highest_number`."""
    return highest_number(location, f"commits/{view}/{key}")


def numbers_in(names: Iterable[str]) -> list[int]:
    """Numbers of the commits among the names in an entry's folder; other names are no commits."""
    return [int(match[1]) for match in map(COMMIT_NAME.fullmatch, names) if match]


def highest(exists: Callable[[int], bool]) -> int | None:
    """Highest number that exists, where all below it exist: probes 0, 1, 2, 4, 8 … and then bisects."""
    if not exists(0):
        return None
    low, high = 0, 1
    while exists(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if exists(middle) else (low, middle)
    return low


def current_record(location: Location, view: str, key: EntryKey) -> Numbered | None:
    """The record with the highest number, commit or tombstone; None where there is none."""
    number = current_number(location, view, key)
    return None if number is None else read_record(location, view, key, number)


def current_commit(location: Location, view: str, key: EntryKey) -> CommitRecord | None:
    """The commit with the highest number; None where there is none.

    Raises
    ------
    EntryWithdrawnError
        If the entry was withdrawn.
    """
    record = current_record(location, view, key)
    return None if record is None else _committed(record)


def state_of(current: Numbered | None, input_sha256: str) -> State:
    """What an input is to an entry: `new`, `done` (current), `superseded` (an earlier commit has it), `stale` or `withdrawn`."""
    if current is None:
        return "new"
    if isinstance(current, TombstoneRecord):
        return "withdrawn"
    if current.input_sha256 == input_sha256:
        return "done"
    return "superseded" if input_sha256 in current.earlier_inputs else "stale"


def settled(
    current: Numbered | None, input_sha256: str, *, make_current: bool
) -> tuple[Literal["done", "superseded"], CommitRecord] | None:
    """Why an input is not to be written, and the commit that stays current; None where it is.

    Raises
    ------
    EntryWithdrawnError
        If the entry was withdrawn.
    """
    commit = None if current is None else _committed(current)
    state = state_of(commit, input_sha256)
    if commit is None or state == "stale" or (state == "superseded" and make_current):
        return None
    return ("done" if state == "done" else "superseded"), commit


def append_commit(
    location: Location,
    draft: CommitRecord,
    *,
    after: Numbered | None,
    make_current: bool,
    fresh: Callable[[], bool] = lambda: True,
) -> tuple[Literal["committed", "done", "superseded"], CommitRecord] | None:
    """Makes an attempt visible, or finds that it need not be; None where the attempt may not be committed any more.

    Parameters
    ----------
    draft
        The commit to be; its number and earlier inputs are set here.
    after
        The current commit as the writer saw it.
    make_current
        Commit the input although an earlier commit has it.
    fresh
        Whether the attempt is young enough that `gc` cannot have taken it for an orphan; asked before each create.

    Raises
    ------
    EntryWithdrawnError
        If the entry was withdrawn meanwhile.
    BackendError
        If the race was lost too often in a row, or the commit could not be created.
    """
    current = after
    for _ in range(MAX_TRIES):
        if found := settled(current, draft.input_sha256, make_current=make_current):
            return found
        if not fresh():
            return None
        commit = numbered(draft, after=current)
        path = commit_path(commit.view, commit.key, commit.number)
        taken = create_or_read(location, path, commit.to_bytes())
        if taken is None:
            return "committed", commit
        current = parse_numbered(taken, path=path)
        if isinstance(current, CommitRecord) and current.attempt == commit.attempt:
            return "committed", commit
    raise BackendError(f"{draft.view}/{draft.key}: {MAX_TRIES} other inputs were committed meanwhile; run it again.")


def append_tombstone(location: Location, draft: TombstoneRecord) -> TombstoneRecord:
    """Ends the series of an entry, also behind a damaged record; gives the tombstone that is there already.

    A damaged record keeps its number: its input stands as unknown in the tombstone, where no input decides anything any more.

    Raises
    ------
    SchemaError
        If the last record is sound and of another schema: what ends its series is not known here.
    BackendError
        If the race was lost too often in a row, or the tombstone could not be created.
    """
    for _ in range(MAX_TRIES):
        last = current_number(location, draft.view, draft.key)
        found = () if last is None else _inputs_until(location, draft.view, draft.key, last)
        if isinstance(found, TombstoneRecord):
            return found
        tombstone = draft.model_copy(update={"number": len(found), "earlier_inputs": found})
        path = commit_path(tombstone.view, tombstone.key, tombstone.number)
        if create_or_read(location, path, tombstone.to_bytes()) is None:
            return tombstone
    raise BackendError(f"{draft.view}/{draft.key}: {MAX_TRIES} inputs were committed meanwhile; run it again.")


def _inputs_until(location: Location, view: str, key: EntryKey, last: int) -> TombstoneRecord | tuple[str, ...]:
    """The inputs of all records up to the last, unknown where nothing sound tells them; or the tombstone that the last one is."""
    for number in range(last, -1, -1):
        record = _sound(location, view, key, number)
        if record is None:
            continue
        if isinstance(record, TombstoneRecord) and number == last:
            return record
        own = record.input_sha256 if isinstance(record, CommitRecord) else UNKNOWN_INPUT
        return (*record.earlier_inputs, own, *[UNKNOWN_INPUT] * (last - number))
    return (UNKNOWN_INPUT,) * (last + 1)


def _sound(location: Location, view: str, key: EntryKey, number: int) -> Numbered | None:
    """A record; None where it is damaged, gone, or another entry's."""
    path = commit_path(view, key, number)
    data = read_or_none(location, path) or b""
    try:
        return parse_numbered(data, path=path)
    except ObjectAlteredError:
        return None
    except SchemaError:
        if schema_of(unseal(data, where=path)) != SCHEMA:
            raise
        return None


def numbered(draft: CommitRecord, *, after: Numbered | None) -> CommitRecord:
    """The commit as it follows another one: its number and the inputs before it."""
    if after is None:
        return draft.model_copy(update={"number": 0, "earlier_inputs": ()})
    commit = _committed(after)
    earlier = (*commit.earlier_inputs, commit.input_sha256)
    return draft.model_copy(update={"number": commit.number + 1, "earlier_inputs": earlier})


def create_or_read(location: Location, path: str, data: bytes) -> bytes | None:
    """None where the object was created; else the bytes that hold its name, which may be one's own from a lost answer.

    Raises
    ------
    BackendError
        If the backend fails for good; whether the object was created is then unknown until somebody looks.
    """
    failures = 0
    for _ in range(MAX_TRIES):
        refusal = _refused(location, path, data)
        if refusal is None:
            return None
        with contextlib.suppress(ObjectMissingError):
            return location.get(path)
        # Nothing is there. S3 answers 409 to one of two writers of which neither may have won: the same number once more.
        failures += isinstance(refusal, BackendError)
        if failures == MAX_FAILURES:
            raise refusal
    raise BackendError(f"{path} could be neither created nor read in {MAX_TRIES} tries; run it again.")


def create_first(location: Location, path: str, data: bytes) -> None:
    """Creates the record that makes a place a store, or finds it there; tries with it the one thing that all rests on.

    `init` tries much more, and not every writer calls it.

    Raises
    ------
    BackendError
        If the place lets a name be created twice: writers would overwrite each other's commits there.
    """
    if create_or_read(location, path, data) is not None:
        return
    try:
        location.create(path, data)
    except AlreadyExistsError:
        return
    # Where it cannot be deleted either, that is the lesser news.
    with contextlib.suppress(BackendError):
        location.delete(path)
    raise BackendError(
        f"{location.url} was not made a store: it lets a name be created twice, so that writers would overwrite each other. "
        f"`store-schema doctor {location.url}` tells what is wrong and what to use."
    )


def read_or_none(location: Location, path: str) -> bytes | None:
    """An object; None where it is not there."""
    try:
        return location.get(path)
    except ObjectMissingError:
        return None


def _refused(location: Location, path: str, data: bytes) -> StoreError | None:
    """Why a create did not say that it succeeded: the name is taken, or the answer was an error or never came."""
    try:
        location.create(path, data)
    except (AlreadyExistsError, BackendError) as error:
        return error
    return None
