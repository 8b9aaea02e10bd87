"""The `store-schema` command: makes and lists stores, pins snapshots, verifies; changes no data and knows no backend."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from store_schema.commands.backends import doctor, init
from store_schema.console import FAILED, EngramGroup, error_console
from store_schema.errors import UsageError
from store_schema.keys import EntryKey

if TYPE_CHECKING:
    from store_schema.store import Store
    from store_schema.verify import VerifyReport

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

    URL is a folder's path, s3://BUCKET/PREFIX, gs://…, az://…, file:///PATH, https://… (reading) or memory://NAME. A VIEW may be
    given by its id, its name, or the beginning of either where that is unique. Results go to stdout, progress and errors to stderr.

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
        note = "" if store.view(view_id).encoder.trained else "  UNTRAINED: random weights"
        yield f"view      {view_id}  {len(store.keys(view_id))} entries{note}"
    for snapshot_id in store.snapshot_ids():
        snapshot = store.snapshot(snapshot_id)
        yield f"snapshot  {snapshot_id}  {len(snapshot)} entries of {snapshot.view_id}"
    for run_id in store.run_ids():
        yield f"run       {run_id}  {', '.join(store.run_names(run_id))}"


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


@main.command()
@click.argument("url")
@click.argument("view")
@click.option(
    "--keys",
    "keys_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with one PATIENT/MODALITY/ROI a line; empty lines and lines that start with # are skipped.",
)
def snapshot(url: str, view: str, keys_file: Path | None) -> None:
    r"""Pin the current entries of VIEW (all, or those in a file) and print the snapshot's id.

    The same entries and commits give the same id.

    \b
      store-schema snapshot ./store medsam2-sequential-paper
      store-schema snapshot ./store medsam2-sequential-paper --keys cohort.txt
    """
    from store_schema.store import open_store  # noqa: PLC0415

    store = open_store(url)
    keys = None if keys_file is None else _read_keys(keys_file)
    click.echo(store.make_snapshot(store.resolve_view(view), keys))


def _read_keys(path: Path) -> list[EntryKey]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as a list of keys: {error}.") from error
    return [EntryKey.parse(line) for line in lines if line and not line.startswith("#")]


@main.command()
@click.argument("url")
@click.option("--view", "views", multiple=True, help="Check these views alone; may be repeated.")
@click.option("--snapshot", "snapshot_id", help="Check only what this snapshot pins; id or a unique beginning.")
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the whole report here."
)
def verify(url: str, views: tuple[str, ...], snapshot_id: str | None, json_path: Path | None) -> None:
    r"""Read every committed object and check size, digest and content; exit status 1 if anything is wrong.

    Attempts that no commit names are counted as orphans: a writer died, nobody can see them, nothing is wrong.

    \b
      store-schema verify ./store
      store-schema verify ./store --view medsam2-sequential-paper --json report.json
    """
    from store_schema.store import open_store  # noqa: PLC0415

    if views and snapshot_id:
        raise UsageError("--view and --snapshot exclude each other: a snapshot has one view.")
    store = open_store(url)
    report = _verified(store, [store.resolve_view(view) for view in views] or None, snapshot_id)
    if json_path is not None:
        _write_report(json_path, report)
    for finding in report.findings:
        click.echo(f"{finding.kind:10s} {finding.path}: {finding.detail}")
    click.echo(_summary(report))
    raise click.exceptions.Exit(0 if report.ok else FAILED)


def _verified(store: Store, views: list[str] | None, snapshot_id: str | None) -> VerifyReport:
    """The report, with a progress bar on stderr meanwhile."""
    from rich.progress import Progress  # noqa: PLC0415

    pinned = None if snapshot_id is None else store.snapshot(snapshot_id)
    with Progress(console=error_console()) as progress:
        bar = progress.add_task("verifying entries", total=None)

        def advance(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total)

        return store.verify(views=views, snapshot=pinned, on_entry=advance)


def _write_report(path: Path, report: VerifyReport) -> None:
    try:
        path.write_text(json.dumps(report.to_dict(), indent=2), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"the report cannot be written to {path}: {error.strerror}.") from error


def _summary(report: VerifyReport) -> str:
    return (
        f"{'verified' if report.ok else 'NOT SOUND'}: {report.entries} entries of {report.views} views, "
        f"{report.commits} commits, {report.objects} objects, {report.size_bytes / 2**20:.1f} MiB, "
        f"{report.snapshots} snapshots; {len(report.findings)} problems, {len(report.orphans)} orphaned attempts"
    )
