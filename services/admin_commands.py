"""`feature-store admin`: projects, keys, grants, migrations, catalogue and audit, for whoever has the database; knows no HTTP.

Results go to stdout, all else to stderr. Heavy modules are imported inside the commands, so that --help is instant.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from services.admin_lists import AS_JSON, AUDIT, GRANTS, KEYS, PROJECTS, only, show
from services.command_options import on_database, opened, settings_of
from store_schema.console import FAILED, EngramGroup, progress
from store_schema.errors import EngramError, UsageError
from store_schema.redact import redact

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.database.models import AuditRow
    from services.service import Service
    from store_schema.store import Store

DAYS = click.option(
    "--expires-days", type=float, metavar="DAYS", help="Days from now until it ends.  [default: it does not]"
)
SCOPES = ("read", "write", "admin")


@click.group(cls=EngramGroup)
def admin() -> None:
    r"""Look after projects, keys and grants, with the database at hand: no key is needed.

    \b
      feature-store admin migrate
      feature-store admin projects create myeloma --store s3://features/myeloma
      feature-store admin keys create myeloma --scope admin --label "the project's lead"
      feature-store admin keys list myeloma
      feature-store admin grants create myeloma --to lymphoma --snapshot 3f2a
      feature-store admin reindex myeloma
      feature-store admin audit myeloma --since 2026-01-31

    Each act is in the audit log as the operator's. A running service takes a revoked key or grant for good a few seconds longer.
    """


@admin.command()
@on_database
def migrate(*, data: Path | None, database_url: str | None) -> None:
    r"""Bring the database's tables to this version, or make them; prints the steps that were taken.

    Safe while others do the same. There is no way back: copy the database before.

    \b
      feature-store admin migrate --data /srv/engram
      PGPASSWORD=… feature-store admin migrate --database-url postgresql://engram@db/engram
    """
    from services.database.migrate import migrate as migrate_tables  # noqa: PLC0415

    with opened(settings_of(data=data, database_url=database_url), new=True) as service:
        for revision in migrate_tables(service.database):
            click.echo(revision)
        click.echo(f"{service.database.shown} is up to date", err=True)


# Projects


@admin.group(cls=EngramGroup)
def projects() -> None:
    """Make and list projects."""


@projects.command("create")
@click.argument("project")
@click.option("--store", "store_url", metavar="URL", help="Address of its store; by default a folder in --data.")
@on_database
def create_project(project: str, *, store_url: str | None, data: Path | None, database_url: str | None) -> None:
    r"""Make a project and its store; a store that is there already is taken as it is. Prints the store's address.

    Credentials of an object store come from the environment of the service, never from the address.

    \b
      feature-store admin projects create myeloma
      feature-store admin projects create myeloma --store s3://features/myeloma
    """
    from services import operations  # noqa: PLC0415

    if store_url is not None and store_url.lower().startswith("memory:"):
        raise UsageError("a store in memory ends with this command: give a folder or an address such as s3://….")
    with opened(settings_of(data=data, database_url=database_url)) as service:
        made = operations.create_project(service, project, store_url)
        click.echo(made.store_url)
    click.echo(f"Next: `feature-store admin keys create {project} --scope admin --label …`", err=True)


@projects.command("list")
@AS_JSON
@on_database
def list_projects(*, as_json: bool, data: Path | None, database_url: str | None) -> None:
    """List projects with the addresses of their stores."""
    from services import operations  # noqa: PLC0415

    with opened(settings_of(data=data, database_url=database_url)) as service:
        show(operations.list_projects(service), PROJECTS, as_json=as_json)


# Keys


@admin.group(cls=EngramGroup)
def keys() -> None:
    """Make, list and revoke API keys."""


@keys.command("create")
@click.argument("project")
@click.option("--scope", type=click.Choice(SCOPES), default="read", show_default=True, help="What it may do.")
@click.option("--label", required=True, help="What it is for, for people: `extraction on node 3`.")
@DAYS
@on_database
def create_key(
    project: str, *, scope: str, label: str, expires_days: float | None, data: Path | None, database_url: str | None
) -> None:
    r"""Make a key of PROJECT. It is printed on stdout, this once: what is kept cannot give it again.

    `read` reads, `write` publishes too, `admin` makes keys and grants too.

    \b
      feature-store admin keys create myeloma --label "notebooks of A. Analyst" --expires-days 90
      export ENGRAM_API_KEY=$(feature-store admin keys create myeloma --scope write --label extraction)
    """
    from services import operations  # noqa: PLC0415

    with opened(settings_of(data=data, database_url=database_url)) as service:
        made = operations.make_key(service, project, label=label, scope=scope, expires_days=expires_days)
        click.echo(made.text)
        click.echo(f"key {made.row.id} of {project} ({scope}): shown this once", err=True)


@keys.command("list")
@click.argument("project")
@AS_JSON
@on_database
def list_keys(project: str, *, as_json: bool, data: Path | None, database_url: str | None) -> None:
    """List PROJECT's keys, revoked and expired ones too; nobody has their secrets."""
    from services import operations  # noqa: PLC0415

    with opened(settings_of(data=data, database_url=database_url)) as service:
        show(operations.keys_of(service, project), KEYS, as_json=as_json)


