"""`extractor regions`: options of writing regions to be looked at, and what is printed of it; computes nothing.

Heavy modules are imported inside the command, so that --help is instant.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from store_schema.console import EngramCommand, FileOrAddress, error_console, result_console

_TABLE = FileOrAddress()


@click.command(cls=EngramCommand)
@click.argument("studies", type=_TABLE)
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write to; a rerun resumes.",
)
@click.option("--config", "config_path", type=_TABLE, help="The settings in YAML that `extractor run` will have.")
@click.option(
    "--derive",
    multiple=True,
    type=click.Choice(["spine_dilated", "skeleton"]),
    help="Region to derive from the label maps; may be given twice. Overrides the settings.",
)
@click.option(
    "--label-set",
    type=click.Choice(["totalsegmentator", "totalsegmentator_v1", "moose_2", "moose_3", "moose_all_bones_v1"]),
    help="What made the label maps; overrides the settings.",
)
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(min=1), help="Studies at a time.")
def regions(
    studies: str, out: Path, config_path: str | None, derive: tuple[str, ...], label_set: str | None, *, jobs: int
) -> None:
    r"""Write every region as the extractor will use it, with pictures, to be looked at before a run.

    STUDIES is the table of `extractor run`. Masks of the table are shown as they are taken: made 0 and 1, on the CT's grid. Regions
    derived from label maps are vertebrae, closed by 10 mm and dilated by 10 mm (spine_dilated), and all bones with that (skeleton);
    the settings closing_mm and dilation_mm change the distances.

    \b
      OUT/index.html            per study: pictures, volume in ml, slices, share outside PET and CT, warnings; failures first
      OUT/regions.csv           the same as a table
      OUT/PATIENT/ROI.nii.gz    the region, 0 and 1, on the CT's grid in LPS
      OUT/PATIENT/ROI.png       its outline over the CT

    Label maps stand in these columns, as their set says:

    \b
      totalsegmentator       label_map: TotalSegmentator 2, 117 labels
      totalsegmentator_v1    label_map: TotalSegmentator 1, 104 labels; it has no skull and no sternum
      moose_3                label_map_vertebrae, and for skeleton label_map_ribs, label_map_peripheral_bones: MOOSE 2.6.3 and later
      moose_2                the same columns: MOOSE 2.2 to 2.6.2
      moose_all_bones_v1     label_map: MOOSE's clin_ct_all_bones_v1

    A label map that does not fit its set (labels beyond it, no vertebra, vertebrae out of order, left on the right) is refused with
    the reason, and so is whatever `extractor run` would refuse. `extractor segment` makes label maps with MOOSE.

    Done studies are left alone unless their files or the settings changed. One bad study never stops the rest; the exit status is 0
    when all have their regions, 1 when one failed, 2 when the call was wrong.

    \b
      extractor regions studies.csv --out regions --config extract.yaml
      extractor regions studies.csv --out regions --derive spine_dilated --derive skeleton
      extractor regions bones/studies.csv --out regions --derive spine_dilated --label-set moose_3 --jobs 4
    """
    from extractor.config import load_config, parse_config, undisturbed  # noqa: PLC0415
    from extractor.outcome import print_studies  # noqa: PLC0415
    from extractor.region_run import run_regions  # noqa: PLC0415

    given: dict[str, Any] = {"derive": derive} if derive else {}
    given |= {"label_set": label_set} if label_set else {}
    config = parse_config(
        load_config(config_path).model_dump() | given, origin="--derive/--label-set with the settings"
    )
    made, page = run_regions(studies, out, undisturbed(config, "extractor regions"), jobs=jobs, console=error_console())
    console = result_console()
    print_studies(made, console)
    console.print(f"Page: {page}", soft_wrap=True, markup=False)
    raise click.exceptions.Exit(1 if any(study.state == "failed" for study in made) else 0)
