"""Filters `GLOB[,GLOB…]` as conditions that SQLite and PostgreSQL evaluate alike; knows no table.

What a glob means is what `store_schema.where` says: Python's `fnmatchcase`, exactly. The values are ids, whose alphabet is small:
each `[…]` becomes the list of the characters that it takes, so that no database has to know Python's rules for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import pairwise
from string import ascii_letters, digits
from typing import Any

from sqlalchemy import ColumnElement, false, or_

from services.errors import unprocessable
from store_schema.errors import UsageError
from store_schema.where import where

ALPHABET = f"{ascii_letters}{digits}._-"
"""Characters of ids; the hyphen last, where it is no range in any database's brackets."""
MAX_LENGTH = 1000
MANY, ONE = "*", "?"
type _Token = str | frozenset[str]


@dataclass(frozen=True)
class Globs:
    """A filter of one field: a value passes if one of the globs matches."""

    text: str
    """Globs with commas between them."""

    @classmethod
    def parse(cls, text: str, *, field: str) -> Globs:
        """The filter that a text is.

        Raises
        ------
        Refusal
            422, if it is none.
        """
        try:
            where([f"roi={text}"])
        except UsageError:
            text = ""
        if not text or len(text) > MAX_LENGTH:
            raise unprocessable(
                f"{field} is no filter: expected GLOB[,GLOB…] of at most {MAX_LENGTH} characters, for example MM_0* or PET,CT."
            )
        return cls(text)

    @property
    def globs(self) -> list[str]:
        """Each of them."""
        return [glob.strip() for glob in self.text.split(",")]

    def matches(self, value: str) -> bool:
        """Whether a value passes."""
        return any(fnmatchcase(value, glob) for glob in self.globs)

    def condition(self, column: Any, dialect: str) -> ColumnElement[bool]:
        """The same as a condition on a column.

        Parameters
        ----------
        dialect
            SQLAlchemy's name of the database: postgresql or sqlite.
        """
        exact, patterns = self._parts
        operator, written = ("~", _regex) if dialect == "postgresql" else ("GLOB", _glob)
        found: list[ColumnElement[bool]] = [column.op(operator, is_comparison=True)(written(one)) for one in patterns]
        if exact:
            found.append(column.in_(exact))
        return or_(*found) if found else false()

    @cached_property
    def _parts(self) -> tuple[list[str], list[tuple[_Token, ...]]]:
        """The values that are named, and the patterns; what no id can match is left out."""
        exact, patterns = set(), set()
        for tokens in map(_tokens, self.globs):
            if not all(tokens):
                continue
            if all(isinstance(token, frozenset) and len(token) == 1 for token in tokens):
                exact.add("".join(next(iter(token)) for token in tokens))
            else:
                patterns.add(tokens)
        return sorted(exact), sorted(patterns, key=_glob)


def _tokens(glob: str) -> tuple[_Token, ...]:
    """A glob as any number of characters, any one character, or one of some; never two times `*` in a row."""
    found = list(_split(glob))
    return tuple(b for a, b in pairwise(["", *found]) if (a, b) != (MANY, MANY))


def _split(glob: str) -> Iterator[_Token]:
    at = 0
    while at < len(glob):
        end = _end_of_bracket(glob, at) if glob[at] == "[" else None
        piece = glob[at] if end is None else glob[at:end]
        yield piece if piece in {MANY, ONE} else frozenset(c for c in ALPHABET if _takes(piece, c))
        at += len(piece)


def _takes(piece: str, char: str) -> bool:
    return fnmatchcase(char, piece) if len(piece) > 1 else char == piece


def _end_of_bracket(glob: str, start: int) -> int | None:
    """Where a `[…]` ends; None where it does not: the bracket stands for itself. A `]` that comes first does not end it."""
    first = start + 1 + (glob[start + 1 : start + 2] == "!")
    end = glob.find("]", first + 1)
    return None if end < 0 or first >= len(glob) else end + 1


def _glob(tokens: tuple[_Token, ...]) -> str:
    """For SQLite's GLOB."""
    return "".join(token if isinstance(token, str) else _bracket(token) for token in tokens)


def _regex(tokens: tuple[_Token, ...]) -> str:
    """For PostgreSQL's `~`."""
    names: dict[str, str] = {MANY: ".*", ONE: "."}
    return f"^{''.join(names[token] if isinstance(token, str) else _bracket(token) for token in tokens)}$"


def _bracket(chars: frozenset[str]) -> str:
    """One of some characters, in their own order: the hyphen last, and a point before it only beside others or alone."""
    return f"[{''.join(sorted(chars, key=ALPHABET.index))}]"
