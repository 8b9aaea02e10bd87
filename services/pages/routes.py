"""All pages as one router, which the OpenAPI description leaves out; decides nothing."""

from __future__ import annotations

from fastapi import APIRouter

from services.pages import administration, downloads, entries, login, projects, runs, views

pages_router = APIRouter(include_in_schema=False)
for _part in (login, projects, downloads, views, entries, runs, administration):
    # A router that is included hides its routes from whoever asks this one for all that there are.
    pages_router.routes.extend(_part.router.routes)
