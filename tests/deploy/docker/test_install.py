"""What the Dockerfiles' RUN steps call, run without an image: from what a build is given alone, in an empty environment.

Libraries come from uv's cache where an earlier installation left them, by hard links.
"""

import filecmp
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

PROGRAMS = {"extractor": "extractor", "service": "feature-store", "trainer": "trainer"}
HEAVY = {"extractor": ("torch", "sam2", "SimpleITK"), "service": ("fastapi", "psycopg"), "trainer": ("torch", "sksurv")}
INSTALLERS = {"pip", "uv", "hatchling", "wheel", "build"}
LOCKED = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", re.MULTILINE)


def clean_environment() -> dict[str, str]:
    """A Python 3.12 with pip, the cache of uv, and nothing else of this machine."""
    cache = os.environ.get("UV_CACHE_DIR") or str(Path.home() / ".cache" / "uv")
    return {"PATH": f"{Path(sys.base_prefix) / 'bin'}:/usr/bin:/bin", "HOME": "/nonexistent", "UV_CACHE_DIR": cache}


def run_step(text: str, source: Path, places: dict[str, Path]) -> None:
    """A RUN step that calls a script, as the build does it, with its folders moved."""
    words = [word for word in text.split() if not word.startswith("--mount=")]
    command = ["sh", str(source / words[0]), *(str(places.get(word, word)) for word in words[1:])]
    done = subprocess.run(command, cwd="/", env=clean_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def build(
    tmp_path: Path, dockerfiles, copy_context: Callable[[Path], Path]
) -> Iterator[Callable[[str], SimpleNamespace]]:
    """Installs an extra as its Dockerfile does: every RUN step of the first stages, then the copies of the last one."""

    def made(extra: str) -> SimpleNamespace:
        source, target, top = copy_context(tmp_path / "src"), tmp_path / "engram", tmp_path / "top"
        places = {"/opt/engram": target, "/opt/programs": top}
        for stage in dockerfiles[extra][:-1]:
            (step,) = stage.all("RUN")
            run_step(step, source, places)
        shutil.copytree(top, target, symlinks=True, dirs_exist_ok=True)
        return SimpleNamespace(source=source, target=target, top=top, python=target / "bin" / "python")

    yield made
    # gigabytes otherwise, kept until the third run from now
    shutil.rmtree(tmp_path, ignore_errors=True)


def said(*command: object) -> str:
    """What an installed program prints, in an empty environment."""
    done = subprocess.run([str(one) for one in command], cwd="/", env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def distributions(python: Path) -> dict[str, str]:
    """Name and version of everything installed."""
    code = "from importlib.metadata import distributions as d\nfor one in d(): print(one.name, one.version)"
    rows = (line.split() for line in said(python, "-I", "-c", code).splitlines())
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in rows}


def check_programs(made: SimpleNamespace, extra: str) -> None:
    """They start, and are the installed copy of this version."""
    assert "version 0.1.0" in said(made.target / "bin" / PROGRAMS[extra], "--version")
    assert "version 0.1.0" in said(made.target / "bin" / "store-schema", "--version")
    where = said(made.python, "-I", "-c", "import store_schema; print(store_schema.__file__)").strip()
    assert Path(where).is_relative_to(made.target)
    (folder,) = (made.target / "lib").glob("python3.12/site-packages")
    for package in ("extractor", "services", "store_schema", "trainer"):
        same = filecmp.dircmp(made.source / package, folder / package, ignore=["__pycache__"])
        assert (same.left_only, same.right_only, same.diff_files) == ([], [], []), package


def check_libraries(made: SimpleNamespace, extra: str) -> None:
    """Those of the lock and no other; they can be imported, and no compiler or installer is among them."""
    locked = dict(LOCKED.findall((made.source / "requirements" / f"{extra}.txt").read_text()))
    there = distributions(made.python)
    assert there.pop("engram") == "0.1.0"
    assert there == {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in locked.items()}
    assert not INSTALLERS & there.keys()
    code = "import sys\n" + "\n".join(f"import {name}" for name in HEAVY[extra])
    code += f"\nprint(*({INSTALLERS!r} & sys.modules.keys()))"
    assert said(made.python, "-I", "-c", code).strip() == ""


def check_files(made: SimpleNamespace) -> None:
    """Nothing can be changed by who is not root, nothing is compiled at run time, and nothing points to where it was built."""
    for path in made.target.rglob("*"):
        mode = path.lstat().st_mode
        if not stat.S_ISLNK(mode):
            assert mode & 0o022 == 0, path
            assert mode & (stat.S_ISUID | stat.S_ISGID) == 0, path
    for module in ("store_schema/keys", "numpy/__init__", "zarr/__init__"):
        (compiled,) = (made.target / "lib/python3.12/site-packages").glob(
            f"{module.rpartition('/')[0]}/__pycache__/{module.rpartition('/')[2]}.*.pyc"
        )
        # PEP 552: taken as it is, whatever time its source file has in a layer
        assert compiled.read_bytes()[4:8] == b"\x01\x00\x00\x00"
    assert str(made.source) not in "".join(path.read_text() for path in (made.target / "bin").glob("feature-store"))


def check(made: SimpleNamespace, extra: str) -> None:
    """All that is promised of an installed folder."""
    check_programs(made, extra)
    check_libraries(made, extra)
    check_files(made)


def test_the_services_folder_is_what_its_lock_says(build):
    made = build("service")
    check(made, "service")
    assert made.top.stat().st_mode & 0o022 == 0
    # what changes with a commit is small: the libraries lie in a layer of their own
    assert sum(path.stat().st_size for path in made.top.rglob("*") if path.is_file()) < 32 * 2**20


@pytest.mark.timeout(1200)
def test_the_extractors_folder_is_what_its_lock_says(build):
    """sam2 is built there from source."""
    made = build("extractor")
    check(made, "extractor")
    # the scheduler of its workers is the same image
    assert "Launch a Dask scheduler" in said(made.target / "bin" / "dask", "scheduler", "--help")


@pytest.mark.timeout(1200)
def test_the_trainers_folder_is_what_its_lock_says(build):
    made = build("trainer")
    check(made, "trainer")
    assert "Launch a Dask scheduler" in said(made.target / "bin" / "dask", "scheduler", "--help")


def test_one_call_installs_libraries_and_programs(tmp_path, copy_context):
    """Outside of images, as on a login node."""
    source, target = copy_context(tmp_path / "src"), tmp_path / "engram"
    run_step("deploy/docker/install.sh service TARGET", source, {"TARGET": target})
    assert "version 0.1.0" in said(target / "bin" / "feature-store", "--version")
    assert not (target / ".lock").exists()


def test_a_library_that_is_not_the_locked_one_is_not_installed(tmp_path, copy_context):
    source, target = copy_context(tmp_path / "src"), tmp_path / "engram"
    lock = source / "requirements" / "service.txt"
    text = lock.read_text()
    begin = text.index("\nclick==")
    end = text.index("\n    # via", begin)
    altered = re.sub(r"sha256:[0-9a-f]{64}", "sha256:" + "0" * 64, text[begin:end])
    lock.write_text(text[:begin] + altered + text[end:])
    command = ["sh", str(source / "deploy/docker/install.sh"), "service", str(target)]
    done = subprocess.run(command, cwd="/", env=clean_environment(), capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "click" in done.stderr
    assert not (target / "bin" / "feature-store").exists()


def test_every_program_of_the_project_is_known_here():
    text = (Path(__file__).resolve().parents[3] / "pyproject.toml").read_text()
    assert set(PROGRAMS.values()) | {"store-schema"} == set(tomllib.loads(text)["project"]["scripts"])
