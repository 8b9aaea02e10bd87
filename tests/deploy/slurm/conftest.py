"""Programs in the place of Engram's and Slurm's, and a real Slurm of one node."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = ROOT / "deploy" / "slurm"
REQUIRE = "ENGRAM_REQUIRE_SLURM"
FAKES = {
    # Runs what srun would run, after its options, and keeps them.
    "srun": 'while [ "${1#-}" != "$1" ]; do echo "$1" >>"$SEEN/srun"; shift; done\nexec "$@"',
    # A job that is queued again is ended.
    "scontrol": 'echo "$@" >>"$SEEN/scontrol"\nkill -TERM "$PPID"',
    # Each call is a line; ids count from 41.
    "sbatch": 'echo "$@" >>"$SEEN/sbatch"\necho "$((40 + $(wc -l <"$SEEN/sbatch")));cluster"',
}


@pytest.fixture
def seen(tmp_path) -> Path:
    """Folder in which each program that stands in for another keeps what it was told."""
    folder = tmp_path / "seen"
    folder.mkdir()
    return folder


@pytest.fixture
def stand_in(tmp_path, seen) -> Callable[..., dict[str, str]]:
    """Writes programs of sh, by name, beside those for Slurm's; gives the environment in which they are found."""

    def write(**programs: str) -> dict[str, str]:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for name, text in (FAKES | programs).items():
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)
        return {"PATH": f"{folder}:/usr/bin:/bin", "HOME": str(tmp_path), "USER": "someone", "SEEN": str(seen)}

    return write


@pytest.fixture
def programs(tmp_path) -> Path:
    """Folder with the console scripts of this very checkout."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in ("extractor", "trainer"):
        start = f'exec "{sys.executable}" -c "from {name}.cli import main; main()" "$@"'
        (folder / name).write_text(f'#!/bin/sh\nexport PYTHONPATH="{ROOT}" OMP_NUM_THREADS=1\n{start}\n')
        (folder / name).chmod(0o755)
    return folder


def _server() -> ModuleType:
    spec = importlib.util.spec_from_file_location("engram_test_slurm", ROOT / "tests" / "servers" / "slurm.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def slurm() -> Iterator[Any]:
    """A real Slurm; the test is skipped where there is none, or fails where it is required."""
    module = _server()
    if not module.installed():
        why = "Slurm is not installed (`python tests/servers/slurm.py install`, as root, on Debian)"
        if os.environ.get(REQUIRE):
            pytest.fail(why)
        pytest.skip(f"{why}: the scripts meet programs alone that stand in for it")
    folder = Path(tempfile.gettempdir()) / f"engram-slurm-{uuid4().hex[:8]}"
    try:
        module.apart("start", folder)
        yield module.running(folder)
    finally:
        module.kill(folder)
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def shellcheck() -> Callable[[Path], str]:
    """What shellcheck finds in a script."""

    def check(script: Path) -> str:
        program = Path(sys.executable).with_name("shellcheck")
        return subprocess.run([program, "--shell=bash", script], capture_output=True, text=True, check=False).stdout

    return check
