"""compose.yaml: valid by the specification's schema, and each service held against what it may do and what it calls."""

import importlib
import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from distributed.cli.dask_scheduler import main as dask_scheduler

from .conftest import FILE, NEEDED, resolve, tool

ROOT = Path(__file__).resolve().parents[3]
COMPOSE = ROOT / "deploy/compose"
SCRIPTS = COMPOSE / "scripts"
ONE_SHOT = {"bucket", "certs", "demo", "demo-extract", "demo-project"}
OURS = re.compile(r"engram-(extractor|service|trainer):0\.1\.0")


def ours(services: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Services of our images: name, extra of the image, definition."""
    for name, one in services.items():
        if match := OURS.fullmatch(one["image"]):
            yield name, match[1], one


def test_the_file_is_valid_by_the_specifications_schema():
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(FILE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_compose_reads_is_valid_too(resolved, tmp_path):
    """With variables put in; the words beside the specification are podman's."""
    path = tmp_path / "resolved.yaml"
    path.write_text(yaml.safe_dump(resolved))
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schema_would_find_something(tmp_path):
    path = tmp_path / "compose.yaml"
    path.write_text("services: {a: {image: b, memory_limit: 1g}}\n")
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(path)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


def test_there_are_the_services_that_the_guide_names(services):
    assert services.keys() == ONE_SHOT | {
        "extract-scheduler", "extractor-worker", "extractor-worker-gpu", "postgres", "s3", "service", "train-scheduler",
        "trainer-worker", "trainer-worker-gpu",
    }  # fmt: skip


# What a service may do


def test_every_service_has_limits_and_no_rights(services):
    for name, one in services.items():
        assert float(one["cpus"]) > 0, name
        assert re.fullmatch(r"\d+[gm]", one["mem_limit"]), name
        assert one["read_only"] is True, name
        assert one["cap_drop"] == ["ALL"], name
        assert one["security_opt"] == ["no-new-privileges:true"], name
        assert one["init"] is True, name
        assert not {"privileged", "pid", "ipc", "cap_add", "devices", "userns_mode"} & one.keys(), name
        if OURS.fullmatch(one["image"]):
            assert "user" not in one, "the Dockerfiles name it"
        else:
            # Without capabilities root may not even write to a volume that belongs to another.
            assert one["user"] == {"postgres": "postgres", "s3": "1000:1000"}[name]


def test_every_service_lasts_and_is_watched_or_runs_once(services):
    dockerfile = (ROOT / "deploy/docker/service.Dockerfile").read_text()
    for name, one in services.items():
        if name in ONE_SHOT:
            assert one["restart"] == "no", name
            assert "healthcheck" not in one, name
        else:
            assert one["restart"] == "unless-stopped", name
            assert "healthcheck" in one or (name == "service" and "\nHEALTHCHECK " in dockerfile), name


def test_a_service_waits_for_what_it_needs(services):
    for name, one in services.items():
        for other, how in one.get("depends_on", {}).items():
            once = other in ONE_SHOT
            assert how["condition"] == ("service_completed_successfully" if once else "service_healthy"), (name, other)


def test_ports_are_open_on_loopback_alone(services):
    published = {name: one["ports"] for name, one in services.items() if "ports" in one}
    assert published.keys() == {"service", "extract-scheduler", "train-scheduler"}
    ports = [port for each in published.values() for port in each]
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)
    outside = [port.split(":")[1] for port in ports]
    assert len(outside) == len(set(outside))


def test_only_what_has_a_port_is_on_a_network_with_a_way_out(services, resolved):
    assert resolved["networks"]["cluster"] == {"internal": True}
    for name, one in services.items():
        networks = set(one.get("networks", []))
        if one.get("network_mode") == "none":
            assert name == "certs"
            continue
        assert networks == ({"cluster", "entrance"} if "ports" in one else {"cluster"}), name


def test_images_are_pinned(services):
    for name, one in services.items():
        tag = one["image"].rpartition(":")[2]
        assert re.search(r"\d+\.\d+", tag), name
        if OURS.fullmatch(one["image"]):
            dockerfile = one["build"]["dockerfile"]
            assert dockerfile == f"deploy/docker/{OURS.fullmatch(one['image'])[1]}.Dockerfile", name
            assert (COMPOSE / one["build"]["context"]).resolve() == ROOT, name
            assert (ROOT / dockerfile).is_file(), name


def test_the_tag_of_our_images_is_the_projects_version(services):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {one["image"].rpartition(":")[2] for _, _, one in ours(services)} == {version}


def test_only_the_one_that_signs_sees_the_authoritys_key(services):
    holders = {
        name for name, one in services.items() for volume in one.get("volumes", []) if volume.startswith("authority:")
    }
    assert holders == {"certs"}
    for name, one in services.items():
        for volume in one.get("volumes", []):
            if volume.startswith("tls:"):
                assert volume == ("tls:/etc/engram/tls" if name == "certs" else "tls:/etc/engram/tls:ro")


