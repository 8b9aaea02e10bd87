"""`extractor occlude`: options of occluded embeddings; computes nothing.

Heavy modules are imported inside the command, so that --help is instant.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from extractor.commands import options
from store_schema import events
from store_schema.console import FAILED, EngramCommand, FileOrAddress, error_console, result_console
from store_schema.errors import UsageError

if TYPE_CHECKING:
    from extractor.occluding import OccludeReport
    from extractor.occlusion_plan import PlannedEntry
    from store_schema.pseudonyms import PlainIds

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
@click.option(
    "--scratch",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Where parts of an entry are kept until it is committed; default engram/unfinished in the user's cache.",
)
@click.option("--dry-run", is_flag=True, help="Count patches and say how long they take; write nothing.")
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
    scratch: Path | None,
    dry_run: bool,
    pseudonymise: bool,
) -> None:
    r"""Embed studies again with each patch of a region hidden, for `trainer explain`.

    Patches lie on a grid in millimetres, their centres inside the region, and tile it without gaps where size and stride are equal;
    a slice that the embedding holds and that none of them touches gets one more. Prompts stay those of the whole image. Bones are
    named by every label map of a row, also by those that no region is derived from; a corrected one makes the entry anew. Only the
    slices that a patch touches are encoded anew, and the propagation is taken up at the first of them. All patches of one patient,
    modality and region are one entry of an occlusion view in the same store. A rerun makes what is missing.

    A long entry is taken up where a killed run left it: each eight patches (16 on a GPU) are kept in FOLDER, and removed once the
    entry is committed; parts that nobody went on with for 30 days are removed too. They are of patients, and readable by you alone.

    How long it takes: about a tenth of an extraction for each patch with `mode: upfront`, a third with `sequential`. --dry-run
    times a few slices and says it for each entry. On a terminal bars show how far it is, elsewhere a line every half a minute, with
    the time left of the entry.

    \b
      extractor occlude studies.csv --store ./store --config extract.yaml --layout paper --patient P001 --modality PET --dry-run
      extractor occlude studies.csv --store ./store --config extract.yaml --layout paper --patient P001 --modality PET
    """
    from extractor.config import load_config, parse_config  # noqa: PLC0415
    from extractor.occluding import OccludeOptions, plan_occlusion  # noqa: PLC0415
    from extractor.occluding import occlude as occlude_entries  # noqa: PLC0415
    from extractor.occlusion_rules import OcclusionRules  # noqa: PLC0415
    from extractor.occlusion_study import Chosen  # noqa: PLC0415
    from extractor.unfinished import Unfinished  # noqa: PLC0415
    from store_schema.pseudonyms import PlainIds, Pseudonyms  # noqa: PLC0415

    if fill != "mean" and not fill.isdecimal():
        raise UsageError(f"--fill is mean or a grey value of 0 to 255, got {fill}.")
    given = {name: value for name, value in (("weights", weights), ("model", model)) if value is not None}
    config = parse_config(load_config(config_path).model_dump() | given, origin="--weights/--model with the settings")
    asked = OccludeOptions(
        studies,
        store_url,
        OcclusionRules(size_mm, stride_mm, fill if fill == "mean" else int(fill)),
        layout,
        Chosen(patients, modalities, rois),
        device,
        Pseudonyms.from_environment() if pseudonymise else PlainIds(),
        None if scratch is None else Unfinished(scratch),
    )
    if dry_run:
        raise click.exceptions.Exit(_tell_plan(*plan_occlusion(config, asked), asked.ids))
    raise click.exceptions.Exit(_tell(occlude_entries(config, asked, console=error_console()), asked.ids))


def _tell(report: OccludeReport, ids: PlainIds) -> int:
    """Exit status of a run, which is printed."""
    from extractor.outcome import StdoutNames  # noqa: PLC0415

    out, names = result_console(), StdoutNames(ids, report.lines)
    for one in names.all(report.outcomes):
        out.print(f"{one.patient} {one.modality} {one.roi}: {one.result}: {one.reason}", soft_wrap=True, markup=False)
    if report.snapshot is not None:
        out.print(f"snapshot {report.snapshot}  view {report.view}", soft_wrap=True)
    level: events.Level = "error" if report.failed else "info"
    counts = Counter(one.result for one in report.outcomes)
    events.tell("summary", level=level, items=counts, view=report.view, snapshot=report.snapshot)
    return FAILED if report.failed else 0


def _tell_plan(view: str, entries: tuple[PlannedEntry, ...], ids: PlainIds) -> int:
    """Exit status of a plan, which is printed."""
    from extractor.outcome import StdoutNames  # noqa: PLC0415
    from extractor.progress import hours  # noqa: PLC0415

    out, names = result_console(), StdoutNames(ids, {one.key.patient: one.line for one in entries})
    for one in entries:
        said = (
            f"{one.patches} patches, {one.seen} can change it, about {hours(one.seconds)}"
            if one.to_do
            else names.reason(one.reason)
        )
        what = f"{names.patient(one.key.patient)} {one.key.modality} {one.key.roi}: {one.state}"
        out.print(f"{what}: {said}" if said else what, soft_wrap=True, markup=False)
    to_do = [one for one in entries if one.to_do]
    patches, seconds = sum(one.patches for one in to_do), sum(one.seconds for one in to_do)
    out.print(f"{len(to_do)} entries to make, {patches} patches, about {hours(seconds)}  view {view}", soft_wrap=True)
    return FAILED if any(one.state == "failed" for one in entries) else 0
