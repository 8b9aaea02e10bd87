"""`verify`, `gc`, `withdraw` and `du`: look after what is in a store; knows no protocol and no backend."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from store_schema.console import FAILED, EngramCommand, progress
from store_schema.errors import UsageError
from store_schema.keys import EntryKey

if TYPE_CHECKING:
    from store_schema.gc import GcReport
    from store_schema.verify import VerifyReport
    from store_schema.withdraw import WithdrawReport

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")


def _bytes(size_bytes: int) -> str:
    """A size in the unit that people read it in."""
    size, units = float(size_bytes), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] == "bytes" else f"{size:.1f} {units[0]}"


def _size(report: GcReport | WithdrawReport | VerifyReport) -> str:
    return f"{report.objects} objects, {_bytes(report.size_bytes)}"


def _echo_json(values: dict[str, Any]) -> None:
    click.echo(json.dumps(values, indent=2))


# verify


@click.command(cls=EngramCommand)
@click.argument("url")
@click.option("--view", "views", multiple=True, help="Check these views alone; may be repeated.")
@click.option("--snapshot", "snapshot_id", help="Check only what this snapshot pins; id or a unique beginning.")
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the whole report here."
)
def verify(url: str, views: tuple[str, ...], snapshot_id: str | None, json_path: Path | None) -> None:
    r"""Read every committed object and check size, digest and content; exit status 1 if anything is wrong.

    Each line starts with what is wrong: missing, truncated (shorter than recorded), altered (other bytes), chain (commits that
    do not follow each other), record (malformed, or where it does not belong), twin, withdrawn, unknown, or unreadable (the
    backend did not give it: try again).

    Also checks snapshots, packs, ids that differ by case alone, data that a withdrawal left, and names that no store has.
    Attempts that no commit names are counted as orphans: a writer died, nobody can see them, nothing is wrong.

    \b
      store-schema verify ./store
      store-schema verify ./store --view medsam2-sequential-paper --json report.json
    """
    from store_schema.store import open_store  # noqa: PLC0415

    if views and snapshot_id:
        raise UsageError("--view and --snapshot exclude each other: a snapshot has one view.")
    store = open_store(url)
    pinned = None if snapshot_id is None else store.snapshot(snapshot_id)
    with progress("verifying entries") as advance:
        report = store.verify(
            views=[store.resolve_view(view) for view in views] or None, snapshot=pinned, on_entry=advance
        )
    if json_path is not None:
        _write_report(json_path, report)
    for finding in report.findings:
        click.echo(f"{finding.kind:10s} {finding.path}: {finding.detail}")
    click.echo(_verified(report))
    raise click.exceptions.Exit(0 if report.ok else FAILED)


def _write_report(path: Path, report: VerifyReport) -> None:
    try:
        path.write_text(json.dumps(report.to_dict(), indent=2), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"the report cannot be written to {path}: {error.strerror}.") from error


def _verified(report: VerifyReport) -> str:
    return (
        f"{'verified' if report.ok else 'NOT SOUND'}: {report.entries} entries of {report.views} views, "
        f"{report.commits} commits, {_size(report)}, {report.snapshots} snapshots, {report.packs} packs, "
        f"{report.withdrawn} withdrawn; {len(report.findings)} problems, "
        f"{len(report.orphans)} orphaned attempts ({_bytes(report.orphan_bytes)})"
    )


# gc


@click.command(cls=EngramCommand)
@click.argument("url")
@click.option("--grace", "grace_days", type=float, metavar="DAYS", help="Leave what is younger alone.  [default: 7]")
@click.option("--yes", is_flag=True, help="Remove it; without this only say what would be removed.")
@AS_JSON
def gc(url: str, grace_days: float | None, yes: bool, as_json: bool) -> None:
    r"""Remove what dead writers left: attempts that no commit or pack names, unfinished files, probes.

    Shows what it would remove; --yes removes it. Committed data, superseded or not, stays. Age is taken by the server's clock,
    which writing a probe tells: who may only read is shown what would go by the clock of this machine, and told so.

    \b
      store-schema gc ./store
      store-schema gc ./store --grace 14 --yes
    """
    from store_schema.commits import GRACE_DAYS  # noqa: PLC0415
    from store_schema.gc import collect_garbage  # noqa: PLC0415
    from store_schema.store import open_store  # noqa: PLC0415

    store = open_store(url)
    days = GRACE_DAYS if grace_days is None else grace_days
    with progress("looking through patients") as advance:
        report = collect_garbage(store, grace_days=days, dry_run=not yes, on_patient=advance)
    if as_json:
        _echo_json(report.to_dict())
    else:
        _echo_collected(report)
    raise click.exceptions.Exit(0 if report.ok else FAILED)


def _echo_collected(report: GcReport) -> None:
    for kind, paths in (("attempt", report.attempts), ("pack", report.packs), ("leftover", report.leftovers)):
        for path in paths:
            click.echo(f"{kind:10s} {path}")
    for problem in report.problems:
        click.echo(f"{'problem':10s} {problem}")
    click.echo(
        f"{'would remove' if report.dry_run else 'removed'} {_size(report)}, older than {report.grace_days:g} days"
    )
    if report.clock == "machine":
        click.echo(
            "the server's clock cannot be asked without the right to write: ages are by this machine's clock, assumed to be right",
            err=True,
        )
    if report.dry_run and report.objects:
        click.echo("nothing was removed: run it again with --yes", err=True)


# withdraw


@click.command(cls=EngramCommand)
@click.argument("url")
@click.option(
    "--patient", "patients", multiple=True, metavar="P", help="All entries of patient P and of P's studies (P.…)."
)
@click.option("--key", "keys", multiple=True, metavar="PATIENT/MODALITY/ROI", help="One entry.")
@click.option("--view", "views", multiple=True, help="In these views alone; by default in all.")
@click.option("--reason", required=True, help="One line, kept for good: no health data.")
@click.option("--dry-run", is_flag=True, help="Only say what would be erased.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@AS_JSON
def withdraw(
    *,
    url: str,
    patients: tuple[str, ...],
    keys: tuple[str, ...],
    views: tuple[str, ...],
    reason: str,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    r"""Withdraw entries for good, as when a patient takes back consent, and erase their data, previews and packs.

    A tombstone ends each entry: it can never be read, pinned or written again, and snapshots that name it refuse to open. Run
    it again after any interruption: it completes.

    NOT erased: the tombstones and commits (ids, digests, geometry, paths of the source files), snapshots (ids), records of runs
    (those that mention the patient are listed), files outside the store, and copies of it. Entries that do not exist
    yet can still be published: take the patient out of the study tables too.

    \b
      store-schema withdraw ./store --patient P001 --reason "consent withdrawn" --dry-run
      store-schema withdraw ./store --key P001/PET/skeleton --view medsam2 --reason "wrong mask" --yes
    """
    from store_schema.store import open_store  # noqa: PLC0415
    from store_schema.withdraw import withdraw as run  # noqa: PLC0415

    if not patients and not keys:
        raise UsageError("nothing was named to withdraw: give --patient or --key.")
    store = open_store(url)
    view_ids = [store.resolve_view(view) for view in views] or None
    act = partial(run, store, view_ids, patients=patients, keys=list(map(EntryKey.parse, keys)), reason=reason)
    report = act(dry_run=True)
    if not dry_run:
        if not yes:
            _echo_withdrawal(report, err=True)
            click.confirm("Erase all this for good?", abort=True, err=True)
        report = act()
    if as_json:
        _echo_json(report.to_dict())
    else:
        _echo_withdrawal(report, err=False)
    raise click.exceptions.Exit(0 if report.ok else FAILED)


def _echo_withdrawal(report: WithdrawReport, *, err: bool) -> None:
    for kind, names, note in (
        ("entry", report.entries, ""),
        ("pack", report.packs, ": erased whole, make it again from a new snapshot"),
        ("snapshot", report.snapshots, ": refuses to open from now on"),
        ("mention", report.mentions, ": names the patient and is not erased"),
        ("problem", report.problems, ""),
    ):
        for name in names:
            click.echo(f"{kind:10s} {name}{note}", err=err)
    verb = "would withdraw" if report.dry_run else "withdrew"
    click.echo(
        f"{verb} {len(report.entries)} entries of {', '.join(report.patients)}: {_size(report)} of data", err=err
    )


# du


@click.command(cls=EngramCommand)
@click.argument("url")
@AS_JSON
def du(url: str, as_json: bool) -> None:
    r"""Count objects and bytes by kind, view, and whether data is live, superseded, orphaned or withdrawn.

    Live data is that of current commits, superseded data that of earlier ones; both stay. `store-schema gc` removes
    orphaned data, `store-schema withdraw`, run again, withdrawn data.

    \b
      store-schema du ./store
      store-schema du s3://bucket/project --json
    """
    from store_schema.store import open_store  # noqa: PLC0415
    from store_schema.usage import usage  # noqa: PLC0415

    store = open_store(url)
    with progress("counting patients") as advance:
        report = usage(store, on_patient=advance)
    if as_json:
        _echo_json(report.to_dict())
        return
    for row in report.rows:
        name = " ".join(part for part in (row.kind, row.state, row.view) if part)
        click.echo(f"{row.objects:10d} {_bytes(row.size_bytes):>12s}  {name}")
    click.echo(f"{report.objects:10d} {_bytes(report.size_bytes):>12s}  total")
