"""What commands that extract have in common: their options, and how a run is carried out and printed; computes nothing itself.

Heavy modules are imported where they are used, so that --help is instant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from extractor.commands import options
from store_schema import events
from store_schema.console import FAILED, WRONG_USE, FileOrAddress, error_console, result_console, say, tell_error
from store_schema.errors import WeightsError
from store_schema.tls import TlsFiles
from store_schema.tls_options import tls_options

if TYPE_CHECKING:
    from extractor.config import ExtractConfig
    from extractor.metrics import RunMetrics
    from extractor.run import RunOptions, RunReport

_TABLE = FileOrAddress()

_OPTIONS: tuple[Callable[[Callable[..., None]], Callable[..., None]], ...] = (
    click.argument("studies", type=_TABLE),
    click.option(
        "--store",
        "store_url",
        required=True,
        metavar="URL",
        help="Feature store: a folder, s3://BUCKET/PREFIX, …; created where absent.",
    ),
    click.option(
        "--config",
        "config_path",
        type=_TABLE,
        help="Settings in YAML; a PET that is no DICOM series needs `pet_units: suv`.",
    ),
    click.option(
        "--weights", metavar="PATH|NAME|random:SEED", help="Checkpoint file, published MedSAM2 file name, or random."
    ),
    click.option("--model", type=click.Choice(["medsam2", "mini"]), help="Architecture; overrides the settings."),
    click.option(
        "--jobs",
        type=click.IntRange(min=0),
        help="Processes; default one a core, on cuda one; 0 works in this process.",
    ),
    click.option(
        "--device", default="cpu", show_default=True, help="torch device: cpu, cuda, or several GPUs: cuda:0,cuda:1."
    ),
    click.option(
        "--at-once",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Studies that share batches on a large GPU; last digits then depend on which do.",
    ),
    click.option(
        "--scheduler", metavar="ADDRESS", help="Dask scheduler, such as tls://host:8786, instead of local processes."
    ),
    tls_options,
    click.option(
        "--shard", metavar="I/N", help="Work on part I of N of the table, from 1: for arrays of jobs without Dask."
    ),
    options.dry_run,
    options.make_current,
    options.no_pack,
    options.pseudonymise,
    click.option(
        "--metrics-port",
        type=click.IntRange(0, 65535),
        help="Answer Prometheus at http://HOST:PORT/metrics while it runs; 0 takes a free port and tells it.",
    ),
    click.option("--metrics-host", default="127.0.0.1", show_default=True, help="Address to answer at."),
    click.option(
        "--metrics-file",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE.prom",
        help="Keep the same figures in a file, for node_exporter's textfile collector.",
    ),
)


def extracting(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of an extraction, in their order."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True)
class Asked:
    """The values of the options of an extraction."""

    studies: str
    store_url: str
    config_path: str | None
    weights: str | None
    model: str | None
    jobs: int | None
    device: str
    at_once: int
    scheduler: str | None
    tls_ca: str | None
    tls_cert: str | None
    tls_key: str | None
    shard: str | None
    dry_run: bool
    make_current: bool
    no_pack: bool
    pseudonymise: bool
    metrics_port: int | None
    metrics_host: str
    metrics_file: Path | None

    def settings(self) -> dict[str, Any]:
        """The settings in the file, with those of the command line before them."""
        from extractor.config import load_config  # noqa: PLC0415

        named = (("weights", self.weights), ("model", self.model))
        return load_config(self.config_path).model_dump() | {name: value for name, value in named if value is not None}

    def options(self) -> RunOptions:
        """Where and how it happens."""
        from extractor.run import RunOptions  # noqa: PLC0415
        from extractor.shards import Shard  # noqa: PLC0415
        from store_schema.pseudonyms import PlainIds, Pseudonyms  # noqa: PLC0415

        return RunOptions(
            self.studies,
            self.store_url,
            self.jobs,
            self.device,
            self.scheduler,
            None if self.shard is None else Shard.parse(self.shard),
            dry_run=self.dry_run,
            make_current=self.make_current,
            pack=not self.no_pack,
            ids=Pseudonyms.from_environment() if self.pseudonymise else PlainIds(),
            at_once=self.at_once,
            tls=self._tls(),
        )

    def _tls(self) -> TlsFiles | None:
        """Files of TLS; those of the environment are of no account to a run without a cluster."""
        return None if self.scheduler is None else TlsFiles.of(self.tls_ca, self.tls_cert, self.tls_key)

    @contextmanager
    def metrics(self) -> Iterator[RunMetrics | None]:
        """Figures of all runs in the block, told where the options say; None where they say nothing, or nothing runs.

        Raises
        ------
        UsageError
            If they cannot be told there.
        """
        if self.dry_run or (self.metrics_port is None and self.metrics_file is None):
            yield None
            return
        from prometheus_client import disable_created_metrics  # noqa: PLC0415

        from extractor.metric_outlets import filed, served  # noqa: PLC0415
        from extractor.metrics import RunMetrics  # noqa: PLC0415

        # One more series for each, that says when counting began: the figures have that once.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        metrics = RunMetrics(version("engram"))
        with ExitStack() as stack:
            if self.metrics_file is not None:
                stack.enter_context(filed(metrics.registry, self.metrics_file))
            if self.metrics_port is not None:
                port = stack.enter_context(served(metrics.registry, self.metrics_host, self.metrics_port))
                say(f"Metrics at http://{self.metrics_host}:{port}/metrics", "metrics", port=port)
            stack.callback(metrics.ended)
            yield metrics


def carried_out(config: ExtractConfig, chosen: RunOptions, metrics: RunMetrics | None) -> int:
    """Exit status of a run, which is printed: 1 where something failed."""
    from extractor.run import run  # noqa: PLC0415

    try:
        report = run(config, chosen, console=error_console(), metrics=metrics)
    except WeightsError as error:
        # They are loaded before anything is written, so that this is a wrong call; in a worker it is an item's outcome.
        tell_error(error)
        raise click.exceptions.Exit(WRONG_USE) from error
    _print(report, chosen)
    return FAILED if report.failed else 0


def _print(report: RunReport, chosen: RunOptions) -> None:
    from extractor.advice import print_summary  # noqa: PLC0415
    from extractor.outcome import StdoutNames, print_plan  # noqa: PLC0415

    out, names = result_console(), StdoutNames(chosen.ids, report.lines)
    print_plan(names.all(report.plan), out)
    if not chosen.dry_run:
        print_summary(names.all(report.outcomes), out)
    for layout, snapshot in (report.snapshots or {}).items():
        packed_s = report.pack_s.get(layout)
        events.tell("snapshot", layout=layout, snapshot=snapshot, view=report.views[layout], pack_s=packed_s)
        packed = f"  packed in {report.pack_s[layout]:.1f} s" if layout in report.pack_s else ""
        out.print(f"snapshot {layout:7s} {snapshot}  view {report.views[layout]}{packed}", soft_wrap=True)
    if chosen.shard is not None and not chosen.dry_run and not report.snapshots:
        say(_no_snapshot(report.missing), "no_snapshot", missing=report.missing)
    if report.error:
        told = f"The run's records could not be written, the commits above stand. {report.error}"
        say(told, "records_not_written", level="error")
    if not chosen.dry_run:
        level: events.Level = "error" if report.failed else "info"
        counts = Counter(outcome.result for outcome in report.outcomes)
        events.tell("summary", level=level, run=report.run_id, items=counts, snapshots=len(report.snapshots or {}))


def _no_snapshot(missing: int) -> str:
    """Why a part of a table ended without a snapshot, and what comes next."""
    if not missing:
        return "No snapshot: items of this part failed. Mend them and run it again."
    return (
        f"No snapshot yet: {missing} entries of other parts are not there. The last part to end writes it; if all have ended, run "
        "the same command without --shard: it does what is left."
    )
