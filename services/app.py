"""Puts the service together: routes, errors, background work, OpenAPI; decides nothing about a request."""

from __future__ import annotations

import re
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from services import audit
from services.access import Principal
from services.audit import Act
from services.catalogue.reconciling import Reconciler
from services.errors import Refusal, error_body, refusal_of
from services.logs import log
from services.metrics import Metrics
from services.middleware import Watched
from services.pages.answers import page_error
from services.pages.routes import pages_router
from services.requests import request_id, service_of
from services.routes import catalogue, health, objects, projects, snapshots
from services.service import Service
from store_schema.errors import EngramError
from store_schema.redact import redact

THREADS = 128
"""Requests that may wait for a store or the database at once."""
ABOUT = """One feature store shared across projects.

Send a project's API key as `Authorization: Bearer engram_…`. `https://HOST/v1/projects/PROJECT` is the address of a store: give it
to `extractor run --store`, `trainer cv --store` or `store_schema.open_store`, with the key in `ENGRAM_API_KEY`. A snapshot opens as
Zarr: `zarr.open_group("https://HOST/v1/projects/PROJECT/snapshots/ID/zarr", storage_options={"headers": {"Authorization": …}})`.

Every error has one shape, `{"error": {"status", "code", "message", "request_id"}}`. What no commit lists is 404; what is listed and
cannot be read is 5xx; what was withdrawn is 410; what is not allowed is 401 or 403.
"""


def create_app(service: Service) -> FastAPI:
    """The application over an open service, which it closes when it stops."""
    metrics = Metrics()
    app = FastAPI(
        title="Engram feature store", version="1", description=ABOUT, lifespan=_living(service, metrics), redoc_url=None,
        docs_url=None, redirect_slashes=False, generate_unique_id_function=lambda route: route.name,
    )  # fmt: skip
    app.state.service, app.state.metrics = service, metrics
    app.state.page_routes = [route for route in pages_router.routes if isinstance(route, APIRoute)]
    # The first that fits answers: those that are asked most, then names before patterns.
    for router in (
        snapshots.direct, objects.direct, objects.router, snapshots.router, projects.router, catalogue.router, health.router,
        pages_router,
    ):  # fmt: skip
        app.include_router(router)
    app.add_exception_handler(EngramError, _engram_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_middleware(Watched, metrics=metrics, failed=refused)
    app.openapi = _described(app)  # type: ignore[method-assign]  # FastAPI's own way to change it
    return app


def _living(service: Service, metrics: Metrics) -> Callable[[FastAPI], Any]:
    """What runs beside the requests, from the first to the last."""

    @asynccontextmanager
    async def living(app: FastAPI) -> AsyncIterator[None]:
        stop = threading.Event()
        flusher = threading.Thread(target=_flush, args=(service, metrics, stop), name="audit", daemon=True)
        reconciler = Reconciler(service)
        app.state.reconciler = reconciler
        # Slow listings must not keep quick reads waiting for a thread.
        to_thread.current_default_thread_limiter().total_tokens = THREADS
        flusher.start()
        reconciler.start()
        log().info("started", extra={"database": service.database.shown})
        yield
        stop.set()
        reconciler.stop()
        flusher.join()
        try:
            service.close()
        except Refusal:
            log().error("the last counted reads could not be written: the database is away")
        log().info("stopped")

    return living


def _flush(service: Service, metrics: Metrics, stop: threading.Event) -> None:
    while not stop.wait(audit.FLUSH_S):
        try:
            service.audit.flush()
        except Refusal:
            # They are kept and counted on; the database's absence is told by /readyz.
            metrics.audit_failures.inc()


# Errors


async def _engram_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, EngramError)
    refusal = refusal_of(error)
    refusal.message = service_of(request).told(redact(refusal.message))
    if refusal.status >= 500:
        log().error(
            "refused", extra={"request_id": request_id(request), "code": refusal.code, "error": type(error).__name__}
        )
    return refused(request, refusal)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return refused(request, Refusal(422, "invalid", f"{place}: {first['msg']} ({len(error.errors())} problem(s))."))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    # A body that is no text is as malformed as one that is no JSON.
    status = 422 if error.status_code == 400 else error.status_code
    codes = {404: "not_found", 405: "method_not_allowed", 422: "invalid"}
    text = f"{HTTPStatus(status).phrase}: the API is described at /openapi.json."
    headers = dict(error.headers or {})
    if status == 405:
        headers["Allow"] = ", ".join(_methods(request))
    return refused(request, Refusal(status, codes.get(status, "refused"), text, headers))


def _methods(request: Request) -> list[str]:
    """All methods of a path; the framework tells those of the first route that fits."""
    schema, path = request.app.openapi(), request.scope["path"]
    found = [methods for pattern, methods in schema["paths"].items() if _fits(pattern, path)]
    pages = [route.methods for route in request.app.state.page_routes if route.path_regex.fullmatch(path)]
    return sorted({method.upper() for methods in [*found, *pages] for method in methods})


@lru_cache(maxsize=256)
def _pattern(pattern: str) -> re.Pattern[str]:
    wild = {"{object}", "{path}"}
    parts = re.split(r"(\{\w+\})", pattern)
    return re.compile(
        "".join(".*" if part in wild else "[^/]+" if part[:1] == "{" else re.escape(part) for part in parts)
    )


def _fits(pattern: str, path: str) -> bool:
    return _pattern(pattern).fullmatch(path) is not None


def refused(request: Request, refusal: Refusal) -> Response:
    """A refusal as JSON, or as a page for a browser that looks at pages; a denial is counted for the audit."""
    request.scope["engram.code"] = refusal.code
    request.app.state.metrics.refusals.labels(refusal.code).inc()
    if refusal.status in {401, 403}:
        _count_denial(request)
    if not request.url.path.startswith("/v1/") and "text/html" in request.headers.get("accept", ""):
        return page_error(request, refusal)
    return JSONResponse(
        error_body(refusal, request_id(request)), refusal.status, {**refusal.headers, "Cache-Control": "no-store"}
    )


def _count_denial(request: Request) -> None:
    principal = request.scope.get("engram.principal")
    route = getattr(request.scope.get("route"), "path", "(none)")
    act = Act(
        "denied",
        request.scope.get("engram.target") or f"{request.method} {route}",
        request.scope.get("engram.project"),
        principal if isinstance(principal, Principal) else None,
        outcome="denied",
    )
    service_of(request).audit.count(act, request_id=request_id(request))


def _described(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """OpenAPI with the bearer key on every route below /v1."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        schema = original()
        bearer = {"type": "http", "scheme": "bearer", "description": "An API key: engram_ID_SECRET."}
        schema.setdefault("components", {}).setdefault("securitySchemes", {})["key"] = bearer
        for path, operations in schema["paths"].items():
            for operation in operations.values():
                if path.startswith("/v1/"):
                    operation["security"] = [{"key": []}]
                # One shape for all errors, FastAPI's own included.
                if operation.get("responses", {}).get("422", {}).get("description") == "Validation Error":
                    operation["responses"].pop("422")
        return schema

    return openapi
