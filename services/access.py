"""Who may read and write what: keys to principals, principals to what they reach; knows no HTTP and no store.

A project that a key has nothing to do with is answered alike whether it exists or not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from services.database.engine import Database
from services.database.models import ApiKey, Grant, PageSession, Project
from services.errors import Refusal, forbidden, unauthenticated
from services.keys import Scope, digest, includes, proves, split_key

MAX_HELD = 10_000
"""Answers remembered; above it all are asked for again."""


@dataclass(frozen=True)
class Principal:
    """Whoever asks: one key of one project."""

    key_id: str
    project: str
    scope: Scope


@dataclass(frozen=True)
class Reach:
    """What a principal may do in one project."""

    project: str
    principal: Principal
    own: bool
    """Whether it is the principal's own project; else grants say what may be read."""
    views: frozenset[str] = frozenset()
    """Granted views."""
    snapshots: frozenset[str] = frozenset()
    """Granted snapshots."""

    def needs(self, scope: Scope, what: str) -> None:
        """Passes where this is the own project and the key's scope is enough.

        Raises
        ------
        Refusal
            403.
        """
        if not self.own:
            raise forbidden(f"{what} is for keys of the project itself: this one reads what was granted.")
        if not includes(self.principal.scope, scope):
            raise forbidden(f"{what} needs a key with the scope '{scope}': this one has '{self.principal.scope}'.")

    def reads_view(self, view_id: str) -> bool:
        """Whether all of a view may be read."""
        return self.own or view_id in self.views

    def reads_snapshot(self, snapshot_id: str, view_id: str) -> bool:
        """Whether a snapshot may be read, and what it pins."""
        return self.reads_view(view_id) or snapshot_id in self.snapshots


class Access:
    """Recognises keys and page sessions, and says what they reach; remembers answers for a few seconds."""

    def __init__(self, database: Database, *, remember_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._remember_s = remember_s
        self._clock = clock
        self._lock = threading.Lock()
        self._held: dict[tuple[str, str], tuple[float, object]] = {}
        self._changes = 0

    def forget(self) -> None:
        """Drops what is remembered: a key or grant was changed here."""
        with self._lock:
            self._held.clear()
            self._changes += 1

    def principal(self, text: str) -> Principal:
        """Whose key this is.

        Raises
        ------
        Refusal
            401, if it is none, or is revoked or expired.
        """
        split = split_key(text)
        if split is None:
            raise unauthenticated("this is no API key (engram_…)")
        found = self._remembered("key", digest(text), lambda session: _by_key(session, *split))
        if isinstance(found, Principal):
            return found
        raise unauthenticated("this API key is unknown, expired or revoked")

    def held_principal(self, text: str) -> Principal | None:
        """Whose key this is, if that is still remembered; asks nobody and so never waits."""
        held = self._held.get(("key", digest(text)))
        if held is None or self._clock() >= held[0]:
            return None
        return held[1] if isinstance(held[1], Principal) else None

    def page_principal(self, token: str) -> Principal | None:
        """Who logged in to the pages with this session; None where it is unknown or over."""
        found = self._remembered("session", digest(token), lambda session: _by_session(session, digest(token)))
        return found if isinstance(found, Principal) else None

    def reach(self, principal: Principal, project: str) -> Reach:
        """What a principal may do in a project.

        Raises
        ------
        Refusal
            403, if nothing; also where there is no such project.
        """
        if principal.project == project:
            return Reach(project, principal, own=True)
        found = self._remembered(
            "grants", f"{project}\n{principal.project}", lambda session: _grants(session, project, principal.project)
        )
        views, snapshots = found if isinstance(found, tuple) else (frozenset(), frozenset())
        if not views and not snapshots:
            raise forbidden(
                "this key reaches nothing there: it is of another project, and nothing was granted to that one."
            )
        return Reach(project, principal, own=False, views=views, snapshots=snapshots)

    def _remembered(self, kind: str, name: str, look: Callable[[Session], object]) -> object:
        key, now = (kind, name), self._clock()
        held = self._held.get(key)
        if held is not None and now < held[0]:
            return held[1]
        changes = self._changes
        found = self._database.read(look)
        with self._lock:
            if len(self._held) > MAX_HELD:
                self._held.clear()
            # What was asked before a change is not remembered after it.
            if changes == self._changes:
                self._held[key] = (now + self._remember_s, found)
        return found


def _by_key(session: Session, key_id: str, secret: str) -> Principal | None:
    row = session.get(ApiKey, key_id)
    # An unknown id takes the same steps: how long the answer takes tells nothing.
    known = proves(secret, row.secret_sha256 if row else "0" * 64)
    return _principal(row) if row is not None and known else None


def _by_session(session: Session, token_sha256: str) -> Principal | None:
    row = session.get(PageSession, token_sha256)
    if row is None or row.expires_at <= datetime.now(UTC):
        return None
    key = session.get(ApiKey, row.key_id)
    return None if key is None else _principal(key)


def _principal(row: ApiKey) -> Principal | None:
    over = row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= datetime.now(UTC))
    return None if over else Principal(row.id, row.project, row.scope)  # type: ignore[arg-type]  # one of SCOPES


def _grants(session: Session, project: str, grantee: str) -> tuple[frozenset[str], frozenset[str]]:
    rows = session.scalars(select(Grant).where(Grant.project == project, Grant.grantee == grantee)).all()
    now = datetime.now(UTC)
    live = [row for row in rows if row.revoked_at is None and (row.expires_at is None or row.expires_at > now)]
    return (
        frozenset(row.view for row in live if row.view is not None),
        frozenset(row.snapshot for row in live if row.snapshot is not None),
    )


def known_project(session: Session, project: str) -> Project:
    """A project's row.

    Raises
    ------
    Refusal
        404, if there is none.
    """
    row = session.get(Project, project)
    if row is None:
        raise Refusal(404, "not_found", f"there is no project '{project}'.")
    return row
