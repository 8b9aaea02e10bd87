"""What the manifests run is what the programs take, and it does here what it has to do there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from distributed.cli.dask_scheduler import main as dask_scheduler
from distributed.http import health

import extractor.cli
import services.cli
import trainer.cli
from extractor.phantom import write_cohort
from services.routes import health as service_health
from store_schema import open_store
from store_schema.testing import content_digests

PROGRAMS = {
    "engram-service": services.cli.main,
    "engram-extractor": extractor.cli.main,
    "engram-trainer": trainer.cli.main,
}
"""ENTRYPOINT of each image."""
OPERATOR = {"DASK_WORKER_NAME": "trainer-default-worker-0"}
"""What the operator adds to a worker's environment."""
SETTINGS = "stride: 16\nmodel: mini\npet_units: suv\nderive: [spine_dilated]\n"


def environment(pod, resources) -> dict[str, str]:
    """What a container's processes find; secrets by their names, limits as Kubernetes gives them."""
    maps = {one["metadata"]["name"]: one["data"] for one in resources if one["kind"] == "ConfigMap"}
    container, found = pod.container, dict(OPERATOR)
    for source in container.get("envFrom", []):
        found |= maps[source["configMapRef"]["name"]]
    for variable in container["env"]:
        given = variable.get("valueFrom", {})
        if "resourceFieldRef" in given:
            kind, resource = given["resourceFieldRef"]["resource"].split(".")
            found[variable["name"]] = str(container["resources"][kind][resource])
        elif "secretKeyRef" in given:
            found[variable["name"]] = f"secret:{given['secretKeyRef']['name']}"
        else:
            found[variable["name"]] = variable["value"]
    return found


def expanded(words: list[str], values: dict[str, str]) -> list[str]:
    """Words of a command as Kubernetes expands them; a variable that is not there would stay as it is."""
    found = [re.sub(r"\$\(([A-Z_]+)\)", lambda match: values.get(match[1], match[0]), word) for word in words]
    assert not any("$(" in word for word in found if not word.startswith("exec ")), found
    return found


def parse(command: click.Command, words: list[str], monkeypatch, values: dict[str, str]) -> dict[str, object]:
    """Options of a command line of one of our programs; an option that there is not is refused."""
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    if isinstance(command, click.Group):
        with click.Context(command) as context:
            _, command, words = command.resolve_command(context, words)
    with command.make_context("manifest", list(words)) as context:
        return dict(context.params)


@pytest.fixture
def settings(tmp_path) -> str:
    """A folder with the files that stand at /etc/engram: options that name files want them to be there."""
    (tmp_path / "tls").mkdir()
    for name in ("extract.yaml", "cv.yaml", "tls/ca.pem", "tls/cert.pem", "tls/key.pem"):
        (tmp_path / name).touch()
    return str(tmp_path)


def test_every_command_is_one_that_its_program_takes(build, pods, folder, settings, monkeypatch):
    for pod in pods(folder):
        resources = build(folder)
        if not any(one["kind"] == "ConfigMap" for one in resources):
            continue
        values = environment(pod, resources)
        values |= {
            name: value.replace("/etc/engram", settings)
            for name, value in values.items()
            if name.startswith("ENGRAM_TLS")
        }
        values |= {"SETTINGS": settings}
        words = [word.replace("/etc/engram", settings) for word in expanded(pod.container["args"], values)]
        if pod.container.get("command") == ["dask"]:
            assert words[0] == "scheduler"
            assert parse(dask_scheduler, words[1:], monkeypatch, values)["protocol"] == "tls"
            continue
        program = re.search(r"engram-\w+", pod.container["image"].rpartition("/")[2])
        assert program is not None
        assert parse(PROGRAMS[program[0]], words, monkeypatch, values)


def test_the_service_answers_at_its_port_from_outside_with_a_process_a_core(build, pods, overlay, monkeypatch):
    (pod,) = pods(f"{overlay}/service")
    values = environment(pod, build(f"{overlay}/service"))
    asked = parse(services.cli.main, pod.container["args"], monkeypatch, values)
    (port,) = pod.container["ports"]
    assert (asked["host"], asked["port"]) == ("0.0.0.0", port["containerPort"])
    assert str(asked["processes"]) == pod.container["resources"]["limits"]["cpu"]


