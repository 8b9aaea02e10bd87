"""Says which code and libraries a process runs, so that results of different ones are not mixed; knows no program and no cluster.

Equal versions may still be different code (an edited checkout, a fork under the same name), so that source files are digested too.
"""

from __future__ import annotations

import functools
import hashlib
import platform
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

ABSENT = "none"
SHOWN = 12
"""Characters of a version or digest that an error repeats."""


def library_versions(names: Iterable[str]) -> dict[str, str]:
    """Version of Python and of each distribution; `none` where it is not installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in names}


def source_digest(folder: Path, *, without: Collection[str] = ()) -> str:
    """Sha256 over the Python files below a package's folder, by sorted path.

    Parameters
    ----------
    without
        Files or folders directly in `folder` that are left out.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        if path.relative_to(folder).parts[0] not in without:
            digest.update(str(path.relative_to(folder.parent)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def joined_digest(digests: Sequence[str]) -> str:
    """One digest for several, in this order."""
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def differing(there: Mapping[str, str], here: Mapping[str, str], *, here_is: str = "the client") -> str:
    """What another process runs that this one does not; empty where they agree."""
    names = [name for name in here if there.get(name) != here[name]]
    return ", ".join(f"{name} {there.get(name, ABSENT)[:SHOWN]} ({here_is} {here[name][:SHOWN]})" for name in names)


@functools.cache
def _version(name: str) -> str:
    """As it was at the first question: what is installed later is not what this process has loaded."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ABSENT
