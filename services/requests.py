"""What routes take from a request: who asks, what that reaches, the service, the request's id; decides nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Path, Request
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from services.access import Principal, Reach
from services.errors import Refusal, forbidden, unauthenticated
from services.service import Service
from store_schema.keys import is_id

BEARER = "bearer "


MOST_JSON_BYTES, MOST_KEYS_BYTES = 2**20, 32 * 2**20
"""Of a body of JSON; of the keys that a snapshot is to pin."""


class BoundedRoute(APIRoute):
    """A route that knows who asks before it reads a body, and reads no more than it may."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See `fastapi.routing.APIRoute.get_route_handler`."""
        handler = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            if request.method == "POST":
                await reach_of(request)
                pins = request.scope["path"].endswith("/snapshots")
                # What `Request.body` gives from now on.
                request._body = await body_of(request, MOST_KEYS_BYTES if pins else MOST_JSON_BYTES)  # noqa: SLF001
            return await handler(request)

        return bounded


class DirectRoute(APIRoute):
    """A route whose function gets the request and nothing else: objects are read thousands of times a second."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See `fastapi.routing.APIRoute.get_route_handler`."""
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


def service_of(request: Request) -> Service:
    """The running service."""
    service: Service = request.app.state.service
    return service


def request_id(request: Request) -> str:
    """Id of this request, as in the log and in errors."""
    found: str = request.scope["engram.request_id"]
    return found


async def caller(request: Request) -> Principal:
    """Whose key the request carries.

    Raises
    ------
    Refusal
        401.
    """
    header = request.headers.get("authorization")
    if header is None:
        raise unauthenticated()
    if header[: len(BEARER)].lower() != BEARER:
        raise unauthenticated("this is no bearer token")
    text, access = header[len(BEARER) :].strip(), service_of(request).access
    found = access.held_principal(text)
    if found is None:
        found = await run_in_threadpool(access.principal, text)
    request.scope["engram.principal"] = found
    return found


async def reached(
    request: Request,
    project: Annotated[str, Path(description="Project whose store is meant.", examples=["myeloma"])],
    principal: Annotated[Principal, Depends(caller)],
) -> Reach:
    """What whoever asks may do in the project of the path; see `reach_in`."""
    return await reach_in(request, project, principal)


async def reach_of(request: Request) -> Reach:
    """The same of a request whose route takes nothing else from FastAPI; see `DirectRoute`."""
    return await reach_in(request, request.path_params["project"], await caller(request))


async def reach_in(request: Request, project: str, principal: Principal) -> Reach:
    """What a principal may do in a project.

    Raises
    ------
    Refusal
        401 or 403; a project that is not there is 403 as well, so that nobody learns which are.
    """
    request.scope["engram.project"] = project if is_id(project) else None
    if not is_id(project):
        raise forbidden("this key reaches nothing there: that is no project's id.")
    if principal.project == project:
        return Reach(project, principal, own=True)
    return await run_in_threadpool(service_of(request).access.reach, principal, project)


Caller = Annotated[Principal, Depends(caller)]
Reached = Annotated[Reach, Depends(reached)]


async def body_of(request: Request, most_bytes: int) -> bytes:
    """The whole body of a request.

    Raises
    ------
    Refusal
        413, as soon as it is known to be larger than allowed.
    """
    too_large = Refusal(413, "too_large", f"an object may have {most_bytes} bytes here.")
    told = request.headers.get("content-length", "")
    if told.isascii() and told.isdigit() and int(told) > most_bytes:
        raise too_large
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > most_bytes:
            raise too_large
    return bytes(data)


def target(request: Request, name: str) -> None:
    """Says what a request is about, for the audit of a denial: a view, snapshot, run, key or grant."""
    request.scope["engram.target"] = name


def denied(request: Request, refusal: Refusal) -> bool:
    """Whether a refusal is one of access."""
    return refusal.status in {401, 403} and "engram.request_id" in request.scope
