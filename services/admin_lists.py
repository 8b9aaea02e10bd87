"""How `feature-store admin` prints lists: aligned for people, or one JSON object a line; knows no database."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

AS_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
type Columns = Mapping[str, Callable[[Any], object]]


def _state(row: Any) -> str:
    if row.revoked_at is not None:
        return "revoked"
    return "expired" if row.expires_at is not None and row.expires_at <= datetime.now(UTC) else "live"


PROJECTS: Columns = {
    "project": lambda row: row.id,
    "created": lambda row: row.created_at,
    "indexed": lambda row: row.indexed_at,
    "store": lambda row: row.store_url,
}
KEYS: Columns = {
    "key": lambda row: row.id,
    "scope": lambda row: row.scope,
    "state": _state,
    "created": lambda row: row.created_at,
    "by": lambda row: row.created_by,
    "expires": lambda row: row.expires_at,
    "revoked": lambda row: row.revoked_at,
    "label": lambda row: row.label,
}
GRANTS: Columns = {
    "grant": lambda row: row.id,
    "from": lambda row: row.project,
    "to": lambda row: row.grantee,
    "state": _state,
    "created": lambda row: row.created_at,
    "by": lambda row: row.created_by,
    "expires": lambda row: row.expires_at,
    "revoked": lambda row: row.revoked_at,
    "view": lambda row: row.view,
    "snapshot": lambda row: row.snapshot,
}
AUDIT: Columns = {
    "at": lambda row: row.at,
    "until": lambda row: row.until,
    "key": lambda row: row.key_id,
    "of": lambda row: row.key_project,
    "action": lambda row: row.action,
    "outcome": lambda row: row.outcome,
    "requests": lambda row: row.requests,
    "bytes": lambda row: row.size_bytes,
    "request": lambda row: row.request_id,
    "target": lambda row: row.target,
}


def show(rows: Iterable[Any], columns: Columns, *, as_json: bool) -> None:
    """Prints rows on stdout."""
    found = [{name: value(row) for name, value in columns.items()} for row in rows]
    if as_json:
        for one in found:
            click.echo(json.dumps(one, default=lambda time: time.isoformat()))
        return
    lines = [list(columns), *([_cell(value) for value in one.values()] for one in found)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return "-" if value in {None, ""} else str(value)


def only(beginning: str, ids: Sequence[str], what: str) -> str:
    """The one id that starts with a text.

    Raises
    ------
    Refusal
        404, if none or several do.
    """
    from services.errors import not_found  # noqa: PLC0415

    found = [name for name in ids if beginning and name.startswith(beginning)]
    if len(found) != 1:
        raise not_found(f"{len(found)} {what} ids begin so: give one, or more of it. `{what}s list` shows them.")
    return found[0]
