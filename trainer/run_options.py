"""What every command that fits and judges takes on its command line, and what becomes of it; fits nothing.

Heavy modules are imported inside the functions, so that --help is instant.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from store_schema import events
from store_schema.console import FileOrAddress
from store_schema.tls_options import taken_tls, tls_options

if TYPE_CHECKING:
    from trainer.config import RunConfig
    from trainer.dispatch import Workers
    from trainer.plan import Inputs
    from trainer.run import CvReport

_FILE = FileOrAddress()
_PUBLISH = click.option(
    "--publish",
    is_flag=True,
    help="Publish the complete run into --store, without anything of single patients; see `trainer publish --help`.",
)

_CACHE = click.option(
    "--cache-mib",
    type=click.IntRange(min=0),
    metavar="MIB",
    help="Memory of each worker process for the features that it has read, besides what fits take; default 1024. With 0 every task "
    "reads its features anew.",
)
_REPORT = click.option(
    "--performance-report",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Save Dask's performance report as HTML, also of a run that fails; what follows from the first fits goes to FILE-2, …. "
    "What functions took is of the last ten minutes. A shared scheduler also shows what others ran meanwhile.",
)


def spread_options(command: Callable[..., None]) -> Callable[..., None]:
    """What every command takes that has workers, besides where they are: their cache, and a report of what they did."""
    return _CACHE(_REPORT(command))


def workers_of(options: Mapping[str, Any]) -> "Workers":
    """Where tasks run, as the command line says it; certificates are of account for a scheduler alone."""
    from pathlib import Path  # noqa: PLC0415

    from trainer.dispatch import Workers  # noqa: PLC0415
    from trainer.features import CACHE_MIB  # noqa: PLC0415
    from trainer.performance_report import PerformanceReport  # noqa: PLC0415

    scheduler, file, mib = options["scheduler"], options["performance_report"], options["cache_mib"]
    return Workers(
        number=options["workers"],
        scheduler=scheduler,
        cache_mib=CACHE_MIB if mib is None else mib,
        report=None if file is None else PerformanceReport(Path(file)),
        tls=None if scheduler is None else taken_tls(dict(options)),
    )


def run_options(
    *, required: bool = True, publishing: bool = True
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """What every command that fits and judges takes: inputs, run folder, workers; and whether the run is published."""
    options: list[Callable[[Callable[..., None]], Callable[..., None]]] = [
        click.option(
            "--store", "store_url", metavar="URL", help="Feature store; not needed for clinical models alone."
        ),
        click.option(
            "--clinical",
            required=required,
            type=_FILE,
            help="Clinical table: CSV, TSV or Parquet, one row per patient.",
        ),
        click.option(
            "--out", required=required, metavar="RUN", help="Run folder; created where absent, resumed where present."
        ),
        click.option(
            "--snapshot", "snapshots", multiple=True, metavar="ID", help="Read this snapshot of its view; repeatable."
        ),
        click.option(
            "--latest", is_flag=True, help="Take the latest of entries that were extracted from several inputs."
        ),
        click.option(
            "--oracle", type=_FILE, help="Table of risks known from simulation, for the config's `oracle: columns`."
        ),
        click.option("--pseudonymise", is_flag=True, help="Call patients as an extraction with the same key did."),
        click.option(
            "--scheduler",
            metavar="ADDRESS",
            help="Dask scheduler, such as tls://host:8786, instead of local processes.",
        ),
        tls_options,
        click.option(
            "--workers", type=click.IntRange(min=0), help="Local processes; default one a core, 0 works in this one."
        ),
        spread_options,
        click.option(
            "--device",
            type=click.Choice(("cpu", "cuda")),
            help="Where networks are fitted, instead of the config's own `device` (cpu).",
        ),
    ]
    if publishing:
        options.append(_PUBLISH)

    def take(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return take


def inputs_of(options: Mapping[str, Any]) -> "Inputs":
    """What a run reads, as the command line says it."""
    from store_schema.pseudonyms import PlainIds, Pseudonyms  # noqa: PLC0415
    from trainer.plan import Inputs  # noqa: PLC0415

    ids = Pseudonyms.from_environment() if options["pseudonymise"] else PlainIds()
    return Inputs(
        options["clinical"],
        options["store_url"],
        options["snapshots"],
        options["oracle"],
        latest=options["latest"],
        ids=ids,
    )


def on_device(config: "RunConfig", options: Mapping[str, Any]) -> "RunConfig":
    """The config, fitted where the command line says."""
    return config if options["device"] is None else config.model_copy(update={"device": options["device"]})


def tell_summary(report: "CvReport") -> None:
    """Events of a study or cross-validation that was worked through: what is missing from it, and its end."""
    results = report.results
    for failure in results.failures:
        events.tell("failure", level="error", task=failure.label, message=failure.reason)
    events.tell(
        "summary", level="info" if results.complete else "error", tasks=report.tasks, resumed=report.resumed,
        rows=len(results.rows), failures=len(results.failures), complete=results.complete,
    )  # fmt: skip
