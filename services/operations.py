"""What an operator or a project's admin does: projects, keys, grants, and what the audit tells; knows no route and no command line.

Each act is one transaction with its audit row. Its id and time are drawn before, so that a transaction that is tried again, since
the answer to its commit was lost, finds its own work done. Who may act is decided by whoever calls.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from services.access import Principal, known_project
from services.acts import OPERATOR, changing_access, end_after, now, record, revoke, rows_of
from services.audit import Act
from services.database.models import ApiKey, AuditRow, Project
from services.errors import conflict, not_found, unprocessable
from services.grants import grants_of, make_grant, reachable, revoke_grant
from services.keys import SCOPES, Scope, draw_key
from services.service import Service
from services.targets import KEY_ID
from store_schema import Store
from store_schema.errors import InvalidKeyError
from store_schema.keys import check_id

__all__ = [
    "AuditPage",
    "KeyMade",
    "audit_of",
    "create_project",
    "grants_of",
    "keys_of",
    "list_projects",
    "make_grant",
    "make_key",
    "reachable",
    "revoke_grant",
    "revoke_key",
]

MAX_LABEL, MAX_PAGE = 100, 1000
CURSOR = re.compile(r"[0-9]{1,18}", re.ASCII)


@dataclass(frozen=True)
class KeyMade:
    """A new key; its text exists nowhere else."""

    row: ApiKey
    text: str = field(repr=False)
    """To be shown once."""


@dataclass(frozen=True)
class AuditPage:
    """Part of a project's audit, latest first."""

    rows: list[AuditRow]
    next: str | None
    """Cursor of the part that follows; None at the end."""


# Projects


def create_project(
    service: Service, project: str, store_url: str | None = None, *, by: Principal | None = None, request_id: str = ""
) -> Project:
    """A new project over a store, which is made where there is none.

    Parameters
    ----------
    store_url
        Address of its store, without credentials; by default a folder below the data folder.

    Raises
    ------
    Refusal
        422, if the id is malformed; 409, if it is taken or the store is another project's.
    StoreError
        If the place cannot be made a store.
    UsageError
        If nothing serves such an address.
    """
    try:
        check_id("project", project)
    except InvalidKeyError as error:
        raise unprocessable(str(error)) from None
    service.database.read(lambda session: _refuse_taken(session, project))
    store, at = service.make_store(project, store_url), now()

    def work(session: Session) -> Project:
        held = session.get(Project, project)
        if held is not None and held.created_at == at:
            return held
        _refuse_taken(session, project)
        _refuse_shared(session, store)
        row = Project(id=project, store_url=store.url, store_id=store.store_id, created_at=at)
        session.add(row)
        record(service, session, Act("project", f"project {project}", project, by), request_id)
        return row

    return _once_more(service, work)


def list_projects(service: Service) -> list[Project]:
    """All projects, by id."""
    return service.database.read(lambda session: list(session.scalars(select(Project).order_by(Project.id))))


def _refuse_taken(session: Session, project: str) -> None:
    held = session.scalars(select(Project).where(func.lower(Project.id) == project.lower())).first()
    if held is not None and held.id == project:
        raise conflict(f"there is a project '{project}' already: choose another id, or use that one.")
    if held is not None:
        raise conflict(f"there is a project '{held.id}', from which '{project}' differs by case alone: choose another.")


def _refuse_shared(session: Session, store: Store) -> None:
    held = session.scalars(select(Project).where(Project.store_id == store.store_id)).first()
    if held is not None:
        raise conflict(
            f"the store at {store.url} is that of project '{held.id}' already, and a store has one project: choose another place, "
            f"or grant views of '{held.id}' to another project."
        )


# Keys


