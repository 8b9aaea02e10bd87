"""`init` and `doctor`: makes a place a store after trying out what it can do; knows no protocol."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from store_schema.console import FAILED, EngramCommand

if TYPE_CHECKING:
    from store_schema.doctor import Check

MARKS = {"ok": "✓", "warning": "!", "failed": "✗"}


@click.command(cls=EngramCommand)
@click.argument("url")
@click.option("--no-doctor", is_flag=True, help="Do not try out first what the place can do.")
def init(url: str, no_doctor: bool) -> None:
    r"""Make a place a feature store; one that is there already stays as it is.

    First the same is tried as by `store-schema doctor`: a place that cannot create a name exactly once is refused, since
    writers would overwrite each other there.

    \b
      store-schema init ./store
      store-schema init s3://bucket/project
    """
    from store_schema.doctor import examine, sound  # noqa: PLC0415 - --help is instant
    from store_schema.errors import BackendError, StoreNotFoundError  # noqa: PLC0415
    from store_schema.location import open_location  # noqa: PLC0415
    from store_schema.store import create_store, open_store  # noqa: PLC0415

    try:
        store = open_store(url)
    except StoreNotFoundError:
        checks = [] if no_doctor else examine(open_location(url))
        if not sound(checks):
            _print(checks)
            raise BackendError(f"{url} was not made a store: see the lines marked {MARKS['failed']} above.") from None
        store = create_store(url)
    click.echo(f"store {store.store_id} at {store.url}")


@click.command(cls=EngramCommand)
@click.argument("url")
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def doctor(url: str, as_json: bool) -> None:
    r"""Try out what a place can do: create-only writes, races, absent objects, ranges, listing, deletion, clock.

    Works on a place with or without a store; writes a few small objects under .engram-probe/ and removes them.
    Each line says what was seen or, marked ✗, what to do. Exit status 1 if a store must not be kept there.

    Credentials, region and endpoint of s3:// come from the usual environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION,
    AWS_ENDPOINT_URL) or profile (AWS_PROFILE); of gs:// from GOOGLE_APPLICATION_CREDENTIALS, GOOGLE_SERVICE_ACCOUNT, gcloud's login
    or the machine's account (an emulator: STORAGE_EMULATOR_HOST); of az:// from AZURE_STORAGE_ACCOUNT_NAME with
    AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN, AZURE_CLIENT_ID and its kin, or the machine's identity, and where it is not
    Azure's own, AZURE_STORAGE_ENDPOINT.

    Of a project of the feature-store service (https://HOST/v1/projects/PROJECT) it says whether the key in ENGRAM_API_KEY is good,
    and what it may do; nothing is written there.

    \b
      store-schema doctor s3://bucket/project
      AWS_ENDPOINT_URL=http://ceph:8080 store-schema doctor s3://bucket/project
      AZURE_STORAGE_ACCOUNT_NAME=hospital store-schema doctor az://container/project
    """
    from store_schema.doctor import examine, sound  # noqa: PLC0415 - --help is instant
    from store_schema.location import open_location  # noqa: PLC0415

    location = open_location(url)
    checks = examine(location)
    if as_json:
        click.echo(
            json.dumps({"url": location.url, "ok": sound(checks), "checks": [c.to_dict() for c in checks]}, indent=2)
        )
    else:
        _print(checks)
        click.echo(f"{location.url}: {'fit for a store' if sound(checks) else 'NOT fit for a store'}")
    raise click.exceptions.Exit(0 if sound(checks) else FAILED)


def _print(checks: list[Check]) -> None:
    for check in checks:
        click.echo(f"{MARKS[check.verdict]} {check.name:24s} {check.detail}")