def test_volumes_and_mounted_files_are_there(services, resolved):
    for name, one in services.items():
        for volume in one.get("volumes", []):
            source, target, *mode = volume.split(":")
            if source.startswith("."):
                assert (COMPOSE / source).exists(), (name, source)
                assert mode == ["ro"], (name, source)
            else:
                assert source in resolved["volumes"], (name, source)
            assert target.startswith("/"), name


def test_folders_that_are_written_belong_to_the_images_user(services):
    """A named volume takes its owner from the image's folder: each of ours is one that the Dockerfiles make for the user."""
    for _, extra, one in ours(services):
        dockerfile = (ROOT / f"deploy/docker/{extra}.Dockerfile").read_text()
        owned = re.search(r"install -d -o engram -g engram (.+)", dockerfile)[1].split()
        for volume in one.get("volumes", []):
            if not volume.startswith(".") and not volume.endswith(":ro"):
                assert volume.split(":")[1] in owned


# Secrets


@pytest.mark.parametrize("missing", NEEDED)
def test_compose_refuses_to_start_without_a_secret(tmp_path, missing):
    path = tmp_path / "env"
    path.write_text("".join(f"{name}=x\n" for name in NEEDED if name != missing) + f"{missing}=\n")
    done = resolve(path)
    assert done.returncode != 0
    assert missing in done.stderr


def test_no_secret_stands_in_the_files():
    """Every variable of a secret is put in from outside, and the example holds none."""
    document = yaml.safe_load(FILE.read_text())
    secret = re.compile(r"PASSWORD|SECRET|KEY")
    for name, one in document["services"].items():
        for variable, value in (one.get("environment") or {}).items():
            # ENGRAM_TLS_KEY is the path of a file
            if secret.search(variable) and variable != "ENGRAM_TLS_KEY":
                assert re.fullmatch(r"\$\{ENGRAM_\w+(:\?[^}]+|:-)\}", value), (name, variable)
    example = dict(
        line.split("=", 1) for line in (COMPOSE / ".env.example").read_text().splitlines() if re.match(r"[A-Z]", line)
    )
    assert {name for name, value in example.items() if value} == set()
    assert set(NEEDED) <= example.keys()


def test_the_example_names_every_variable_of_the_file_and_no_other():
    named = set(re.findall(r"(?m)^#?([A-Z][A-Z0-9_]+)=", (COMPOSE / ".env.example").read_text()))
    used = set(re.findall(r"\$\{([A-Z0-9_]+)", FILE.read_text()))
    assert named == used


def test_git_and_builds_leave_the_filled_in_file_alone():
    done = subprocess.run(
        ["git", "-C", str(ROOT), "check-ignore", "deploy/compose/.env"], check=False, capture_output=True
    )
    assert done.returncode == 0


def test_a_secret_reaches_whoever_needs_it_and_nobody_else(services, env_file):
    holders = {
        name: {service for service, one in services.items() if f"given-{name.lower()}" in json.dumps(one)}
        for name in NEEDED
    }
    assert holders["ENGRAM_POSTGRES_PASSWORD"] == {"postgres", "service", "demo-project"}
    assert holders["ENGRAM_S3_SIGNING_KEY"] == {"s3"}
    without = {"certs", "postgres", "extract-scheduler", "train-scheduler"}
    assert holders["ENGRAM_S3_SECRET_KEY"] == services.keys() - without


# What a service calls


def mains() -> dict[str, click.Command]:
    """Our programs by name."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    return {
        name: getattr(importlib.import_module(at.partition(":")[0]), at.partition(":")[2])
        for name, at in scripts.items()
    }


def dask() -> click.Command:
    """Dask's own program, with the one command that containers run."""
    return click.Group("dask", commands={"scheduler": dask_scheduler})


def check_call(words: list[str]) -> None:
    """Every word that is a command or an option is one of the program; arguments are not looked at."""
    program, *rest = words
    command = (mains() | {"dask": dask()})[program]
    context = click.Context(command, info_name=program)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        command = command.get_command(context, name)
        assert command is not None, f"{program} has no command {name}"
        context = click.Context(command, parent=context, info_name=name)
    taken = {text: option for option in command.get_params(context) for text in (*option.opts, *option.secondary_opts)}
    for word in rest:
        option, _, value = word.partition("=")
        if word.startswith("--"):
            assert option in taken, f"{' '.join(words)}: {program} has no {option}"
            if value and isinstance(taken[option].type, click.Choice):
                assert value in taken[option].type.choices, f"{option} takes no {value}"


