"""`extractor segment`: options of making label maps with MOOSE, and what is printed of it; computes nothing.

Heavy modules are imported inside the command, so that --help is instant.
"""

from __future__ import annotations

from pathlib import Path

import click

from store_schema.console import EngramCommand, FileOrAddress, error_console, result_console


@click.command(cls=EngramCommand)
@click.argument("studies", type=FileOrAddress())
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write to; a rerun resumes.",
)
@click.option("--moosez", "program", metavar="PATH", help="The moosez program; the one on the PATH by default.")
@click.option("--spine-only", is_flag=True, help="Only the vertebrae: enough for spine_dilated, not for skeleton.")
def segment(studies: str, out: Path, program: str | None, *, spine_only: bool) -> None:
    r"""Segment the bones of every study's CT with MOOSE 3, for regions to be derived from.

    Runs the `moosez` command line on each CT of the table, one after the other, and writes

    \b
      OUT/PATIENT/label_map_vertebrae.nii.gz, label_map_ribs.nii.gz, label_map_peripheral_bones.nii.gz
      OUT/studies.csv     the table with the columns of those names, for `extractor regions` and `extractor run`

    MOOSE is a program of its own (https://github.com/ENHANCE-PET/MOOSE, models CC BY 4.0): install it with pip install
    'engram[moose]', or apart and name it with --moosez. It downloads its weights when first used, and is slow without a GPU.
    A label map is taken only if its labels mean what the label set moose_3 says. Whoever has label maps needs no such step.

    Done studies are left alone unless their CT changed. One bad study never stops the rest; the exit status is 0 when all have
    label maps, 1 when one failed, 2 when the call was wrong or there is no moosez.

    \b
      extractor segment studies.csv --out bones
      extractor segment studies.csv --out bones --moosez ~/moose-env/bin/moosez --spine-only
      extractor regions bones/studies.csv --out regions --derive spine_dilated --label-set moose_3
    """
    from extractor.label_sets import LABEL_SETS  # noqa: PLC0415
    from extractor.moose import LABEL_SET  # noqa: PLC0415
    from extractor.outcome import print_studies  # noqa: PLC0415
    from extractor.segmenting import TABLE, segment_studies  # noqa: PLC0415

    files = LABEL_SETS[LABEL_SET]
    parts = [part for part, file in files.items() if file.spine or not spine_only]
    made = segment_studies(studies, out, parts=parts, program=program, console=error_console())
    console = result_console()
    print_studies(made, console)
    wanted = "spine_dilated" if spine_only else "spine_dilated, skeleton"
    console.print(
        f"Table: {out / TABLE}. Settings for it: 'label_set: {LABEL_SET}' and 'derive: [{wanted}]'.",
        soft_wrap=True,
        markup=False,
    )
    raise click.exceptions.Exit(1 if any(study.state == "failed" for study in made) else 0)
