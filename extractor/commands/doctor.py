"""`extractor doctor`: options of an examination, and its checks as they are printed; judges nothing.

Heavy modules are imported inside the command, so that --help is instant.
"""

from __future__ import annotations

import json

import click

from store_schema.commands.backends import MARKS
from store_schema.console import FAILED, EngramCommand


@click.command(cls=EngramCommand)
@click.option("--store", "store_url", metavar="URL", help="Try out this store, or the place where one is to be.")
@click.option("--weights", metavar="PATH|NAME|random:SEED", help="Load these weights, as `extractor run` would.")
@click.option("--model", type=click.Choice(["medsam2", "mini"]), default="medsam2", show_default=True)
@click.option("--device", default="cpu", show_default=True, help="As for `extractor run`: cpu, cuda, or cuda:0,cuda:1.")
@click.option("--jobs", type=click.IntRange(min=0), help="Processes that the run would have; default its own choice.")
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def doctor(
    *,
    store_url: str | None,
    weights: str | None,
    model: str,
    device: str,
    jobs: int | None,
    as_json: bool,
) -> None:
    r"""Look at all that an extraction needs on this machine: libraries, sam2, memory, threads, device, weights, disks, store.

    Each line says what was seen or, marked ✗, what to do; a line marked ! is worth knowing. The store is tried out by writing and
    removing a few small objects under .engram-probe/; nothing else is written.

    Exit status: 0 a run can be started, 1 something must be mended first, 2 the call was wrong.

    \b
      extractor doctor --store s3://features/project --weights MedSAM2_latest.pt --device cuda
      extractor doctor --store ./store --model mini --weights random:0 --json
    """
    from extractor.doctor import Examination, diagnose  # noqa: PLC0415
    from store_schema.doctor import sound  # noqa: PLC0415
    from store_schema.redact import redact  # noqa: PLC0415

    checks = diagnose(Examination(device, model, weights, store_url, jobs))
    fit = sound(checks)
    if as_json:
        click.echo(redact(json.dumps({"ok": fit, "checks": [check.to_dict() for check in checks]}, indent=2)))
    else:
        for check in checks:
            click.echo(redact(f"{MARKS[check.verdict]} {check.name:28s} {check.detail}"))
        click.echo("ready to extract" if fit else f"NOT ready: mend the lines marked {MARKS['failed']}")
    raise click.exceptions.Exit(0 if fit else FAILED)
