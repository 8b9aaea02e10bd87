"""Where a page of a list ended, as text that says nothing to clients: the key of its last item, never a count; knows no table.

A cursor gives no access: filters and grants are asked again for each page, whatever the cursor says.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.errors import Refusal, not_found

MAX_LENGTH = 1000
_PART = re.compile(r"[A-Za-z0-9.:+_-]{1,81}", re.ASCII)


@dataclass(frozen=True)
class Page[Item]:
    """Part of a list, and the cursor of the next part; None where this is the last."""

    items: list[Item]
    next: str | None = None


def cursor(kind: str, *parts: str) -> str:
    """The text of a key.

    Parameters
    ----------
    kind
        Which list it is of.
    """
    text = json.dumps([kind, *parts], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_cursor(text: str, kinds: dict[str, int]) -> tuple[str, list[str]]:
    """Kind and key of a cursor.

    Parameters
    ----------
    kinds
        Those that the list has, and the parts of each one's key.

    Raises
    ------
    Refusal
        404, if it is no cursor of this list.
    """
    kind, *parts = _parsed(text)
    if kinds.get(kind) != len(parts) or not all(map(_PART.fullmatch, parts)) or cursor(kind, *parts) != text:
        raise no_cursor()
    return kind, parts


def _parsed(text: str) -> list[str]:
    if not text.isascii() or len(text) > MAX_LENGTH:
        raise no_cursor()
    try:
        found = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, RecursionError):
        raise no_cursor() from None
    if not isinstance(found, list) or not found or not all(isinstance(one, str) for one in found):
        raise no_cursor()
    return found


def no_cursor() -> Refusal:
    """404: the cursor was made up, or is of another list."""
    return not_found("the cursor is none of this list: give `next` of the page before, or nothing for the first page.")


def page_of[Row, Item](
    rows: Sequence[Row], limit: int, key: Callable[[Row], str], item: Callable[[Row], Item]
) -> Page[Item]:
    """A page from one row more than fits in it, which tells whether there is another page."""
    kept = rows[:limit]
    return Page([item(row) for row in kept], key(kept[-1]) if len(rows) > limit else None)
