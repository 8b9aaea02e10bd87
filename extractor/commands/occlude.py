"""`extractor occlude`: options of occluded embeddings; computes nothing.

Heavy modules are imported inside the command, so that --help is instant.
"""

from __future__ import annotations

import click

from extractor.commands import options
from store_schema.console import FAILED, EngramCommand, FileOrAddress, error_console, result_console
from store_schema.errors import UsageError

_TABLE = FileOrAddress()


@click.command(cls=EngramCommand)
@click.argument("studies", type=_TABLE)
@click.option("--store", "store_url", required=True, metavar="URL", help="Feature store; made by `extractor run`.")
@click.option("--config", "config_path", type=_TABLE, help="The settings of the run whose embeddings are explained.")
@click.option("--weights", metavar="PATH|NAME|random:SEED", help="As of that run.")
@click.option("--model", type=click.Choice(["medsam2", "mini"]), help="Architecture; overrides the settings.")
@click.option("--layout", metavar="NAME", help="Which of the settings' layouts; needed where they make several.")
@click.option("--patient", "patients", multiple=True, metavar="ID", help="Only this one; repeatable.")
@click.option("--modality", "modalities", multiple=True, type=click.Choice(["PET", "CT"]), help="Only this one.")
@click.option("--roi", "rois", multiple=True, metavar="ROI", help="Only this region; repeatable.")
@click.option("--size-mm", type=float, default=20.0, show_default=True, help="Edge of a patch.")
@click.option("--stride-mm", type=float, default=20.0, show_default=True, help="From centre to centre.")
@click.option("--fill", default="mean", show_default=True, metavar="mean|0-255", help="What hides a patch.")
@click.option("--device", default="cpu", show_default=True, help="torch device: cpu or cuda.")
@options.pseudonymise
def occlude(
    *,
    studies: str,
    store_url: str,
    config_path: str | None,
    weights: str | None,
    model: str | None,
    layout: str | None,
    patients: tuple[str, ...],
    modalities: tuple[str, ...],
    rois: tuple[str, ...],
    size_mm: float,
    stride_mm: float,
    fill: str,
    device: str,
    pseudonymise: bool,
) -> None:
    r"""Embed studies again with each patch of a region hidden, for `trainer explain`.

    Patches lie on a grid in millimetres, their centres inside the region; prompts stay those of the whole image. Only the slices
    that a patch touches are encoded anew, and the propagation is taken up at the first of them. All patches of one patient,
    modality and region are one entry of an occlusion view in the same store. A rerun makes what is missing.

    How long it takes: about a tenth of an extraction for each patch with `mode: upfront`, a third with `sequential`.

    \b
      extractor occlude studies.csv --store ./store --config extract.yaml --layout paper --patient P001 --modality PET
    """
    from extractor.config import load_config, parse_config  # noqa: PLC0415
    from extractor.occluding import OccludeOptions, OcclusionRules  # noqa: PLC0415
    from extractor.occluding import occlude as occlude_entries  # noqa: PLC0415
    from store_schema.pseudonyms import PlainIds, Pseudonyms  # noqa: PLC0415

    if fill != "mean" and not fill.isdecimal():
        raise UsageError(f"--fill is mean or a grey value of 0 to 255, got {fill}.")
    given = {name: value for name, value in (("weights", weights), ("model", model)) if value is not None}
    config = parse_config(load_config(config_path).model_dump() | given, origin="--weights/--model with the settings")
    chosen = OccludeOptions(
        studies,
        store_url,
        OcclusionRules(size_mm, stride_mm, fill if fill == "mean" else int(fill)),
        layout,
        patients,
        modalities,
        rois,
        device,
        Pseudonyms.from_environment() if pseudonymise else PlainIds(),
    )
    report = occlude_entries(config, chosen, console=error_console())
    out = result_console()
    for one in report.outcomes:
        out.print(f"{one.patient} {one.modality} {one.roi}: {one.result}: {one.reason}", soft_wrap=True, markup=False)
    if report.snapshot is not None:
        out.print(f"snapshot {report.snapshot}  view {report.view}", soft_wrap=True)
    raise click.exceptions.Exit(FAILED if report.failed else 0)
