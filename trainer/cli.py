"""The `trainer` command: reads options, calls one function, prints what came of it; computes nothing.

Heavy modules are imported inside the commands, so that --help is instant.
"""

import click

from store_schema.console import FAILED, EngramGroup, FileOrAddress, error_console, result_console

_FILE = FileOrAddress()


@click.group(cls=EngramGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="engram")
def main() -> None:
    r"""Train and judge survival models on the embeddings of a feature store.

    \b
    A first run:
      1. clinical.csv   patient,pfs_months,pfs_event,age,riss
                        P001,14,1,67,II
      2. cv.yaml        columns: {time: pfs_months, time_unit: months, event: pfs_event,
                                  continuous: [age], categorical: [riss]}
                        models:
                          - {name: clinical, kind: ridge_cox}
                          - {name: image, kind: network, view: NAME, images: {roi: spine_dilated}}
      3. trainer cv --store ./store --clinical clinical.csv --config cv.yaml --out ./run
      4. trainer report ./run

    `store-schema ls ./store` lists the views. Results go to stdout, progress and errors to stderr.

    Exit status: 0 all well, 1 something failed, 2 wrong use.
    """


@main.command()
@click.option("--store", "store_url", metavar="URL", help="Feature store; not needed for clinical models alone.")
@click.option("--clinical", required=True, type=_FILE, help="Clinical table: CSV, TSV or Parquet, one row per patient.")
@click.option("--config", "config_path", required=True, type=_FILE, help="Settings in YAML: columns, folds, models.")
@click.option("--out", required=True, metavar="RUN", help="Run folder; created where absent, resumed where present.")
@click.option(
    "--snapshot", "snapshots", multiple=True, metavar="ID", help="Read this snapshot of its view; repeatable."
)
@click.option("--latest", is_flag=True, help="Take the latest of entries that were extracted from several inputs.")
@click.option("--oracle", type=_FILE, help="Table of risks known from simulation, for the config's `oracle: columns`.")
@click.option(
    "--scheduler", metavar="ADDRESS", help="Dask scheduler, such as tcp://host:8786, instead of local processes."
)
@click.option("--pseudonymise", is_flag=True, help="Call patients as an extraction with the same key did.")
@click.option("--workers", type=click.IntRange(min=0), help="Local processes; default one a core, 0 works in this one.")
def cv(
    *,
    store_url: str | None,
    clinical: str,
    config_path: str,
    out: str,
    snapshots: tuple[str, ...],
    latest: bool,
    oracle: str | None,
    pseudonymise: bool,
    scheduler: str | None,
    workers: int | None,
) -> None:
    r"""Cross-validate every model of a config on one cohort and the same folds.

    Without --snapshot the present entries of each view are pinned, and the snapshot's id is printed: give it to another
    run to read exactly the same. A rerun into the same folder does only what is missing; with other settings it is refused.

    Tables and settings may be addresses (s3://…, https://…). With --pseudonymise the ids of the tables become those of a store that
    was written by `extractor run --pseudonymise` with the same ENGRAM_PSEUDONYM_KEY, before anything is written or printed.

    Workers of a --scheduler take their credentials from their own environment. They must reach the store and RUN by the same
    addresses, and run the same version of engram.

    \b
    Writes into RUN: results.json (every figure), summary.csv, folds.csv, risks.csv (out-of-fold risks), run.json,
    cohort.json, splits.json and a file per task.

    \b
      trainer cv --store ./store --clinical clinical.csv --config cv.yaml --out ./run
      trainer cv --store ./store --clinical clinical.csv --config cv.yaml --out ./run --scheduler tcp://head:8786
    """
    from store_schema.pseudonyms import PlainIds, Pseudonyms  # noqa: PLC0415
    from trainer.config import load_config  # noqa: PLC0415
    from trainer.dispatch import Workers  # noqa: PLC0415
    from trainer.plan import Inputs  # noqa: PLC0415
    from trainer.printed import print_results, print_run  # noqa: PLC0415
    from trainer.run import cross_validate  # noqa: PLC0415

    config = load_config(config_path)
    spread = Workers(number=workers, scheduler=scheduler)
    ids = Pseudonyms.from_environment() if pseudonymise else PlainIds()
    inputs = Inputs(clinical, store_url, snapshots, oracle, latest=latest, ids=ids)
    report = cross_validate(config, inputs, out=out, workers=spread, console=error_console())
    console = result_console()
    print_run(report, console)
    print_results(report.results, console)
    raise click.exceptions.Exit(0 if report.results.complete else FAILED)


@main.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False))
def report(run: str) -> None:
    r"""Write RUN/report.html: one page with tables and figures that needs no network, and RUN/figures/*.svg.

    It fits no model and reads RUN alone.

    \b
      trainer report ./run
    """
    from trainer.report.page import write_report  # noqa: PLC0415

    click.echo(write_report(run))
