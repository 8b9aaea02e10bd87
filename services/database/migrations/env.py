"""What Alembic runs for each migration: on the connection that is handed over, within its transaction; chooses no address."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context

from services.database.models import Base, Utc


def _render(kind: str, item: Any, _: Any) -> str | Literal[False]:
    """A step names no class of ours: it must mean the same when the class has changed."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, Utc) else False


attributes = context.config.attributes
context.configure(
    connection=attributes["connection"],
    target_metadata=Base.metadata,
    transactional_ddl=True,
    render_item=_render,
    # SQLite alters a table by copying it.
    render_as_batch=True,
    on_version_apply=lambda step, **_: attributes.setdefault("applied", []).extend(step.up_revision_ids),
)
with context.begin_transaction():
    context.run_migrations()
