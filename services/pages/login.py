"""The login, the logout and the style sheet; knows no project."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from services.audit import Act
from services.errors import Refusal
from services.pages.answers import HEADERS, page, safe_next, see_other
from services.pages.sessions import (
    SESSION_H,
    AnyForm,
    LoggedIn,
    OwnForm,
    close_session,
    drop_cookie,
    open_session,
    set_cookie,
)
from services.pages.templating import style
from services.requests import request_id, service_of

router = APIRouter(include_in_schema=False)
READ = ["GET", "HEAD"]


@router.api_route("/login", methods=READ)
def login_form(request: Request, going_to: Annotated[str, Query(alias="next", max_length=2000)] = "/") -> Response:
    """Asks for a key."""
    return _form(request, safe_next(going_to))


@router.post("/login")
def login(request: Request, fields: AnyForm) -> Response:
    """Opens a session for a good key."""
    service, going_to = service_of(request), safe_next(fields.get("next"))
    try:
        principal = service.access.principal(fields.get("key", ""))
    except Refusal as refusal:
        if refusal.status != 401:
            raise
        act = Act("login", "pages", None, None, outcome="denied")
        service.audit.count(act, request_id=request_id(request))
        return _form(request, going_to, "This key is unknown, expired or revoked, or was not copied whole.")
    token = open_session(service, principal, request=request)
    answer = see_other(going_to)
    set_cookie(answer, service, token)
    return answer


@router.post("/logout")
def logout(request: Request, who: LoggedIn, fields: OwnForm) -> Response:
    """Ends the session."""
    service = service_of(request)
    close_session(service, who.token)
    answer = see_other("/login")
    drop_cookie(answer, service)
    return answer


@router.api_route("/static/style.css", methods=READ)
def style_sheet(v: Annotated[str, Query(max_length=64)] = "") -> Response:
    """The look of all pages; under the digest in its address it never changes."""
    data, digest = style()
    kept = "public, max-age=31536000, immutable" if v == digest else "no-cache"
    return Response(data, 200, {**HEADERS, "Cache-Control": kept, "ETag": f'"{digest}"'}, "text/css; charset=utf-8")


def _form(request: Request, going_to: str, problem: str | None = None) -> Response:
    status = 200 if problem is None else 401
    return page(request, "login.html.jinja", status=status, next=going_to, problem=problem, hours=SESSION_H)
