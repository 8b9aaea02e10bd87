"""Reads files that a program is given, here or at any address that fsspec serves; knows no store, no image and no table.

A secret in an address (the query of a presigned one, a password) stays in this module and this process: everybody else holds the
address without it, so that it cannot get into records, logs, errors or pickled tasks.
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from store_schema.errors import UsageError
from store_schema.redact import redact

Place = str | os.PathLike[str]
"""A local path, or an address such as s3://bucket/study/ct.nii.gz."""
Beside = Callable[[Path], Sequence[str]]
"""Names the further files that a file needs in its folder."""

TRIES = 3
"""Of one request that the network or the server failed; file systems try again by themselves as well."""
SILENCE_S, CONNECT_S = 120, 10
"""How long an HTTP server may say nothing; a long download as such has no limit."""
HTTP = {"http", "https"}
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
_LOGIN = re.compile(r"(?<=://)[^/:@\s]*:(?!\d+/)[^@\s]*@")
"""User and password, also one with slashes that should have been encoded; a port is none."""
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_FOREIGN = {
    "aiohttp": ("ClientError",),
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "gcsfs.retry": ("HttpError",),
    "google.auth.exceptions": ("GoogleAuthError",),
    "azure.core.exceptions": ("AzureError",),
}
"""What file systems raise besides OSError, by the module that defines it."""
_secrets: dict[str, str] = {}
"""Whole address by the address without its secret."""


@dataclass(frozen=True)
class Fingerprint:
    """What tells one version of a file from another without reading it."""

    size_bytes: int
    mtime_ns: int | None = None
    """Modification time in nanoseconds since 1970; None where an ETag says more."""
    etag: str | None = None

    @property
    def decides(self) -> bool:
        """Whether an equal fingerprint means an equal file; some HTTP servers give a size and nothing else."""
        return self.mtime_ns is not None or self.etag is not None


def is_remote(place: Place) -> bool:
    """Whether a place is an address rather than a path of this machine."""
    return local_path(place) is None


def local_path(place: Place) -> Path | None:
    """The path that a place means; None where it is remote."""
    text = os.fspath(place)
    if not _ADDRESS.match(text):
        return Path(text)
    scheme, _, rest = text.partition("://")
    local = rest.removeprefix("localhost")
    return Path(unquote(local)) if scheme.lower() == "file" and local.startswith("/") else None


def without_secret(place: Place) -> str:
    """The place as it may be shown, recorded and sent; what was taken out of it is remembered in this process alone.

    Two addresses that differ in their query stay two: a digest of the whole address stands for what was taken out.
    """
    text = os.fspath(place)
    if local_path(text) is not None or text in _secrets:
        return text
    parts = urlsplit(_LOGIN.sub("", text))
    # elsewhere a name alone is no secret: abfs://CONTAINER@ACCOUNT, sftp://USER@HOST
    host = parts.netloc.rpartition("@")[2] if parts.scheme.lower() in HTTP else parts.netloc
    bare = urlunsplit((parts.scheme, host, parts.path, "", ""))
    if bare == text or (not parts.query and "@" not in text):
        return text
    bare += f"#{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    _secrets[bare] = text
    return bare


def remembered() -> Mapping[str, str]:
    """What `without_secret` took out, for a child process on this machine that is to open the same files; for nobody else."""
    return dict(_secrets)


def remember(secrets: Mapping[str, str]) -> None:
    """Takes over what the parent process remembers."""
    _secrets.update(secrets)


def name_of(place: Place) -> str:
    """Name of a file without its folder."""
    path = local_path(place)
    return urlsplit(without_secret(place)).path.rpartition("/")[2] if path is None else path.name


def folder_of(place: Place) -> str:
    """Where a file lies; of an address without any secret."""
    path = local_path(place)
    if path is not None:
        return os.path.abspath(path.parent)  # noqa: PTH100 - resolve() would follow links
    parts = urlsplit(without_secret(place))
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rpartition("/")[0], "", ""))


def resolve(text: str, beside: Place) -> str:
    """The place that a text in a file means: addresses and absolute paths as they are, others relative to the file's folder.

    A symbolic link keeps its own name, since its target's may say nothing of the format.
    """
    path = local_path(text)
    if path is None:
        # A folder is the same with a slash after its name, and without.
        return without_secret(text.rstrip("/") if "?" not in text else text)
    if path.is_absolute() or not is_remote(beside):
        return os.path.abspath(Path(folder_of(beside)) / path)  # noqa: PTH100 - resolve() would follow links
    parts = urlsplit(folder_of(beside))
    whole = os.path.normpath(f"{parts.path}/{text}" if parts.path else text)
    return urlunsplit((parts.scheme, parts.netloc, whole, "", ""))


