"""Who looks at the pages: login with a key, the session's cookie, and proof that a form is our own; knows no page."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from fastapi import Depends, Path, Request
from fastapi.responses import Response
from sqlalchemy import delete
from sqlalchemy.orm import Session

from services.access import Principal, Reach
from services.audit import Act
from services.database.models import PageSession
from services.errors import Refusal, forbidden, unauthenticated, unprocessable
from services.keys import Scope, digest, includes
from services.requests import request_id, service_of
from services.service import Service
from store_schema.errors import InvalidKeyError
from store_schema.keys import check_id

SESSION_H = 12
COOKIE, SECURE_COOKIE = "engram_session", "__Host-engram_session"
"""Browsers take the second from us alone, over HTTPS alone."""
MAX_FORM_BYTES, MAX_FIELDS = 16 * 2**10, 20
FORM_TYPE = "application/x-www-form-urlencoded"
CSRF_FIELD = "csrf"

Form = dict[str, str]


@dataclass(frozen=True)
class Visitor:
    """Somebody who is logged in."""

    principal: Principal
    token: str
    """Of the session; a secret."""

    @property
    def csrf(self) -> str:
        """What a form of this session carries, and nobody else can know; it tells nothing of the token."""
        return hmac.new(self.token.encode(), b"engram pages form", hashlib.sha256).hexdigest()

    def may(self, scope: Scope) -> bool:
        """Whether the key's scope is enough in its own project."""
        return includes(self.principal.scope, scope)


def is_secure(service: Service) -> bool:
    """Whether people reach the pages over HTTPS."""
    return (service.settings.public_url or "").startswith("https://")


def open_session(service: Service, principal: Principal, *, request: Request) -> str:
    """Keeps a new session of a key, and gives its token; what is over is swept out."""
    token, now = secrets.token_urlsafe(32), datetime.now(UTC)
    row = {"key_id": principal.key_id, "created_at": now, "expires_at": now + timedelta(hours=SESSION_H)}

    def work(session: Session) -> None:
        if session.get(PageSession, digest(token)) is not None:
            return
        session.execute(delete(PageSession).where(PageSession.expires_at <= now))
        session.add(PageSession(token_sha256=digest(token), **row))
        act = Act("login", principal.key_id, principal.project, principal)
        service.audit.write(act, request_id=request_id(request), session=session)

    service.database.run(work)
    return token


def close_session(service: Service, token: str) -> None:
    """Forgets a session: its cookie is worth nothing from now on."""
    service.database.run(
        lambda session: session.execute(delete(PageSession).where(PageSession.token_sha256 == digest(token)))
    )
    service.access.forget()


def set_cookie(response: Response, service: Service, token: str) -> None:
    """Gives the browser the session's token, which no script and no other site gets to see."""
    secure = is_secure(service)
    name = SECURE_COOKIE if secure else COOKIE
    response.set_cookie(name, token, SESSION_H * 3600, path="/", secure=secure, httponly=True, samesite="strict")


def drop_cookie(response: Response, service: Service) -> None:
    """Takes the token from the browser."""
    secure = is_secure(service)
    name = SECURE_COOKIE if secure else COOKIE
    response.delete_cookie(name, path="/", secure=secure, httponly=True, samesite="strict")


def visitor_or_none(request: Request) -> Visitor | None:
    """Who is logged in; None where nobody is, or the session or its key is over."""
    service = service_of(request)
    token = request.cookies.get(SECURE_COOKIE if is_secure(service) else COOKIE)
    principal = service.access.page_principal(token) if token else None
    if token is None or principal is None:
        return None
    request.scope["engram.principal"] = principal
    request.scope["engram.visitor"] = found = Visitor(principal, token)
    return found


def visitor(request: Request) -> Visitor:
    """Who is logged in.

    Raises
    ------
    Refusal
        401, which pages answer with the login.
    """
    found = visitor_or_none(request)
    if found is None:
        raise unauthenticated("nobody is logged in")
    return found


LoggedIn = Annotated[Visitor, Depends(visitor)]


def page_reach(request: Request, project: Annotated[str, Path()], who: LoggedIn) -> Reach:
    """What whoever is logged in may do in the project of the path.

    Raises
    ------
    Refusal
        401, or 403, also where there is no such project.
    """
    try:
        request.scope["engram.project"] = check_id("project", project)
    except InvalidKeyError:
        raise forbidden("this key reaches nothing there: that is no project's id.") from None
    return service_of(request).access.reach(who.principal, project)


def admin_reach(reach: Annotated[Reach, Depends(page_reach)]) -> Reach:
    """The same, for pages of keys and grants.

    Raises
    ------
    Refusal
        403, where the key is no admin of the project.
    """
    reach.needs("admin", "this page")
    return reach


PageReach = Annotated[Reach, Depends(page_reach)]
AdminReach = Annotated[Reach, Depends(admin_reach)]


async def form(request: Request) -> Form:
    """The fields of a form that came from a page of ours; the last of a name counts.

    Raises
    ------
    Refusal
        403 from elsewhere; 413, 415 or 422 where it is no small form.
    """
    _check_origin(request)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM_TYPE:
        raise Refusal(415, "unsupported_media_type", f"expected a form of type {FORM_TYPE}.")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_FORM_BYTES:
            raise Refusal(413, "too_large", f"a form has at most {MAX_FORM_BYTES} bytes.")
    try:
        fields = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise unprocessable(f"the form is not UTF-8, or has more than {MAX_FIELDS} fields.") from None
    return {name: value.strip() for name, value in fields}


def own_form(fields: Annotated[Form, Depends(form)], who: LoggedIn) -> Form:
    """The fields of a form that this very session was shown.

    Raises
    ------
    Refusal
        401 or 403.
    """
    if not hmac.compare_digest(fields.get(CSRF_FIELD, "").encode(), who.csrf.encode()):
        raise forbidden("this form belongs to another session: open the page again and send it from there.")
    return fields


AnyForm = Annotated[Form, Depends(form)]
OwnForm = Annotated[Form, Depends(own_form)]


def _check_origin(request: Request) -> None:
    """Browsers say with every POST which site it comes from."""
    origin = request.headers.get("origin")
    scheme, _, host = (origin or "").lower().partition("://")
    own = {request.headers.get("host", "").lower()}
    public = service_of(request).settings.public_url
    if public is not None:
        own.add(urlsplit(public).netloc.lower())
    if scheme not in {"http", "https"} or host not in own - {""}:
        raise forbidden(
            f"a form must be sent from a page of this service: this one came from {ascii(origin)[:100]}. Where a proxy stands "
            "before the service, the operator sets the public URL."
        )
