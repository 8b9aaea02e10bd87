"""The HTTP client of the feature-store service: key, connections, retries, and what its refusals mean; knows no record of a store.

The key is taken from the environment for every request and is kept nowhere, so that nothing that is pickled, printed or raised
can hold it. Redirects are never followed: they would carry the key, or the question, to somebody else.
"""

from __future__ import annotations

import ipaddress
import json
import os
import random
import re
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

from store_schema.errors import (
    BackendError,
    ConfigError,
    EngramError,
    EntryWithdrawnError,
    NotCommittedError,
    ObjectAlteredError,
    ObjectMissingError,
    ObjectTruncatedError,
    SchemaError,
    StoreError,
    UsageError,
)
from store_schema.keys import ID_PATTERN
from store_schema.parallel import Guard
from store_schema.redact import redact

if TYPE_CHECKING:
    from urllib3 import PoolManager

KEY, ALLOW_HTTP = "ENGRAM_API_KEY", "ENGRAM_ALLOW_HTTP"
"""Environment variables: the API key, and 1 where it may travel unencrypted."""
CONNECTIONS = 32
"""To one host, for all threads of a process."""
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10, 120
DIRECT_CONNECT_TIMEOUT_S = 3
"""To a bucket that the service signed addresses of: where it is out of reach, everything is read through the service."""
TRIES = 9
"""Of one request; waits of 0.1, 0.2, 0.4 … seconds between them, 20 in all: a service that is restarted is waited for."""
LONGEST_WAIT_S, LONGEST_TOLD_WAIT_S = 8.0, 60.0
"""Between two tries, by oneself and where the service says how long."""
RETRIED = frozenset({429, 502, 503, 504})

_ADDRESS = re.compile(rf"(?i:https?)://[^/?#\s]+(?:/[^?#\s]*)?/v1/projects/(?:{ID_PATTERN.pattern})/?", re.ASCII)
_KEY = re.compile(r"engram_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", re.ASCII)
_HOPELESS = ("CERTIFICATE_VERIFY_FAILED", "WRONG_VERSION_NUMBER", "doesn't match", "Failed to parse")
"""In the text of a failure that the same request would meet again."""


def is_service(url: str) -> bool:
    """Whether an address is that of a project of the service: `https://HOST/v1/projects/PROJECT`."""
    return _ADDRESS.fullmatch(url) is not None


@dataclass(frozen=True)
class Request:
    """What is asked of a project."""

    method: str
    path: str = ""
    """Below the project's address, as it is before it is encoded."""
    action: str = "read"
    """What is done with the path, for errors."""
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = field(default=None, repr=False)
    read_timeout_s: float = READ_TIMEOUT_S


@dataclass(frozen=True)
class Answer:
    """What came back, whole."""

    status: int
    headers: Mapping[str, str]
    """By name in any case."""
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class ServiceClient:
    """Asks one project of a service; for many threads, and for children forked from the process that made it."""

    url: str
    """Of the project, without a slash at the end."""
    tries: int = TRIES
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)

    def ask(self, request: Request, *, wanted: Collection[int] = (200,)) -> Answer:
        """The answer, if its status is wanted; overload, restarts and lost connections are waited out.

        A status from 400 on counts as wanted only where the service itself tells it in its form of an error (which a HEAD has no
        body for): a proxy that knows no such path says 404 as well.

        Raises
        ------
        ConfigError
            If there is no key in the environment, or it must not be sent there.
        EngramError
            What the service refused; see `refusal`.
        BackendError
            If the service cannot be reached, or something else answers.
        """
        for turn in range(self.tries):
            last, told_wait = turn == self.tries - 1, 0.0
            answer = self._answer(request, last=last)
            if answer is not None:
                if answer.status in wanted and _is_own(answer, request):
                    return answer
                if last or answer.status not in RETRIED:
                    raise refusal(answer, request, self.url)
                told_wait = _told_wait(answer)
            self.sleep(max(told_wait, _backoff(turn)))
        raise BackendError(f"could not {request.action} {self._where(request)}.")

    def ask_json(self, request: Request, *, wanted: Collection[int] = (200,)) -> dict[str, Any]:
        """The JSON object of an answer; see `ask`."""
        found = _json(self.ask(request, wanted=wanted).body)
        if not isinstance(found, dict):
            raise BackendError(
                f"could not {request.action} {self._where(request)}: what was answered is no JSON object. {_CHECK_ADDRESS}"
            )
        return found

    def _answer(self, request: Request, *, last: bool) -> Answer | None:
        """One try; None where the connection failed and the same request may succeed in a moment."""
        from urllib3.exceptions import HTTPError  # noqa: PLC0415 - --help and readers of folders need no client

        try:
            return self._send(request, api_key(self.url))
        except HTTPError as error:
            text = printable(redact(str(error)))
            if last or any(mark in text for mark in _HOPELESS):
                raise BackendError(
                    f"could not {request.action} {self._where(request)}: {text[:300]} ({_unreachable(text)})."
                ) from None
            return None

    def _send(self, request: Request, key: str) -> Answer:
        from urllib3 import Timeout  # noqa: PLC0415

        url = f"{self.url}/{quote(request.path)}" if request.path else self.url
        response = _connections(self._proxy).urlopen(
            request.method,
            f"{url}?{urlencode(request.query)}" if request.query else url,
            body=request.body,
            headers={"Authorization": f"Bearer {key}", "User-Agent": "engram", **request.headers},
            timeout=Timeout(connect=CONNECT_TIMEOUT_S, read=request.read_timeout_s),
            redirect=False,
            retries=False,
            decode_content=False,
        )
        return Answer(response.status, response.headers, response.data)

    @cached_property
    def _proxy(self) -> str | None:
        return _proxy_for(self.url)

    def _where(self, request: Request) -> str:
        return _place(self.url, request)


