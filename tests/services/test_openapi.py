"""schemathesis on the OpenAPI description, all checks: requests that follow it and some that break it, none answered wrongly."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from services.database.migrate import migrate
from services.service import Service

HERE = Path(__file__).parent
CONFIG = HERE / "schemathesis.toml"
EXAMPLES = os.environ.get("ENGRAM_SCHEMATHESIS_EXAMPLES", "6")
"""Generated requests of each operation and phase."""


def run(world, folder, *options):
    """What schemathesis says of the running service."""
    command = [
        str(Path(sys.executable).with_name("schemathesis")), *options, "run", f"{world.server.url}/openapi.json",
        "--checks", "all",
        "--header", f"Authorization: Bearer {world.keys['owner', 'admin']}", "--max-examples", EXAMPLES, "--no-color",
        "--seed", "7", "--generation-database", "none", "--workers", "1",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False, timeout=550)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def world(module_settings, beside):
    service = Service.open(module_settings)
    migrate(service.database)
    with beside("serving").running(service) as server:
        yield beside("route_world").World(server)


def test_requests_by_somebody_who_knows_no_name_are_all_answered_as_described(world, tmp_path):
    status, told = run(world, tmp_path, "--config-file", str(CONFIG))
    assert status == 0, told
    assert int(re.search(r"(\d+) generated", told)[1]) > 500


def test_requests_for_what_is_there_are_all_answered_as_described(world, tmp_path):
    config = tmp_path / "schemathesis.toml"
    known = "".join(f'"path.{name}" = "{text}"\n' for name, text in world.names.items() if not name.endswith("_id"))
    config.write_text(f"{CONFIG.read_text()}\n[parameters]\n{known}")
    status, told = run(world, tmp_path, "--config-file", str(config))
    assert status == 0, told
    assert int(re.search(r"(\d+) generated", told)[1]) > 500


def test_every_body_and_answer_is_described_with_examples(world):
    """Of each model of JSON: its own, or of a field, or of what it lists."""
    models = world.server.ask("GET", "/openapi.json").json["components"]["schemas"]

    def shown(schema, seen):
        text = json.dumps(schema)
        names = set(re.findall(r"#/components/schemas/(\w+)", text)) - seen
        return '"example' in text or any(shown(models[name], seen | names) for name in names)

    told = {name: shown(schema, {name}) for name, schema in models.items() if schema.get("type") == "object"}
    assert len(told) > 20
    assert [name for name, has in told.items() if not has] == []


def test_every_operation_is_described_with_examples_and_the_one_error(world):
    schema = world.server.ask("GET", "/openapi.json").json
    assert schema["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            for parameter in operation.get("parameters", []):
                told = "example" in json.dumps(parameter) or parameter["name"].endswith("_id")
                assert told or parameter["in"] != "path", (path, parameter)
            errors = [
                answer for status, answer in operation["responses"].items() if int(status) >= 400 and status != "503"
            ]
            shown = json.dumps([error.get("content") for error in errors])
            assert shown.count("ErrorBody") == len(errors), (method, path)
