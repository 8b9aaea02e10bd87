"""The `trainer` command: reads options, calls one function, prints what came of it; computes nothing.

Heavy modules are imported inside the commands, so that --help is instant.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from store_schema.console import FAILED, FileOrAddress, LoggedGroup, error_console, result_console
from trainer.explain_command import explain
from trainer.model_commands import fit, predict, validate
from trainer.publish_commands import check_publishing, publish, publish_after
from trainer.quality.command import quality
from trainer.robustness.command import robustness
from trainer.run_options import inputs_of, on_device, run_options, tell_summary, workers_of
from trainer.trust.command import trust
from trainer.worker_command import worker

if TYPE_CHECKING:
    from trainer.config import RunConfig

_FILE = FileOrAddress()


@click.group(cls=LoggedGroup, context_settings={"help_option_names": ["-h", "--help"]})
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
@click.option("--config", "config_path", required=True, type=_FILE, help="Settings in YAML: columns, folds, models.")
@run_options()
def cv(*, config_path: str, **options: Any) -> None:
    r"""Cross-validate every model of a config on one cohort and the same folds.

    Without --snapshot the present entries of each view are pinned, and the snapshot's id is printed: give it to another
    run to read exactly the same. A rerun into the same folder does only what is missing; with other settings it is refused.

    Models with a `search` are tuned as `search: {mode: …}` of the config says; see `trainer search --help`.

    Tables and settings may be addresses (s3://…, https://…). With --pseudonymise the ids of the tables become those of a store that
    was written by `extractor run --pseudonymise` with the same ENGRAM_PSEUDONYM_KEY, before anything is written or printed.

    Workers of a --scheduler take their credentials from their own environment. They must reach the store and RUN by the same
    addresses, and run the same version of engram.

    `trainer worker --help` tells how to start them, and how to guard a cluster by TLS: then --scheduler is a tls:// address.

    With --device cuda networks are fitted on GPUs, those with convolutions many at once; locally one process a GPU, on a cluster by
    workers that declare one (`trainer worker ADDRESS --device cuda`, one process a GPU).

    \b
    Writes into RUN: results.json and measures.json (every figure), summary.csv, measures.csv, table_one.csv, folds.csv, risks.csv
    (out-of-fold risks), of searches search.csv, of studies tables/, run.json, cohort.json, splits.json and a file per task.

    \b
      trainer cv --store ./store --clinical clinical.csv --config cv.yaml --out ./run
      trainer cv --store ./store --clinical clinical.csv --config cv.yaml --out ./run --scheduler tls://head:8786 \
        --tls-ca ca.pem --tls-cert cert.pem --tls-key key.pem
    """
    from trainer.config import load_config  # noqa: PLC0415

    _check_publishing(options)
    _fit_and_judge(load_config(config_path), options)


@main.command()
@click.option("--config", "config_path", required=True, type=_FILE, help="Settings in YAML, with a `search`.")
@click.option("--mode", type=click.Choice(("nested", "paper", "both")), help="Instead of the config's own.")
@click.option(
    "--points", type=int, metavar="N", help="Settings tried of each model, a power of 2, instead of the config's own."
)
@run_options()
def search(*, config_path: str, mode: str | None, points: int | None, **options: Any) -> None:
    r"""Tune models over ranges of their settings, and judge what was chosen.

    \b
    In the config, each model may name ranges:
      search: {points: 64, mode: nested, inner_folds: 3}
      models:
        - name: image
          kind: network
          …
          search:
            fit.learning_rate: {log: [1.0e-4, 1.0e-2]}
            dropout: {range: [0, 0.6]}
            fit.epochs: {integer: [20, 100]}
            hidden: {choice: [[16], [64], [64, 16]]}
        - {name: best, kind: choice, of: [image, clinical]}

    `nested` (default) chooses the settings of each outer fold by cross-validation inside its training part: its figure is honest.
    `paper` chooses them by the reported folds themselves, as the paper does: optimistic, and flagged so. `both` shows the
    optimism between them. The number of settings tried stands beside every figure; search.csv has them all.

    With `search: {keep: 0.5}` only the better half of the settings goes on after the first fold.

    \b
      trainer search --store ./store --clinical clinical.csv --config cv.yaml --out ./run --mode both --points 16
    """
    from trainer.config import load_config, parse_config  # noqa: PLC0415

    _check_publishing(options)
    config = load_config(config_path)
    asked = {name: value for name, value in (("mode", mode), ("points", points)) if value is not None}
    record = config.model_dump(mode="json")
    config = parse_config({**record, "search": {**record["search"], **asked}}, origin=config_path)
    if not config.tuned:
        raise click.UsageError(
            f"no model of {config_path} has anything to choose: give one a `search`, more than one point, or use `trainer cv`"
        )
    _fit_and_judge(config, options)


@main.command()
@click.argument("study", type=_FILE, required=False)
@click.option("--template", is_flag=True, help="Print the study of the paper, to fill in your columns and views.")
@click.option(
    "--plan",
    "only_plan",
    is_flag=True,
    help="Pin the views, tell how many fits there are and how long they take, and keep none.",
)
@run_options(required=False)
def study(*, study: str | None, template: bool, only_plan: bool, **options: Any) -> None:
    r"""Run a whole grid of models on one cohort and the same folds, and print the paper's tables.

    A study names rows by origin (PET, CT, combined), mask, encoder, downsampling and fusion; everything else is as in the config of
    `trainer cv`. A rerun resumes; the table of progress is live.

    \b
      trainer study --template > study.yaml     the paper's 22 + 6 rows and its baselines; fill in columns and views
      trainer study study.yaml --store ./store --clinical clinical.csv --out ./run --plan
      trainer study study.yaml --store ./store --clinical clinical.csv --out ./run
      trainer report ./run

    Besides the files of `trainer cv` it writes tables/table-1.csv to table-3.csv.
    """
    from trainer.study_config import load_study, paper_study  # noqa: PLC0415

    if template:
        click.echo(paper_study(), nl=False)
        return
    given = {"STUDY": study, "--clinical": options["clinical"], "--out": options["out"]}
    missing = [name for name, value in given.items() if not value]
    if missing or study is None:
        raise click.UsageError(f"missing {', '.join(missing)}; `trainer study --template` prints a study to start from")
    if only_plan and options["publish"]:
        raise click.UsageError("--plan keeps nothing that --publish could publish: leave one of them out")
    _check_publishing(options)
    config = load_study(study)
    if only_plan:
        _tell_plan(config, options)
    else:
        _fit_and_judge(config, options)


def _check_publishing(options: Mapping[str, Any]) -> None:
    if options["publish"]:
        check_publishing(options["store_url"])


def _fit_and_judge(config: "RunConfig", options: Mapping[str, Any]) -> None:
    from trainer.printed import print_results, print_run  # noqa: PLC0415
    from trainer.run import cross_validate  # noqa: PLC0415

    config = on_device(config, options)
    where = {"out": options["out"], "workers": workers_of(options), "console": error_console()}
    report = cross_validate(config, inputs_of(options), **where)
    console = result_console()
    print_run(report, console)
    print_results(config, report.results, console)
    done = report.results.complete
    tell_summary(report)
    if options["publish"]:
        done = publish_after(report.folder.url, options["store_url"], complete=done)
    raise click.exceptions.Exit(0 if done else FAILED)


def _tell_plan(config: "RunConfig", options: Mapping[str, Any]) -> None:
    from trainer.dispatch import cores  # noqa: PLC0415
    from trainer.plan import make_plan  # noqa: PLC0415
    from trainer.printed import print_estimates  # noqa: PLC0415
    from trainer.probe import estimate  # noqa: PLC0415

    plan = make_plan(on_device(config, options), inputs_of(options))
    print_estimates(estimate(plan), result_console(), workers=options["workers"] or cores())


@main.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False))
def report(run: str) -> None:
    r"""Write RUN/report.html: one page with tables and figures that needs no network, and RUN/figures/*.svg.

    It fits no model and reads RUN alone. Where `trainer trust` looked at it, the page tells of that, and RUN/trust/index.html is
    written again too.

    \b
      trainer report ./run
    """
    from trainer.report.page import write_report  # noqa: PLC0415
    from trainer.run_folder import RunFolder  # noqa: PLC0415
    from trainer.trust.index_page import write_index  # noqa: PLC0415
    from trainer.trust_results import read_trusted  # noqa: PLC0415

    click.echo(write_report(run))
    if read_trusted(RunFolder.open(run)) is not None:
        click.echo(write_index(RunFolder.open(run)))


for _command in (explain, fit, predict, publish, quality, robustness, trust, validate, worker):
    main.add_command(_command)
