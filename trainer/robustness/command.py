"""`trainer robustness`: reads options, calls one function, prints what came of it; computes nothing.

Heavy modules are imported inside the command, so that --help is instant.
"""

from typing import TYPE_CHECKING, Any

import click

from store_schema.console import FileOrAddress, progress, result_console

if TYPE_CHECKING:
    from trainer.robustness.results import Robustness

_FILE = FileOrAddress()


@click.command()
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
    "--clinical",
    type=_FILE,
    help="Table with the model's covariates, where it has any; where it has outcomes too, the change of c is told.",
)
@click.option("--components", type=click.IntRange(min=0), default=5, show_default=True, help="Principal components.")
@click.option("--resamples", type=click.IntRange(min=100), default=1000, show_default=True, help="Of the bootstrap.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the bootstrap.")
@click.option("--out", required=True, metavar="FOLDER", help="Folder of the results; written over an older one.")
@click.option("--pseudonymise", is_flag=True, help="Call patients as an extraction with the same key did.")
def robustness(
    *,
    store_url: str,
    base: str,
    perturbed: tuple[str, ...],
    model_url: str | None,
    clinical: str | None,
    components: int,
    resamples: int,
    seed: int,
    out: str,
    pseudonymise: bool,
) -> None:
    r"""Tell how embeddings, and a model's risks, hold when prompts or images are disturbed.

    Compares the entries that the base and every perturbed view hold: agreement of embeddings (ICC(2,1) of each feature of the mean
    map and of principal components), distance and cosine of each patient's; with --model agreement and rank stability of risks,
    patients in another risk group, and with outcomes the change of Harrell's c with a paired bootstrap. The model is taken as it
    is; nothing is fitted.

    \b
    Writes into FOLDER: robustness.json, robustness.csv, entries.csv, risks.csv, report.html and figures/*.svg.

    \b
      extractor perturb studies.csv --store ./store --config extract.yaml --kind padding --size 2 --size 5
      trainer robustness --store ./store --base medsam2-sequential-paper-1f… --out ./robustness \
        --perturbed medsam2-sequential-paper-padding-2mm --perturbed medsam2-sequential-paper-padding-5mm \
        --model ./model --clinical clinical.csv
    """
    from store_schema.pseudonyms import PlainIds, Pseudonyms  # noqa: PLC0415
    from trainer.robustness.measuring import Asked, measure  # noqa: PLC0415
    from trainer.robustness.page import write_page  # noqa: PLC0415
    from trainer.robustness.writing import write_robustness  # noqa: PLC0415

    if clinical is not None and model_url is None:
        raise click.UsageError("--clinical is the table of a model: give --model too")
    ids = Pseudonyms.from_environment() if pseudonymise else PlainIds()
    asked = Asked(store_url, base, perturbed, model_url, clinical, ids, components, resamples, seed)
    with progress("views") as told:
        measured = measure(asked, told)
    folder = write_robustness(measured, out)
    page = write_page(measured.found, folder)
    _print(measured.found, page, result_console())


def _print(found: "Robustness", page: str, console: Any) -> None:
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from trainer.robustness.page import agreement_text, change_text, number_text, spread_text  # noqa: PLC0415

    table = Table(title="Embeddings against the base", caption="Median [quartiles]; ICC(2,1) over features.")
    for name in ("perturbation", "entry", "patients", "ICC", "relative L2", "cosine"):
        table.add_column(name, justify="left" if name in ("perturbation", "entry") else "right", overflow="fold")
    for view in found.views:
        for one in view.embeddings:
            told = (spread_text(one.icc), spread_text(one.relative_l2), spread_text(one.cosine))
            table.add_row(escape(view.label), escape(f"{one.modality}/{one.roi}"), str(one.patients), *told)
    console.print(table)
    if found.model is not None:
        table = Table(
            title=escape(f"Risks of {found.model.name} against the base"), caption="In brackets: 95% intervals."
        )
        for name in ("perturbation", "ICC", "Spearman", "Kendall", "rank change", "other group", "change of c", "p"):
            table.add_column(name, justify="left" if name == "perturbation" else "right", overflow="fold")
        for view in found.views:
            if (risk := view.risk) is not None:
                ranks = (number_text(risk.spearman), number_text(risk.kendall), f"{risk.mean_rank_change:.1f}")
                last = (f"{risk.changed_group:.0%}", change_text(risk.c), number_text(risk.c.p))
                table.add_row(escape(view.label), agreement_text(risk.icc), *ranks, *last)
        console.print(table)
    for note in found.notes:
        console.print(f"note: {note}.", markup=False, soft_wrap=True)
    console.print(f"written  {page}", markup=False, soft_wrap=True)
