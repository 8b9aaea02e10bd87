"""The pages of keys and grants, for admins: lists, and forms that make and revoke; what is done stands in `operations`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from services import operations, targets
from services.access import Reach
from services.database.models import ApiKey, Grant
from services.errors import Refusal, unprocessable
from services.keys import SCOPES
from services.pages.answers import page, see_other
from services.pages.login import READ
from services.pages.sessions import AdminReach, Form, OwnForm
from services.requests import request_id, service_of, target

router = APIRouter(prefix="/projects/{project}", include_in_schema=False)
FIELD_REFUSED = (404, 409, 410, 422)
"""Refusals of what a form holds: shown beside the form, so that nothing has to be typed again."""
RowId = Annotated[str, Path(max_length=64)]


@router.api_route("/keys", methods=READ)
def keys_page(request: Request, reach: AdminReach) -> Response:
    """Keys of the project, and a form for a new one."""
    return _keys(request, reach, {}, None)


@router.post("/keys")
def make_key(request: Request, reach: AdminReach, fields: OwnForm) -> Response:
    """Makes a key and shows it, this once."""
    try:
        made = operations.make_key(
            service_of(request), reach.project, label=fields.get("label", ""), scope=fields.get("scope", ""),
            expires_days=_days(fields), by=reach.principal, request_id=request_id(request),
        )  # fmt: skip
    except Refusal as refusal:
        return _keys(request, reach, fields, refusal)
    return page(request, "key_made.html.jinja", status=201, reach=reach, made=made)


@router.post("/keys/{key_id}/revoke")
def revoke_key(request: Request, reach: AdminReach, key_id: RowId, fields: OwnForm) -> Response:
    """Revokes a key for good."""
    target(request, targets.of_key(key_id))
    operations.revoke_key(
        service_of(request), reach.project, key_id, by=reach.principal, request_id=request_id(request)
    )
    return see_other(f"/projects/{reach.project}/keys")


@router.api_route("/grants", methods=READ)
def grants_page(request: Request, reach: AdminReach) -> Response:
    """Grants of the project, those it was given, and a form for a new one."""
    return _grants(request, reach, {}, None)


@router.post("/grants")
def make_grant(request: Request, reach: AdminReach, fields: OwnForm) -> Response:
    """Lets another project read a view or a snapshot."""
    try:
        operations.make_grant(
            service_of(request), reach.project, fields.get("grantee", ""), view=fields.get("view") or None,
            snapshot=fields.get("snapshot") or None, expires_days=_days(fields), by=reach.principal,
            request_id=request_id(request),
        )  # fmt: skip
    except Refusal as refusal:
        return _grants(request, reach, fields, refusal)
    return see_other(f"/projects/{reach.project}/grants")


@router.post("/grants/{grant_id}/revoke")
def revoke_grant(request: Request, reach: AdminReach, grant_id: RowId, fields: OwnForm) -> Response:
    """Revokes a grant for good."""
    target(request, "grant")
    operations.revoke_grant(
        service_of(request), reach.project, grant_id, by=reach.principal, request_id=request_id(request)
    )
    return see_other(f"/projects/{reach.project}/grants")


def _keys(request: Request, reach: Reach, fields: Form, refusal: Refusal | None) -> Response:
    rows: list[ApiKey] = operations.keys_of(service_of(request), reach.project)
    return page(
        request,
        "keys.html.jinja",
        status=_status(refusal),
        reach=reach,
        rows=[(row, _state(row)) for row in rows],
        fields=fields,
        problem=refusal,
        scopes=SCOPES,
    )


def _grants(request: Request, reach: Reach, fields: Form, refusal: Refusal | None) -> Response:
    service = service_of(request)
    rows: list[Grant] = operations.grants_of(service, reach.project)
    return page(
        request,
        "grants.html.jinja",
        status=_status(refusal),
        reach=reach,
        made=[(row, _state(row)) for row in rows if row.project == reach.project],
        given=[(row, _state(row)) for row in rows if row.project != reach.project],
        views=service.store(reach.project).view_ids(),
        fields=fields,
        problem=refusal,
    )


def _status(refusal: Refusal | None) -> int:
    """The answer's status; what the form did not cause is an error page of its own.

    Raises
    ------
    Refusal
        The one given, if it is no matter of the form.
    """
    if refusal is None:
        return 200
    if refusal.status not in FIELD_REFUSED:
        raise refusal
    return refusal.status


def _state(row: ApiKey | Grant) -> str:
    """live, expired or revoked."""
    if row.revoked_at is not None:
        return "revoked"
    return "expired" if row.expires_at is not None and row.expires_at <= datetime.now(UTC) else "live"


def _days(fields: Form) -> float | None:
    """Days until the end; None where the field is left empty."""
    text = fields.get("days", "")
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise unprocessable("days until it ends: expected a number, or nothing for no end.") from None
