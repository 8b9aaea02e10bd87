"""What tests of compose.yaml share: the file as compose reads it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

FILE = Path(__file__).resolve().parents[3] / "deploy/compose/compose.yaml"
NEEDED = ("ENGRAM_POSTGRES_PASSWORD", "ENGRAM_S3_ACCESS_KEY", "ENGRAM_S3_SECRET_KEY", "ENGRAM_S3_SIGNING_KEY")


def tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def resolve(env_file: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """As compose reads it: variables put in, anchors merged. A podman that answers anything is enough for that."""
    command = [tool("podman-compose"), "--podman-path", "/bin/echo", "--env-file", str(env_file), "--file", str(FILE)]
    command += ["--profile", "gpu", "--profile", "demo", "config"]
    env = {"PATH": os.environ["PATH"], "HOME": str(env_file.parent)} | environment
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


@pytest.fixture(scope="module")
def env_file(tmp_path_factory) -> Path:
    """What an operator fills in."""
    path = tmp_path_factory.mktemp("compose") / "env"
    path.write_text("".join(f"{name}=given-{name.lower()}\n" for name in NEEDED))
    return path


@pytest.fixture(scope="module")
def resolved(env_file) -> dict[str, Any]:
    done = resolve(env_file)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


@pytest.fixture(scope="module")
def services(resolved) -> dict[str, dict[str, Any]]:
    return resolved["services"]