def get_without_key(address: str, size_bytes: int) -> bytes | None:
    """What an address gives that needs no key, at most one byte more than expected; None where it gives no object.

    Raises
    ------
    BackendError
        If nothing answers there, or it must not be asked since the answer would travel unencrypted.
    """
    from urllib3 import Timeout  # noqa: PLC0415
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    host = urlsplit(address).hostname or ""
    if not _may_be_asked(address):
        raise BackendError(f"{host} is not asked, since its answers are not encrypted: {ALLOW_HTTP}=1 allows it.")
    timeout = Timeout(connect=DIRECT_CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S)
    try:
        response = _connections(_proxy_for(address)).urlopen(
            "GET", address, timeout=timeout, redirect=False, retries=False, decode_content=False, preload_content=False
        )
        try:
            return response.read(size_bytes + 1) if response.status == 200 else None
        finally:
            # What is left of an answer is not waited for; a connection that is not given back would be missed for good.
            if response.length_remaining:
                response.close()
            response.release_conn()
    except HTTPError as error:
        # Its text may hold the address, which is a key for a while.
        raise BackendError(f"{host} does not answer ({type(error).__name__}).") from None


# The key


def api_key(url: str) -> str:
    """The key of this process's environment, if it may be sent to an address.

    Raises
    ------
    ConfigError
        If there is none, it is no key, or it would travel unencrypted to another machine.
    """
    key = os.environ.get(KEY, "")
    if not key:
        raise ConfigError(f"{url} is read with an API key: set {KEY}. Admins of the project make keys.")
    if not _KEY.fullmatch(key):
        raise ConfigError(
            f"{KEY} holds no API key, and was sent nowhere: expected engram_, 12 hex digits, _ and 43 letters, digits, - or _, "
            "without quotes, spaces or line ends."
        )
    if not _may_be_asked(url):
        raise ConfigError(
            f"{url} is not encrypted, and whoever is on the way would read the API key: use https://. In a network that you trust "
            f"set {ALLOW_HTTP}=1."
        )
    return key


def _may_be_asked(url: str) -> bool:
    """Whether what travels there is encrypted, stays within this machine, or may be read by others."""
    parts = urlsplit(url)
    return parts.scheme.lower() == "https" or _is_loopback(parts.hostname or "") or os.environ.get(ALLOW_HTTP) == "1"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


# Connections

_managers: dict[tuple[int, str | None], PoolManager] = {}
"""By process and proxy: a forked child makes its own, and leaves alone those that it inherits."""
_guard = Guard()


def _connections(proxy: str | None) -> PoolManager:
    at = (os.getpid(), proxy)
    with _guard:
        if at not in _managers:
            _managers[at] = _opened(proxy)
        return _managers[at]


def _proxy_for(url: str) -> str | None:
    """The proxy that the environment names for a host; never one for this machine itself."""
    parts = urlsplit(url)
    if _is_loopback(parts.hostname or "") or proxy_bypass(parts.netloc):
        return None
    return getproxies().get(parts.scheme.lower())


