"""Takes what writers without the bucket's credentials publish: create-only objects, and commits that are held against them.

A commit is accepted only if every object that it lists was read back with the size and digest it says, decodes to the content it
says, fits its view, and follows the entry's current commit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from services.access import Reach
from services.errors import Refusal, conflict, forbidden, unprocessable
from services.objects import Objects, gone, split_entry
from store_schema.arrays import ARRAYS
from store_schema.commits import (
    COMMIT_NAME,
    FRESH_S,
    create_or_read,
    current_record,
    numbered,
    numbers_in,
    parse_numbered,
)
from store_schema.content import check_content
from store_schema.errors import (
    InvalidKeyError,
    NotCommittedError,
    ObjectAlteredError,
    ObjectMissingError,
    SchemaError,
    StoreError,
)
from store_schema.keys import check_id
from store_schema.location.base import check_path
from store_schema.parallel import each
from store_schema.reader import read_object
from store_schema.records import CommitRecord, Record, TombstoneRecord, ViewSpec, parse_record
from store_schema.views import view_path

Kind = Literal["view", "object", "commit", "run"]
_ATTEMPT = re.compile(r"[0-9a-f]{32}", re.ASCII)
_NAMES = "|".join(ARRAYS)
_OBJECT = re.compile(rf"zarr\.json|({_NAMES})/(zarr\.json|c(/[0-9]{{1,9}}){{0,8}})", re.ASCII)
"""What an attempt may hold: the metadata of the group and its arrays, and chunks."""
MOST_OBJECTS, MOST_BYTES = 10_000, 2**30
"""Of one commit."""


@dataclass(frozen=True)
class Published:
    """What became of an object."""

    created: bool
    """False where the very same bytes were there."""
    kind: Kind
    target: str
    """View or run, for the audit."""
    record: CommitRecord | ViewSpec | None = None
    """What the catalogue is to learn of it."""


@dataclass(frozen=True)
class Publishing:
    """Publishes into one store."""

    objects: Objects

    def put(self, reach: Reach, path: str, data: bytes) -> Published:
        """Creates an object at a path of the store, or finds the same bytes there.

        Raises
        ------
        Refusal
            403, if the key may not write, or nobody may write there over HTTP; 409, if it does not follow what is there; 412, if
            other bytes are there; 422, if it is not what belongs there.
        EntryWithdrawnError
            If the entry was withdrawn.
        """
        reach.needs("write", "publishing")
        kind, _, rest = path.partition("/")
        takers = {"views": self._view, "data": self._object, "commits": self._commit, "runs": self._run}
        if kind not in takers:
            raise forbidden(
                "only views, data, commits and runs are written here: snapshots and packs are made by POST, and everything else "
                "beside the bucket."
            )
        try:
            check_path(path)
        except StoreError as error:
            raise unprocessable(str(error)) from None
        try:
            return takers[kind](rest, data)
        except InvalidKeyError as error:
            raise unprocessable(str(error)) from None

    def _view(self, rest: str, data: bytes) -> Published:
        view = _parsed(ViewSpec, data, where=f"views/{rest}")
        if rest != f"{view.view_id}.json":
            raise unprocessable(f"the specification gives the id {view.view_id}, it was sent as {rest}.")
        if view.to_bytes() != data:
            raise unprocessable("the specification is not written in its canonical form.")
        created = self._create(view_path(view.view_id), data)
        return Published(created, "view", view.view_id, view)

    def _object(self, rest: str, data: bytes) -> Published:
        view_id, key, within = split_entry(rest)
        attempt, _, name = within.partition("/")
        if not _ATTEMPT.fullmatch(attempt) or not _OBJECT.fullmatch(name):
            raise unprocessable(
                f"{within[:80]!a} is no object of an attempt: expected UUID4/ARRAY/c/0… or …/zarr.json."
            )
        self._check_view(view_id)
        if key in self.objects.withdrawn_of(view_id):
            raise gone()
        return Published(self._create(f"data/{rest}", data), "object", view_id)

    def _commit(self, rest: str, data: bytes) -> Published:
        view_id, _, name = split_entry(rest)
        path = f"commits/{rest}"
        if not COMMIT_NAME.fullmatch(name):
            raise unprocessable(f"{name[:80]!a} is no commit: expected six digits and .json.")
        commit = _committed(data, path)
        view = self._check_view(view_id)
        if not self._check_follows(commit, next(iter(numbers_in([name])))):
            self._check_attempt(commit)
        self._check_objects(commit, view)
        return Published(self._create(path, data), "commit", view_id, commit)

    def _check_follows(self, commit: CommitRecord, number: int) -> bool:
        """Whether the number is taken; if not, the commit is the next of its entry."""
        current = current_record(self.objects.store.location, commit.view, commit.key)
        if isinstance(current, TombstoneRecord):
            raise gone()
        if current is not None and current.number >= number:
            return True  # the create decides: the same bytes are fine, others are refused with 412
        expected = numbered(commit, after=current)
        if (commit.number, commit.earlier_inputs) != (expected.number, expected.earlier_inputs):
            raise conflict(
                f"commit {number} does not follow: the next number is {expected.number}, and it names the inputs of those before. "
                "Read the current commit and try again.",
                code="not_next",
            )
        return False

    def _check_attempt(self, commit: CommitRecord) -> None:
        """The attempt is this commit's own, and too young for `gc` to take it for a dead writer's."""
        if commit.number and commit.attempt in self.objects.attempts(commit.view, commit.key):
            raise unprocessable("another commit names this attempt: each writes its data under one of its own.")
        modified = [one.modified for one in self.objects.store.location.objects(commit.folder)]
        if modified and (datetime.now(UTC) - min(modified)).total_seconds() > FRESH_S:
            raise conflict(
                "the attempt is so old that `gc` may be erasing it: write the data again under a new one.",
                code="stale_attempt",
            )

    def _check_objects(self, commit: CommitRecord, view: ViewSpec) -> None:
        """Everything that the commit lists is there, and is what it says."""
        unknown = [path for path in commit.objects if not _OBJECT.fullmatch(path)]
        if unknown or len(commit.objects) > MOST_OBJECTS or "memory" not in commit.arrays:
            raise unprocessable(
                f"the commit lists {len(commit.objects)} objects, {len(unknown)} of which no entry has: expected an entry's "
                "arrays, memory among them."
            )
        if sum(one.size_bytes for one in commit.objects.values()) > MOST_BYTES:
            raise unprocessable(f"the commit lists more than {MOST_BYTES} bytes: no entry has as many.")
        location = self.objects.store.location

        def read(path: str) -> bytes:
            return read_object(location, commit, path)

        try:
            held = dict(zip(commit.objects, each(read, list(commit.objects), parallel=location.parallel), strict=True))
            check_content(commit, held, view)
        except (ObjectMissingError, ObjectAlteredError, SchemaError) as error:
            raise unprocessable(f"the commit was not accepted: {error}", code="commit_refused") from None

    def _run(self, rest: str, data: bytes) -> Published:
        run_id, _, name = rest.partition("/")
        path = f"runs/{check_id('run', run_id)}/{check_id('record', name)}"
        return Published(self._create(path, data), "run", f"run {run_id}")

    def _check_view(self, view_id: str) -> ViewSpec:
        try:
            view = self.objects.store.view(view_id)
        except NotCommittedError:
            raise conflict(f"there is no view {view_id}: publish its specification first.", code="no_view") from None
        if view.view_id != view_id:
            raise unprocessable(f"'{view_id}' is no view's id, which is {view.view_id}: a path holds whole ids.")
        return view

    def _create(self, path: str, data: bytes) -> bool:
        # In an empty folder that should be mounted a commit would be acknowledged and lost.
        self.objects.check_there()
        there = create_or_read(self.objects.store.location, path, data)
        if there not in {None, data}:
            raise Refusal(412, "exists", "other bytes have that name, which is written once.")
        return there is None


def _committed(data: bytes, path: str) -> CommitRecord:
    """The commit that was sent."""
    try:
        record = parse_numbered(data, path=path)
    except (ObjectAlteredError, SchemaError) as error:
        raise unprocessable(f"no commit of this schema: {error}") from None
    if not isinstance(record, CommitRecord):
        raise forbidden("an entry is withdrawn beside the bucket: `store-schema withdraw`.")
    if record.to_bytes() != data:
        raise unprocessable("the commit is not written in its canonical form.")
    return record


def _parsed[R: Record](kind: type[R], data: bytes, *, where: str) -> R:
    try:
        return parse_record(kind, data, where=where)
    except SchemaError as error:
        raise unprocessable(str(error)) from None


def missing_precondition(headers: Mapping[str, str]) -> Refusal | None:
    """428 where a PUT does not say that it must create."""
    if headers.get("if-none-match", "").strip() == "*":
        return None
    return Refusal(428, "precondition_required", "objects are written once: send `If-None-Match: *`.")
