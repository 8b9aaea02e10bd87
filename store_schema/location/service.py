"""A store behind the feature-store service, by its project's address: read, listed and published to; knows no record.

Nothing is deleted through the service, and only what is committed can be seen: stores are cared for at their bucket or folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from store_schema.errors import AlreadyExistsError, BackendError, ObjectMissingError, StoreError
from store_schema.location.base import Location, ObjectInfo, Pin, check_path, reopened
from store_schema.remote import Answer, Request, ServiceClient, get_without_key, refusal

ROOT = "engram.json"
KINDS = ("commits", "data", "packs", "runs", "snapshots", "views", "withdrawn")
"""Folders below the root; the service lists nothing else."""
LISTING_TRIES = 3
MAKING_TIMEOUT_S = 900
"""Of a snapshot or pack that the service makes: it reads every commit that no earlier snapshot pins, or all entries."""
_SNAPSHOT_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)
_OBJECT = re.compile(
    r"engram\.json|views/[^/]+\.json|snapshots/[^/]+\.jsonl\.zst|snapshots/of/.+|runs/[^/]+/[^/]+"
    r"|(?!(?:views|snapshots|runs)/)[^/]+/.+"
)
"""Paths that an object can have: the service answers others by its catalogue."""
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)


class ServiceLocation(Location):
    """The store of one project, as far as the key in this process's environment reaches."""

    can_delete = False
    gives_addresses = True
    parallel = 32
    part_bytes = 4 * 2**20

    def __init__(self, client: ServiceClient) -> None:
        self.url = client.url
        self._client = client

    def __reduce__(self) -> tuple[Callable[[str], Location], tuple[str]]:
        """A pickled location is its address: the key stays in the environment."""
        return reopened, (self.url,)

    # Reading

    def get(self, path: str) -> bytes:
        """See `Location.get`.

        Raises
        ------
        EntryWithdrawnError
            If the object is of an entry that was withdrawn.
        ObjectAlteredError
            If the service found that the object is not the one that was committed.
        """
        return self._read(path, {}).body

    def get_part(self, path: str, *, start: int = 0, end: int | None = None) -> bytes:
        """See `Location.get_part`."""
        if end is not None and (start < 0 or end <= start):
            return self.get(path)[start:end]
        wanted = f"bytes={start}" if start < 0 else f"bytes={start}-{'' if end is None else end - 1}"
        answer = self._read(path, {"Range": wanted})
        if answer.status == 200:
            # A proxy on the way may leave ranges out, as it is free to.
            return answer.body[start:end]
        return self._checked_part(answer, path, start, end)

    def _read(self, path: str, headers: dict[str, str]) -> Answer:
        answer = self._asked(path, headers) if _OBJECT.fullmatch(check_path(path)) else None
        if answer is None:
            raise ObjectMissingError(f"{self.url}/{path} is not there, or no commit lists it.")
        return answer

    def _asked(self, path: str, headers: dict[str, str]) -> Answer | None:
        """The object or a part of it; None where the service says that there is none."""
        answer = self._client.ask(Request("GET", path, headers=headers), wanted=(200, 206, 404))
        if answer.status == 404:
            return None
        if not answer.headers.get("ETag", "").startswith('"'):
            raise BackendError(
                f"could not read {self.url}/{path}: what was answered has no ETag, so that it is not the service's, but perhaps a "
                "proxy's or a login page."
            )
        return answer

    def _checked_part(self, answer: Answer, path: str, start: int, end: int | None) -> bytes:
        """The part, if it is the one that was asked for."""
        match = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        told = tuple(map(int, match.groups())) if match else (0, -1, 0)
        first = max(0, told[2] + start) if start < 0 else start
        last = (told[2] if end is None else min(end, told[2])) - 1
        if told[:2] != (first, last) or len(answer.body) != last - first + 1:
            raise BackendError(
                f"could not read {self.url}/{path}: another part came than the one from byte {start} to "
                f"{'the end' if end is None else end} that was asked for."
            )
        return answer.body

    def size_bytes(self, path: str) -> int | None:
        """See `Location.size_bytes`."""
        if not _OBJECT.fullmatch(check_path(path)):
            return None
        answer = self._client.ask(Request("HEAD", path, "look up"), wanted=(200, *range(400, 501)))
        told = answer.headers.get("Content-Length", "")
        if answer.status == 200 and told.isascii() and told.isdigit() and "ETag" in answer.headers:
            return int(told)
        # The answer to a HEAD has no words: what it means is told where the object itself is asked for.
        whole = self._asked(path, {})
        return None if whole is None else len(whole.body)

    def now(self) -> datetime:
        """See `Location.now`; to the second."""
        told = self._client.ask(Request("HEAD", ROOT, "look up")).headers.get("Date", "")
        try:
            return parsedate_to_datetime(told).astimezone(UTC)
        except ValueError:
            raise BackendError(f"{self.url} does not tell the time: its answers have no Date.") from None

    def project(self) -> dict[str, Any]:
        """What the service says of the project and of the key: `scope`, `own`, `granted_views`, `granted_snapshots`."""
        return self._client.ask_json(Request("GET"))

    # Listing

    def objects(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Location.objects`; of `data` what a commit names, and of everything what the key may read."""
        if not prefix:
            for name in self.children(""):
                yield from self.objects(name) if name in KINDS else self._at_root(name)
        elif check_path(prefix).partition("/")[0] in KINDS:
            lines = self._listed({"prefix": prefix})
            yield from [self._info(line, below=prefix) for line in lines]

    def _at_root(self, name: str) -> Iterator[ObjectInfo]:
        size = self.size_bytes(name)
        if size is not None:
            yield ObjectInfo(name, size, self.now())

    def children(self, prefix: str) -> list[str]:
        """See `Location.children`."""
        if prefix and check_path(prefix).partition("/")[0] not in KINDS:
            return []
        names = [line.get("name") for line in self._listed({"prefix": prefix, "delimiter": "true"})]
        if any(not isinstance(name, str) or "/" in check_path(name) for name in names):
            raise self._malformed(prefix)
        return sorted(map(str, names))

    def _listed(self, query: dict[str, str]) -> list[dict[str, Any]]:
        """The lines of a listing without the last one, which alone says that nothing is missing."""
        for _ in range(LISTING_TRIES):
            answer = self._client.ask(Request("GET", "objects", f"list {query['prefix'] or 'the root'} by", query))
            lines = _json_lines(answer.body)
            if lines is None:
                raise self._malformed(query["prefix"])
            if lines and lines[-1] == {"end": len(lines) - 1}:
                return lines[:-1]
        raise BackendError(
            f"could not list {self.url}/{query['prefix']}: the listing was cut {LISTING_TRIES} times before its end (the service, "
            "or a proxy before it, closes connections too early)."
        )

    def _info(self, line: dict[str, Any], *, below: str) -> ObjectInfo:
        try:
            path, moment = check_path(str(line["path"])), datetime.fromisoformat(line["modified"])
            info = ObjectInfo(path, int(line["size_bytes"]), _in_utc(moment))
        except (KeyError, TypeError, ValueError, StoreError):
            raise self._malformed(below) from None
        if not path.startswith(f"{below}/"):
            raise self._malformed(below)
        return info

    def _malformed(self, prefix: str) -> BackendError:
        return BackendError(
            f"could not list {self.url}/{prefix}: what was answered is no listing of a feature-store service."
        )

    # Writing

    def put(self, path: str, data: bytes) -> None:
        """See `Location.put`; the same bytes again are fine, others are refused."""
        if self._put(path, data).status == 412:
            raise BackendError(f"could not write {self.url}/{path}: an object with other bytes has that name already.")

    def create(self, path: str, data: bytes) -> None:
        """See `Location.create`."""
        answer = self._put(path, data, wanted=(200, 201, 412, 422))
        # 200 says that the very same bytes are there: perhaps of an earlier try whose answer was lost. And a commit whose data is
        # gone, as after a withdrawal, is refused for that, while whoever holds its number says more.
        if answer.status in {200, 412} or (answer.status == 422 and self.exists(path)):
            raise AlreadyExistsError(f"{self.url}/{path} exists.")
        if answer.status == 422:
            raise refusal(answer, Request("PUT", path, "write"), self.url)

    def _put(self, path: str, data: bytes, *, wanted: Collection[int] = (200, 201, 412)) -> Answer:
        headers = {"If-None-Match": "*", "Content-Type": "application/octet-stream"}
        return self._client.ask(Request("PUT", check_path(path), "write", headers=headers, body=data), wanted=wanted)

    def delete(self, path: str) -> None:
        """Refuses: through the service nothing is deleted.

        Raises
        ------
        StoreError
            Always.
        """
        raise StoreError(
            f"{self.url}/{check_path(path)} was not deleted: nothing is deleted through the service. Give the address of the "
            "bucket or folder."
        )

    # What the service makes itself

    def make_snapshot(
        self, view_id: str, pins: Sequence[Pin] | None, *, where: Sequence[str] = (), base: str | None = None
    ) -> str:
        """See `Location.make_snapshot`."""
        asked: dict[str, Any] = {"view": view_id, "where": list(where), "base": base}
        if pins is not None:
            asked["keys"] = [list(pin) for pin in pins]
        made = self._post("snapshots", f"make a snapshot of {view_id} in", asked).get("id")
        if not isinstance(made, str) or not _SNAPSHOT_ID.fullmatch(made):
            raise BackendError(f"{self.url} made a snapshot of {view_id} and told no id of it.")
        return made

    def make_pack(self, snapshot_id: str, kind: str) -> bool:
        """See `Location.make_pack`."""
        self._post(f"snapshots/{snapshot_id}/packs", "make", {"kind": kind})
        return True

    def addresses(self, snapshot_id: str, names: Sequence[str]) -> Mapping[str, str] | None:
        """See `Location.addresses`; the service signs up to 1,000 at once, where the bucket is on S3."""
        asked, path = {"paths": list(names)}, f"snapshots/{snapshot_id}/sign"
        told = self._post(path, "sign addresses by", asked, wanted=(200, 501)).get("urls")
        return {name: str(url) for name, url in told.items() if name in names} if isinstance(told, dict) else None

    def get_at(self, address: str, size_bytes: int) -> bytes | None:
        """See `Location.get_at`."""
        return get_without_key(address, size_bytes)

    def _post(
        self, path: str, action: str, asked: dict[str, Any], *, wanted: Collection[int] = (200, 201)
    ) -> dict[str, Any]:
        headers, body = {"Content-Type": "application/json"}, json.dumps(asked).encode()
        request = Request("POST", path, action, headers=headers, body=body, read_timeout_s=MAKING_TIMEOUT_S)
        return self._client.ask_json(request, wanted=wanted)


def _json_lines(data: bytes) -> list[dict[str, Any]] | None:
    """The objects of a listing; None where a line is none. A last line that was cut is left out."""
    *lines, _ = data.split(b"\n")
    try:
        found = [json.loads(line) for line in lines]
    except (ValueError, RecursionError):
        return None
    return found if all(isinstance(one, dict) for one in found) else None


def _in_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