def test_probes_ask_routes_that_there_are(pods, overlay):
    known = {
        "feature-store": {route.path for route in service_health.router.routes},
        "trainer-scheduler": {path if path.startswith("/") else f"/{path}" for path, *_ in health.routes},
    }
    for name, paths in known.items():
        (pod,) = [one for one in pods(overlay) if one.name == name]
        ports = {port["name"] for port in pod.container["ports"]}
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = pod.container[kind]
            asked = probe.get("httpGet") or probe["tcpSocket"]
            assert asked["port"] in ports
            assert asked.get("path") in (paths if "httpGet" in probe else {None})
    (service,) = [one for one in pods(overlay) if one.name == "feature-store"]
    assert service.container["livenessProbe"]["httpGet"]["path"] == "/healthz", "a database away restarts nobody"
    assert service.container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_there_are_as_many_shards_as_indices(build, pods, overlay):
    resources = build(f"{overlay}/extract")
    (job,) = [one["spec"] for one in resources if one["kind"] == "Job"]
    (pod,) = pods(f"{overlay}/extract")
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"] == int(environment(pod, resources)["SHARDS"])


def test_index_0_works_on_shard_1_and_signals_reach_the_extractor(build, pods, tmp_path):
    (pod,) = pods("overlays/gpu/extract")
    program = tmp_path / "extractor"
    program.write_text('#!/bin/sh\nprintf \'["%s", "%s"]\' "$$" "$*"\n')
    program.chmod(0o755)
    values = environment(pod, build("overlays/gpu/extract"))
    words = expanded(pod.container["args"], values)
    for index in range(8):
        shell = subprocess.Popen(
            [*pod.container["command"], *words],
            env=values | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "JOB_COMPLETION_INDEX": str(index)},
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        told, _ = shell.communicate(timeout=60)
        process, line = json.loads(told)
        assert line.split() == [*words, "--shard", f"{index + 1}/8"]
        assert int(process) == shell.pid, "the shell is still there, and would keep signals to itself"


def test_status_2_ends_its_shard_alone_and_lost_nodes_do_not_count(build, overlay):
    for step in ("extract", "complete", "cv"):
        (job,) = [one["spec"] for one in build(f"{overlay}/{step}") if one["kind"] == "Job"]
        *wrong, lost = job["podFailurePolicy"]["rules"]
        status_2 = {"containerName": "extractor", "operator": "In", "values": [2]}
        assert wrong == ([{"action": "FailIndex", "onExitCodes": status_2}] if step == "extract" else [])
        assert ("backoffLimitPerIndex" in job) is bool(wrong), "without it FailIndex is refused"
        assert lost["action"] == "Ignore"
        assert job["template"]["spec"]["restartPolicy"] == "Never", "a policy for failed pods needs it"


def test_one_core_is_one_worker_under_the_operators_own_name(pods):
    (_scheduler, worker) = pods("overlays/small/cluster")
    assert worker.container["resources"]["limits"]["cpu"] == "1"
    assert "--name=$(DASK_WORKER_NAME)" in worker.container["args"]


@pytest.mark.timeout(900)
def test_the_jobs_of_the_small_overlay_make_the_store_of_one_run(build, pods, tmp_path):
    """The very commands of the indices and of the Job that completes, on a cohort here."""
    write_cohort(tmp_path, n=4, seed=3)
    (tmp_path / "extract.yaml").write_text(SETTINGS)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    program = bin_folder / "extractor"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "from extractor.cli import main; main()" "$@"\n')
    program.chmod(0o755)
    ours = {
        "PATH": f"{bin_folder}:{os.environ['PATH']}", "PYTHONPATH": str(Path(__file__).parents[3]), "HOME": str(tmp_path),
        "STUDIES": str(tmp_path / "studies.csv"), "SETTINGS": str(tmp_path), "JOBS": "0", "SHARDS": "2",
    }  # fmt: skip

    def run(step: str, store: str, **more: str) -> SimpleNamespace:
        (pod,) = pods(f"overlays/small/{step}")
        values = environment(pod, build(f"overlays/small/{step}")) | ours | {"STORE": str(tmp_path / store)} | more
        words = [word.replace("9464", "0") for word in expanded(pod.container["args"], values)]
        command = pod.container.get("command") or ["extractor"]
        done = subprocess.run([*command, *words], env=values, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    run("extract", "sharded", JOB_COMPLETION_INDEX="1")
    assert not open_store(tmp_path / "sharded").snapshot_ids()
    run("extract", "sharded", JOB_COMPLETION_INDEX="0")
    told = run("complete", "sharded").stdout
    run("complete", "whole")
    assert "snapshot paper" in told
    assert content_digests(open_store(tmp_path / "sharded")) == content_digests(open_store(tmp_path / "whole"))
