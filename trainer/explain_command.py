"""The command `trainer explain`: reads options, calls one function, prints what came of it; computes nothing.

Heavy modules are imported inside the command, so that --help is instant.
"""

from typing import TYPE_CHECKING

import click

from store_schema.console import FAILED, EngramCommand, FileOrAddress, progress, say

if TYPE_CHECKING:
    from store_schema.pseudonyms import PlainIds
    from trainer.explaining import ExplainReport


@click.command(cls=EngramCommand)
@click.option("--model", "model_url", required=True, metavar="MODEL", help="Folder that `trainer fit` wrote.")
@click.option(
    "--store",
    "store_url",
    required=True,
    metavar="URL",
    help="Feature store with the model's view and its embeddings with patches hidden.",
)
@click.option(
    "--clinical", type=FileOrAddress(), help="Table with the model's covariates, where it has any; no outcome is read."
)
@click.option("--snapshot", metavar="ID", help="Read this snapshot of the model's view instead of the present entries.")
@click.option(
    "--occlusion",
    metavar="VIEW|SNAPSHOT",
    help="Embeddings with patches hidden; default the only occlusion view that belongs to the model's view.",
)
@click.option("--patient", "patients", multiple=True, metavar="ID", help="Only this one; repeatable.")
@click.option("--out", required=True, metavar="FOLDER", help="Folder of the results; created or resumed.")
@click.option("--pseudonymise", is_flag=True, help="Call patients as an extraction with the same key did.")
def explain(
    *,
    model_url: str,
    store_url: str,
    clinical: str | None,
    snapshot: str | None,
    occlusion: str | None,
    patients: tuple[str, ...],
    out: str,
    pseudonymise: bool,
) -> None:
    r"""Show where in a patient's image a kept model looks: occlusion sensitivity, as in the paper's Appendix A.

    `extractor occlude` hides patch after patch of an image and embeds it again. Here the model is asked about each: the change of a
    patient's log-risk is the patch's score. Below 0: with the patch hidden the risk is lower, so that what is there raises it.
    Scores are given in log-hazard and in standard deviations of the training patients' log-risks, and averaged over voxels where
    patches overlap. What the view cannot see at all has a score of exactly 0, and is said to be unseen.

    It is a sensitivity and no cause: it depends on the patches' size, stride and fill, and says nothing about what is hidden from
    the model. What is bright changes an embedding most, so that the map of a model fitted to shuffled outcomes can peak there too.

    A rerun into the same folder does only what is missing or has changed, and removes what it holds of patients who are not asked
    for any more. Patients that cannot be explained are named on stderr and make the exit status 1.

    \b
    Writes into FOLDER: report.html (one page: pictures, tables), explain.json (settings, attribution), deltas.csv (each patch),
    attribution.csv (over patients, by bone, with bootstrap intervals), maps/PATIENT/MODALITY/ROI-signed.nii.gz and
    -absolute.nii.gz (on the grid of the image, NaN outside of all patches; programs of ITK show NaN as 0), figures/, patients/.

    \b
      extractor occlude studies.csv --store ./store --config extract.yaml --layout paper
      trainer fit ./run --model image --out ./model
      trainer explain --model ./model --store ./store --clinical clinical.csv --out ./explained
    """
    from store_schema.pseudonyms import PlainIds, Pseudonyms  # noqa: PLC0415
    from trainer.explaining import ExplainOptions, explain  # noqa: PLC0415
    from trainer.predicting import Newcomers  # noqa: PLC0415
    from trainer.report.explain_page import write_explain_page  # noqa: PLC0415

    ids = Pseudonyms.from_environment() if pseudonymise else PlainIds()
    options = ExplainOptions(model_url, Newcomers(store_url, snapshot, clinical, ids), occlusion, patients)
    with progress("patients") as told:
        report = explain(options, out=out, told=told)
    page = write_explain_page(report.folder.url)
    _tell(report, page, ids)
    raise click.exceptions.Exit(FAILED if report.found.failures else 0)


def _tell(report: "ExplainReport", page: str, ids: "PlainIds") -> None:
    found = report.found
    for patient, reason in found.failures.items():
        say(ids.clean(f"not explained: {patient}: {reason}"), "not_explained", level="error")
    click.echo(f"model      {found.model}  view {found.view}  snapshot {found.snapshot}")
    click.echo(f"occlusion  {found.occlusion_view}  snapshot {found.occlusion_snapshot}")
    click.echo(
        f"{len(found.patients)} patients explained, {report.resumed} of them before; {len(found.failures)} failed"
    )
    click.echo(page)
