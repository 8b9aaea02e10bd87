"""Cursors come back as they were, and nothing else is taken for one."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.catalogue import queries
from services.catalogue.coverage import coverage
from services.catalogue.cursors import cursor, read_cursor
from services.catalogue.index import reindex
from services.catalogue.queries import EntryFilter
from services.catalogue.search import search
from services.errors import Refusal
from services.service import Service
from store_schema import Store

from . import catalogue_help
from .catalogue_help import PROJECT, A, asked, fill, owner

store = catalogue_help.store

FORGED = [
    "", "x", "=", "é", "null", "a" * 2000, "A" * 999,
    *(
        base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
        for value in (
            None, 1, [], {}, ["entry"], ["entry", "a", "b", "c"], ["entry", "a", "b", "c", "d", "e"], ["pin", "a", "b", "c", "d"],
            ["entry", "a", "b", "c", 5], ["entry", "a", "b", "c", "d\0"], ["entry", "a", "b", "c", ""],
            ["entry", "a", "b", "c", "é"],
            ["entry", "a", "b", "c", "' OR 1=1"], ["view", "a"], ["entry", "a", "b", "c", "x" * 100], ["entry", "a", "b", "c", "d"],
            [["entry"], "a", "b", "c", "d"], "[" * 500,
        )
    ),
    base64.urlsafe_b64encode(b"[" * 700).decode().rstrip("="),
    base64.urlsafe_b64encode(b"\xff\xfe").decode(),
]  # fmt: skip


@pytest.mark.parametrize("text", FORGED)
def test_forged_cursors_are_refused_everywhere(service: Service, store: Store, text: str) -> None:
    view = fill(store, [A])
    reindex(service, PROJECT)
    asks: list[Callable[[], Any]] = [
        lambda: search(service, owner(), EntryFilter(), after=text, limit=1),
        *(
            lambda ask=ask: asked(service, ask, owner(), after=text, limit=1)
            for ask in (queries.views, queries.snapshots, queries.runs)
        ),
        lambda: asked(service, coverage, owner(), view, after=text, limit=1),
    ]
    for ask in asks:
        with pytest.raises(Refusal, match="cursor is none of this list") as refused:
            ask()
        assert refused.value.status == 404


def test_cursor_with_a_time_that_is_none_is_refused(service: Service, store: Store) -> None:
    with pytest.raises(Refusal, match="cursor"):
        asked(service, queries.runs, owner(), after=cursor("runs", "yesterday", "a"), limit=1)


@given(parts=st.lists(st.from_regex(r"[A-Za-z0-9.:+_-]{1,81}", fullmatch=True), min_size=1, max_size=5))
def test_cursors_come_back_as_they_were(parts: list[str]) -> None:
    assert read_cursor(cursor("kind", *parts), {"kind": len(parts)}) == ("kind", parts)


@settings(max_examples=200)
@given(text=st.text(max_size=60))
def test_no_text_breaks_the_reading_of_cursors(text: str) -> None:
    with pytest.raises(Refusal):
        read_cursor(text, {"kind": 1})
