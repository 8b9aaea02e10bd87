"""The commit protocol: numbered, create-only records decide what an entry is; knows no array and no clock.

A writer first writes its data under a new attempt, then creates commit n. If the name is taken, it reads what is there: its
own attempt means that an answer was lost and it had won; the same input means that somebody was faster; another input means
that n + 1 is next. Nothing is ever overwritten, so the highest number is the current commit for everybody.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Literal

from store_schema.errors import AlreadyExistsError, BackendError, ObjectMissingError, SchemaError
from store_schema.keys import EntryKey
from store_schema.location import Location
from store_schema.records import CommitRecord, parse_record, unseal

COMMIT_NAME = re.compile(r"([0-9]{6})\.json", re.ASCII)
State = Literal["new", "done", "superseded", "stale"]
MAX_TRIES = 64
"""Races lost in a row before a writer gives up; each lost race is another input committed."""


def commit_path(view: str, key: EntryKey, number: int) -> str:
    """Path of a commit relative to the store's root."""
    return f"commits/{view}/{key}/{number:06d}.json"


def read_commit(location: Location, view: str, key: EntryKey, number: int) -> CommitRecord:
    """One commit, checked to be the one its path says.

    Raises
    ------
    ObjectMissingError
        If there is no such commit.
    ObjectAlteredError
        If its bytes are not those that were written.
    SchemaError
        If it is of another schema or names another entry.
    """
    path = commit_path(view, key, number)
    return parse_commit(location.get(path), path=path)


def parse_commit(data: bytes, *, path: str) -> CommitRecord:
    """A commit from its bytes, checked against the digest in them; it must name the place it lies in."""
    commit = parse_record(CommitRecord, unseal(data, where=path), where=path)
    if commit_path(commit.view, commit.key, commit.number) != path:
        raise SchemaError(
            f"{path} holds the commit of another place: {commit_path(commit.view, commit.key, commit.number)}."
        )
    return commit


def current_number(location: Location, view: str, key: EntryKey) -> int | None:
    """Number of the current commit: one LIST, or probes where the backend cannot list; None without any."""
    if location.can_list:
        return max(numbers_in(location.children(f"commits/{view}/{key}")), default=None)
    return highest(lambda number: location.exists(commit_path(view, key, number)))


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


def current_commit(location: Location, view: str, key: EntryKey) -> CommitRecord | None:
    """The commit with the highest number; None where there is none."""
    number = current_number(location, view, key)
    return None if number is None else read_commit(location, view, key, number)


def state_of(current: CommitRecord | None, input_sha256: str) -> State:
    """What an input is to an entry: `new`, `done` (current), `superseded` (an earlier commit has it), or `stale`."""
    if current is None:
        return "new"
    if current.input_sha256 == input_sha256:
        return "done"
    return "superseded" if input_sha256 in current.earlier_inputs else "stale"


def append_commit(
    location: Location, draft: CommitRecord, *, after: CommitRecord | None, make_current: bool
) -> tuple[Literal["committed", "done", "superseded"], CommitRecord]:
    """Makes an attempt visible, or finds that it need not be.

    Parameters
    ----------
    draft
        The commit to be; its number and earlier inputs are set here.
    after
        The current commit as the writer saw it.
    make_current
        Commit the input although an earlier commit has it.

    Raises
    ------
    BackendError
        If the race was lost too often in a row.
    """
    current = after
    for _ in range(MAX_TRIES):
        state = state_of(current, draft.input_sha256)
        if current is not None and state == "done":
            return "done", current
        if current is not None and state == "superseded" and not make_current:
            return "superseded", current
        commit = _numbered(draft, after=current)
        taken = _create(location, commit)
        if taken is None or taken.attempt == commit.attempt:
            return "committed", commit
        current = taken
    raise BackendError(f"{draft.view}/{draft.key}: {MAX_TRIES} other inputs were committed meanwhile; run it again.")


def _numbered(draft: CommitRecord, *, after: CommitRecord | None) -> CommitRecord:
    if after is None:
        return draft.model_copy(update={"number": 0, "earlier_inputs": ()})
    earlier = (*after.earlier_inputs, after.input_sha256)
    return draft.model_copy(update={"number": after.number + 1, "earlier_inputs": earlier})


def _create(location: Location, commit: CommitRecord) -> CommitRecord | None:
    """None where the commit was created; the one that holds its number where it was not."""
    path = commit_path(commit.view, commit.key, commit.number)
    for _ in range(MAX_TRIES):
        try:
            location.create(path, commit.to_bytes())
        except AlreadyExistsError:
            try:
                return parse_commit(location.get(path), path=path)
            except ObjectMissingError:
                # S3 answers 409 to one of two writers of which neither may have won: the same number once more.
                continue
        return None
    raise BackendError(f"{path} could be neither created nor read in {MAX_TRIES} tries; run it again.")
