"""Filters of entries as people write them on a command line; knows no store."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from store_schema.errors import UsageError
from store_schema.keys import EntryKey

FIELDS = ("patient", "modality", "roi")
_TERM = re.compile(r"(?P<field>[a-z]+)(?P<operator>!?=)(?P<globs>\S.*)")


def where(terms: Sequence[str]) -> Callable[[EntryKey], bool]:
    """A test that an entry passes if every term holds; without terms every entry passes.

    A term is `FIELD=GLOB[,GLOB…]` (one of the globs matches) or `FIELD!=GLOB[,GLOB…]` (none does), where FIELD is patient, modality
    or roi. `*` stands for anything, `?` for one character, `[ab]` for one of these; case counts.

    Raises
    ------
    UsageError
        If a term is none of these.
    """
    tests = [_term(text) for text in terms]
    return lambda key: all(test(key) for test in tests)


def _term(text: str) -> Callable[[EntryKey], bool]:
    match = _TERM.fullmatch(text)
    globs = [glob.strip() for glob in match["globs"].split(",")] if match else []
    if match is None or match["field"] not in FIELDS or not all(globs):
        raise UsageError(
            f"{ascii(text)[:80]} is no filter: expected FIELD=GLOB[,GLOB…] or FIELD!=GLOB[,GLOB…] with FIELD one of "
            f"{', '.join(FIELDS)}, for example patient=MM_0* or modality!=CT."
        )
    field, wanted = match["field"], match["operator"] == "="

    def test(key: EntryKey) -> bool:
        value = str(getattr(key, field))
        return any(fnmatchcase(value, glob) for glob in globs) is wanted

    return test
