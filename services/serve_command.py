"""`feature-store serve`: options of a service process; migrates, makes a first project where there is none, and serves.

Heavy modules are imported inside the command, so that --help is instant.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from services.command_options import on_database, opened, settings_of
from store_schema.console import EngramCommand

if TYPE_CHECKING:
    from services.service import Service

FIRST = "default"
"""Project that a fresh data folder gets."""


@click.command(cls=EngramCommand)
@on_database
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    envvar="ENGRAM_SERVICE_HOST",
    help="Address to listen on; 0.0.0.0 is every one of this machine.",
)
@click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(0, 65535), envvar="ENGRAM_SERVICE_PORT",
    help="Port to listen on; 0 is a free one.",
)  # fmt: skip
@click.option(
    "--reconcile-s", type=click.FloatRange(min=0), metavar="SECONDS", envvar="ENGRAM_SERVICE_RECONCILE_S",
    help="Between two looks at the whole of each store; 0 never looks.  [default: 300]",
)  # fmt: skip
@click.option(
    "--public-url", metavar="URL", envvar="ENGRAM_SERVICE_PUBLIC_URL",
    help="How clients reach the service, where a proxy stands before it: https://features.example.org",
)  # fmt: skip
@click.option(
    "--processes", default=1, show_default=True, type=click.IntRange(1, 64), envvar="ENGRAM_SERVICE_PROCESSES",
    help="That answer requests; one a core at most.",
)  # fmt: skip
@click.option(
    "--cache-mib", type=click.IntRange(min=0), metavar="MIB", envvar="ENGRAM_SERVICE_CACHE_MIB",
    help="Memory for objects that are read again and again, of all processes together.  [default: 512]",
)  # fmt: skip
@click.option(
    "--log-format", type=click.Choice(["json", "plain"]), default="json", show_default=True,
    envvar="ENGRAM_SERVICE_LOG_FORMAT", help="Of the log on stderr: for programs, or for people.",
)  # fmt: skip
def serve(
    *,
    data: Path | None,
    database_url: str | None,
    host: str,
    port: int,
    reconcile_s: float | None,
    public_url: str | None,
    processes: int,
    cache_mib: int | None,
    log_format: str,
) -> None:
    r"""Serve feature stores over HTTP, to whom keys and grants allow it.

    Without options: the embedded database and stores below ./feature-store, at http://127.0.0.1:8000. A fresh folder gets the
    project `default`, and an admin key of it is printed, this once.

    Several processes share one PostgreSQL by --database-url and stores by their addresses (s3://…). Each brings the tables up to
    date when it starts. Every option may stand in the environment: ENGRAM_SERVICE_PORT and so on. Ctrl-C or SIGTERM ends it once
    what is under way is answered.

    \b
      feature-store serve
      feature-store serve --data /srv/engram --host 0.0.0.0 --public-url https://features.example.org
      PGPASSWORD=… feature-store serve --database-url postgresql://engram@db/engram
    """
    from services.database.migrate import migrate  # noqa: PLC0415
    from services.server import run  # noqa: PLC0415

    settings = settings_of(
        data=data, database_url=database_url, reconcile_s=reconcile_s, public_url=public_url,
        cache_bytes=None if cache_mib is None else cache_mib * 2**20,
    )  # fmt: skip
    with opened(settings, new=True) as service:
        migrate(service.database)
        if settings.database_url is None:
            _make_first(service)
    run(settings, host=host, port=port, plain_logs=log_format == "plain", processes=processes)


def _make_first(service: Service) -> None:
    """A project to begin with, where there is none; whoever shares a server makes projects by `admin`."""
    from services.operations import create_project, list_projects, make_key  # noqa: PLC0415

    if list_projects(service):
        return
    create_project(service, FIRST)
    made = make_key(service, FIRST, label="first key", scope="admin")
    click.echo(f"Project '{FIRST}' was made. Its admin key, shown this once, is on stdout; keep it.", err=True)
    click.echo(made.text)
