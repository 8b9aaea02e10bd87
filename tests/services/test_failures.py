"""What a request gets when the code itself fails, and what the log tells of it."""

import json

import pytest
from starlette.testclient import TestClient

from services.app import create_app
from services.database.migrate import migrate
from services.logs import JsonLines
from services.service import Service
from services.settings import Settings

PATIENT = "PATIENT-0815"


@pytest.fixture
def client(tmp_path):
    service = Service.open(Settings(data=tmp_path, reconcile_s=0))
    migrate(service.database)
    app = create_app(service)

    def fail():
        raise RuntimeError(f"{PATIENT} could not be read")

    for path in ("/v1/fails", "/fails"):
        app.add_api_route(path, fail)
    with TestClient(app) as client:
        yield client


def test_a_program_gets_the_one_shape_and_the_requests_id(client):
    answer = client.get("/v1/fails")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (500, "internal")
    assert error["request_id"] == answer.headers["x-request-id"]
    assert PATIENT not in answer.text


def test_a_browser_gets_a_page(client):
    answer = client.get("/fails", headers={"Accept": "text/html"})
    assert answer.status_code == 500
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["x-request-id"] in answer.text
    assert PATIENT not in answer.text


def test_the_log_tells_kind_and_place_and_not_what_the_error_says(client, caplog):
    caplog.set_level("INFO", logger="engram.service")
    answer = client.get("/v1/fails")
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records if record.name == "engram.service"]
    failed = next(line for line in lines if line["event"] == "request failed")
    assert (failed["error"], failed["request_id"]) == ("RuntimeError", answer.headers["x-request-id"])
    assert any("test_failures.py" in place for place in failed["where"])
    assert PATIENT not in json.dumps(lines)
    assert client.get("/metrics").text.count('engram_refusals_total{code="internal"} 1.0') == 1
