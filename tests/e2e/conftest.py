"""The programs as a user calls them."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TESTS = Path(__file__).parent.parent
REQUIRE = "ENGRAM_REQUIRE_CHROMIUM"


@pytest.fixture(scope="session")
def run() -> Callable[..., None]:
    """Runs a console script on one thread, and shows what it printed where it failed."""

    def call(program: str, *arguments: str) -> None:
        command = [str(Path(sys.executable).parent / program), *arguments]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    return call


def sibling(folder: str, name: str) -> ModuleType:
    """A module of the tests that is no test."""
    spec = importlib.util.spec_from_file_location(f"engram_{folder}_{name}", TESTS / folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    if spec.name not in sys.modules:
        sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[spec.name]


@pytest.fixture(scope="session")
def load() -> Callable[[str, str], ModuleType]:
    """Loads a module of the tests that is no test, by folder and name."""
    return sibling


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, or word of why there is none."""
    chromium = sibling("servers", "chromium")
    if not chromium.installed():
        why = "Chromium is not installed (`python tests/servers/chromium.py install`, as root, on Debian)"
        if os.environ.get(REQUIRE):
            pytest.fail(why)
        pytest.skip(f"{why}: the pages are looked at in no browser")
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - only these tests need it

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium.PROGRAM, args=list(chromium.ARGUMENTS))
        yield found
        found.close()
