"""Says which code, libraries and sam2 this process runs; loads none of them, and knows no run and no cluster."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import extractor
import store_schema
from store_schema.origin import ABSENT, joined_digest, library_versions, source_digest

LIBRARIES = (
    "engram",
    "torch",
    "torchvision",
    "timm",
    "sam2",
    "SimpleITK",
    "pydicom",
    "numpy",
    "pillow",
    "scipy",
    "zarr",
)
"""Distributions that can change a number of an entry."""
SHOWING = ("cli.py", "commands", "doctor.py", "machine.py", "advice.py", "progress.py")
"""Parts of `extractor` that only show and ask: processes work together although they differ in them."""
SAM2_DISTRIBUTION, SAM2_VERSION = "sam2", "1.1.0"
SAM2_SOURCES = "93bd4d642ff661c837f71c8ba26f55280458e736361c47134f4e95ae01679bbd"
"""Digest of the modules of sam2 1.1.0 on PyPI, which are file for file those of Meta's repository."""


@dataclass(frozen=True)
class Sam2:
    """Which package answers to `import sam2`."""

    distributions: tuple[str, ...]
    """Names under which something was installed that brings the module; Meta's on PyPI is `sam2`, MedSAM2's fork `MedSAM2`."""
    version: str
    sources: str
    """Digest of its modules; `none` where there is no such module."""

    @property
    def known(self) -> bool:
        """Whether it is the code that entries are made with."""
        return self.sources == SAM2_SOURCES


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can change a number, and digests of sam2's code and ours."""
    return {**library_versions(LIBRARIES), "sam2 code": found_sam2().sources, "code": code_digest()}


@functools.cache
def code_digest() -> str:
    """Sha256 over our source files that can change a number: equal versions may still be different code."""
    ours, shared = (Path(str(package.__file__)).parent for package in (extractor, store_schema))
    return joined_digest([source_digest(shared), source_digest(ours, without=SHOWING)])


@functools.cache
def found_sam2() -> Sam2:
    """The sam2 that this process would import; it is looked at, not loaded."""
    spec = find_spec("sam2")
    folder = next(iter(spec.submodule_search_locations or ()), None) if spec is not None else None
    names = tuple(sorted(set(metadata.packages_distributions().get("sam2", ()))))
    version = metadata.version(names[0]) if names else ABSENT
    return Sam2(names, version, ABSENT if folder is None else source_digest(Path(folder)))
