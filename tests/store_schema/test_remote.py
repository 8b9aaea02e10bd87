"""The client of the feature-store service: where the key goes, what is tried again, what a refusal means."""

import json
import multiprocessing
import os
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from store_schema import open_store
from store_schema.errors import (
    AlreadyExistsError,
    BackendError,
    ConfigError,
    EngramError,
    EntryWithdrawnError,
    NotCommittedError,
    ObjectAlteredError,
    ObjectMissingError,
    ObjectTruncatedError,
    SchemaError,
    StoreError,
    UsageError,
)
from store_schema.location import ObjectLocation, open_location
from store_schema.location.service import ServiceLocation
from store_schema.remote import TRIES, ServiceClient, api_key, is_service

HTML = b"<html><body><h1>Bad Gateway</h1></body></html>"


@pytest.fixture
def waits() -> list[float]:
    """How long the client waited, which it did not do in truth."""
    return []


@pytest.fixture
def location(service: Any, waits: list[float]) -> ServiceLocation:
    return ServiceLocation(ServiceClient(service.url, sleep=waits.append))


def _html(doubles: Any, status: int) -> Any:
    return doubles.Reply(status, HTML, {"Content-Type": "text/html"})


# Addresses


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://host/v1/projects/myeloma", True),
        ("https://host/v1/projects/myeloma/", True),
        ("HTTPS://host:8443/behind/a/proxy/v1/projects/my-project.2", True),
        ("http://[::1]:8000/v1/projects/p", True),
        ("https://host/v1/projects/", False),
        ("https://host/v1/projects/p/snapshots/x/zarr", False),
        ("https://host/v1/projects/..", False),
        ("https://host/store", False),
        ("ftp://host/v1/projects/p", False),
        ("s3://host/v1/projects/p", False),
    ],
)
def test_projects_address_is_told_from_every_other(address: str, expected: bool) -> None:
    assert is_service(address) == expected
    if address.lower().startswith("http"):
        assert type(open_location(address)) is (ServiceLocation if expected else ObjectLocation)


def test_address_is_the_same_with_and_without_a_slash(service: Any) -> None:
    assert open_location(f"{service.url}/").url == open_location(service.url).url == service.url


# The key


def test_key_goes_with_every_request_and_into_no_pickle_repr_or_error(service: Any, doubles: Any) -> None:
    store = open_store(service.url)
    store.view_ids()
    store.put_run("run-1", "start.json", b"{}")
    assert len(service.asked) >= 3
    assert {asked.headers["authorization"] for asked in service.asked} == {f"Bearer {doubles.KEY}"}
    service.spoil(doubles.refused(403, message=f"the key {doubles.KEY} may not"))
    with pytest.raises(BackendError) as caught:
        store.location.get("engram.json")
    held = [
        repr(store),
        repr(vars(store.location)),
        str(caught.value),
        repr(caught.value),
        repr(caught.value.__cause__),
    ]
    assert not [text for text in held if "kkkkk" in text]
    assert b"kkkkk" not in pickle.dumps((store, store.location, caught.value))
    assert pickle.loads(pickle.dumps(store)).store_id == store.store_id