@keys.command("revoke")
@click.argument("project")
@click.argument("key")
@on_database
def revoke_key(project: str, key: str, *, data: Path | None, database_url: str | None) -> None:
    r"""Revoke a KEY of PROJECT for good, by its id, a unique beginning of it, or the key itself; prints the id.

    \b
      feature-store admin keys revoke myeloma a1b2c3
    """
    from services import operations  # noqa: PLC0415
    from services.keys import split_key  # noqa: PLC0415

    whole = split_key(key)
    with opened(settings_of(data=data, database_url=database_url)) as service:
        ids = [row.id for row in operations.keys_of(service, project)]
        click.echo(operations.revoke_key(service, project, only(whole[0] if whole else key, ids, "key")).id)


# Grants


@admin.group(cls=EngramGroup)
def grants() -> None:
    """Let a project read a view or snapshot of another one."""


@grants.command("create")
@click.argument("project")
@click.option("--to", "grantee", required=True, metavar="PROJECT", help="Who may read it.")
@click.option("--view", help="All of this view, as it is and will be: id, name, or a unique beginning.")
@click.option("--snapshot", help="This snapshot alone: id or a unique beginning.")
@DAYS
@on_database
def create_grant(
    project: str,
    *,
    grantee: str,
    view: str | None,
    snapshot: str | None,
    expires_days: float | None,
    data: Path | None,
    database_url: str | None,
) -> None:
    r"""Let another project read a view or a snapshot of PROJECT; prints the grant's id.

    \b
      feature-store admin grants create myeloma --to lymphoma --view medsam2-sequential-paper
      feature-store admin grants create myeloma --to lymphoma --snapshot 3f2a --expires-days 30
    """
    from services import operations  # noqa: PLC0415

    if (view is None) == (snapshot is None):
        raise UsageError("give --view or --snapshot: a grant is of one of the two.")
    with opened(settings_of(data=data, database_url=database_url)) as service:
        store = service.store(project)
        made = operations.make_grant(
            service, project, grantee, view=_view(store, view), snapshot=_snapshot(store, snapshot), expires_days=expires_days
        )  # fmt: skip
        click.echo(made.id)
        what = f"view {made.view}" if made.view else f"snapshot {made.snapshot}"
        click.echo(f"{grantee} reads {what} of {project}", err=True)


def _view(store: Store, name: str | None) -> str | None:
    return None if name is None else store.resolve_view(name)


