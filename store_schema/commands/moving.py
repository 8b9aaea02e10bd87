"""`copy` and `export`: replicas of a store, and its content in other tools' forms; knows no protocol."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from store_schema.console import FAILED, EngramCommand, EngramGroup, error_console, progress

if TYPE_CHECKING:
    from store_schema.copying import CopyReport

MIB = 2**20


@click.command(cls=EngramCommand)
@click.argument("source")
@click.argument("target")
@click.option("--view", "views", multiple=True, help="Copy this view alone, its snapshots and packs; may be repeated.")
@click.option("--snapshot", "snapshots", multiple=True, help="Copy only what this snapshot pins; may be repeated.")
@click.option("--runs", is_flag=True, help="Copy the records of runs too.")
@click.option(
    "--verify-existing", is_flag=True, help="Read and check also what TARGET has already; mend what is wrong."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be copied.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
def copy(
    *,
    source: str,
    target: str,
    views: tuple[str, ...],
    snapshots: tuple[str, ...],
    runs: bool,
    verify_existing: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    r"""Copy the store SOURCE, or parts of it, to TARGET, checking every object on the way; run it again to resume.

    A copy is a replica: it keeps the store's id, commits and snapshots, byte for byte, so that a snapshot's id means the same in
    both. TARGET must be empty or an earlier copy. Write to one of the two only: entries that were published into the copy are
    named and left as they are.

    An entry travels with all its commits and their data, since earlier snapshots pin earlier commits; there is no copy of current
    commits alone. What was withdrawn at SOURCE is not copied, and is erased at TARGET. Of what TARGET has, sizes are compared;
    --verify-existing reads it. What is damaged at SOURCE is left out and named, and the rest is copied: exit status 1.

    \b
      store-schema copy ./store s3://bucket/project
      store-schema copy s3://bucket/project ./local --snapshot 3f2a
    """
    from store_schema.copying import copy_store  # noqa: PLC0415 - keeps --help instant
    from store_schema.store import open_store  # noqa: PLC0415

    store = open_store(source)
    chosen = [store.resolve_view(view) for view in views]
    with _copying() as told:
        report = copy_store(
            store,
            target,
            views=chosen,
            snapshots=snapshots,
            runs=runs,
            verify_existing=verify_existing,
            dry_run=dry_run,
            told=told,
        )
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2))
    else:
        _echo_copied(report)
    raise click.exceptions.Exit(0 if report.ok else FAILED)


@contextlib.contextmanager
def _copying() -> Iterator[Callable[[int, int, int], None]]:
    """A progress bar on stderr with entries, rate and time left; gives the function that moves it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    rate = TextColumn("{task.fields[mib]:.0f} MiB, {task.fields[rate]:.1f} MiB/s")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    begun = time.monotonic()
    with Progress(*columns, console=error_console()) as bars:
        bar = bars.add_task("copying entries", total=None, mib=0.0, rate=0.0)

        def told(done: int, total: int, size_bytes: int) -> None:
            mib, seconds = size_bytes / MIB, max(time.monotonic() - begun, 1e-3)
            bars.update(bar, completed=done, total=total, mib=mib, rate=mib / seconds)

        yield told


def _echo_copied(report: CopyReport) -> None:
    for problem in report.problems:
        click.echo(f"problem    {problem}")
    would, has = ("would copy", "would have") if report.dry_run else ("copied", "has")
    size = f"{report.commits} commits, {report.objects} objects, {report.size_bytes / MIB:.1f} MiB"
    held = f"{report.entries} entries ({report.withdrawn} withdrawn), {len(report.snapshots)} snapshots, {len(report.packs)} packs"
    click.echo(f"{would} {size} to {report.target}, which {has} {held}")
    if report.repaired or report.erased:
        click.echo(
            f"of what an earlier copy brought: {report.repaired} objects mended, {report.erased} erased as withdrawn"
        )


@click.group(cls=EngramGroup)
def export() -> None:
    """Write what a snapshot pins in forms that other tools read."""


@export.command()
@click.argument("url")
@click.argument("snapshot_id", metavar="SNAPSHOT")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace images that are there.")
def masks(url: str, snapshot_id: str, folder: Path, *, force: bool) -> None:
    r"""Write masks as OME-Zarr 0.5 labels, for napari and other viewers.

    FOLDER/PATIENT/MODALITY.ome.zarr holds a label for each ROI, in millimetres. Its image is the union of the masks, since a
    store keeps no CT or PET. Entries that have no mask are named: exit status 1.

    \b
      store-schema export masks ./store 3f2a ./masks
    """
    from store_schema.ome import export_masks  # noqa: PLC0415 - keeps --help instant
    from store_schema.store import open_store  # noqa: PLC0415

    pinned = open_store(url).snapshot(snapshot_id)
    with progress("writing images") as told:
        done = export_masks(pinned, folder, overwrite=force, told=told)
    for key in done.without:
        click.echo(f"no mask    {key}")
    click.echo(f"{done.labels} labels on {done.images} images in {folder}")
    raise click.exceptions.Exit(FAILED if done.without else 0)


@export.command()
@click.argument("url")
@click.argument("snapshot_id", metavar="SNAPSHOT")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--array", type=click.Choice(["mean_map", "memory"]), default="mean_map", show_default=True, help="Which."
)
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
def embeddings(url: str, snapshot_id: str, file: Path, *, array: str, force: bool) -> None:
    r"""Write embeddings as one Parquet file, a row an entry, for pandas, polars, R and others.

    The array stands in each row as one list in C order; its shape and axes are in the file's metadata under engram. Vector views
    have their vector as --array memory.

    \b
      store-schema export embeddings ./store 3f2a mean_maps.parquet
      store-schema export embeddings ./store 3f2a memories.parquet --array memory
    """
    from store_schema.exporting import export_embeddings  # noqa: PLC0415 - keeps --help instant
    from store_schema.store import open_store  # noqa: PLC0415

    pinned = open_store(url).snapshot(snapshot_id)
    with progress("writing rows") as told:
        count = export_embeddings(pinned, file, array=array, overwrite=force, told=told)
    click.echo(f"{count} rows in {file}")