def test_key_is_read_when_it_is_needed(service: Any, doubles: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENGRAM_API_KEY")
    location = open_location(service.url)
    with pytest.raises(ConfigError, match=r"is read with an API key: set ENGRAM_API_KEY"):
        location.get("engram.json")
    assert service.asked == []
    monkeypatch.setenv("ENGRAM_API_KEY", doubles.KEY)
    assert location.get("engram.json")


@pytest.mark.parametrize(
    "pasted",
    [
        "Bearer engram_0123456789ab_" + "k" * 43,
        "engram_0123456789ab_" + "k" * 43 + "\n",
        "engram_0123456789ab_" + "k" * 42,
        "engram_0123456789AB_" + "k" * 43,
        "AKIAIOSFODNN7EXAMPLE",
        "engram_0123456789ab_" + "k" * 42 + "é",
    ],
)
def test_wrong_paste_is_told_before_any_request_without_showing_it(
    service: Any, monkeypatch: pytest.MonkeyPatch, pasted: str
) -> None:
    monkeypatch.setenv("ENGRAM_API_KEY", pasted)
    with pytest.raises(ConfigError, match="holds no API key, and was sent nowhere") as caught:
        open_store(service.url)
    assert "kkkkk" not in str(caught.value)
    assert pasted not in str(caught.value)
    assert service.asked == []


@pytest.mark.parametrize(
    ("address", "allowed", "sent"),
    [
        ("https://host/v1/projects/p", None, True),
        ("http://localhost:8000/v1/projects/p", None, True),
        ("http://127.3.2.1:8000/v1/projects/p", None, True),
        ("http://[::1]:8000/v1/projects/p", None, True),
        ("http://host/v1/projects/p", None, False),
        ("http://localhost.example.org/v1/projects/p", None, False),
        ("http://10.0.0.7/v1/projects/p", "true", False),
        ("HTTP://10.0.0.7/v1/projects/p", "1", True),
    ],
)
def test_key_travels_unencrypted_within_a_machine_or_where_that_is_allowed(
    doubles: Any, monkeypatch: pytest.MonkeyPatch, address: str, allowed: str | None, sent: bool
) -> None:
    monkeypatch.setenv("ENGRAM_API_KEY", doubles.KEY)
    monkeypatch.delenv("ENGRAM_ALLOW_HTTP", raising=False)
    if allowed is not None:
        monkeypatch.setenv("ENGRAM_ALLOW_HTTP", allowed)
    if sent:
        assert api_key(address) == doubles.KEY
        return
    with pytest.raises(ConfigError, match=r"use https://.*ENGRAM_ALLOW_HTTP=1"):
        open_location(address).get("engram.json")


def test_proxy_of_the_environment_is_not_asked_for_this_machine(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert open_store(service.url).view_ids() == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_redirect_is_not_followed(service: Any, doubles: Any, location: Any, status: int, method: str) -> None:
    with doubles.ServiceDouble(service.store) as elsewhere:
        to = f"{elsewhere.url}/runs/r/x?token=planted-secret"
        service.spoil(doubles.Reply(status, b"", {"Location": to}))
        with pytest.raises(BackendError, match=r"sends requests on to .*Give the address that is meant") as caught:
            location.get("runs/r/x") if method == "GET" else location.put("runs/r/x", b"1")
        assert elsewhere.asked == []
    assert "planted-secret" not in str(caught.value)
    assert len(service.asked) == 1


# Refusals


@pytest.mark.parametrize(
    ("status", "code", "kind", "said"),
    [
        (401, "unauthenticated", BackendError, "check ENGRAM_API_KEY"),
        (403, "forbidden", BackendError, r"the key in ENGRAM_API_KEY may not.*scope write"),
        (404, "not_found", ObjectMissingError, "is not there, or no commit lists it"),
        (405, "method_not_allowed", BackendError, "address of the bucket or folder"),
        (409, "conflict", StoreError, "no, since it is a test"),
        (410, "withdrawn", EntryWithdrawnError, "no, since it is a test"),
        (413, "too_large", StoreError, "no, since it is a test"),
        (422, "invalid", UsageError, "no, since it is a test"),
        (428, "precondition_required", StoreError, "a proxy on the way may have taken If-None-Match"),
        (500, "object_missing", ObjectMissingError, "no, since it is a test"),
        (500, "object_altered", ObjectAlteredError, "no, since it is a test"),
        (500, "object_truncated", ObjectTruncatedError, "no, since it is a test"),
        (500, "schema", SchemaError, "no, since it is a test"),
        (500, "internal", BackendError, r"no, since it is a test.*\[request r-1\]"),
        (501, "not_signable", BackendError, "no, since it is a test"),
    ],
)
def test_refusal_is_told_at_once_with_the_services_own_words(
    service: Any, doubles: Any, location: Any, status: int, code: str, kind: type[EngramError], said: str
) -> None:
    service.spoil(doubles.refused(status, code))
    with pytest.raises(kind, match=said) as caught:
        location.get("engram.json")
    assert type(caught.value) is kind
    assert len(service.asked) == 1


def test_committed_object_that_is_gone_is_not_told_as_absent(service: Any, doubles: Any, location: Any) -> None:
    """Nothing that asks whether there is such a name may take a lost object for one that never was."""
    service.spoil(doubles.refused(500, "object_missing", "commit 0 lists it, and it is gone."), times=2)
    with pytest.raises(ObjectMissingError, match="commit 0 lists it"):
        location.exists("data/x")


def test_absence_is_believed_from_the_service_alone(service: Any, doubles: Any, location: Any) -> None:
    """A proxy that knows no such path says 404 too, and would make an entry, or its withdrawal, look as if it never was."""
    for act in (location.get, location.get_part, location.size_bytes):
        service.spoil(_html(doubles, 404), times=2)
        with pytest.raises(BackendError, match=r"status 404 of something else than the service \(text/html\)"):
            act("withdrawn/view/000000.json")
        service.heal()


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b'{"error": "no"}', b'{"error": {"code": 7}}', b"\xff\xfe", b"[" * 100_000]
)
def test_refusal_in_another_form_is_somebody_elses(service: Any, doubles: Any, location: Any, body: bytes) -> None:
    service.spoil(doubles.Reply(404, body))
    with pytest.raises(BackendError, match="something else than the service"):
        location.get("engram.json")


