"""Whether the service lives and can work, and its metrics; open to everybody, and says nothing of any project."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from services.requests import service_of

router = APIRouter(tags=["operation"])


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = Field(default="ok", examples=["ok"])


class Readiness(BaseModel):
    """Whether requests can be served."""

    ready: bool
    database: Literal["ok", "away"]
    reconciled_at: str | None = Field(examples=["2026-11-25T12:00:00+00:00"])
    """When the catalogue last agreed with every store; null before the first time."""


@router.get("/healthz", summary="Whether the process answers.")
async def healthz() -> Health:
    """Asks nobody and waits for no thread: a probe of liveness must not restart the service since its database is away."""
    return Health()


@router.get("/readyz", responses={503: {"model": Readiness}}, summary="Whether requests can be served.")
def readyz(request: Request) -> Response:
    """Asks the database; 503 while it is away."""
    ready = service_of(request).database.ready()
    last = request.app.state.reconciler.reconciled_at
    state = Readiness(ready=ready, database="ok" if ready else "away", reconciled_at=last.isoformat() if last else None)
    return JSONResponse(state.model_dump(), 200 if ready else 503)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    summary="Metrics in Prometheus's text format.",
)
def metrics(request: Request) -> Response:
    """Counts of this process."""
    last = request.app.state.reconciler.reconciled_at
    if last is not None:
        request.app.state.metrics.reconciled.set(last.timestamp())
    return Response(request.app.state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
