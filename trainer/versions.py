"""Says which code and libraries a process runs, so that results are not mixed; knows no run and no cluster."""

import functools
import hashlib
import platform
from importlib import metadata
from pathlib import Path

import store_schema
import trainer

LIBRARIES = ("engram", "numpy", "pandas", "scipy", "scikit-survival", "torch", "zarr")
"""Distributions that can change a number of a run."""


SHOWING = ("report", "cli.py", "printed.py", "wording.py")
"""Parts of `trainer` that only show numbers: a run may be resumed although they changed."""


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can change a number, and a digest of our own code."""
    libraries = {name: metadata.version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), **libraries, "code": code_digest()}


@functools.cache
def code_digest() -> str:
    """Sha256 over the source files that can change a number: equal versions may still be different code."""
    digest = hashlib.sha256()
    for package in (store_schema, trainer):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*.py")):
            if package is trainer and path.relative_to(root).parts[0] in SHOWING:
                continue
            digest.update(str(path.relative_to(root.parent)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