def test_page_in_place_of_an_object_is_not_taken_for_it(service: Any, doubles: Any, location: Any) -> None:
    service.spoil(_html(doubles, 200))
    with pytest.raises(BackendError, match="has no ETag"):
        location.get("engram.json")


def test_words_of_the_service_cannot_steer_a_terminal_or_fill_it(service: Any, doubles: Any, location: Any) -> None:
    service.spoil(doubles.refused(409, message="a\x1b[2J\nb" + "x" * 10_000))
    with pytest.raises(StoreError) as caught:
        location.get("engram.json")
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 900


def test_secrets_in_the_words_of_the_service_are_not_repeated(service: Any, doubles: Any, location: Any) -> None:
    other = "engram_ba9876543210_" + "z" * 43
    service.spoil(doubles.refused(409, message=f"see https://host/x?X-Amz-Signature=zzzzzz and {other}"))
    with pytest.raises(StoreError, match=r"engram_ba9876543210_\*\*\*") as caught:
        location.get("engram.json")
    assert "zzzzzz" not in str(caught.value)


@pytest.mark.parametrize("answer", [HTML, b"[]", b'{"id": "nothing"}', b"{}", b"[" * 100_000])
def test_answer_that_is_not_what_was_asked_for_is_told(
    service: Any, doubles: Any, location: Any, answer: bytes
) -> None:
    service.spoil(doubles.Reply(201, answer))
    with pytest.raises(BackendError, match=r"no JSON object|told no id"):
        location.make_snapshot("view", None)


def test_refused_commit_is_the_writers_data_and_refused_question_the_callers(
    service: Any, doubles: Any, location: Any
) -> None:
    """Wrong use ends a run; one entry that is refused does not."""
    service.spoil(doubles.refused(422, "commit_refused"), times=2)
    with pytest.raises(StoreError) as caught:
        location.put("commits/x", b"1")
    assert not isinstance(caught.value, UsageError)
    with pytest.raises(UsageError):
        location.make_snapshot("view", None)
    service.spoil(doubles.refused(404, "not_found", "there is no view x."))
    with pytest.raises(NotCommittedError, match="there is no view x"):
        location.make_snapshot("view", None)


# Trying again


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_overload_and_restarts_are_waited_out(
    service: Any, doubles: Any, location: Any, waits: list[float], status: int
) -> None:
    service.spoil(status, times=2)
    service.spoil(_html(doubles, status))
    assert b"store_id" in location.get("engram.json")
    assert len(service.asked) == 4
    assert 0 < waits[0] < waits[2] < 1


def test_lost_connections_are_tried_again(service: Any, doubles: Any, location: Any) -> None:
    """No answer at all, and an answer that ends halfway."""
    service.spoil(doubles.DROPPED, times=2)
    service.spoil(doubles.Reply(200, b"x" * 1000, {"ETag": '"x"'}, cut=True))
    assert b"store_id" in location.get("engram.json")
    assert len(service.asked) == 4