def record_name(place: Place) -> str:
    """How a record names a file: an address without its secret; a path as its name after a digest of its folder.

    The digest tells files of one name apart and does not tell who has them where.
    """
    path = local_path(place)
    if path is None:
        return without_secret(place).partition("#")[0]
    # A name that is no UTF-8 can stand in no record: its odd bytes are written out.
    name = path.name.encode(errors="backslashreplace").decode()
    return f"{hashlib.sha256(os.fsencode(folder_of(place))).hexdigest()[:16]}/{name}"


def fingerprint(place: Place) -> Fingerprint:
    """Size, and modification time or ETag, without reading the file.

    Raises
    ------
    FileNotFoundError, PermissionError, OSError
        If there is no such file, it may not be read, or nobody answers.
    UsageError
        If nothing here can read such an address; names the package that could.
    """
    path = local_path(place)
    if path is not None:
        status = path.stat()
        return Fingerprint(status.st_size, status.st_mtime_ns)
    info = asked(place, _info)
    etag = info.get("ETag") or info.get("etag")
    modified = None if etag else nanoseconds(info)
    return Fingerprint(int(info.get("size") or 0), modified, str(etag).strip('"') if etag else None)


@contextlib.contextmanager
def local_file(place: Place, *, beside: Beside | None = None) -> Iterator[Path]:
    """The file as a path of this machine while the block lasts; a local one is given as it is.

    A remote one is downloaded whole into a temporary folder, under a name that keeps its suffix.

    Parameters
    ----------
    beside
        Takes the downloaded file and names those that it needs in its folder, such as the voxels of a header; they are fetched too.

    Raises
    ------
    FileNotFoundError, PermissionError, OSError, UsageError
        See `fingerprint`; also where the download was cut short.
    """
    path = local_path(place)
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="engram-file-") as folder:
        whole = Path(folder, f"file{_suffix(name_of(place))}")
        _download(place, whole)
        for name in beside(whole) if beside else ():
            _download(_neighbour(place, name), Path(folder, name))
        yield whole


def read_text(place: Place) -> str:
    """A small file as text in UTF-8.

    Raises
    ------
    FileNotFoundError, PermissionError, OSError, UsageError
        See `fingerprint`.
    UnicodeDecodeError
        If it is no such text.
    """
    path = local_path(place)
    data = asked(place, lambda fs, name: bytes(fs.cat_file(name))) if path is None else path.read_bytes()
    return data.decode()


def read_start(place: Place, length: int) -> bytes:
    """The first bytes of a file, as many as there are.

    Raises
    ------
    FileNotFoundError, PermissionError, OSError, UsageError
        See `fingerprint`.
    """
    path = local_path(place)
    if path is None:
        return asked(place, lambda fs, name: bytes(fs.cat_file(name, start=0, end=length)))[:length]
    with path.open("rb") as file:
        return file.read(length)


def _download(place: Place, target: Path) -> None:
    """The whole file or none: it gets its name when it is complete."""
    expected = fingerprint(place)
    part = target.with_name(f"{target.name}.part")
    asked(place, lambda fs, name: fs.get_file(name, str(part)))
    size_bytes = part.stat().st_size
    if expected.size_bytes and size_bytes != expected.size_bytes:
        raise OSError(
            f"{without_secret(place)} came with {size_bytes} bytes, {expected.size_bytes} expected: try again."
        )
    part.rename(target)


def _neighbour(place: Place, name: str) -> str:
    """A file beside another; only a plain name, since a header may come from anybody."""
    shown, plain = without_secret(place), name.removeprefix("./")
    if plain in {"", ".", ".."} or "/" in plain or "\\" in plain:
        raise OSError(f"{shown} names '{name[:80]}' as the file of its voxels: expected a file in the same folder.")
    if shown in _secrets:
        raise OSError(
            f"{shown} is presigned and names another file, '{name[:80]}', whose address nobody signed: give header and voxels "
            "as one file, or an address that needs no signature."
        )
    return f"{folder_of(place)}/{plain}"


