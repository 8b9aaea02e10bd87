"""`trainer robustness`: reads options, calls one function, prints what came of it; computes nothing.

Heavy modules are imported inside the command, so that --help is instant.
"""

from typing import TYPE_CHECKING, Any

import click

from store_schema.console import EngramCommand, FileOrAddress, progress, result_console
from store_schema.tls_options import tls_options
from trainer.run_options import spread_options, workers_of

if TYPE_CHECKING:
    from trainer.robustness.results import JudgedModel, Robustness

_FILE = FileOrAddress()


@click.command(cls=EngramCommand)
@click.option("--store", "store_url", required=True, metavar="URL", help="Feature store with all the views.")
@click.option("--base", required=True, metavar="VIEW|SNAPSHOT", help="What is taken for undisturbed.")
@click.option(
    "--perturbed",
    required=True,
    multiple=True,
    metavar="VIEW|SNAPSHOT",
    help="View that `extractor perturb` made; repeatable.",
)
@click.option(
    "--model",
    "model_url",
    metavar="MODEL",
    help="Folder that `trainer fit` wrote: judge its risks too. It reads the base view.",
)
@click.option(
    "--run",
    "run_url",
    metavar="RUN",
    help="Run folder: make the models of a row's folds again and judge their out-of-fold risks, instead of --model.",
)
@click.option("--row", metavar="NAME", help="Row of the run, as its table calls it.")
@click.option(
    "--clinical",
    type=_FILE,
    help="Table with the covariates of --model, where it has any; where it has outcomes too, the change of c is told.",
)
@click.option("--components", type=click.IntRange(min=0), default=5, show_default=True, help="Principal components.")
@click.option("--resamples", type=click.IntRange(min=100), default=1000, show_default=True, help="Of the bootstrap.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the bootstrap.")
@click.option(
    "--scheduler", metavar="ADDRESS", help="Dask scheduler whose workers fit the folds, instead of local processes."
)
@tls_options
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Local processes that fit folds; default one a core, 0 fits in this one.",
)
@spread_options
@click.option("--latest", is_flag=True, help="Take the latest of entries that were extracted from several inputs.")
@click.option(
    "--any-files",
    is_flag=True,
    help="Compare entries whatever files they were made from: only where these hold the same images and masks.",
)
@click.option("--out", required=True, metavar="FOLDER", help="Folder of the results; written over an older one.")
@click.option("--pseudonymise", is_flag=True, help="Call patients as an extraction with the same key did.")
def robustness(
    *,
    store_url: str,
    base: str,
    perturbed: tuple[str, ...],
    model_url: str | None,
    run_url: str | None,
    row: str | None,
    clinical: str | None,
    components: int,
    resamples: int,
    seed: int,
    latest: bool,
    any_files: bool,
    out: str,
    pseudonymise: bool,
    **spread: Any,
) -> None:
    r"""Tell how embeddings, and a model's risks, hold when prompts or images are disturbed.

    Compares the entries that the base and every perturbed view hold: agreement of embeddings (ICC(2,1) of each feature of the mean
    map and of principal components), distance and cosine of each patient's; of risks agreement and rank stability, patients in
    another risk group, and with outcomes the change of Harrell's c with a paired bootstrap.

    An entry whose commit records other files than the base's (size, modification time or ETag of image, CT and region) shows
    another input: it is left out and counted.

    --model judges the risks of one frozen model; on patients whom it was fitted on its c is too good. --run with --row judges a
    row of a finished run out of fold: the model of each fold is fitted again by the run's own tasks, must give the very risks that
    the run recorded (else nothing is judged), and scores its test patients on every view; the change of c is also tested over
    folds. That takes as long as these fits took in the run, and wants the kind of machine and the versions that made it: with
    --scheduler the workers of the run, which reach the store, RUN and FOLDER. Models are kept in FOLDER/models: a rerun, also with
    more views, does not fit them again.

    \b
    Writes into FOLDER: robustness.json, robustness.csv, entries.csv, risks.csv, report.html and figures/*.svg; with --run also
    folds.csv and models/; where files differ, left_out.csv.

    \b
      extractor perturb studies.csv --store ./store --config extract.yaml --kind padding --size 2 --size 5
      trainer robustness --store ./store --base medsam2-sequential-paper-1f… --out ./robustness \
        --perturbed medsam2-sequential-paper-padding-2mm --perturbed medsam2-sequential-paper-padding-5mm \
        --run ./run --row image
    """
    from store_schema.pseudonyms import PlainIds, Pseudonyms  # noqa: PLC0415
    from trainer.robustness.measuring import Asked, measure  # noqa: PLC0415
    from trainer.robustness.page import write_page  # noqa: PLC0415
    from trainer.robustness.writing import own_folder, write_robustness  # noqa: PLC0415

    if clinical is not None and run_url is not None:
        raise click.UsageError("--clinical is the table of a model: with --run leave it out, the run holds its own")
    if clinical is not None and model_url is None:
        raise click.UsageError("--clinical is the table of a model: give --model too")
    if spread["performance_report"] is not None and run_url is None:
        raise click.UsageError(
            "--performance-report is of the fits that --run makes again, and without it nothing is fitted"
        )
    ids = Pseudonyms.from_environment() if pseudonymise else PlainIds()
    # before anything is fitted
    keep = own_folder(out).url if run_url is not None else None
    asked = Asked(
        store_url=store_url,
        base=base,
        perturbed=perturbed,
        model_url=model_url,
        clinical=clinical,
        ids=ids,
        components=components,
        resamples=resamples,
        seed=seed,
        run_url=run_url,
        row=row,
        keep=keep,
        workers=workers_of(spread),
        latest=latest,
        any_files=any_files,
    )
    with progress("views" if run_url is None else "folds and views") as told:
        measured = measure(asked, told)
    folder = write_robustness(measured, out)
    page = write_page(measured.found, folder)
    _print(measured.found, page, result_console())


