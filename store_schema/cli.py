"""The `store-schema` command: makes and lists stores, pins snapshots, verifies; changes no data and knows no backend."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import click

from store_schema.commands.backends import doctor, init
from store_schema.commands.care import du, gc, verify, withdraw
from store_schema.commands.moving import copy, export
from store_schema.commands.patients import pseudonym
from store_schema.commands.snapshots import diff, pack, snapshot
from store_schema.console import EngramGroup
from store_schema.errors import (
    EntryWithdrawnError,
    InvalidKeyError,
    NotCommittedError,
    ObjectAlteredError,
    ObjectMissingError,
    SchemaError,
)
from store_schema.keys import EntryKey

if TYPE_CHECKING:
    from store_schema.store import Store

# Commands import the store when they run: zarr takes a second that --help must not.


@click.group(cls=EngramGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="engram")
def main() -> None:
    r"""Look after a feature store: make one, list it, pin snapshots, verify every byte.

    \b
      store-schema doctor s3://bucket/project
      store-schema init ./store
      store-schema ls ./store
      store-schema ls ./store medsam2-sequential-paper
      store-schema show ./store medsam2-sequential-paper P001/PET/spine_dilated
      store-schema snapshot ./store medsam2-sequential-paper
      store-schema verify ./store

    URL is a folder's path, s3://BUCKET/PREFIX, gs://…, az://…, file:///PATH, memory://NAME, https://HOST/v1/projects/PROJECT (the
    feature-store service, with the API key in ENGRAM_API_KEY) or any other https://… (reading). A VIEW may be given by its id, its
    name, or the beginning of either where that is unique. Results go to stdout, progress and errors to stderr.

    Exit status: 0 all well, 1 something is wrong or missing, 2 wrong use.
    """


main.add_command(init)
main.add_command(doctor)


@main.command()
@click.argument("url")
@click.argument("view", required=False)
def ls(url: str, view: str | None) -> None:
    r"""List views, snapshots and runs; or the entries of one VIEW, one key a line.

    \b
      store-schema ls ./store
      store-schema ls ./store medsam2-sequential-paper > keys.txt
    """
    from store_schema.store import open_store  # noqa: PLC0415

    store = open_store(url)
    lines = _overview(store) if view is None else map(str, store.keys(store.resolve_view(view)))
    for line in lines:
        click.echo(line)


def _overview(store: Store) -> Iterator[str]:
    for view_id in store.view_ids():
        yield f"view      {view_id}  {_told(partial(_view, store, view_id))}"
    for snapshot_id in store.snapshot_ids():
        yield f"snapshot  {snapshot_id}  {_told(partial(_snapshot, store, snapshot_id))}"
    for run_id in store.run_ids():
        yield f"run       {run_id}  {', '.join(store.run_names(run_id))}"


def _view(store: Store, view_id: str) -> str:
    note = "" if store.view(view_id).encoder.trained else "  UNTRAINED: random weights"
    return f"{len(store.keys(view_id))} entries{note}"


def _snapshot(store: Store, snapshot_id: str) -> str:
    pinned = store.snapshot(snapshot_id)
    return f"{len(pinned)} entries of {pinned.view_id}"


def _told(tell: Callable[[], str]) -> str:
    """What there is to say of one thing; one that is damaged hides no other."""
    try:
        return tell()
    except EntryWithdrawnError:
        return "names withdrawn entries: refuses to open"
    except (NotCommittedError, ObjectAlteredError, ObjectMissingError, SchemaError, InvalidKeyError) as error:
        return f"DAMAGED ({type(error).__name__}): `store-schema verify` tells"


@main.command()
@click.argument("url")
@click.argument("view")
@click.argument("key", metavar="[PATIENT/MODALITY/ROI]", required=False)
def show(url: str, view: str, key: str | None) -> None:
    r"""Print a view's specification, or an entry's commits with arrays, attributes and provenance, as JSON.

    The commits come in order: the last one is current.

    \b
      store-schema show ./store medsam2-sequential-paper
      store-schema show ./store medsam2-sequential-paper P001/PET/spine_dilated
    """
    from store_schema.store import open_store  # noqa: PLC0415

    store = open_store(url)
    view_id = store.resolve_view(view)
    if key is None:
        click.echo(json.dumps(store.view(view_id).model_dump(mode="json"), indent=2))
        return
    last = store.commit(view_id, EntryKey.parse(key))
    earlier = [store.commit(view_id, last.key, number=number) for number in range(last.number)]
    click.echo(json.dumps([commit.model_dump(mode="json", by_alias=True) for commit in [*earlier, last]], indent=2))


main.add_command(snapshot)
main.add_command(diff)
main.add_command(pack)
main.add_command(verify)
main.add_command(gc)
main.add_command(withdraw)
main.add_command(pseudonym)
main.add_command(copy)
main.add_command(export)
main.add_command(du)
