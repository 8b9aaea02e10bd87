"""A store in object storage (S3, Google, Azure) or, for reading, behind HTTP, through obstore; knows no record and no array.

Credentials, region and endpoint come from this process's environment; what travels to another process is the address alone.
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from store_schema.errors import AlreadyExistsError, BackendError, ObjectMissingError, StoreError, UsageError
from store_schema.location.base import PROBES, Location, ObjectInfo, check_path, reopened
from store_schema.redact import redact

if TYPE_CHECKING:
    from obstore.store import ObjectStore

PARALLEL = 32
"""Requests in flight: more brought nothing against a gateway (tests/benchmarks/RESULTS.md)."""
PART_BYTES = 4 * 2**20
TRIES = 6
"""Of one request, beyond what obstore itself repeats; waits of 0.1, 0.2, 0.4 … seconds between them."""
_DENIED = re.compile(r"\(code: (AccessDenied|403)\)")
"""A deletion that is not allowed is told so within an answer of status 200 (S3) or 202 (Azure)."""
_NO_BUCKET = ("<Code>NoSuchBucket<", "<Code>ContainerNotFound<")
_ODD_NAME = "object with invalid path"
"""A name such as `data//x` stands in a listing, which the client then refuses as a whole."""

_forked_after_use = False
_used = False


def _note_fork() -> None:
    global _forked_after_use  # noqa: PLW0603 - a fact about this process
    _forked_after_use = _used


os.register_at_fork(after_in_child=_note_fork)


class ObjectLocation(Location):
    """Objects under a prefix of a bucket, or below an HTTP address.

    The client is opened at the first request. After `fork` its threads are gone and it would hang for ever: a forked child is
    refused at once.
    """

    parallel = PARALLEL

    def __init__(self, url: str, connect: Callable[[], ObjectStore], *, read_only: bool = False) -> None:
        self.url = url
        self.can_list = self.can_write = not read_only
        # Behind HTTP a server may lack ranges.
        self.part_bytes = None if read_only else PART_BYTES
        self._connect = connect
        self._client: ObjectStore | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Callable[[str], Location], tuple[str]]:
        """A pickled location is its address."""
        return reopened, (self.url,)

    def get(self, path: str) -> bytes:
        """See `Location.get`."""
        return self._tried("read", path, lambda client, obs: bytes(obs.get(client, check_path(path)).bytes()))

    def get_part(self, path: str, *, start: int = 0, end: int | None = None) -> bytes:
        """See `Location.get_part`."""
        wanted: Any = {"offset": start} if end is None else (start, end)

        def part(client: ObjectStore, obs: Any) -> bytes:
            if start < 0:
                return _tail(client, obs, check_path(path), -start)[:end]
            return bytes(obs.get(client, check_path(path), options={"range": wanted}).bytes())

        return self._tried("read", path, part)

    def put(self, path: str, data: bytes) -> None:
        """See `Location.put`."""
        self._write(path, data, "overwrite")

    def create(self, path: str, data: bytes) -> None:
        """See `Location.create`."""
        self._write(path, data, "create")

    def _write(self, path: str, data: bytes, mode: str) -> None:
        self._check_writable(path)

        def write(client: ObjectStore, obs: Any) -> None:
            obs.put(client, check_path(path), data, mode=mode, use_multipart=False)

        self._tried("write", path, write)

    def delete(self, path: str) -> None:
        """See `Location.delete`."""
        self._check_writable(path)
        try:
            self._tried("delete", path, lambda client, obs: obs.delete(client, check_path(path)))
        except ObjectMissingError:
            return

    def objects(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Location.objects`."""
        self._check_listable(prefix)
        return iter(self._tried("list", prefix, lambda client, obs: self._listed(client, obs, prefix)))

    def _listed(self, client: ObjectStore, obs: Any, prefix: str) -> list[ObjectInfo]:
        below = check_path(prefix) if prefix else None
        found = [
            ObjectInfo(str(one["path"]), int(one["size"]), one["last_modified"].astimezone(UTC))
            for page in obs.list(client, below, chunk_size=1000)
            for one in page
        ]
        return _without_folders(found, prefix)

    def children(self, prefix: str) -> list[str]:
        """See `Location.children`."""
        self._check_listable(prefix)
        below = check_path(prefix) if prefix else None
        page = self._tried("list", prefix, lambda client, obs: obs.list_with_delimiter(client, below))
        paths = [str(one["path"]) for one in page["objects"]] + [str(folder) for folder in page["common_prefixes"]]
        return sorted({path.rstrip("/").rpartition("/")[2] for path in paths if path.strip("/") != prefix})

    def size_bytes(self, path: str) -> int | None:
        """See `Location.size_bytes`."""
        try:
            return int(self._tried("look up", path, lambda client, obs: obs.head(client, check_path(path)))["size"])
        except ObjectMissingError:
            return None

    def sign(self, paths: Sequence[str], *, seconds: int) -> list[str]:
        """See `Location.sign`."""
        from obstore import exceptions  # noqa: PLC0415
        from obstore import sign as signed  # noqa: PLC0415
        from obstore.store import S3Store  # noqa: PLC0415

        client = self._opened()
        if not isinstance(client, S3Store):
            return super().sign(paths, seconds=seconds)
        try:
            return list(signed(client, "GET", [check_path(path) for path in paths], timedelta(seconds=seconds)))
        except exceptions.BaseError as error:
            raise self._failed("sign", paths[0] if paths else "", error) from None

    def now(self) -> datetime:
        """See `Location.now`."""
        path = f"{PROBES}/{uuid.uuid4().hex}"
        self.put(path, b"now")
        try:
            head = self._tried("look up", path, lambda client, obs: obs.head(client, path))
            modified: datetime = head["last_modified"]
            return modified.astimezone(UTC)
        finally:
            self.delete(path)

    def _check_writable(self, path: str) -> None:
        if not self.can_write:
            raise StoreError(
                f"{self.url} is read over HTTP and cannot be written: '{path}' was not. Give the address of the bucket or folder."
            )

    def _check_listable(self, prefix: str) -> None:
        if not self.can_list:
            raise UsageError(
                f"{self.url} is read over HTTP, where '{prefix}' cannot be listed: give whole ids of view, entry and snapshot, or "
                "the address of the bucket or folder."
            )

    def _tried[T](self, action: str, path: str, request: Callable[[ObjectStore, Any], T]) -> T:
        """The answer to a request, made again where the network or the server failed."""
        import obstore  # noqa: PLC0415 - --help and readers of folders need no client
        from obstore import exceptions  # noqa: PLC0415

        client = self._opened()
        for attempt in range(TRIES):
            try:
                return request(client, obstore)
            except FileNotFoundError as error:
                raise self._missing(path, error) from None
            except exceptions.AlreadyExistsError:
                raise AlreadyExistsError(f"{self.url}/{path} exists.") from None
            except (exceptions.BaseError, OSError) as error:
                if any(code in str(error) for code in _NO_BUCKET):
                    raise self._missing(path, error) from None
                if attempt == TRIES - 1 or not _passing(error):
                    raise self._failed(action, path, error) from None
            time.sleep(0.1 * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311 - no secret, it spreads clients
        raise BackendError(f"could not {action} {self.url}/{path}.")

    def _opened(self) -> ObjectStore:
        global _used  # noqa: PLW0603 - a fact about this process
        if _forked_after_use:
            raise BackendError(
                f"{self.url} was used before this process was forked, and its client does not survive a fork: start workers by "
                "spawn (multiprocessing.get_context('spawn'); DataLoader(multiprocessing_context='spawn')) or forkserver."
            )
        with self._lock:
            if self._client is None:
                self._client = self._connected()
                _used = True
            return self._client

    def _connected(self) -> ObjectStore:
        """A client; no request is made yet, so that what fails here is a setting."""
        from obstore import exceptions  # noqa: PLC0415

        try:
            return self._connect()
        except (exceptions.BaseError, ValueError) as error:
            text = _told(error)[:300]
            raise BackendError(
                f"{self.url} cannot be opened: {text} (check the settings and credentials in the environment)."
            ) from None

    def _missing(self, path: str, error: Exception) -> StoreError:
        if any(code in str(error) for code in _NO_BUCKET):
            return BackendError(f"{self.url} is in a bucket that does not exist: make the bucket first.")
        return ObjectMissingError(f"{self.url}/{path} is not there.")

    def _failed(self, action: str, path: str, error: Exception) -> BackendError:
        text = _told(error)
        return BackendError(f"could not {action} {self.url}/{path}: {text[:400]} ({_remedy(text)}).")


def _without_folders(found: list[ObjectInfo], prefix: str) -> list[ObjectInfo]:
    """The objects of a listing without the empty ones by which consoles and mounts mark folders: `data/`, told as `data`."""
    empty = {one.path for one in found if not one.size_bytes}
    folders = {prefix} & empty
    for one in found if empty else []:
        folder = one.path
        while folder := folder.rpartition("/")[0]:
            if folder in empty:
                folders.add(folder)
    return [one for one in found if one.path not in folders]


def _tail(client: ObjectStore, obs: Any, path: str, count: int) -> bytes:
    """The last bytes of an object; Azure has no such ranges and is asked for the size first."""
    from obstore import exceptions  # noqa: PLC0415

    try:
        return bytes(obs.get(client, path, options={"range": {"suffix": count}}).bytes())
    except exceptions.NotSupportedError:
        size = int(obs.head(client, path)["size"])
        return bytes(obs.get(client, path, options={"range": (max(0, size - count), size)}).bytes()) if size else b""


def _told(error: Exception) -> str:
    """What the client says of a failure, without secrets, in one line."""
    return " ".join(redact(str(error)).partition("Debug source:")[0].split())


def _passing(error: Exception) -> bool:
    """Whether the same request may succeed in a moment: no answer, a cut one, or one of overload and failure."""
    from obstore import exceptions  # noqa: PLC0415

    text = str(error)
    if isinstance(error, OSError):
        return True
    if _DENIED.search(text) or _ODD_NAME in text:
        return False
    if "status code: 4" in text:
        # S3 says RequestTimeout, with status 400, where the body of a request came too slowly.
        return "<Code>RequestTimeout</Code>" in text or any(f"status code: {code}" in text for code in (408, 425, 429))
    return isinstance(error, exceptions.GenericError)


def _remedy(text: str) -> str:
    """What to do about a failure."""
    for mark, remedy in (
        ("403", "check the credentials and their rights; AWS answers 403 also for an absent object to a caller without ListBucket"),
        ("401", "check the credentials"),
        ("307", "set AWS_REGION to the bucket's region"),
        ("301", "set AWS_REGION to the bucket's region"),
        ("501", "this server lacks create-only writes (If-None-Match): `store-schema doctor` tells"),
        ("416", "the object is shorter than the part asked for"),
    ):  # fmt: skip
        if f"status code: {mark}" in text:
            return remedy
    if _ODD_NAME in text:
        return "another program wrote an object of that name, which no store has: remove it with the server's own tools"
    if "lacked valid authentication" in text:
        return "check the credentials, or log in again"
    if _DENIED.search(text):
        return "check the rights of the credentials, the right to delete (s3:DeleteObject) among them"
    return "the server was tried several times: check network, endpoint and server, and run the same command again"
