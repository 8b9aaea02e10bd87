"""The programs as a user calls them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def run() -> Callable[..., None]:
    """Runs a console script on one thread, and shows what it printed where it failed."""

    def call(program: str, *arguments: str) -> None:
        command = [str(Path(sys.executable).parent / program), *arguments]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    return call