def _opened(proxy: str | None) -> PoolManager:
    from urllib3 import PoolManager, ProxyManager, make_headers  # noqa: PLC0415
    from urllib3.util import parse_url  # noqa: PLC0415

    if proxy is None:
        return PoolManager(maxsize=CONNECTIONS, block=True)
    parsed = parse_url(proxy if "://" in proxy else f"http://{proxy}")
    headers = make_headers(proxy_basic_auth=parsed.auth) if parsed.auth else None
    return ProxyManager(parsed.url, maxsize=CONNECTIONS, block=True, proxy_headers=headers)


# Waiting


def _backoff(turn: int) -> float:
    spread = random.uniform(0.5, 1.5)  # noqa: S311 - no secret, it spreads clients
    return min(LONGEST_WAIT_S, float(0.1 * 2**turn)) * spread


def _told_wait(answer: Answer) -> float:
    told = answer.headers.get("Retry-After", "")
    return min(LONGEST_TOLD_WAIT_S, float(told)) if told.isascii() and told.isdigit() else 0.0


# Refusals


@dataclass(frozen=True)
class Told:
    """The service's own words about what it refused."""

    code: str
    message: str
    request_id: str


def told_in(answer: Answer) -> Told | None:
    """The error in an answer; None where it is not of the service's form."""
    found = _json(answer.body)
    error = found.get("error") if isinstance(found, dict) else None
    if not isinstance(error, dict) or not isinstance(error.get("code"), str):
        return None
    return Told(error["code"], printable(str(error.get("message"))), printable(str(error.get("request_id")))[:64])


def _is_own(answer: Answer, request: Request) -> bool:
    return answer.status < 400 or request.method == "HEAD" or told_in(answer) is not None


_BY_CODE: Mapping[str, type[StoreError]] = {
    "object_missing": ObjectMissingError,
    "object_altered": ObjectAlteredError,
    "object_truncated": ObjectTruncatedError,
    "schema": SchemaError,
}
"""Of status 500: what a commit lists and the store cannot give. Only a 404 says that nothing commits a name."""
_BY_STATUS: Mapping[int, type[StoreError]] = {
    404: NotCommittedError,
    409: StoreError,
    410: EntryWithdrawnError,
    413: StoreError,
    428: StoreError,
}
_REMEDIES = {
    401: f"check {KEY}, which the service does not know or no longer takes; a project's admin makes keys",
    403: f"the key in {KEY} may not: publishing needs the scope write, and another project's data a grant",
    405: "nobody writes that through the service: give the address of the bucket or folder",
    428: "a proxy on the way may have taken If-None-Match out of the request",
    429: "it was tried several times: make fewer requests at once",
    503: "it was tried several times: run the same command again later",
}
_CHECK_ADDRESS = "Check the address: expected https://HOST/v1/projects/PROJECT of a feature-store service."


def refusal(answer: Answer, request: Request, url: str) -> EngramError:
    """The error that an answer is for whoever called."""
    failed = f"could not {request.action} {_place(url, request)}"
    told = told_in(answer)
    if 300 <= answer.status < 400:
        target = printable(redact(answer.headers.get("Location", "")))[:200]
        return BackendError(
            f"{failed}: the server sends requests on to {target!a}, and they were not followed, since they carry the key. Give "
            "the address that is meant."
        )
    if told is None:
        kind = printable(answer.headers.get("Content-Type", ""))[:60]
        return BackendError(
            f"{failed}: status {answer.status} of something else than the service ({kind or 'no content type'}), such as a proxy "
            f"before it. {_CHECK_ADDRESS}"
        )
    remedy = f" ({_REMEDIES[answer.status]})" if answer.status in _REMEDIES else ""
    asked = f" [request {told.request_id}]" if answer.status >= 500 else ""
    return _kind(answer.status, told.code, request)(f"{failed}: {redact(told.message)[:600]}{remedy}{asked}")


def _kind(status: int, code: str, request: Request) -> type[EngramError]:
    if status == 422:
        # What a writer made is refused as data; what a caller asked for was asked wrongly.
        return StoreError if request.method == "PUT" else UsageError
    if status == 500:
        return _BY_CODE.get(code, BackendError)
    return _BY_STATUS.get(status, BackendError)


def printable(text: str) -> str:
    """The text on one line, without characters that would steer a terminal."""
    return "".join(char if char.isprintable() else "?" for char in " ".join(text.split()))


def _unreachable(text: str) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return "SSL_CERT_FILE names the file of the authorities to trust"
    if "WRONG_VERSION_NUMBER" in text:
        return "no TLS is spoken there: a server on this machine has http://"
    return "check network, address and server, and run the same command again"


def _place(url: str, request: Request) -> str:
    return f"{url}/{request.path}" if request.path else url


def _json(data: bytes) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
