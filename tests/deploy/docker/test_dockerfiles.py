"""The Dockerfiles, as far as they can be judged without building: linted, and each instruction held against what it is for."""

import http.server
import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
EXTRAS = ("extractor", "service", "trainer")
PROGRAMS = {"extractor": "extractor", "service": "feature-store", "trainer": "trainer"}


def test_there_is_a_dockerfile_for_each_image_and_no_other():
    found = sorted(path.name for path in (ROOT / "deploy").rglob("*Dockerfile*"))
    assert found == [f"{extra}.Dockerfile" for extra in EXTRAS]


@pytest.mark.parametrize("extra", EXTRAS)
def test_hadolint_finds_nothing(run_tool, extra):
    folder = ROOT / "deploy/docker"
    done = run_tool("hadolint", "--config", folder / ".hadolint.yaml", folder / f"{extra}.Dockerfile")
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_hadolint_would_find_something(run_tool, tmp_path):
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian:latest\nRUN apt-get install curl\n")
    done = run_tool("hadolint", "--config", ROOT / "deploy/docker/.hadolint.yaml", bad)
    assert done.returncode == 1
    assert "DL3007" in done.stdout


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_final_image_runs_as_a_user_without_rights(dockerfiles, extra):
    final = dockerfiles[extra][-1]
    assert final.all("USER") == ["10001:10001"]
    after = [word for word, _ in final.steps[final.steps.index(("USER", "10001:10001")) :]]
    assert not {"RUN", "COPY", "ADD"} & set(after)


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_final_image_takes_nothing_but_what_was_installed(dockerfiles, extra):
    final = dockerfiles[extra][-1]
    assert final.all("COPY") == [
        "--from=libraries /opt/engram /opt/engram",
        "--from=programs /opt/programs /opt/engram",
    ]
    assert final.all("ADD") == []
    (run,) = final.all("RUN")
    assert not re.search(r"\b(apt|apt-get|curl|wget|git|gcc|uv|pip install)\b", run)
    assert "pip uninstall" in run


@pytest.mark.parametrize("extra", EXTRAS)
def test_stages_stand_on_one_image_that_can_be_pinned(extra):
    text = (ROOT / f"deploy/docker/{extra}.Dockerfile").read_text()
    assert re.search(r"^ARG PYTHON=python:3\.12-slim-bookworm$", text, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${PYTHON}", "libraries"}


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_copied_source_is_there_and_let_through(dockerfiles, context, extra):
    for stage in dockerfiles[extra][:-1]:
        for copied in stage.all("COPY"):
            for source in copied.split()[:-1]:
                assert any(path == source or path.startswith(f"{source}/") for path in context), source


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_build_gives_install_sh_all_that_it_reads(dockerfiles, context, extra):
    """Every file that the build is given is copied by one of the stages, but for the other locks."""
    copied = {word for stage in dockerfiles[extra] for text in stage.all("COPY") for word in text.split()[:-1]}
    left = [path for path in context if not any(path == one or path.startswith(f"{one}/") for one in copied)]
    assert sorted(left) == sorted(f"requirements/{other}.txt" for other in ("dev", *EXTRAS) if other != extra)


def test_a_build_is_given_no_data_no_secret_and_no_environment(context):
    tops = {path.partition("/")[0] for path in context}
    assert tops == {
        "LICENSE", "README.md", "deploy", "extractor", "pyproject.toml", "requirements", "services", "store_schema", "trainer",
    }  # fmt: skip
    assert sorted(path for path in context if path.startswith("deploy/")) == [
        "deploy/docker/build.txt", "deploy/docker/install.sh",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "path", ["extractor/__pycache__/a.pyc", "extractor/dicom/__pycache__/b.cpython-312.pyc", ".env"]
)
def test_what_must_stay_out_of_a_build_does(let_through, path):
    """The rule itself, since such files are in no fresh clone."""
    assert not let_through(path)
    assert let_through("extractor/dicom/__init__.py")


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_image_is_its_program(dockerfiles, extra):
    final = dockerfiles[extra][-1]
    assert final.all("ENTRYPOINT") == [json.dumps([PROGRAMS[extra]])]
    assert PROGRAMS[extra] in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert final.all("WORKDIR") == ["/srv/engram"]


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_image_says_what_it_is(dockerfiles, extra):
    (labels,) = dockerfiles[extra][-1].all("LABEL")
    told = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', labels))
    assert told["title"] == f"engram-{extra}"
    assert told.keys() == {"title", "description", "version", "revision", "licenses"}


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_read_only_root_is_enough(dockerfiles, extra):
    """Caches go to one folder, and nothing is compiled at run time."""
    (text,) = dockerfiles[extra][-1].all("ENV")
    env = dict(pair.split("=", 1) for pair in text.split())
    assert env["PYTHONDONTWRITEBYTECODE"] == env["PYTHONUNBUFFERED"] == "1"
    assert env["XDG_CACHE_HOME"] == "/var/cache/engram"
    caches = {name: path for name, path in env.items() if name in {"MPLCONFIGDIR", "NUMBA_CACHE_DIR"}}
    assert all(path.startswith("/var/cache/engram/") for path in caches.values())
    assert env["HOME"] == "/srv/engram"


def test_the_version_of_uv_is_the_makefiles():
    makefile = re.search(r"^UV_VERSION := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert makefile is not None
    for name in ("build.in", "build.txt"):
        assert re.search(rf"^uv=={re.escape(makefile[1])}\b", (ROOT / "deploy/docker" / name).read_text(), re.MULTILINE)


def test_what_installs_is_pinned_by_hash_and_names_no_index():
    text = (ROOT / "deploy/docker/build.txt").read_text()
    pinned = re.split(r"(?m)^(?=[a-z])", text)[1:]
    assert len(pinned) >= 2
    assert all("==" in one and "--hash=sha256:" in one for one in pinned)
    assert "://" not in text
    assert "index" not in text


@contextmanager
def answering(status: int) -> Iterator[int]:
    """A server whose /readyz answers so; its port."""

    class Ready(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Tells nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Ready) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False), (500, False)])
def test_the_service_is_healthy_where_it_is_ready(dockerfiles, status, healthy):
    (check,) = dockerfiles["service"][-1].all("HEALTHCHECK")
    command = json.loads(check[check.index("[") :])
    assert command[0] == "python"
    with answering(status) as port:
        env = os.environ | {"ENGRAM_SERVICE_PORT": str(port), "http_proxy": "http://127.0.0.1:9"}
        done = subprocess.run([sys.executable, *command[1:]], env=env, check=False, capture_output=True)
    assert (done.returncode == 0) is healthy


def test_the_service_is_not_healthy_where_nothing_answers(dockerfiles):
    (check,) = dockerfiles["service"][-1].all("HEALTHCHECK")
    command = json.loads(check[check.index("[") :])
    with answering(200) as port:
        pass
    env = os.environ | {"ENGRAM_SERVICE_PORT": str(port)}
    assert subprocess.run([sys.executable, *command[1:]], env=env, check=False, capture_output=True).returncode != 0
