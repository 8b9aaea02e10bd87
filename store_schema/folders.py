"""Reads whole folders of files, here or at any address that can be listed; knows no image, table or store.

A folder counts as the files that lie in it and none below: such as the slices of one series.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from store_schema.errors import UsageError
from store_schema.files import HTTP, Fingerprint, Place, asked, fingerprint, local_path, nanoseconds, without_secret

MAX_LISTED = 20_000
"""More files than this in one folder are not downloaded: the address is that of an archive."""


@dataclass(frozen=True)
class _Listed:
    """One file of a remote folder."""

    address: str
    """As its file system calls it."""
    size_bytes: int
    tag: str | None
    """ETag or modification time; None where the server tells neither."""

    @property
    def name(self) -> str:
        return self.address.rstrip("/").rpartition("/")[2]


def fingerprint_of(place: Place) -> Fingerprint:
    """Of a file as `fingerprint` gives it; of a folder, of the names, sizes and times or ETags of all that lies in it.

    A folder's ETag is a digest: it names no file.

    Raises
    ------
    FileNotFoundError, PermissionError, OSError, UsageError
        See `fingerprint`.
    """
    path = local_path(place)
    if path is not None:
        return _local(path) if path.is_dir() else fingerprint(place)
    try:
        return fingerprint(place)
    except FileNotFoundError:
        listed = [] if _is_http(place) else _listed(place)
        if not listed:
            raise
    tags = {f"{one.name} {one.size_bytes} {one.tag}" for one in listed}
    decides = all(one.tag is not None for one in listed)
    return Fingerprint(sum(one.size_bytes for one in listed), etag=_digest(tags) if decides else None)


@contextlib.contextmanager
def local_folder(place: Place) -> Iterator[Path]:
    """The folder as a path of this machine while the block lasts; a local one is given as it is, a remote one is downloaded.

    Raises
    ------
    FileNotFoundError, PermissionError, OSError, UsageError
        See `fingerprint`; also where a download was cut short, or the address cannot be listed. No error names a file of the
        folder.
    """
    path = local_path(place)
    if path is not None:
        yield path
        return
    shown = without_secret(place)
    if _is_http(place):
        raise UsageError(
            f"{shown} means a folder, and folders cannot be listed over HTTP: give s3://…, gs://… or another address that can be "
            "listed, or one image file (NIfTI, NRRD, MetaImage)."
        )
    with tempfile.TemporaryDirectory(prefix="engram-folder-") as folder:
        _download(place, Path(folder))
        yield Path(folder)


def _download(place: Place, folder: Path) -> None:
    shown = without_secret(place)
    listed = _listed(place)
    if not listed:
        raise FileNotFoundError(f"{shown} is not there, or holds no files.")
    if len(listed) > MAX_LISTED:
        raise OSError(f"{shown} holds {len(listed)} files: expected one series, at most {MAX_LISTED} files.")
    targets = [folder / one.name for one in listed]
    try:
        asked(place, lambda fs, _: fs.get([one.address for one in listed], [str(target) for target in targets]))
    except (FileNotFoundError, PermissionError):
        raise
    except OSError:
        # What file systems say names the file that failed.
        raise OSError(f"a file of {shown} could not be read: check network, address and server.") from None
    short = [one for one, target in zip(listed, targets, strict=True) if _size(target) != one.size_bytes]
    if short:
        raise OSError(f"{shown} came with {len(short)} of {len(listed)} files cut short: try again.")


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _listed(place: Place) -> list[_Listed]:
    """Files of a remote folder in the order of their names; refuses one with folders below."""

    def ask(fs: Any, name: str) -> list[Mapping[str, Any]]:
        fs.invalidate_cache()
        found: list[Mapping[str, Any]] = fs.ls(name, detail=True)
        # Object stores list the folder's own marker beside its files.
        return [one for one in found if str(one["name"]).strip("/") != name.strip("/")]

    found = asked(place, ask)
    below = sum(one.get("type") == "directory" for one in found)
    if below:
        raise OSError(
            f"{without_secret(place)} holds {below} folder(s): expected a folder with the files of one series and nothing below it."
        )
    return sorted((_one(entry) for entry in found), key=lambda one: one.name)


def _one(entry: Mapping[str, Any]) -> _Listed:
    etag, modified = entry.get("ETag") or entry.get("etag"), nanoseconds(entry)
    tag = str(etag).strip('"') if etag else (str(modified) if modified is not None else None)
    return _Listed(str(entry["name"]), int(entry.get("size") or 0), tag)


def _local(folder: Path) -> Fingerprint:
    lines: set[str] = set()
    total_bytes = 0
    for entry in os.scandir(folder):
        try:
            status = entry.stat()
        except OSError:
            # A link that leads nowhere: who reads the folder says so.
            lines.add(f"{entry.name} gone")
            continue
        total_bytes += status.st_size
        lines.add(f"{entry.name} {status.st_size} {status.st_mtime_ns}")
    return Fingerprint(total_bytes, etag=_digest(lines))


def _digest(lines: set[str]) -> str:
    data = "\n".join(sorted(lines)).encode("utf-8", "surrogateescape")
    return f"folder-{hashlib.sha256(data).hexdigest()}"


def _is_http(place: Place) -> bool:
    return urlsplit(without_secret(place)).scheme.lower() in HTTP
