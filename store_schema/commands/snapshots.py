"""`snapshot`, `diff` and `pack`: pin entries, compare pins, and write packs of them; knows no protocol and no backend."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from store_schema.console import FAILED, EngramCommand, progress
from store_schema.errors import UsageError
from store_schema.keys import EntryKey

if TYPE_CHECKING:
    from store_schema.pinning import SnapshotDiff
    from store_schema.snapshot import Snapshot

KINDS = ("mean_map", "memory")


@click.command(cls=EngramCommand)
@click.argument("url")
@click.argument("view")
@click.option(
    "--keys",
    "keys_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with one PATIENT/MODALITY/ROI a line; empty lines and lines that start with # are skipped.",
)
@click.option(
    "--where", multiple=True, metavar="FIELD=GLOB", help="Only entries that pass; may be repeated, all must hold."
)
@click.option("--base", help="Snapshot to build on (default: the newest of VIEW). Changes the work, never the result.")
@click.option(
    "--pack",
    "kind",
    is_flag=False,
    flag_value="mean_map",
    type=click.Choice(KINDS),
    help="Write a pack of the snapshot too: mean maps, or memories.",
)
def snapshot(
    url: str, view: str, *, keys_file: Path | None, where: tuple[str, ...], base: str | None, kind: str | None
) -> None:
    r"""Pin the current entries of VIEW (all, or those chosen) and print the snapshot's id.

    The same entries and commits give the same id. Only commits that the base does not pin already are read, so that a
    snapshot of a large store costs one listing and what is new. Withdrawn entries are left out.

    A filter is FIELD=GLOB[,GLOB…] or FIELD!=GLOB[,GLOB…] with FIELD one of patient, modality, roi.

    \b
      store-schema snapshot ./store medsam2-sequential-paper
      store-schema snapshot ./store medsam2-sequential-paper --keys cohort.txt
      store-schema snapshot ./store medsam2-sequential-paper --where 'patient=MM_0*' --where modality=PET --pack
    """
    from store_schema.store import open_store  # noqa: PLC0415 - keeps --help instant

    store = open_store(url)
    keys = None if keys_file is None else _read_keys(keys_file)
    with progress("pinning entries") as told:
        made = store.make_snapshot(store.resolve_view(view), keys, where=where, base=base, told=told)
    click.echo(made)
    if kind is not None:
        _pack(store.snapshot(made), kind)


def _read_keys(path: Path) -> list[EntryKey]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as a list of keys: {error}.") from error
    return [EntryKey.parse(line) for line in lines if line and not line.startswith("#")]


@click.command(cls=EngramCommand)
@click.argument("url")
@click.argument("snapshot_id", metavar="SNAPSHOT")
@click.option("--kind", type=click.Choice(KINDS), default="mean_map", show_default=True, help="Which array to pack.")
def pack(url: str, snapshot_id: str, kind: str) -> None:
    r"""Write a pack of a snapshot: one Zarr array of all its entries, 50 to an object, which readers of a cohort take at once.

    `trainer` uses the pack of mean maps without being asked. Everybody else opens it with xarray: see the address printed.
    A pack that is there already stays as it is.

    \b
      store-schema pack ./store 3f2a
      store-schema pack ./store 3f2a --kind memory
    """
    from store_schema.store import open_store  # noqa: PLC0415 - keeps --help instant

    _pack(open_store(url).snapshot(snapshot_id), kind)


def _pack(pinned: Snapshot, kind: str) -> None:
    from store_schema.packs import make_pack  # noqa: PLC0415 - keeps --help instant

    with progress(f"packing {kind}") as told:
        made = make_pack(pinned, kind, told=told)
    size = sum(one.size_bytes for one in made.record.objects.values())
    click.echo(f"pack {kind} of {len(pinned)} entries, {size / 2**20:.1f} MiB: {made.url}")


@click.command(cls=EngramCommand)
@click.argument("url")
@click.argument("before")
@click.argument("after")
@click.option("--json", "as_json", is_flag=True, help="Print the difference as JSON.")
def diff(url: str, before: str, after: str, as_json: bool) -> None:
    r"""Say what changed between two snapshots of one view: entries added, removed, or pinned to another commit.

    One line an entry: + added, - removed, ~ changed with the commit numbers before and after. Exit status 1 if they differ.

    \b
      store-schema diff ./store 3f2a 9c41
    """
    from store_schema.store import open_store  # noqa: PLC0415 - keeps --help instant

    found = open_store(url).diff(before, after)
    if as_json:
        click.echo(json.dumps(_as_dict(found), indent=2))
    else:
        for line in _lines(found):
            click.echo(line)
        click.echo(f"{len(found.added)} added, {len(found.removed)} removed, {len(found.changed)} changed")
    raise click.exceptions.Exit(0 if found.same else FAILED)


def _lines(found: SnapshotDiff) -> Iterator[str]:
    yield from (f"+ {row.key} {row.number}" for row in found.added)
    yield from (f"- {row.key} {row.number}" for row in found.removed)
    yield from (f"~ {old.key} {old.number} -> {new.number}" for old, new in found.changed)


def _as_dict(found: SnapshotDiff) -> dict[str, list[dict[str, str | int]]]:
    return {
        "added": [{"key": str(row.key), "number": row.number} for row in found.added],
        "removed": [{"key": str(row.key), "number": row.number} for row in found.removed],
        "changed": [{"key": str(old.key), "before": old.number, "after": new.number} for old, new in found.changed],
    }
