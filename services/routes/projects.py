"""Projects, keys, grants and audit over HTTP; who may what and what is done stand in `access` and `operations`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from services import operations, targets
from services.access import Reach
from services.database.models import ApiKey, AuditRow, Grant
from services.keys import Scope
from services.requests import BoundedRoute, Caller, Reached, request_id, service_of, target
from services.routes.documented import ID_PATTERN, REFUSALS, Moment, refusals

router = APIRouter(prefix="/v1/projects", tags=["projects"], responses=REFUSALS, route_class=BoundedRoute)
Cursor = Annotated[str | None, Query(max_length=500, description="`next` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=1000)]
Days = Annotated[float | None, Field(default=None, gt=0, le=3650, description="Days from now; null never.")]


_AUDIT: JsonDict = {
    "at": "2026-11-25T12:00:00Z", "until": "2026-11-25T12:00:02Z", "key_id": "a1b2c3d4e5f6", "key_project": "lymphoma",
    "action": "read", "target": "medsam2-0123456789abcdef", "outcome": "allowed", "requests": 908, "size_bytes": 450_000_000,
    "request_id": "9f2c6a0b",
}  # fmt: skip
_GRANT: JsonDict = {
    "id": "0" * 32, "project": "myeloma", "grantee": "lymphoma", "view": "medsam2-0123456789abcdef", "snapshot": None,
    "created_at": "2026-11-25T12:00:00Z", "created_by": "operator", "expires_at": None, "revoked_at": None,
}  # fmt: skip


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ProjectOut(BaseModel):
    """A project that the key reaches."""

    id: str = Field(examples=["myeloma"])
    own: bool = Field(description="Whether it is the key's own; else parts of it were granted.")
    scope: Scope = Field(description="What the key may do there.")
    granted_views: list[str]
    granted_snapshots: list[str]


class KeyOut(BaseModel):
    """A key without its secret."""

    model_config = ConfigDict(from_attributes=True)

    id: str = Field(examples=["a1b2c3d4e5f6"])
    label: str
    scope: Scope
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None


class KeyMade(KeyOut):
    """A new key; this is the only time that its text is told."""

    key: str = Field(examples=["engram_a1b2c3d4e5f6_…"])


class KeyRequest(_Body):
    """A key to be made."""

    label: str = Field(max_length=100, pattern="^[!-~À-ž]([ -~À-ž]*[!-~À-ž])?$", examples=["extraction on node 3"])
    scope: Scope = "read"
    expires_days: Days = None


class GrantOut(BaseModel):
    """What one project lets another read."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [_GRANT]})

    id: str
    project: str = Field(description="Whose data it is.")
    grantee: str = Field(description="Who may read it.")
    view: str | None
    snapshot: str | None
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None


class ViewGrant(_Body):
    """A grant of a whole view, as it is and will be."""

    grantee: str = Field(max_length=64, pattern=ID_PATTERN, examples=["lymphoma"])
    view: str = Field(max_length=81, pattern=ID_PATTERN, examples=["medsam2-0123456789abcdef"])
    expires_days: Days = None


class SnapshotGrant(_Body):
    """A grant of one snapshot."""

    grantee: str = Field(max_length=64, pattern=ID_PATTERN, examples=["lymphoma"])
    snapshot: str = Field(pattern="^[0-9a-f]{64}$", examples=["0" * 64])
    expires_days: Days = None


