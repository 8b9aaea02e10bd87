"""Tries out what a place can do before a store trusts it; knows no record and leaves nothing behind.

Each check does the real thing with objects under one folder of probes and says what to do where the answer is wrong.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from threading import Barrier
from typing import Literal

from store_schema.errors import AlreadyExistsError, BackendError, ObjectMissingError, StoreError
from store_schema.location import PROBES, Location, ServiceLocation
from store_schema.location.service import ROOT
from store_schema.remote import printable

WRITERS, ROUNDS = 8, 3
"""Threads that try to create the same name at once, and how often."""
SKEW_S = 300
"""Seconds between two clocks from which S3 refuses requests soon; nothing in a store depends on them."""
DATA = bytes(range(256)) * 4

Verdict = Literal["ok", "failed", "warning"]


@dataclass(frozen=True)
class Check:
    """One thing that was tried."""

    name: str
    verdict: Verdict
    detail: str
    """What was seen, and where it is wrong what to do."""
    seconds: float

    def to_dict(self) -> dict[str, str | float]:
        """For JSON."""
        return asdict(self)


class _WrongError(Exception):
    """A backend answered, and the answer is not what a store needs."""


class _OddError(Exception):
    """Works, but somebody should know."""


def examine(location: Location) -> list[Check]:
    """All checks on a place, in order, so that one report names everything that is wrong.

    Where not even an absent object is told as such, nothing else is tried. Nothing is written where the place is read-only, or
    lets nobody delete.
    """
    folder = f"{PROBES}/{uuid.uuid4().hex}"
    first, *others = _checks(location)
    checks = [_run(*first, location, folder)]
    if not sound(checks):
        return checks
    try:
        checks += [_run(name, check, location, folder) for name, check in others]
    finally:
        left = _clean(location, folder)
    return checks + left


def sound(checks: list[Check]) -> bool:
    """Whether a store may be kept there."""
    return all(check.verdict != "failed" for check in checks)


def _checks(location: Location) -> Iterator[tuple[str, Callable[[Location, str], str]]]:
    if isinstance(location, ServiceLocation):
        yield from _service_checks(location)
        return
    yield "absent object", _absent
    if not location.can_write:
        yield "writing", _read_only
        return
    yield "write and read", _write_read
    yield "second create refused", _second_create
    yield "one winner of a race", _race
    yield "ranges", _ranges
    yield "suffix ranges", _suffix_ranges
    yield "listing", _listing
    yield "delete", _delete
    yield "clock", _clock


def _service_checks(location: ServiceLocation) -> Iterator[tuple[str, Callable[[Location, str], str]]]:
    """Of a store behind the feature-store service, where nothing can be tried out that would have to be deleted again."""
    yield "key and project", lambda _location, _folder: _reached(location)
    yield "absent object", _absent
    yield "ranges", lambda _location, _folder: _parts_of(location, ROOT)
    yield "listing", lambda _location, _folder: _listed_root(location)
    yield "clock", _clock


def _reached(location: ServiceLocation) -> str:
    told = location.project()
    if told.get("own"):
        rights = {
            "read": "reads",
            "write": "reads and publishes",
            "admin": "reads, publishes and makes keys and grants",
        }
        scope = printable(str(told.get("scope")))[:40]
        return f"the key is good and of this project: it {rights.get(scope, 'reads')} (scope {scope})"
    views, snapshots = (told.get(name) for name in ("granted_views", "granted_snapshots"))
    count = [len(one) if isinstance(one, list) else 0 for one in (views, snapshots)]
    return (
        f"the key is good, and of another project: it reads {count[0]} views and {count[1]} snapshots that were granted"
    )


def _parts_of(location: Location, path: str) -> str:
    whole = location.get(path)
    if location.get_part(path, start=1, end=9) != whole[1:9] or location.get_part(path, start=-9) != whole[-9:]:
        raise _WrongError("parts of an object are not those of the whole: a proxy before the service alters answers.")
    return "ranges and suffix ranges are those of the object"


def _listed_root(location: Location) -> str:
    names = location.children("")
    if ROOT not in names:
        raise _WrongError(f"the root was listed without {ROOT}: a proxy before the service alters answers.")
    return "what may be read is listed"


def _run(name: str, check: Callable[[Location, str], str], location: Location, folder: str) -> Check:
    begun = time.perf_counter()
    verdict: Verdict
    try:
        verdict, detail = "ok", check(location, folder)
    except _OddError as error:
        verdict, detail = "warning", str(error)
    except (_WrongError, StoreError) as error:
        verdict, detail = "failed", str(error)
    return Check(name, verdict, detail, round(time.perf_counter() - begun, 4))


def _absent(location: Location, folder: str) -> str:
    try:
        location.get(f"{folder}/absent")
    except ObjectMissingError:
        if location.size_bytes(f"{folder}/absent") is None:
            return "an absent object is told as absent"
        raise _WrongError("an absent object has a size: what answers here is no object storage.") from None
    except BackendError as error:
        raise _WrongError(
            f"an absent object must be told as such (404), but: {error} On AWS grant s3:ListBucket on the bucket besides "
            "s3:GetObject, s3:PutObject and s3:DeleteObject: without it AWS answers 403."
        ) from error
    raise _WrongError("an absent object was read: what answers here is no object storage.")


def _read_only(location: Location, _folder: str) -> str:
    raise _OddError(
        f"{location.url} can only be read (HTTP): stores are read there, and written through their bucket or folder."
    )


def _write_read(location: Location, folder: str) -> str:
    for name, data in (("full", DATA), ("empty", b"")):
        location.put(f"{folder}/{name}", data)
        if location.get(f"{folder}/{name}") != data or location.size_bytes(f"{folder}/{name}") != len(data):
            raise _WrongError("an object was read back as other bytes or with another size: do not keep a store here.")
    return f"{len(DATA)} bytes and 0 bytes read back as written"


def _second_create(location: Location, folder: str) -> str:
    path = f"{folder}/created"
    location.create(path, b"first")
    try:
        location.create(path, b"second")
    except AlreadyExistsError:
        if location.get(path) != b"first":
            raise _WrongError(f"a refused create changed the object. {_NO_CONDITIONALS}") from None
        return "the second create of a name was refused and changed nothing"
    raise _WrongError(
        f"the second create of a name succeeded, so that racing writers would overwrite each other. {_NO_CONDITIONALS}"
    )


_NO_CONDITIONALS = (
    "This server ignores `If-None-Match: *`. Use AWS S3, Ceph radosgw from 16, MinIO from 2024, gs:// (not Google's S3 interface), "
    "az:// or a local folder, and check that no proxy strips the header."
)


def _race(location: Location, folder: str) -> str:
    for turn in range(ROUNDS):
        path, barrier = f"{folder}/race-{turn}", Barrier(WRITERS)

        def create(i: int, path: str = path, barrier: Barrier = barrier) -> bool:
            barrier.wait()
            try:
                location.create(path, bytes([i]))
            except AlreadyExistsError:
                return False
            return True

        with ThreadPoolExecutor(WRITERS) as pool:
            won = list(pool.map(create, range(WRITERS)))
        winner = location.get(path)[0]
        if sum(won) != 1 or not won[winner]:
            raise _WrongError(f"{sum(won)} of {WRITERS} racing creates succeeded: expected 1. {_NO_CONDITIONALS}")
    return f"one of {WRITERS} writers won, {ROUNDS} times"


def _ranges(location: Location, folder: str) -> str:
    location.put(f"{folder}/ranges", DATA)
    if location.get_part(f"{folder}/ranges", start=100, end=200) != DATA[100:200]:
        raise _WrongError("a range of bytes is not the part of the object it should be: Zarr readers of packs need it.")
    return "bytes 100 to 200 are those of the object"


def _suffix_ranges(location: Location, folder: str) -> str:
    location.put(f"{folder}/ranges", DATA)
    try:
        tail = location.get_part(f"{folder}/ranges", start=-20)
    except BackendError as error:
        raise _OddError(f"no suffix ranges (Zarr readers of shards need them): {error}") from error
    if tail != DATA[-20:]:
        raise _WrongError(
            "the last 20 bytes asked for are other bytes: sharded arrays would be read wrongly by Zarr readers."
        )
    return "the last 20 bytes are those of the object"


def _listing(location: Location, folder: str) -> str:
    for name in ("list/a", "list/b/c", "list-not"):
        location.put(f"{folder}/{name}", b"x")
    found = location.paths(f"{folder}/list")
    below = location.children(f"{folder}/list")
    if found != [f"{folder}/list/a", f"{folder}/list/b/c"] or below != ["a", "b"]:
        raise _WrongError(
            f"a listing gave {found} and {below}: expected list/a, list/b/c and a, b at once after writing."
        )
    return "objects and folders below a prefix are listed at once after writing"


def _delete(location: Location, folder: str) -> str:
    path = f"{folder}/deleted"
    location.put(path, b"x")
    location.delete(path)
    location.delete(path)
    if location.exists(path):
        raise _WrongError("an object is there after its deletion: `gc` and `withdraw` would promise what is not so.")
    return "a deleted object is gone; deleting it again is fine"


def _clock(location: Location, _folder: str) -> str:
    skew = (location.now() - datetime.now(UTC)).total_seconds()
    if abs(skew) > SKEW_S:
        raise _OddError(
            f"the server's clock is {skew:+.0f} s from this machine's: set them by NTP, or signatures will be refused."
        )
    return f"the server's clock is {skew:+.1f} s from this machine's"


def _clean(location: Location, folder: str) -> list[Check]:
    """Removes all probes; a warning where that fails, since what was seen until then must be told all the same."""
    begun = time.perf_counter()
    if not (location.can_write and location.can_delete):
        return []
    try:
        for path in location.paths(folder):
            location.delete(path)
    except StoreError as error:
        detail = f"probes were left in {folder}, and `gc` removes them once they are old: {error}"
        return [Check("probes removed", "warning", detail, round(time.perf_counter() - begun, 4))]
    return []
