"""What acts of operators and admins share: their audit row, revoking, what is listed, times that end; knows no act itself."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, Select
from sqlalchemy.orm import Session

from services.access import Principal, known_project
from services.audit import Act
from services.database.models import ApiKey, Grant
from services.errors import not_found, unprocessable
from services.service import Service

OPERATOR = Principal("operator", "", "admin")
"""Whoever has the database: no key of any project."""
MAX_DAYS = 3650


def record(service: Service, session: Session, act: Act, request_id: str) -> None:
    """Adds an act's audit row to the transaction that does it; without a principal it was the operator's."""
    known = act if act.principal is not None else Act(act.action, act.target, act.project, OPERATOR, act.outcome)
    service.audit.write(known, request_id=request_id, session=session)


def revoke[Row: (ApiKey, Grant)](service: Service, kind: type[Row], row_id: str, act: Act, *, request_id: str) -> Row:
    """The row, revoked now or before, of the act's project.

    Raises
    ------
    Refusal
        404, if the project has none with this id.
    """
    at = now()

    def work(session: Session) -> Row:
        row = session.get(kind, row_id, with_for_update=True)
        if row is None or row.project != act.project:
            raise not_found(f"project '{act.project}' has no {act.target}.")
        if row.revoked_at is None:
            row.revoked_at = at
            record(service, session, act, request_id)
        return row

    return changing_access(service, work)


def changing_access[T](service: Service, work: Callable[[Session], T]) -> T:
    """What a transaction gives that makes or ends a key or a grant: this process goes by it at once."""
    found = service.database.run(work)
    service.access.forget()
    return found


def rows_of[Row](service: Service, project: str, query: Select[Row]) -> list[Row]:
    """What a query gives of a project.

    Raises
    ------
    Refusal
        404, if there is no such project.
    """

    def look(session: Session) -> list[Row]:
        known_project(session, project)
        return list(session.scalars(query))

    return service.database.read(look)


def is_live(kind: type[Grant]) -> ColumnElement[bool]:
    """Whether a row is neither revoked nor expired."""
    return kind.revoked_at.is_(None) & (kind.expires_at.is_(None) | (kind.expires_at > now()))


def end_after(days: float | None) -> datetime | None:
    """When something ends that is to last so many days from now; None never.

    Raises
    ------
    Refusal
        422, if it is no number of days up to ten years.
    """
    if days is None:
        return None
    if not 0 < days <= MAX_DAYS:
        raise unprocessable(
            f"expires_days is {days}: expected more than 0 and at most {MAX_DAYS}, or nothing for no end."
        )
    return now() + timedelta(days=days)


def now() -> datetime:
    """The present moment."""
    return datetime.now(UTC)
