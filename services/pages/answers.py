"""What pages answer with: HTML, files and errors, each with the headers that keep a browser from doing more; knows no page.

No page runs a script, asks another host, or stays in a browser's cache: the next person at the machine sees nothing by going back.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from services.errors import Refusal
from services.pages.sessions import Visitor
from services.pages.templating import rendered
from services.requests import request_id

POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'"
)
SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
"""Of files that others wrote: no script, no form, no address of their own."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    # `no-referrer` would make browsers hide a form's origin from us as well.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
MAX_NEXT = 1000
"""Characters of an address to go back to after the login."""
_WORDS = {
    401: ("Not logged in", "Log in with an API key of your project."),
    403: ("Not allowed", "Ask an admin of the project for a grant, or log in with a key of that project."),
    404: ("Not found", "Check the address, or start from the list of projects."),
    410: ("Withdrawn", "What was withdrawn is erased and cannot be shown again; a new snapshot leaves it out."),
    503: ("Not available just now", "Try again in a moment."),
}


def page(
    request: Request, name: str, *, status: int = 200, headers: dict[str, str] | None = None, **values: Any
) -> Response:
    """A page from a template."""
    visitor: Visitor | None = request.scope.get("engram.visitor")
    html = rendered(name, visitor=visitor, path=request.url.path, request_id=request_id(request), **values)
    # Records may hold halves of characters, which no encoding takes.
    return HTMLResponse(
        html.encode(errors="replace"), status, {**HEADERS, "Cache-Control": "no-store", **(headers or {})}
    )


def see_other(address: str) -> Response:
    """Sends a browser on to a page of ours by GET."""
    return RedirectResponse(address, HTTPStatus.SEE_OTHER, {**HEADERS, "Cache-Control": "no-store"})


def saved_as(name: str) -> dict[str, str]:
    """Headers of a file that is to be saved, never shown; the name is made of ids."""
    headers = {"Content-Security-Policy": SANDBOX, "Content-Disposition": f'attachment; filename="{name}"'}
    return {**HEADERS, "Cache-Control": "no-store", **headers}


def picture(data: bytes | None, tag: str) -> Response:
    """A PNG, or word that the browser's own copy still holds, where `data` is None.

    Browsers may keep it and must ask each time: a withdrawn entry or a revoked key is noticed at once.
    """
    headers = {**HEADERS, "Cache-Control": "private, no-cache", "ETag": tag, "Vary": "Cookie"}
    return Response(None, 304, headers) if data is None else Response(data, 200, headers, "image/png")


def unchanged(request: Request, tag: str) -> bool:
    """Whether the browser holds this version of a picture."""
    return tag in [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]


def page_error(request: Request, refusal: Refusal) -> Response:
    """A refusal as a person in a browser gets it: the login for who is not logged in, else a page that says what to do."""
    if refusal.status == 401 and request.url.path != "/login":
        return see_other(_login_address(request))
    headers = {name: value for name, value in refusal.headers.items() if name.lower() != "www-authenticate"}
    title, advice = _words(refusal.status)
    return page(
        request, "error.html.jinja", status=refusal.status, headers=headers, refusal=refusal, title=title, advice=advice
    )


def safe_next(text: str | None) -> str:
    """An address of this service to go to after the login; the start page where the text is anything else."""
    if not text or len(text) > MAX_NEXT or not text.startswith("/") or text.startswith("//"):
        return "/"
    if "\\" in text or any(not char.isprintable() for char in text):
        return "/"
    path = text.partition("?")[0].partition("#")[0]
    return text if path == "/projects" or path.startswith("/projects/") else "/"


def _login_address(request: Request) -> str:
    """The login, with the way back for what may be asked again."""
    if request.method not in {"GET", "HEAD"}:
        return "/login"
    query = f"?{request.url.query}" if request.url.query else ""
    back = safe_next(f"{request.url.path}{query}")
    return "/login" if back == "/" else f"/login?next={quote(back, safe='')}"


def _words(status: int) -> tuple[str, str]:
    """What a person reads as heading, and what they can do."""
    if status in _WORDS:
        return _WORDS[status]
    if status >= 500:
        return "The service failed", "Try again; if it happens again, tell the operator the request id below."
    return "This could not be done", "Go back, change what was refused, and send it again."
