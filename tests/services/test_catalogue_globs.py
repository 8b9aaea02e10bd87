"""A filter of the catalogue passes what `store_schema.where` passes, in Python and in both databases."""

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import String, column, literal, select, union_all

from services.catalogue.globs import Globs
from services.errors import Refusal
from services.service import Service
from store_schema import EntryKey
from store_schema.errors import UsageError
from store_schema.testing import ids
from store_schema.where import where


def _is_id(text: str) -> bool:
    try:
        EntryKey("p", "m", text)
    except UsageError:
        return False
    return True


PIECES = [
    "*",
    "?",
    "[",
    "]",
    "!",
    "-",
    "^",
    ".",
    "_",
    ",",
    " ",
    "a",
    "b",
    "z",
    "A",
    "0",
    "9",
    "\\",
    "%",
    "$",
    "{",
    "é",
    "|",
    "(",
    "+",
]
SETS = [
    "[ab]",
    "[!ab]",
    "[a-z]",
    "[z-a]",
    "[]a]",
    "[!]a]",
    "[a-]",
    "[-a]",
    "[!-]",
    "[^a]",
    "[0-9]",
    "[.]",
    "[._-]",
    "[a",
    "[",
    "[]",
    "[!]",
]
GLOBS = st.lists(st.sampled_from(PIECES + SETS), min_size=1, max_size=7).map("".join)
SHORT = st.text("ab0.-_A", min_size=1, max_size=5)
VALUES = st.lists(SHORT.filter(_is_id) | ids(), min_size=1, max_size=8, unique=True)


def passing(text: str, found: list[str]) -> list[str] | None:
    """What passes by the store's own filter; None where it is no filter."""
    try:
        test = where([f"roi={text}"])
    except UsageError:
        return None
    return sorted(value for value in found if test(EntryKey("p", "m", value)))


def asked(service: Service, globs: Globs, found: list[str]) -> list[str]:
    """What passes in the database."""
    table = union_all(*(select(literal(value, String).label("name")) for value in found)).subquery()
    condition = globs.condition(table.c.name, service.database.engine.dialect.name)
    return sorted(service.database.read(lambda session: session.scalars(select(table.c.name).where(condition)).all()))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=GLOBS, found=VALUES)
@example(text="[a.b-c]*", found=["a", "b", "c", "a.b", "b-c"])
@example(text="a**b,*", found=["ab", "a.b"])
@example(text="[!a-z]?[^x]", found=["A1x", "0.b", "a1x"])
def test_databases_pass_what_the_store_passes(service: Service, text: str, found: list[str]) -> None:
    expected = passing(text, found)
    if expected is None:
        with pytest.raises(Refusal) as refused:
            Globs.parse(text, field="roi")
        assert refused.value.status == 422
        return
    globs = Globs.parse(text, field="roi")
    assert sorted(value for value in found if globs.matches(value)) == expected
    assert asked(service, globs, found) == expected


@pytest.mark.parametrize("text", ["", " ", ",", "a,", "a,,b", " a", "a\nb", "\n", "x" * 1001])
def test_text_that_is_no_filter_is_refused(text: str) -> None:
    with pytest.raises(Refusal, match="roi is no filter") as refused:
        Globs.parse(text, field="roi")
    assert refused.value.status == 422


@pytest.mark.parametrize("text", ["*a" * 400 + "b", "*" * 999 + "b", "*?" * 400 + "b"])
def test_many_stars_cost_nothing(service: Service, text: str) -> None:
    assert asked(service, Globs.parse(text, field="roi"), ["a" * 64] * 200) == []


def test_names_without_globs_are_looked_up_and_not_searched() -> None:
    condition = Globs.parse("CT, PET,[S]T,é", field="modality").condition(column("modality"), "sqlite")
    assert str(condition.compile(compile_kwargs={"literal_binds": True})) == "modality IN ('CT', 'PET', 'ST')"
