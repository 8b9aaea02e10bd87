"""Answers to whole and partial reads against a plain reading of RFC 9110: one range, suffixes, validators, HEAD."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.errors import Refusal
from services.ranges import Found, answer

DATA = bytes(range(100))


def found(data: bytes = DATA) -> Found:
    return Found(data, hashlib.sha256(data).hexdigest(), "view")


@pytest.mark.parametrize(
    ("header", "expected", "content_range"),
    [
        ("bytes=0-0", DATA[:1], "bytes 0-0/100"),
        ("bytes=10-19", DATA[10:20], "bytes 10-19/100"),
        ("bytes=10-", DATA[10:], "bytes 10-99/100"),
        ("bytes=90-1000", DATA[90:], "bytes 90-99/100"),
        ("bytes=-5", DATA[-5:], "bytes 95-99/100"),
        ("bytes=-1000", DATA, "bytes 0-99/100"),
        ("BYTES = 3-4", DATA[3:5], "bytes 3-4/100"),
    ],
)
def test_one_range_is_answered_by_that_part(header, expected, content_range):
    response = answer(found(), {"range": header}, head=False)
    assert (response.status_code, response.body) == (206, expected)
    assert response.headers["content-range"] == content_range
    assert response.headers["content-length"] == str(len(expected))


@pytest.mark.parametrize(
    "header", ["bytes=5-4", "bytes=0-1,4-5", "items=0-1", "bytes=a-b", "bytes=", "bytes=--5", "0-5", ""]
)
def test_what_is_no_single_range_is_answered_by_the_whole(header):
    response = answer(found(), {"range": header}, head=False)
    assert (response.status_code, response.body) == (200, DATA)
    assert "content-range" not in response.headers


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=999999999999999999-"])
def test_a_range_behind_the_end_is_refused_with_the_size(header):
    with pytest.raises(Refusal) as refused:
        answer(found(), {"range": header}, head=False)
    assert (refused.value.status, refused.value.headers["Content-Range"]) == (416, "bytes */100")


def test_a_validator_that_the_caller_has_saves_the_body():
    etag = answer(found(), {}, head=False).headers["etag"]
    for header in (etag, f"W/{etag}", f'"x", {etag}', "*"):
        response = answer(found(), {"if-none-match": header}, head=False)
        assert (response.status_code, response.body) == (304, b"")
        assert response.headers["etag"] == etag
    assert answer(found(), {"if-none-match": '"other"'}, head=False).status_code == 200


def test_a_range_of_another_version_is_answered_by_the_whole():
    etag = answer(found(), {}, head=False).headers["etag"]
    assert answer(found(), {"range": "bytes=0-1", "if-range": etag}, head=False).status_code == 206
    assert answer(found(), {"range": "bytes=0-1", "if-range": '"other"'}, head=False).status_code == 200


def test_head_tells_the_same_without_the_body():
    whole, head = answer(found(), {}, head=False), answer(found(), {}, head=True)
    assert (head.status_code, head.body) == (200, b"")
    assert dict(head.headers) == dict(whole.headers)


def test_only_who_may_read_it_may_cache_it():
    headers = answer(found(), {}, head=False).headers
    assert headers["cache-control"] == "private, max-age=86400, immutable"
    assert headers["vary"] == "Authorization"


@given(data=st.binary(min_size=1, max_size=64), first=st.integers(0, 80), last=st.integers(0, 80))
def test_parts_are_slices(data, first, last):
    header = {"range": f"bytes={first}-{last}"}
    if last < first:
        assert answer(found(data), header, head=False).body == data
    elif first >= len(data):
        with pytest.raises(Refusal):
            answer(found(data), header, head=False)
    else:
        assert answer(found(data), header, head=False).body == data[first : last + 1]