def call_of(extra: str, one: dict[str, Any]) -> list[str]:
    """What a container runs: its own entry point or the image's, and the command."""
    dockerfile = (ROOT / f"deploy/docker/{extra}.Dockerfile").read_text()
    image = json.loads(re.search(r"(?m)^ENTRYPOINT (.+)$", dockerfile)[1])
    return [*(one.get("entrypoint") or image), *(one.get("command") or [])]


def test_every_container_runs_a_command_that_its_program_has(services):
    seen = set()
    for name, extra, one in ours(services):
        program, *rest = call_of(extra, one)
        if program in {"sh", "bash", "python"}:
            assert (SCRIPTS / Path(rest[0]).name).is_file(), name
            assert rest[0].startswith("/opt/scripts/")
            assert "./scripts:/opt/scripts:ro" in one["volumes"], name
        else:
            check_call([program, *rest])
            seen.add(program)
    assert seen == {"dask", "extractor", "feature-store", "trainer"}


def calls_of(script: Path) -> Iterator[list[str]]:
    """Calls of our programs in a script of bash."""
    text = re.sub(r"\\\n\s*", " ", script.read_text())
    for line in text.splitlines():
        found = re.match(r"\s*(?:if ! )?((?:extractor|trainer|store-schema|feature-store) .+)", line)
        if found:
            yield shlex.split(re.split(r" (?:\||>|\|\||&&) ?|;", found[1])[0], comments=True)


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.name)
def test_every_script_calls_commands_that_the_programs_have(script):
    calls = list(calls_of(script))
    assert bool(calls) is script.name.startswith("demo-")
    for call in calls:
        check_call(call)


def test_a_call_that_a_program_does_not_have_would_be_found():
    for call in (
        "trainer cv --gpu",
        "extractor run-all",
        "dask scheduler --tls",
        "extractor doctor --no-such-option=1",
    ):
        with pytest.raises(AssertionError):
            check_call(shlex.split(call))


def sources() -> str:
    """Every module of the programs, and the scripts here."""
    folders = [ROOT / name for name in ("store_schema", "extractor", "trainer", "services")]
    paths = [path for folder in folders for path in folder.rglob("*.py")] + list(SCRIPTS.glob("*.sh"))
    return "\n".join(path.read_text() for path in paths)


FOREIGN = {
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION", "PGPASSWORD", "NVIDIA_VISIBLE_DEVICES",
}  # fmt: skip
"""Read by the clients of S3 and PostgreSQL, and by the container runtime."""


def test_every_variable_of_a_container_is_one_that_something_reads(services):
    text = sources()
    for name, _, one in ours(services):
        for variable in one.get("environment", {}):
            assert variable in FOREIGN or re.search(rf"\b{variable}\b", text), (name, variable)


def test_a_scheduler_speaks_tls_and_nothing_else(services):
    for name in ("extract-scheduler", "train-scheduler"):
        options = dict(word[2:].split("=", 1) for word in services[name]["command"])
        assert options["protocol"] == "tls"
        assert [options[f"tls-{one}"] for one in ("ca-file", "cert", "key")] == [
            f"/etc/engram/tls/{one}.pem" for one in ("ca", "cert", "key")
        ]


def test_workers_and_clients_call_a_scheduler_of_their_own_image(services):
    images = {name: one["image"] for name, one in services.items()}
    called = {
        name: re.findall(r"tls://([\w-]+):8786", json.dumps(one))
        for name, one in services.items()
        if name.endswith(("worker", "gpu"))
    }
    assert len(called) == 4
    for name, (scheduler,) in called.items():
        assert images[scheduler] == images[name]
    for script, service in (("demo-extract.sh", "demo-extract"), ("demo-train.sh", "demo")):
        (scheduler,) = re.findall(r"tls://([\w-]+):8786", (SCRIPTS / script).read_text())
        assert images[scheduler] == images[service]


def test_certificates_are_for_the_schedulers(services):
    made = (SCRIPTS / "certs.sh").read_text()
    assert "extract-scheduler train-scheduler" in made
    assert {"extract-scheduler", "train-scheduler"} <= services.keys()


def test_the_demo_does_what_make_demo_does():
    """The same steps with the same tables; only where they run and lie is other."""
    plain = (ROOT / "tests/e2e/demo.sh").read_text()
    ours = "".join((SCRIPTS / name).read_text() for name in ("demo-extract.sh", "demo-train.sh"))
    steps = r"(?m)^\s*(extractor phantom|extractor run|store-schema verify|trainer cv|trainer report)\b"
    assert re.findall(steps, ours) == re.findall(steps, plain)
    for word in ("--weights random:0", "extract.yaml", "cv.yaml", "clinical.csv", "truth.csv"):
        assert word in ours
        assert word in plain