def make_key(
    service: Service,
    project: str,
    *,
    label: str,
    scope: str,
    expires_days: float | None = None,
    by: Principal | None = None,
    request_id: str = "",
) -> KeyMade:
    """A new key of a project.

    Parameters
    ----------
    label
        What it is for, for people: 1 to 100 printable characters.
    expires_days
        Days from now until it ends; None never.

    Raises
    ------
    Refusal
        404, if there is no such project; 422, if something is malformed.
    """
    known, until, at, drawn = _scope(scope), end_after(expires_days), now(), draw_key()
    _check_label(label)

    def work(session: Session) -> ApiKey:
        if (made := session.get(ApiKey, drawn.key_id)) is not None and made.created_at == at:
            return made
        known_project(session, project)
        row = ApiKey(
            id=drawn.key_id, project=project, label=label, scope=known, secret_sha256=drawn.secret_sha256,
            created_at=at, created_by=(by or OPERATOR).key_id, expires_at=until,
        )  # fmt: skip
        session.add(row)
        record(service, session, Act("key", f"key {row.id}", project, by), request_id)
        return row

    return KeyMade(changing_access(service, work), drawn.text)


def keys_of(service: Service, project: str) -> list[ApiKey]:
    """All keys of a project, revoked and expired ones too, oldest first.

    Raises
    ------
    Refusal
        404, if there is no such project.
    """
    query = select(ApiKey).where(ApiKey.project == project).order_by(ApiKey.created_at, ApiKey.id)
    return rows_of(service, project, query)


def revoke_key(
    service: Service, project: str, key_id: str, *, by: Principal | None = None, request_id: str = ""
) -> ApiKey:
    """The key, which opens nothing any more; a second time is fine.

    Raises
    ------
    Refusal
        404, if the project has no such key.
    """
    if not KEY_ID.fullmatch(key_id):
        raise not_found("there is no such key: a key's id has 12 hex digits, which stand in it after `engram_`.")
    act = Act("revoke", f"key {key_id}", project, by)
    return revoke(service, ApiKey, key_id, act, request_id=request_id)


# Audit


def audit_of(
    service: Service, project: str, *, cursor: str | None = None, limit: int = 100, since: datetime | None = None
) -> AuditPage:
    """What was done with a project's data and settings, latest first.

    Parameters
    ----------
    cursor
        `next` of the part before.
    since
        Rows whose last request is older are left out; a time without zone is UTC.

    Raises
    ------
    Refusal
        404, if there is no such project, or the cursor is none; 422, if something is malformed.
    """
    query = select(AuditRow).where(AuditRow.project == project)
    if cursor is not None:
        if not CURSOR.fullmatch(cursor):
            raise not_found("this is no cursor: send `next` of the page before, or none for the first page.")
        query = query.where(AuditRow.id < int(cursor))
    if not 1 <= limit <= MAX_PAGE:
        raise unprocessable(f"limit is {limit}: expected 1 to {MAX_PAGE}.")
    if since is not None:
        query = query.where(AuditRow.until >= _in_utc(since))
    rows = rows_of(service, project, query.order_by(AuditRow.id.desc()).limit(limit + 1))
    return AuditPage(rows[:limit], str(rows[limit - 1].id) if len(rows) > limit else None)


# What they share


def _once_more[T](service: Service, work: Callable[[Session], T]) -> T:
    """What a transaction gives; where another one took its place meanwhile, it is done again and says what it finds."""
    try:
        return service.database.run(work)
    except IntegrityError:
        return service.database.run(work)


def _scope(text: str) -> Scope:
    found = next((scope for scope in SCOPES if scope == text), None)
    if found is None:
        raise unprocessable(f"this is no scope: expected one of {', '.join(SCOPES)}.")
    return found


def _check_label(label: str) -> None:
    if not label.strip() or len(label) > MAX_LABEL or not label.isprintable():
        raise unprocessable(f"say in the label what the key is for: 1 to {MAX_LABEL} printable characters.")


def _in_utc(since: datetime) -> datetime:
    try:
        return (since if since.tzinfo else since.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        raise unprocessable("since is beyond what a calendar holds in UTC.") from None
