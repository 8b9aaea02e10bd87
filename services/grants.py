"""Grants of a view or snapshot from one project to another: made, listed, revoked, and what they reach; decides not who may."""

from __future__ import annotations

import re
from collections import defaultdict
from uuid import uuid4

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from services.access import Principal, Reach
from services.acts import OPERATOR, changing_access, end_after, is_live, now, record, revoke, rows_of
from services.audit import Act
from services.database.models import Grant, Project
from services.errors import Refusal, conflict, not_found, unprocessable
from services.service import Service
from store_schema.errors import EntryWithdrawnError, InvalidKeyError, NotCommittedError
from store_schema.keys import check_id
from store_schema.records import check_view_id
from store_schema.snapshot import SNAPSHOT_ID
from store_schema.views import read_view

GRANT_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


def reachable(service: Service, principal: Principal) -> list[Reach]:
    """What a key reaches: its own project first, then those that granted something to it."""
    query = select(Grant).where(Grant.grantee == principal.project, is_live(Grant)).order_by(Grant.project)
    granted = defaultdict[str, list[Grant]](list)
    for grant in service.database.read(lambda session: list(session.scalars(query))):
        granted[grant.project].append(grant)
    return [
        Reach(principal.project, principal, own=True),
        *(_reach(project, principal, grants) for project, grants in granted.items()),
    ]


def _reach(project: str, principal: Principal, grants: list[Grant]) -> Reach:
    return Reach(
        project,
        principal,
        own=False,
        views=frozenset(grant.view for grant in grants if grant.view is not None),
        snapshots=frozenset(grant.snapshot for grant in grants if grant.snapshot is not None),
    )


def make_grant(
    service: Service,
    project: str,
    grantee: str,
    *,
    view: str | None = None,
    snapshot: str | None = None,
    expires_days: float | None = None,
    by: Principal | None = None,
    request_id: str = "",
) -> Grant:
    """Lets another project read a view, as it is and will be, or one snapshot.

    Parameters
    ----------
    view, snapshot
        The whole id of one of the two.
    expires_days
        Days from now until it ends; None never.

    Raises
    ------
    Refusal
        404, if a project, the view or the snapshot is not there; 409, if it is granted already; 410, if the snapshot names
        withdrawn entries; 422, if something is malformed.
    StoreError
        If the store cannot be read.
    """
    until, at, grant_id = end_after(expires_days), now(), uuid4().hex
    _check_grantee(project, grantee)
    _check_granted(service, project, view, snapshot)

    def work(session: Session) -> Grant:
        if (made := session.get(Grant, grant_id)) is not None:
            return made
        # Held until the end: of two equal grants at once, the second sees the first.
        session.get(Project, project, with_for_update=True)
        if session.get(Project, grantee) is None:
            raise not_found(f"there is no project '{grantee}' to grant anything to.")
        _refuse_granted(session, project, grantee, view, snapshot)
        row = Grant(
            id=grant_id, project=project, grantee=grantee, view=view, snapshot=snapshot,
            created_at=at, created_by=(by or OPERATOR).key_id, expires_at=until,
        )  # fmt: skip
        session.add(row)
        record(service, session, Act("grant", f"grant {row.id}", project, by), request_id)
        return row

    return changing_access(service, work)


def grants_of(service: Service, project: str) -> list[Grant]:
    """All grants that a project gave or received, revoked and expired ones too, oldest first.

    Raises
    ------
    Refusal
        404, if there is no such project.
    """
    meant = or_(Grant.project == project, Grant.grantee == project)
    return rows_of(service, project, select(Grant).where(meant).order_by(Grant.created_at, Grant.id))


def revoke_grant(
    service: Service, project: str, grant_id: str, *, by: Principal | None = None, request_id: str = ""
) -> Grant:
    """The grant, which allows nothing any more; a second time is fine. The project that gave it revokes it, no other.

    Raises
    ------
    Refusal
        404, if the project gave no such grant.
    """
    if not GRANT_ID.fullmatch(grant_id):
        raise not_found("there is no such grant: a grant's id has 32 hex digits.")
    act = Act("revoke", f"grant {grant_id}", project, by)
    return revoke(service, Grant, grant_id, act, request_id=request_id)


def _check_grantee(project: str, grantee: str) -> None:
    try:
        check_id("project", grantee)
    except InvalidKeyError:
        raise unprocessable("the grantee is no project's id: name the project that is to read.") from None
    if grantee == project:
        raise unprocessable(f"'{project}' reads all of its own: name another project as the grantee.")


def _check_granted(service: Service, project: str, view: str | None, snapshot: str | None) -> None:
    """Passes where the one thing that is to be granted is in the project's store."""
    if (view is None) == (snapshot is None):
        raise unprocessable("a grant is of a view or of a snapshot: give one of the two.")
    store = service.store(project)
    try:
        if view is not None:
            read_view(store.location, check_view_id(view))
        elif snapshot is not None and SNAPSHOT_ID.fullmatch(snapshot):
            store.snapshot(snapshot)
        else:
            raise unprocessable("this is no snapshot's id: give all of its 64 hex digits.")
    except InvalidKeyError as error:
        raise unprocessable(str(error)) from None
    except NotCommittedError:
        what = f"view '{view}'" if view is not None else f"snapshot {str(snapshot)[:16]}…"
        raise not_found(f"project '{project}' has no {what}: give the whole id of one that is there.") from None
    except EntryWithdrawnError:
        text = "this snapshot names entries that were withdrawn since: make a new one, and grant that."
        raise Refusal(410, "withdrawn", text) from None


def _refuse_granted(session: Session, project: str, grantee: str, view: str | None, snapshot: str | None) -> None:
    """Revoking the one grant that people see must end what it allows."""
    query = select(Grant).where(
        Grant.project == project,
        Grant.grantee == grantee,
        Grant.view == view,
        Grant.snapshot == snapshot,
        is_live(Grant),
    )
    held = session.scalars(query).first()
    if held is not None:
        until = "for good" if held.expires_at is None else f"until {held.expires_at:%Y-%m-%d %H:%M} UTC"
        raise conflict(f"grant {held.id} allows '{grantee}' the same {until}: revoke that one first.")
