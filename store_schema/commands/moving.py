"""`copy` and `export`: replicas of a store, and its content in other tools' forms; knows no protocol."""

from __future__ import annotations

import json
from pathlib import Path

import click

from store_schema.console import FAILED, EngramCommand, EngramGroup, progress


@click.command(cls=EngramCommand)
@click.argument("source")
@click.argument("target")
@click.option("--view", "views", multiple=True, help="Copy this view alone, its snapshots and packs; may be repeated.")
@click.option("--snapshot", "snapshots", multiple=True, help="Copy only what this snapshot pins; may be repeated.")
@click.option("--runs", is_flag=True, help="Copy the records of runs too.")
@click.option("--dry-run", is_flag=True, help="Only say what would be copied.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def copy(
    *,
    source: str,
    target: str,
    views: tuple[str, ...],
    snapshots: tuple[str, ...],
    runs: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    r"""Copy the store SOURCE, or parts of it, to TARGET, checking every object on the way; run it again to resume.

    A copy is a replica: it keeps the store's id, commits and snapshots, byte for byte, so that a snapshot's id means the same in
    both. TARGET must be empty or an earlier copy. An entry is copied with all its commits. What was withdrawn at SOURCE is not
    copied, and is erased at TARGET. An entry that is damaged at SOURCE is left out and named, the rest is copied: exit status 1.

    \b
      store-schema copy ./store s3://bucket/project
      store-schema copy s3://bucket/project ./local --snapshot 3f2a
    """
    from store_schema.copying import copy_store  # noqa: PLC0415 - keeps --help instant
    from store_schema.store import open_store  # noqa: PLC0415

    store = open_store(source)
    chosen = [store.resolve_view(view) for view in views]
    with progress("copying entries") as told:
        report = copy_store(store, target, views=chosen, snapshots=snapshots, runs=runs, dry_run=dry_run, told=told)
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2))
    else:
        for problem in report.problems:
            click.echo(f"problem    {problem}")
        verb, has = ("would copy", "would have") if dry_run else ("copied", "has")
        click.echo(
            f"{verb} {report.commits} commits, {report.objects} objects, {report.size_bytes / 2**20:.1f} MiB to {report.target}, "
            f"which {has} {report.entries} entries; {len(report.snapshots)} snapshots, {len(report.packs)} packs"
        )
    raise click.exceptions.Exit(0 if report.ok else FAILED)


@click.group(cls=EngramGroup)
def export() -> None:
    """Write what a snapshot pins in forms that other tools read."""


@export.command()
@click.argument("url")
@click.argument("snapshot_id", metavar="SNAPSHOT")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace what is there.")
def masks(url: str, snapshot_id: str, folder: Path, force: bool) -> None:
    r"""Write masks as OME-Zarr 0.5 label images, one group a patient and modality, for napari and other viewers.

    \b
      store-schema export masks ./store 3f2a ./masks
    """
    from store_schema.exporting import export_masks  # noqa: PLC0415 - keeps --help instant
    from store_schema.store import open_store  # noqa: PLC0415

    with progress("writing images") as told:
        count = export_masks(open_store(url).snapshot(snapshot_id), folder, overwrite=force, told=told)
    click.echo(f"{count} labels in {folder}")


@export.command()
@click.argument("url")
@click.argument("snapshot_id", metavar="SNAPSHOT")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--array", type=click.Choice(["mean_map", "memory"]), default="mean_map", show_default=True, help="Which array."
)
@click.option("--force", is_flag=True, help="Replace what is there.")
def embeddings(url: str, snapshot_id: str, file: Path, array: str, force: bool) -> None:
    r"""Write embeddings as one Parquet file, a row an entry, for pandas, polars, R and others.

    \b
      store-schema export embeddings ./store 3f2a mean_maps.parquet
    """
    from store_schema.exporting import export_embeddings  # noqa: PLC0415 - keeps --help instant
    from store_schema.store import open_store  # noqa: PLC0415

    with progress("writing rows") as told:
        count = export_embeddings(open_store(url).snapshot(snapshot_id), file, array=array, overwrite=force, told=told)
    click.echo(f"{count} rows in {file}")
