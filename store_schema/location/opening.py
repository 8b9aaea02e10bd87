"""Finds the location behind an address; the only place that tells schemes apart, and it moves no object."""

from __future__ import annotations

import os
import re
import threading
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from store_schema.errors import BackendError, UsageError
from store_schema.location.base import Location, check_path
from store_schema.location.clients import connect_azure, connect_google, connect_http, connect_s3
from store_schema.location.filesystem import FilesystemLocation
from store_schema.location.folder import FolderLocation
from store_schema.location.memory import MemoryLocation
from store_schema.location.objects import ObjectLocation
from store_schema.location.service import ServiceLocation
from store_schema.redact import redact
from store_schema.remote import ServiceClient, is_service

S3, HTTP = {"s3", "s3a"}, {"http", "https"}
PROVIDERS = {"gs": "gs", "gcs": "gs", "az": "az", "azure": "az", "abfs": "az", "abfss": "abfss"}
"""Scheme of an address to obstore's."""
SERVED = (
    "a folder's path, file:///PATH, s3://BUCKET/PREFIX, gs://…, az://…, https://HOST/v1/projects/PROJECT (the feature-store "
    "service), https://… (reading), memory://NAME"
)

_HALF_ADDRESS = re.compile(rf"(?i)({'|'.join(sorted({*S3, *HTTP, *PROVIDERS, 'file', 'memory'}))}):(?!//)")
"""An address that lacks a slash: taken for a folder, it would be written where nobody looks for it."""

_memories: dict[str, MemoryLocation] = {}
_memories_lock = threading.Lock()


def open_location(url: str | os.PathLike[str]) -> Location:
    """The place behind an address; nothing is read or written yet.

    Raises
    ------
    UsageError
        If nothing serves such an address, or it carries credentials.
    """
    text = os.fspath(url)
    scheme, separator, rest = text.partition("://")
    if _HALF_ADDRESS.match(text):
        raise UsageError(f"{redact(text)} is half an address: use {SERVED}. A folder of that name is ./{redact(text)}.")
    if not text.strip():
        raise UsageError(
            f"the address of the store is empty (is a variable not set?): use {SERVED}, or . for this folder."
        )
    if not separator:
        return FolderLocation(Path(text).expanduser())
    scheme = scheme.lower()
    if scheme == "file" and rest.removeprefix("localhost").startswith("/"):
        return FolderLocation(Path(unquote(rest.removeprefix("localhost"))))
    if scheme == "memory" and rest:
        with _memories_lock:
            return _memories.setdefault(text, MemoryLocation(text))
    _check_address(text)
    return _remote(scheme, text, rest)


def _remote(scheme: str, text: str, rest: str) -> Location:
    """The place behind an address with a host or bucket."""
    if scheme in S3:
        bucket, prefix = _bucket(text, rest)
        return ObjectLocation(_joined("s3", bucket, prefix), partial(connect_s3, bucket, prefix))
    if scheme in PROVIDERS:
        bucket, prefix = _bucket(text, rest)
        address = _joined(PROVIDERS[scheme], bucket, prefix)
        connect = connect_google if PROVIDERS[scheme] == "gs" else connect_azure
        return ObjectLocation(address, partial(connect, address))
    if scheme in HTTP and rest.strip("/"):
        address = f"{scheme}://{rest.rstrip('/')}"
        if is_service(address):
            return ServiceLocation(ServiceClient(address))
        return ObjectLocation(address, partial(connect_http, address), read_only=True)
    return _other(scheme, text)


def _check_address(url: str) -> None:
    """An address is printed and recorded: it carries no credential."""
    parts = urlsplit(url)
    # Also a password with slashes that should have been encoded; `:8080/` is a port.
    if re.search(r"://[^/:@\s]*:(?!\d+/)[^@\s]*@", url):
        raise UsageError(f"{redact(url)} carries a password: give it in the environment, not in the address.")
    if parts.scheme.lower() in HTTP and "@" in parts.netloc:
        raise UsageError(f"{redact(url)} carries a user or token: give it in the environment, not in the address.")
    if parts.query or parts.fragment:
        raise UsageError(f"{redact(url)} has a query or fragment: a store's address is a plain prefix, without either.")


def _bucket(url: str, rest: str) -> tuple[str, str]:
    bucket, _, prefix = rest.partition("/")
    prefix = prefix.strip("/")
    if not bucket:
        raise UsageError(f"{redact(url)} names no bucket: expected SCHEME://BUCKET/PREFIX.")
    return bucket, check_path(prefix) if prefix else ""


def _joined(scheme: str, bucket: str, prefix: str) -> str:
    return f"{scheme}://{bucket}/{prefix}" if prefix else f"{scheme}://{bucket}"


def _other(scheme: str, url: str) -> Location:
    """A file system that fsspec knows."""
    from fsspec.core import url_to_fs  # noqa: PLC0415 - most addresses need no file system
    from fsspec.registry import known_implementations, registry  # noqa: PLC0415

    if scheme not in {*known_implementations, *registry} or scheme in {"file", "local", "memory"}:
        raise UsageError(
            f"{scheme}://… is not a place that can hold a store: use {SERVED}, or a scheme that fsspec knows."
        )

    def opened() -> tuple[Any, str]:
        try:
            fs, root = url_to_fs(url)
        except ImportError as error:
            raise UsageError(f"{scheme}://… needs another package: {redact(str(error))}.") from error
        except (OSError, ValueError) as error:
            raise BackendError(f"{redact(url)} cannot be opened: {redact(str(error))[:200]}.") from None
        return fs, str(root)

    return FilesystemLocation(url, opened)
