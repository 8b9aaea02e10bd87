"""The scripts of `deploy/`: checked by shellcheck, and refusing what they cannot do before they do anything."""

import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path.relative_to(ROOT) for path in (ROOT / "deploy").rglob("*.sh"))
OURS = [path for path in SCRIPTS if path.parts[1] in {"compose", "docker", "k8s", "tls"}]
INSTALL = ROOT / "deploy/docker/install.sh"


def test_there_are_scripts():
    assert {"deploy/docker/install.sh", "deploy/tls/make-certs.sh"} <= {str(path) for path in SCRIPTS}


def shellcheck(script: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "shellcheck"), "--severity=style", str(script)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_shellcheck_finds_nothing(script):
    done = shellcheck(ROOT / script)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


@pytest.mark.parametrize("script", OURS, ids=str)
def test_a_script_can_be_started_and_stops_at_the_first_error(script):
    text = (ROOT / script).read_text()
    assert os.access(ROOT / script, os.X_OK)
    assert text.startswith(("#!/bin/sh\n", "#!/usr/bin/env bash\n"))
    assert "\nset -eu" in text


def test_shellcheck_would_find_something(tmp_path):
    bad = tmp_path / "bad.sh"
    bad.write_text("#!/bin/sh\nrm $1/*\n")
    assert shellcheck(bad).returncode == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["service"], "expected EXTRA TARGET"),
        (["dev", "TARGET"], "expected extractor, trainer or service, got 'dev'"),
        (["service", "TARGET", "all"], "expected libraries or programs, got 'all'"),
        (["service", "TARGET", "libraries", "TOP"], "takes no TOP"),
        (["service", "TARGET", "programs"], "needs a folder TOP"),
        (["service", "TARGET", "programs", "TOP"], "holds no libraries"),
        (["service", "THERE"], "is there already"),
    ],
)
def test_install_refuses_a_call_that_is_wrong(tmp_path, arguments, said):
    (tmp_path / "THERE").mkdir()
    done = subprocess.run(["sh", str(INSTALL), *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["THERE"]


def test_install_refuses_another_python(tmp_path):
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\necho 3.11\n")
    python.chmod(0o755)
    command, env = ["sh", str(INSTALL), "service", str(tmp_path / "made")], {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "expected Python 3.12" in done.stderr


ROW = "   0: {local} {remote} {state} 00000000:00000000 00:00000000 00000000 10001 0 1 1 0 20 4 30 10 -1\n"
HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


@pytest.mark.parametrize(
    ("remote", "state", "found"),
    [
        ("0300000A:2252", "01", True),  # established, to port 8786
        ("0300000A:2253", "01", False),  # to another port
        ("0300000A:2252", "06", False),  # closed and waiting
        ("0300000A:2252", "02", False),  # asked for and not answered
    ],
)
def test_a_worker_is_connected_where_a_connection_to_its_scheduler_stands(remote, state, found):
    path = ROOT / "deploy/compose/scripts/connected.py"
    spec = spec_from_file_location("engram_connected", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    table = HEADER + ROW.format(local="0200000A:8AE2", remote=remote, state=state)
    assert module.connected([HEADER, table], 8786) is found


def test_nothing_is_connected_to_a_port_that_nobody_has():
    command = [sys.executable, str(ROOT / "deploy/compose/scripts/connected.py"), "1"]
    assert subprocess.run(command, check=False).returncode == 1
