"""Tables of the service."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# There is no way back: what a step drops is in a copy alone.

ID, HEX, TIME = sa.String(81), sa.String(64), sa.DateTime(timezone=True)


def upgrade() -> None:
    """Brings the tables to this revision."""
    _projects()
    _keys()
    _grants()
    _audit()
    _entries()
    _lists()


def _projects() -> None:
    op.create_table(
        "projects",
        sa.Column("id", ID, primary_key=True),
        sa.Column("store_url", sa.Text(), nullable=False),
        sa.Column("store_id", sa.String(32), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("indexed_at", TIME),
        sa.UniqueConstraint("store_id", name="projects_store_id_key"),
    )


def _keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(12), primary_key=True),
        _project("api_keys"),
        sa.Column("label", sa.String(100), nullable=False),
        sa.Column("scope", sa.String(5), nullable=False),
        sa.Column("secret_sha256", HEX, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("created_by", sa.String(12), nullable=False),
        sa.Column("expires_at", TIME),
        sa.Column("revoked_at", TIME),
    )
    op.create_index("ix_api_keys_project", "api_keys", ["project"])
    op.create_table(
        "page_sessions",
        sa.Column("token_sha256", HEX, primary_key=True),
        sa.Column("key_id", sa.String(12), _reference("page_sessions", "key_id", "api_keys"), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
    )
    op.create_index("ix_page_sessions_key_id", "page_sessions", ["key_id"])


def _grants() -> None:
    op.create_table(
        "grants",
        sa.Column("id", sa.String(32), primary_key=True),
        _project("grants"),
        sa.Column("grantee", ID, _reference("grants", "grantee", "projects"), nullable=False),
        sa.Column("view", ID),
        sa.Column("snapshot", HEX),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("created_by", sa.String(12), nullable=False),
        sa.Column("expires_at", TIME),
        sa.Column("revoked_at", TIME),
    )
    op.create_index("ix_grants_project", "grants", ["project"])
    op.create_index("ix_grants_grantee", "grants", ["grantee"])


def _audit() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "audit",
        sa.Column("id", number, primary_key=True, autoincrement=True),
        sa.Column("at", TIME, nullable=False),
        sa.Column("until", TIME, nullable=False),
        sa.Column("key_id", sa.String(12)),
        sa.Column("key_project", ID),
        sa.Column("project", ID),
        sa.Column("action", sa.String(20), nullable=False),
        sa.Column("target", sa.String(200), nullable=False),
        sa.Column("outcome", sa.String(8), nullable=False),
        sa.Column("requests", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("request_id", HEX, nullable=False),
    )
    for column in ("at", "key_id", "project"):
        op.create_index(f"ix_audit_{column}", "audit", [column])


def _entries() -> None:
    op.create_table(
        "entries",
        _project("entries", key=True),
        *(sa.Column(name, ID, primary_key=True) for name in ("view", "patient", "modality", "roi")),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("withdrawn", sa.Boolean(), nullable=False),
        sa.Column("commit_sha256", HEX, nullable=False),
        sa.Column("attempt", sa.String(32)),
        sa.Column("input_sha256", HEX),
        sa.Column("content_sha256", HEX),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("written_at", TIME, nullable=False),
    )
    op.create_index("entries_by_patient", "entries", ["project", "patient"])
    op.create_index("entries_by_time", "entries", ["project", "written_at"])


def _lists() -> None:
    op.create_table(
        "views",
        _project("views", key=True),
        sa.Column("id", ID, primary_key=True),
        sa.Column("name", ID, nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
    )
    op.create_table(
        "snapshots",
        _project("snapshots", key=True),
        sa.Column("id", HEX, primary_key=True),
        sa.Column("view", ID, nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("written_at", TIME),
    )
    op.create_index("ix_snapshots_view", "snapshots", ["view"])
    op.create_table(
        "runs",
        _project("runs", key=True),
        sa.Column("id", ID, primary_key=True),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("started_at", TIME),
        sa.Column("summary", sa.JSON(), nullable=False),
    )


def _project(table: str, *, key: bool = False) -> sa.Column[str]:
    return sa.Column("project", ID, _reference(table, "project", "projects"), primary_key=key, nullable=False)


def _reference(table: str, column: str, to: str) -> sa.ForeignKey:
    """Named, so that a later step can drop it in SQLite too."""
    return sa.ForeignKey(f"{to}.id", name=f"{table}_{column}_fkey")