def _print(found: "Robustness", page: str, console: Any) -> None:
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from trainer.robustness.page import spread_text  # noqa: PLC0415

    caption = escape("Median [quartiles]; ICC(2,1) over features.")
    table = Table(title="Embeddings against the base", caption=caption)
    for name in ("perturbation", "entry", "patients", "ICC", "relative L2", "cosine"):
        table.add_column(name, justify="left" if name in ("perturbation", "entry") else "right", overflow="fold")
    for view in found.views:
        for one in view.embeddings:
            told = (spread_text(one.icc), spread_text(one.relative_l2), spread_text(one.cosine))
            table.add_row(escape(view.label), escape(f"{one.modality}/{one.roi}"), str(one.patients), *told)
    console.print(table)
    if found.model is not None:
        console.print(_risk_table(found, found.model))
    if found.model is not None and found.model.row is not None:
        console.print(_fold_table(found))
    for note in found.notes:
        console.print(f"note: {note}.", markup=False, soft_wrap=True)
    console.print(f"written  {page}", markup=False, soft_wrap=True)


def _risk_table(found: "Robustness", model: "JudgedModel") -> Any:
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from trainer.robustness.page import agreement_text, change_text, number_text  # noqa: PLC0415

    whose = "Risks of" if model.row is None else "Out-of-fold risks of"
    table = Table(title=escape(f"{whose} {model.name} against the base"), caption="In brackets: 95% intervals.")
    for name in ("perturbation", "ICC", "Spearman", "Kendall", "rank change", "other group", "change of c", "p"):
        table.add_column(name, justify="left" if name == "perturbation" else "right", overflow="fold")
    for view in found.views:
        if (risk := view.risk) is not None:
            ranks = (number_text(risk.spearman), number_text(risk.kendall), f"{risk.mean_rank_change:.1f}")
            last = (f"{risk.changed_group:.0%}", change_text(risk.c), number_text(risk.c.p))
            table.add_row(escape(view.label), agreement_text(risk.icc), *ranks, *last)
    return table


def _fold_table(found: "Robustness") -> Any:
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from trainer.robustness.page import change_text, number_text  # noqa: PLC0415

    table = Table(
        title="Harrell's c over folds", caption="Means; corrected resampled t-test, two-sided; 95% intervals."
    )
    for name in ("perturbation", "folds", "c of the base", "c", "change of c", "t", "p"):
        table.add_column(name, justify="left" if name == "perturbation" else "right", overflow="fold")
    for view in found.views:
        test = None if view.risk is None else view.risk.over_folds
        if test is not None:
            means = (number_text(test.base), number_text(test.perturbed), change_text(test))
            table.add_row(escape(view.label), str(test.folds), *means, number_text(test.t), number_text(test.p))
    return table
