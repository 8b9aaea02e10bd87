"""The `store-schema` command: looks at stores, pins snapshots, verifies; changes no data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from store_schema.console import EngramGroup, error_console, result_console

if TYPE_CHECKING:
    from store_schema.store import Store
    from store_schema.verify import VerifyReport


@click.group(cls=EngramGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="engram")
def main() -> None:
    r"""Look after a feature store: make one, list it, pin snapshots, verify every byte.

    \b
      store-schema init ./store
      store-schema ls ./store
      store-schema ls ./store medsam2-sequential-paper
      store-schema show ./store medsam2-sequential-paper P001/PET/spine_dilated
      store-schema snapshot ./store medsam2-sequential-paper
      store-schema verify ./store

    A view may be given by its id, its name, or the beginning of either where that is unique.
    """


@main.command()
@click.argument("url")
def init(url: str) -> None:
    """Make a folder a feature store; one that is there already stays as it is."""
    from store_schema.store import open_store  # noqa: PLC0415

    store = open_store(url, create=True)
    result_console().print(f"store {store.store_id} at {store.url}", soft_wrap=True)


@main.command()
@click.argument("url")
@click.argument("view", required=False)
def ls(url: str, view: str | None) -> None:
    """List views, snapshots and runs; or the entries of one VIEW, one key a line."""
    from store_schema.store import open_store  # noqa: PLC0415

    store = open_store(url)
    out = result_console()
    if view is not None:
        for key in store.keys(store.resolve_view(view)):
            out.print(str(key), soft_wrap=True)
        return
    for view_id in store.view_ids():
        note = "" if store.view(view_id).encoder.trained else "  UNTRAINED"
        out.print(f"view      {view_id}  {len(store.keys(view_id))} entries{note}", soft_wrap=True)
    for snapshot_id in store.snapshot_ids():
        snapshot = store.snapshot(snapshot_id)
        out.print(f"snapshot  {snapshot_id}  {len(snapshot)} entries of {snapshot.view_id}", soft_wrap=True)
    for run_id in store.run_ids():
        out.print(f"run       {run_id}", soft_wrap=True)


@main.command()
@click.argument("url")
@click.argument("view")
@click.argument("key", metavar="PATIENT/MODALITY/ROI", required=False)
def show(url: str, view: str, key: str | None) -> None:
    """Print a view's specification, or an entry's commits with arrays, attributes and provenance, as JSON."""
    from store_schema.keys import EntryKey  # noqa: PLC0415
    from store_schema.store import open_store  # noqa: PLC0415

    store = open_store(url)
    view_id = store.resolve_view(view)
    if key is None:
        click.echo(json.dumps(store.view(view_id).model_dump(mode="json"), indent=2))
        return
    entry = EntryKey.parse(key)
    history = store.history(view_id, entry)
    if not history:
        store.read(view_id, entry)
    click.echo(json.dumps([commit.model_dump(mode="json", by_alias=True) for commit in history], indent=2))


@main.command()
@click.argument("url")
@click.argument("view")
@click.option(
    "--keys",
    "keys_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with one key a line.",
)
def snapshot(url: str, view: str, keys_file: Path | None) -> None:
    """Pin the current entries of VIEW (all, or those in a file) and print the snapshot's id."""
    from store_schema.keys import EntryKey  # noqa: PLC0415
    from store_schema.store import open_store  # noqa: PLC0415

    store = open_store(url)
    lines = None if keys_file is None else keys_file.read_text().split()
    keys = None if lines is None else [EntryKey.parse(line) for line in lines]
    click.echo(store.make_snapshot(store.resolve_view(view), keys))


@main.command()
@click.argument("url")
@click.option("--view", "views", multiple=True, help="Check these views alone; may be repeated.")
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the whole report here."
)
def verify(url: str, views: tuple[str, ...], json_path: Path | None) -> None:
    """Read every committed object and check size, digest and content; exit status 1 if anything is wrong.

    Attempts that no commit names are counted as orphans: a writer died, nobody can see them, nothing is wrong.
    """
    from store_schema.store import open_store  # noqa: PLC0415

    store = open_store(url)
    report = _with_progress(store, [store.resolve_view(view) for view in views] or None)
    if json_path is not None:
        json_path.write_text(json.dumps(report.to_dict(), indent=2))
    out = result_console()
    for finding in report.findings:
        out.print(f"{finding.kind:8s} {finding.path}: {finding.detail}", soft_wrap=True, markup=False)
    out.print(
        f"{'verified' if report.ok else 'NOT SOUND'}: {report.entries} entries of {report.views} views, {report.commits} commits, "
        f"{report.objects} objects, {report.size_bytes / 2**20:.1f} MiB, {report.snapshots} snapshots; "
        f"{len(report.findings)} problems, {len(report.orphans)} orphaned attempts",
        soft_wrap=True,
    )
    raise click.exceptions.Exit(0 if report.ok else 1)


def _with_progress(store: Store, views: list[str] | None) -> VerifyReport:
    from rich.progress import Progress  # noqa: PLC0415

    from store_schema.verify import verify as verify_store  # noqa: PLC0415

    with Progress(console=error_console()) as progress:
        bar = progress.add_task("verifying entries", total=None)
        return verify_store(
            store, views=views, on_entry=lambda done, total: progress.update(bar, completed=done, total=total)
        )