class AuditOut(BaseModel):
    """Who did what, when."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [_AUDIT]})

    at: datetime
    until: datetime
    key_id: str | None
    key_project: str | None
    action: str
    target: str
    outcome: Literal["allowed", "denied"]
    requests: int
    size_bytes: int
    request_id: str


class Page[Item](BaseModel):
    """Part of a list, and what to ask for the next part."""

    items: list[Item]
    next: str | None = None


@router.get("", summary="Projects that this key reaches.")
def list_projects(request: Request, principal: Caller) -> Page[ProjectOut]:
    """Its own first, then those that granted something to it."""
    found = operations.reachable(service_of(request), principal)
    return Page(items=[_project(reach) for reach in found])


@router.get("/{project}", summary="What this key reaches in a project.")
def get_project(reach: Reached) -> ProjectOut:
    """One project."""
    return _project(reach)


def _project(reach: Reach) -> ProjectOut:
    return ProjectOut(
        id=reach.project,
        own=reach.own,
        scope=reach.principal.scope if reach.own else "read",
        granted_views=sorted(reach.views),
        granted_snapshots=sorted(reach.snapshots),
    )


@router.get("/{project}/keys", summary="Keys of a project.")
def list_keys(request: Request, reach: Reached) -> Page[KeyOut]:
    """Without their secrets, which nobody has."""
    reach.needs("admin", "listing keys")
    found: list[ApiKey] = operations.keys_of(service_of(request), reach.project)
    return Page(items=[KeyOut.model_validate(row) for row in found])


@router.post("/{project}/keys", status_code=201, summary="Make a key.")
def make_key(request: Request, reach: Reached, body: KeyRequest, response: Response) -> KeyMade:
    """The answer tells the key, this once."""
    reach.needs("admin", "making keys")
    made = operations.make_key(
        service_of(request), reach.project, label=body.label, scope=body.scope, expires_days=body.expires_days, by=reach.principal,
        request_id=request_id(request),
    )  # fmt: skip
    response.headers["Cache-Control"] = "no-store"
    return KeyMade(key=made.text, **KeyOut.model_validate(made.row).model_dump())


@router.delete("/{project}/keys/{key_id}", status_code=204, summary="Revoke a key.")
def revoke_key(request: Request, reach: Reached, key_id: str) -> Response:
    """For good; a second time is fine. Other replicas take it for good a few seconds longer."""
    reach.needs("admin", "revoking keys")
    target(request, targets.of_key(key_id))
    operations.revoke_key(
        service_of(request), reach.project, key_id, by=reach.principal, request_id=request_id(request)
    )
    return Response(status_code=204)


@router.get("/{project}/grants", summary="Grants that a project made, and those it was given.")
def list_grants(request: Request, reach: Reached) -> Page[GrantOut]:
    """Revoked and expired ones too."""
    reach.needs("admin", "listing grants")
    found: list[Grant] = operations.grants_of(service_of(request), reach.project)
    return Page(items=[GrantOut.model_validate(row) for row in found])


@router.post(
    "/{project}/grants",
    status_code=201,
    responses=refusals(409),
    summary="Let another project read a view or snapshot.",
)
def make_grant(request: Request, reach: Reached, body: ViewGrant | SnapshotGrant) -> GrantOut:
    """Read access alone, until it expires or is revoked."""
    reach.needs("admin", "granting")
    row = operations.make_grant(
        service_of(request), reach.project, body.grantee, view=body.view if isinstance(body, ViewGrant) else None,
        snapshot=body.snapshot if isinstance(body, SnapshotGrant) else None,
        expires_days=body.expires_days, by=reach.principal, request_id=request_id(request),
    )  # fmt: skip
    return GrantOut.model_validate(row)


@router.delete("/{project}/grants/{grant_id}", status_code=204, summary="Revoke a grant.")
def revoke_grant(request: Request, reach: Reached, grant_id: str) -> Response:
    """For good; a second time is fine."""
    reach.needs("admin", "revoking grants")
    target(request, "grant")
    operations.revoke_grant(
        service_of(request), reach.project, grant_id, by=reach.principal, request_id=request_id(request)
    )
    return Response(status_code=204)


@router.get("/{project}/audit", summary="Who did what in a project, latest first.")
def list_audit(
    request: Request, reach: Reached, cursor: Cursor = None, limit: Limit = 100, since: Moment | None = None
) -> Page[AuditOut]:
    """Acts, and reads counted by key and view."""
    reach.needs("admin", "the audit log")
    rows, following = _audit(request, reach, cursor, limit, since)
    return Page(items=[AuditOut.model_validate(row) for row in rows], next=following)


def _audit(
    request: Request, reach: Reach, cursor: str | None, limit: int, since: datetime | None
) -> tuple[list[AuditRow], str | None]:
    found = operations.audit_of(service_of(request), reach.project, cursor=cursor, limit=limit, since=since)
    return found.rows, found.next
