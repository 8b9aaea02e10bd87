"""What tests of `deploy/` share: its files, the tools that look at them, and what a build of an image is given."""

import functools
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"


def tool(name: str) -> str:
    """A program that came with the packages of the `dev` extra."""
    path = Path(sys.executable).parent / name
    assert path.exists(), f"{path} is not there: `make test` installs it"
    return str(path)


@pytest.fixture(scope="session")
def run_tool() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a tool of the `dev` extra; whoever calls looks at its exit status."""

    def call(name: str, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        command = [tool(name), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]

    return call


# What a build is given


def _pattern(text: str) -> re.Pattern[str]:
    """A line of .dockerignore as Docker takes it: `*` within a name, `**` over folders, and all that lies below."""
    parts = re.split(r"(\*\*/?|\*|\?)", text.strip("/"))
    wild = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(wild.get(part, re.escape(part)) for part in parts) + "(?:/.*)?")


def lets_through(ignore: str, path: str) -> bool:
    """Whether a .dockerignore leaves a file of the repository in what a build is given; the last line that fits decides."""
    let = True
    for line in ignore.splitlines():
        text = line.strip()
        if text and not text.startswith("#") and _pattern(text.removeprefix("!")).fullmatch(path):
            let = text.startswith("!")
    return let


def _tracked() -> list[str]:
    """Files of the repository, with those that are about to be added."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [path for path in done.stdout.splitlines() if (ROOT / path).is_file() and not (ROOT / path).is_symlink()]


@pytest.fixture(scope="session")
def let_through() -> Callable[[str], bool]:
    """Whether a build of an image would be given a file of such a path."""
    return functools.partial(lets_through, (ROOT / ".dockerignore").read_text())


@pytest.fixture(scope="session")
def context(let_through: Callable[[str], bool]) -> list[str]:
    """Files that a build of an image is given."""
    return [path for path in _tracked() if let_through(path)]


@pytest.fixture(scope="session")
def copy_context(context: list[str]) -> Callable[[Path], Path]:
    """Copies what a build of an image is given, and nothing else, to a folder."""

    def copy(folder: Path) -> Path:
        for path in context:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / path, folder / path)
        return folder

    return copy


# Dockerfiles


@dataclass(frozen=True)
class Stage:
    """One stage of a Dockerfile: its name and its instructions in order."""

    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        """What stands behind each such instruction."""
        return [text for word, text in self.steps if word == instruction]


def _stages(text: str) -> list[Stage]:
    """Stages of a Dockerfile; arguments before the first one are left out."""
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"(?m)^\s*#.*\n", "", text))
    found: list[Stage] = []
    for line in filter(str.strip, joined.splitlines()):
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            found.append(Stage(rest.partition(" AS ")[2] or "final"))
        elif found:
            found[-1].steps.append((word, re.sub(r"\s+", " ", rest)))
    return found


EXTRAS = ("extractor", "service", "trainer")


@pytest.fixture(scope="session")
def dockerfiles() -> dict[str, list[Stage]]:
    """Stages of each Dockerfile, by the extra that its image holds."""
    return {extra: _stages((DEPLOY / "docker" / f"{extra}.Dockerfile").read_text()) for extra in EXTRAS}
