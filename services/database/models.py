"""Tables of the service; knows no rule about who may what.

Projects, keys, grants, sessions and audit live here alone. The catalogue's tables (views, entries, snapshots, runs) hold nothing
that cannot be read again from a store's commits.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, ForeignKey, Index, Integer, String, Text, TypeDecorator
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

ID = String(81)
"""Project, patient, modality, roi, run, or view id."""
HEX = String(64)


class Utc(TypeDecorator[datetime]):
    """A moment in UTC, aware; SQLite forgets zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """As it is stored."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """As it is used."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Base of all tables."""

    type_annotation_map = {datetime: Utc, dict[str, Any]: JSON}  # noqa: RUF012 - SQLAlchemy's own declaration


class Project(Base):
    """One project: its own store, keys and grants."""

    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    store_url: Mapped[str] = mapped_column(Text)
    """Address of its store, without credentials."""
    store_id: Mapped[str] = mapped_column(String(32), unique=True)
    created_at: Mapped[datetime]
    indexed_at: Mapped[datetime | None]
    """When the catalogue last agreed with the whole store."""


class ApiKey(Base):
    """One key of a project; its secret is not here."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(12), primary_key=True)
    project: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    label: Mapped[str] = mapped_column(String(100))
    """What it is for, for people."""
    scope: Mapped[str] = mapped_column(String(5))
    secret_sha256: Mapped[str] = mapped_column(HEX)
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(12))
    """Id of the key that made it, or `operator`."""
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class Grant(Base):
    """A view or snapshot of one project that another project may read."""

    __tablename__ = "grants"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    project: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    """Whose data it is."""
    grantee: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    """Who may read it."""
    view: Mapped[str | None] = mapped_column(ID)
    """All of this view, as it is and will be; or"""
    snapshot: Mapped[str | None] = mapped_column(HEX)
    """this snapshot alone."""
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(12))
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class AuditRow(Base):
    """Who did what, when: one act, or one kind of read by one key within a minute. Holds no secret and no patient."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
    at: Mapped[datetime] = mapped_column(index=True)
    """Of the first request that it counts."""
    until: Mapped[datetime]
    """Of the last one."""
    key_id: Mapped[str | None] = mapped_column(String(12), index=True)
    """None where no key was known."""
    key_project: Mapped[str | None] = mapped_column(ID)
    project: Mapped[str | None] = mapped_column(ID, index=True)
    """Whose data or setting was meant."""
    action: Mapped[str] = mapped_column(String(20))
    """read, sign, publish, snapshot, key, grant, revoke, login, project."""
    target: Mapped[str] = mapped_column(String(200))
    """View, snapshot, run, key or grant; never an entry."""
    outcome: Mapped[str] = mapped_column(String(8))
    """allowed or denied."""
    requests: Mapped[int] = mapped_column(default=1)
    size_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    request_id: Mapped[str] = mapped_column(String(64))
    """Of the first request."""


class PageSession(Base):
    """Somebody who logged in with a key to look at the pages."""

    __tablename__ = "page_sessions"

    token_sha256: Mapped[str] = mapped_column(HEX, primary_key=True)
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"), index=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


# Catalogue


class ViewRow(Base):
    """A view of a project's store."""

    __tablename__ = "views"

    project: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    id: Mapped[str] = mapped_column(ID, primary_key=True)
    name: Mapped[str] = mapped_column(ID)
    spec: Mapped[dict[str, Any]]
    """The specification as in the store."""


class EntryRow(Base):
    """The current commit of an entry, or the tombstone that ended it."""

    __tablename__ = "entries"

    project: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    view: Mapped[str] = mapped_column(ID, primary_key=True)
    patient: Mapped[str] = mapped_column(ID, primary_key=True)
    modality: Mapped[str] = mapped_column(ID, primary_key=True)
    roi: Mapped[str] = mapped_column(ID, primary_key=True)
    number: Mapped[int]
    """Of the current commit."""
    withdrawn: Mapped[bool]
    commit_sha256: Mapped[str] = mapped_column(HEX)
    attempt: Mapped[str | None] = mapped_column(String(32))
    input_sha256: Mapped[str | None] = mapped_column(HEX)
    content_sha256: Mapped[str | None] = mapped_column(HEX)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    """Of all objects."""
    written_at: Mapped[datetime]
    """By the writer's clock."""

    __table_args__ = (
        Index("entries_by_patient", "project", "patient"),
        Index("entries_by_time", "project", "written_at"),
    )


class SnapshotEntry(Base):
    """A snapshot of a project's store."""

    __tablename__ = "snapshots"

    project: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    id: Mapped[str] = mapped_column(HEX, primary_key=True)
    view: Mapped[str] = mapped_column(ID, index=True)
    rows: Mapped[int]
    written_at: Mapped[datetime | None]
    """By the server's clock."""


class RunRow(Base):
    """A run whose records lie in a project's store."""

    __tablename__ = "runs"

    project: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    id: Mapped[str] = mapped_column(ID, primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    """extractor or trainer."""
    started_at: Mapped[datetime | None]
    summary: Mapped[dict[str, Any]]
    """What lists show: of a trainer's run the models with their c-index, of an extraction its counts."""