def _snapshot(store: Store, beginning: str | None) -> str | None:
    from store_schema.snapshot import resolve_id  # noqa: PLC0415

    return None if beginning is None else resolve_id(beginning, store.snapshot_ids)


@grants.command("list")
@click.argument("project")
@AS_JSON
@on_database
def list_grants(project: str, *, as_json: bool, data: Path | None, database_url: str | None) -> None:
    """List grants that PROJECT gave or received, revoked and expired ones too."""
    from services import operations  # noqa: PLC0415

    with opened(settings_of(data=data, database_url=database_url)) as service:
        show(operations.grants_of(service, project), GRANTS, as_json=as_json)


@grants.command("revoke")
@click.argument("project")
@click.argument("grant")
@on_database
def revoke_grant(project: str, grant: str, *, data: Path | None, database_url: str | None) -> None:
    """Revoke a GRANT that PROJECT gave, for good, by its id or a unique beginning of it; prints the id."""
    from services import operations  # noqa: PLC0415

    with opened(settings_of(data=data, database_url=database_url)) as service:
        ids = [row.id for row in operations.grants_of(service, project) if row.project == project]
        click.echo(operations.revoke_grant(service, project, only(grant, ids, "grant")).id)


# Catalogue and audit


@admin.command()
@click.argument("projects", nargs=-1, metavar="[PROJECT]...")
@click.option("--rebuild", is_flag=True, help="Drop the catalogue's rows first and read everything again.")
@on_database
def reindex(*, projects: tuple[str, ...], rebuild: bool, data: Path | None, database_url: str | None) -> None:
    r"""Make the catalogue agree with the stores of the PROJECTs, by default of all; prints one JSON object each.

    What has not changed is not read again, and a running service may go on. A project that fails does not stop the others; the
    exit status is 1 if one failed or could not be read to its end.

    \b
      feature-store admin reindex
      feature-store admin reindex myeloma --rebuild
    """
    from services import operations  # noqa: PLC0415

    with opened(settings_of(data=data, database_url=database_url)) as service:
        names = projects or tuple(row.id for row in operations.list_projects(service))
        sound = [_reindexed(service, name, rebuild=rebuild) for name in names]
    raise click.exceptions.Exit(0 if all(sound) else FAILED)


def _reindexed(service: Service, project: str, *, rebuild: bool) -> bool:
    from services.catalogue.index import reindex as make_agree  # noqa: PLC0415

    try:
        with progress(f"reindexing {project}") as told:
            report = make_agree(service, project, rebuild=rebuild, told=told)
    except EngramError as error:
        click.echo(redact(f"{project}: {type(error).__name__}: {error}"), err=True)
        return False
    click.echo(json.dumps(report.to_dict()))
    return report.complete


@admin.command()
@click.argument("project")
@click.option(
    "--since", type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]), help="In UTC; what ended before is left out."
)
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Most rows, the latest.")
@AS_JSON
@on_database
def audit(
    project: str, *, since: datetime | None, limit: int, as_json: bool, data: Path | None, database_url: str | None
) -> None:
    r"""Print who did what with PROJECT's data and settings, the latest last; reads are counted by key and view.

    \b
      feature-store admin audit myeloma --since 2026-01-31
      feature-store admin audit myeloma --limit 100000 --json > audit.jsonl
    """
    with opened(settings_of(data=data, database_url=database_url)) as service:
        rows = list(_latest(service, project, since.replace(tzinfo=UTC) if since else None, limit))
        show(rows[::-1], AUDIT, as_json=as_json)


def _latest(service: Service, project: str, since: datetime | None, limit: int) -> Iterator[AuditRow]:
    from services.operations import MAX_PAGE, audit_of  # noqa: PLC0415

    cursor: str | None = None
    while limit > 0:
        page: Any = audit_of(service, project, cursor=cursor, since=since, limit=min(limit, MAX_PAGE))
        yield from page.rows
        limit, cursor = limit - len(page.rows), page.next
        if cursor is None:
            return
