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
RETRIES_INSIDE, RETRY_TIMEOUT_S = 4, 60
_ENDPOINT = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[^\s?#]*)?", re.ASCII)
REQUEST_TIMEOUT_S, CONNECT_TIMEOUT_S = 120, 10
_DENIED = "(code: AccessDenied)"
"""A deletion that is not allowed is told so within an answer of status 200."""
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
        wanted: Any = {"suffix": -start} if start < 0 else {"offset": start}
        if end is not None:
            wanted = (start, end)

        def part(client: ObjectStore, obs: Any) -> bytes:
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
            text = redact(str(error)).split("\n", maxsplit=1)[0][:300]
            raise BackendError(
                f"{self.url} cannot be opened: {text} (check the settings and credentials in the environment)."
            ) from None

    def _missing(self, path: str, error: Exception) -> StoreError:
        if "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error):
            return BackendError(f"{self.url} is in a bucket that does not exist: make the bucket first.")
        return ObjectMissingError(f"{self.url}/{path} is not there.")

    def _failed(self, action: str, path: str, error: Exception) -> BackendError:
        text = redact(str(error)).split("\n", maxsplit=1)[0]
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


def _passing(error: Exception) -> bool:
    """Whether the same request may succeed in a moment: no answer, a cut one, or one of overload and failure."""
    from obstore import exceptions  # noqa: PLC0415

    text = str(error)
    if isinstance(error, OSError):
        return True
    if _DENIED in text or _ODD_NAME in text:
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
    if _DENIED in text:
        return "check the rights of the credentials, s3:DeleteObject among them"
    return "the server was tried several times: check network, endpoint and server, and run the same command again"


# Opening


def connect_s3(bucket: str, prefix: str) -> ObjectStore:
    """A client for S3, by AWS's usual environment variables or profile."""
    from obstore.store import S3Store  # noqa: PLC0415

    config, provider = _s3_settings()
    return S3Store(
        bucket,
        prefix=prefix or None,
        config=config,
        credential_provider=provider,
        client_options=_client_options(config.get("endpoint", "")),
        retry_config=_retries(),
    )


def _s3_settings() -> tuple[Any, Any]:
    """Settings of the client and, where a profile rather than the environment holds the keys, a provider of credentials."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if os.environ.get("AWS_ACCESS_KEY_ID") and not os.environ.get("AWS_PROFILE"):
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        return _at_endpoint(endpoint) | {"region": region}, None
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415 - a second that most calls need not spend

    try:
        return _profile_settings(endpoint)
    except BotoCoreError as error:
        raise BackendError(
            f"no AWS credentials could be had: {redact(str(error))[:300]} (check AWS_PROFILE and the files in ~/.aws, or log in "
            "again)."
        ) from None


def _profile_settings(endpoint: str | None) -> tuple[Any, Any]:
    """The same from AWS's files, SSO, container or instance; without any credentials requests are not signed."""
    from botocore.session import Session  # noqa: PLC0415

    session = Session()
    profile = session.get_scoped_config() if session.profile in {None, *session.available_profiles} else {}
    config = _at_endpoint(endpoint or profile.get("endpoint_url"))
    config["region"] = os.environ.get("AWS_REGION") or session.get_config_variable("region") or "us-east-1"
    if session.get_credentials() is None:
        return config | {"skip_signature": True}, None
    return config, _Credentials(session)


def _at_endpoint(endpoint: str | None) -> dict[str, Any]:
    """Settings of a server other than AWS's own; the client would panic at what is no address."""
    if not endpoint:
        return {}
    if not _ENDPOINT.fullmatch(endpoint):
        raise UsageError(
            f"the S3 endpoint {redact(endpoint)!a} is no address: expected http://HOST:PORT or https://HOST (AWS_ENDPOINT_URL)."
        )
    return {"endpoint": endpoint, "virtual_hosted_style_request": False}


class _Credentials:
    """Gives obstore the keys that botocore finds in profile, SSO, container or instance, fresh whenever it asks."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __call__(self) -> Any:
        found = self._session.get_credentials().get_frozen_credentials()
        return {
            "access_key_id": found.access_key,
            "secret_access_key": found.secret_key,
            "token": found.token,
            "expires_at": datetime.now(UTC) + timedelta(minutes=10),
        }


def connect_by_url(url: str) -> ObjectStore:
    """A client for Google, Azure or HTTP, by the provider's usual environment variables."""
    from obstore.store import from_url  # noqa: PLC0415

    return from_url(url, client_options=_client_options(url), retry_config=_retries())


def _client_options(address: str) -> Any:
    return {
        "allow_http": address.startswith("http://"),
        "timeout": timedelta(seconds=REQUEST_TIMEOUT_S),
        "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
    }


def _retries() -> Any:
    backoff = {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2}
    return {
        "max_retries": RETRIES_INSIDE,
        "retry_timeout": timedelta(seconds=RETRY_TIMEOUT_S),
        "backoff": backoff,
    }