def _suffix(name: str) -> str:
    path = Path(name)
    return "".join(path.suffixes[-2:]) if path.suffix.lower() in COMPRESSIONS else path.suffix


def _info(fs: Any, name: str) -> dict[str, Any]:
    fs.invalidate_cache()
    info: dict[str, Any] = fs.info(name)
    if info.get("type") == "directory":
        raise FileNotFoundError(name)
    return info


def nanoseconds(info: Mapping[str, Any]) -> int | None:
    """When a file was modified, as its file system tells it: each has a name of its own for that."""
    for name in ("mtime", "LastModified", "Last-Modified", "last_modified", "modified", "updated", "created"):
        found = info.get(name)
        if isinstance(found, str):
            found = email.utils.parsedate_to_datetime(found) if name == "Last-Modified" else None
        if isinstance(found, datetime):
            found = found.timestamp()
        if isinstance(found, int | float):
            return int(found * 1_000_000_000)
    return None


def asked[T](place: Place, ask: Callable[[Any, str], T]) -> T:
    """The answer of the file system behind an address; what it raises is told without its secret.

    Raises
    ------
    FileNotFoundError, PermissionError, OSError, UsageError
        See `fingerprint`.
    """
    shown = without_secret(place)
    failure: Exception | None = None
    for attempt in range(TRIES):
        if failure is not None:
            time.sleep(0.2 * 2**attempt)
        try:
            fs, name = _opened(shown)
            return ask(fs, name)
        except _failures() as error:
            failure = _told(shown, error)
        if isinstance(failure, FileNotFoundError | PermissionError):
            break
    assert failure is not None
    # Outside of the handler: the error that is told must not carry the one that may hold the whole address.
    raise failure


def _opened(shown: str) -> tuple[Any, str]:
    """The file system behind an address, and the name of the file in it."""
    from fsspec.core import url_to_fs  # noqa: PLC0415 - local files need no file system
    from fsspec.registry import known_implementations, registry  # noqa: PLC0415

    scheme = shown.partition("://")[0].lower()
    if scheme not in {*known_implementations, *registry}:
        raise UsageError(
            f"{redact(shown)} cannot be read: nothing here knows {scheme}://. Expected a path, or an address such as s3://…, "
            "gs://…, az://…, https://… or of another scheme that fsspec knows."
        )
    whole = _secrets.get(shown, shown)
    try:
        fs, name = url_to_fs(whole, **(_http_options(whole) if scheme in HTTP else {}))
    except ImportError as error:
        raise UsageError(
            f"{redact(shown)} cannot be read: {scheme}:// needs another package. {redact(str(error))}."
        ) from None
    return fs, str(name)


def _http_options(url: str) -> dict[str, Any]:
    from aiohttp import ClientTimeout  # noqa: PLC0415 - other schemes need it not

    timeout = ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
    # A signature covers an address as it was written: it must not be encoded once more.
    return {"encoded": "%" in url, "client_kwargs": {"timeout": timeout, "trust_env": True}}


def _failures() -> tuple[type[Exception], ...]:
    """What file systems raise; a library that is not loaded raised nothing."""
    found = (getattr(sys.modules.get(module), name, None) for module, names in _FOREIGN.items() for name in names)
    return (OSError, ValueError, RuntimeError, *(one for one in found if one is not None))


def _told(shown: str, error: Exception) -> OSError:
    """The error as it may be told: what is wrong with which file, and what to do."""
    cause = (
        error.__cause__ if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception) else error
    )
    status = _status(cause)
    where = redact(shown)
    if status in {401, 403} or isinstance(cause, PermissionError) or type(cause).__name__ == "NoCredentialsError":
        signed = " (a presigned address may have expired)" if shown in _secrets else ""
        return PermissionError(f"{where} may not be read: check the credentials and their rights{signed}.")
    if status in {404, 410} or (isinstance(cause, FileNotFoundError) and status is None):
        return FileNotFoundError(f"{where} is not there.")
    said = redact(str(cause)).replace(_secrets.get(shown, shown), where)
    reason = f"the server answered {status}" if status else f"{type(cause).__name__}: {said[:200]}"
    return OSError(f"{where} could not be read ({reason}): check network, address and server.")


def _status(error: Exception) -> int | None:
    """HTTP status that an error tells, whichever client raised it."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):
        found = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(error, "status", None) or getattr(error, "status_code", None) or getattr(error, "code", None)
    return found if isinstance(found, int) else None