def test_service_that_stays_away_is_told_after_all_tries(
    service: Any, doubles: Any, location: Any, waits: list[float]
) -> None:
    service.spoil(doubles.refused(503, "store_unavailable", "the store does not answer."), times=TRIES)
    with pytest.raises(
        BackendError, match=r"the store does not answer.*run the same command again later.*\[request r-1\]"
    ):
        location.get("engram.json")
    assert len(service.asked) == TRIES
    assert 10 < sum(waits) < 35
    service.spoil(_html(doubles, 502), times=TRIES)
    with pytest.raises(BackendError, match=r"status 502 of something else than the service \(text/html\)"):
        location.get("engram.json")


def test_wait_that_the_service_names_is_kept_within_reason(
    service: Any, doubles: Any, location: Any, waits: list[float]
) -> None:
    for told in ("7", "86400", "-5", "soon", "٣"):
        service.spoil(doubles.Reply(503, b"", {"Retry-After": told.encode().decode("latin-1")}))
    location.get("engram.json")
    assert waits[:2] == [7.0, 60.0]
    assert max(waits[2:]) < 3


def test_server_that_is_not_there_is_told(doubles: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGRAM_API_KEY", doubles.KEY)
    client = ServiceClient("http://127.0.0.1:9/v1/projects/p", tries=2, sleep=lambda _: None)
    with pytest.raises(BackendError, match=r"refused.*check network, address and server") as caught:
        ServiceLocation(client).get("engram.json")
    assert "kkkkk" not in str(caught.value)


def test_tls_that_is_not_spoken_is_told_at_once(service: Any, waits: list[float]) -> None:
    address = service.url.replace("http://", "https://")
    with pytest.raises(BackendError, match="no TLS is spoken there"):
        ServiceLocation(ServiceClient(address, sleep=waits.append)).get("engram.json")
    assert waits == []


def test_write_whose_answer_was_lost_is_made_again(service: Any, doubles: Any, location: Any) -> None:
    """The second try finds its own bytes: an object of an attempt is written; a create is told as taken, and read back."""
    service.spoil(doubles.LOST)
    location.put("runs/r/put", b"1")
    service.spoil(doubles.LOST)
    with pytest.raises(AlreadyExistsError):
        location.create("runs/r/created", b"1")
    open_store(service.url).put_run("r", "created", b"1")
    assert [asked.method for asked in service.asked][:4] == ["PUT"] * 4
    assert {asked.headers["if-none-match"] for asked in service.asked[:4]} == {"*"}


def test_lost_answers_of_a_snapshot_change_nothing(service: Any, doubles: Any, location: Any) -> None:
    store, view = service.store, _view(service)
    service.spoil(doubles.LOST)
    made = location.make_snapshot(view, None)
    assert store.snapshot_ids() == [made]


def _view(service: Any) -> str:
    from store_schema.testing import digest_of, example_entry, example_view  # noqa: PLC0415
    from store_schema.testing.base import KEY  # noqa: PLC0415

    view: str = service.store.put_view(example_view())
    service.store.publish(view, KEY, example_entry(), input_sha256=digest_of("x"))
    return view


# Processes


def test_forked_child_makes_its_own_connections(service: Any) -> None:
    location = open_location(service.url)
    expected = location.get("engram.json")
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the server of this test has threads; the client has none
        pid = os.fork()
    if pid == 0:
        os.write(write, location.get("engram.json"))
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 1000) == expected
    assert location.get("engram.json") == expected
    for end in (read, write):
        os.close(end)


def test_spawned_process_takes_the_key_from_its_own_environment(service: Any) -> None:
    location = open_location(service.url)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(location.get, ("engram.json",)) == location.get("engram.json")


def test_many_threads_share_connections(service: Any) -> None:
    from store_schema.parallel import each  # noqa: PLC0415

    location = open_location(service.url)
    read: Callable[[int], bytes] = lambda _: location.get("engram.json")  # noqa: E731 - shorter than a function
    found = list(each(read, range(200), parallel=16))
    assert {json.loads(data)["store_id"] for data in found} == {service.store.store_id}
