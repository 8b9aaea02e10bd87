"""Says which code and libraries a process runs, so that results are not mixed; knows no run and no cluster."""

import functools
from pathlib import Path

import store_schema
import trainer
from store_schema.origin import joined_digest, library_versions, source_digest

LIBRARIES = ("engram", "numpy", "pandas", "scipy", "scikit-survival", "torch", "zarr")
"""Distributions that can change a number of a run."""


SHOWING = (
    "report",
    "cli.py",
    "explain_command.py",
    "patient_free.py",
    "printed.py",
    "publish_commands.py",
    "published_records.py",
    "publishing.py",
    "quality",
    "robustness",
    "wording.py",
    "worker_command.py",
)
"""Parts of `trainer` that only show numbers, or judge what a run has made: a run may be resumed although they changed."""


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can change a number, and a digest of our own code."""
    return {**library_versions(LIBRARIES), "code": code_digest()}


@functools.cache
def code_digest() -> str:
    """Sha256 over the source files that can change a number: equal versions may still be different code."""
    ours, shared = (Path(str(package.__file__)).parent for package in (trainer, store_schema))
    return joined_digest([source_digest(shared), source_digest(ours, without=SHOWING)])
