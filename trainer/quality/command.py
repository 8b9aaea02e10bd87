"""`trainer quality`: reads options, calls one function, prints what came of it; computes nothing.

Heavy modules are imported inside the command, so that --help is instant.
"""

from typing import TYPE_CHECKING, Any

import click

from store_schema.console import EngramCommand, FileOrAddress, progress, result_console

if TYPE_CHECKING:
    from trainer.quality.results import EmbeddingQuality, Quality

_FILE = FileOrAddress()


@click.command(cls=EngramCommand)
@click.option("--store", "store_url", required=True, metavar="URL", help="Feature store.")
@click.option(
    "--view", "views", required=True, multiple=True, metavar="VIEW|SNAPSHOT", help="What is judged; repeatable."
)
@click.option(
    "--clinical", type=_FILE, help="Table with the patients' groups, and with outcomes where --config says so."
)
@click.option(
    "--config",
    type=_FILE,
    help="Settings of `trainer cv`: what the table's columns mean. Default: as the model or run has them, else ids in `patient`.",
)
@click.option(
    "--group",
    "groups",
    multiple=True,
    metavar="COLUMN",
    help="Column whose groups are compared, as scanner; repeatable.",
)
@click.option("--model", "model_url", metavar="MODEL", help="Folder that `trainer fit` wrote: show its risks.")
@click.option("--run", "run_url", metavar="RUN", help="Run folder: show the out-of-fold risks of --row.")
@click.option("--row", metavar="NAME", help="Row of the run.")
@click.option(
    "--near",
    type=click.FloatRange(min=0, min_open=True),
    default=0.01,
    show_default=True,
    help="Relative L2 distance below which two patients are near-duplicates.",
)
@click.option("--least-group", type=click.IntRange(min=3), default=5, show_default=True, help="Patients of a group.")
@click.option(
    "--permutations",
    type=click.IntRange(min=99),
    default=999,
    show_default=True,
    help="Of each test; more are made where there are many tests.",
)
@click.option("--umap/--no-umap", default=True, show_default=True, help="Draw UMAP beside principal components.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of permutations and UMAP.")
@click.option("--latest", is_flag=True, help="Take the latest of entries that were extracted from several inputs.")
@click.option("--out", required=True, metavar="FOLDER", help="Folder of the results; written over an older one.")
@click.option("--pseudonymise", is_flag=True, help="Call patients as an extraction with the same key did.")
def quality(*, config: str | None, pseudonymise: bool, out: str, **options: Any) -> None:
    r"""Tell what is wrong or unusual in embeddings, before anything is fitted on them.

    Of each view, modality and region: numbers that are not finite, norms and outliers, dead features, the rank of the covariance;
    pairs of patients that are the same or nearly so (a study filed twice); with --clinical whether embeddings differ between
    centres, scanners or other groups (PERMANOVA, and PERMDISP for their spread), freely and, where outcomes are known, within
    strata of the event; pictures by principal components and UMAP; and how PET and CT of a patient go together, beside the risk by
    --model or --run.

    Findings come first. Nothing is fitted on outcomes, and a finding is no failure: the exit status is 0.

    \b
    Writes into FOLDER: quality.json, quality.csv, norms.csv, duplicates.csv, drift.csv, alignment.csv, report.html, figures/*.svg.

    \b
      trainer quality --store ./store --view medsam2-sequential-paper --out ./quality
      trainer quality --store ./store --view medsam2-sequential-paper --clinical clinical.csv --config cv.yaml \
        --group scanner --run ./run --row both --out ./quality
    """
    from store_schema.pseudonyms import PlainIds, Pseudonyms  # noqa: PLC0415
    from trainer.config import load_config  # noqa: PLC0415
    from trainer.quality.measuring import Asked, measure  # noqa: PLC0415
    from trainer.quality.page import write_page  # noqa: PLC0415
    from trainer.quality.writing import write_quality  # noqa: PLC0415

    columns = None if config is None else load_config(config).columns
    ids = Pseudonyms.from_environment() if pseudonymise else PlainIds()
    asked = Asked(columns=columns, ids=ids, **options)
    with progress("entries") as told:
        measured = measure(asked, told)
    folder = write_quality(measured, out)
    page = write_page(measured.found, folder)
    _print(measured.found, page, result_console())


def _print(found: "Quality", page: str, console: Any) -> None:
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    several = len(found.views) > 1
    for one in found.findings:
        where = f"{one.view} {one.entry}" if several else one.entry
        console.print(f"{one.severity:6} {where}: {one.text}", markup=False, soft_wrap=True)
    if not found.findings:
        console.print("nothing unusual was found", markup=False)
    table = Table(
        title="Embeddings",
        caption="Norm: median, quartiles. Alike: pairs, same or nearly. Drift: least p of a location, after Holm.",
    )
    for name in ("entry", "patients", "not finite", "norm", "outliers", "rank", "alike", "drift p"):
        table.add_column(name, justify="left" if name == "entry" else "right", overflow="fold")
    for view in found.views:
        for embeddings in view.embeddings:
            label = f"{view.view} {embeddings.entry}" if several else embeddings.entry
            table.add_row(escape(label), *_cells(embeddings))
    console.print(table)
    for note in found.notes:
        console.print(f"note: {note}.", markup=False, soft_wrap=True)
    console.print(f"written  {page}", markup=False, soft_wrap=True)


def _cells(one: "EmbeddingQuality") -> tuple[str, ...]:
    from trainer.quality.page import extent_text, number_text  # noqa: PLC0415
    from trainer.wording import p_text  # noqa: PLC0415

    outliers = [sizes.outliers for sizes in (one.norm, one.from_centre)]
    told = "–" if None in outliers else "+".join(map(str, outliers))
    tests = [drift.location.p_holm for drift in one.drift if drift.location is not None]
    least = min((p for p in tests if p is not None), default=None)
    alike = str(one.pairs.alike + one.pairs.near)
    rank = number_text(one.effective_rank)
    return str(one.patients), str(one.left_out), extent_text(one.norm.extent), told, rank, alike, p_text(least)
