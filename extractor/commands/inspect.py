"""`extractor inspect`: options of a look at studies, and what is printed of it; computes nothing.

Heavy modules are imported inside the command, so that --help is instant.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from store_schema.console import FAILED, EngramCommand, FileOrAddress, progress
from store_schema.errors import UsageError

if TYPE_CHECKING:
    from extractor.config import ExtractConfig
    from extractor.inspection.choose import Single
    from extractor.inspection.findings import StudyFindings
    from store_schema.pseudonyms import PlainIds

PAGE = "inspect.html"
_FILE = FileOrAddress()


@click.command(cls=EngramCommand)
@click.argument("studies", metavar="[STUDY_OR_TABLE]", required=False)
@click.option("--ct", help="CT of a single study: an image file, a folder with a DICOM series, or an address.")
@click.option("--pet", help="Its PET.")
@click.option("--mask", "masks", multiple=True, metavar="NAME=FILE", help="A region's mask; may be repeated.")
@click.option("--label-map", help="Label map of the CT, for `derive` in the settings.")
@click.option("--patient", metavar="ID", help="Only this patient of the table; or what a single study is called.")
@click.option("--config", "config_path", type=_FILE, help="Settings in YAML, as for `extractor run`.")
@click.option(
    "--pet-units", type=click.Choice(["suv", "relative"]), help="Declare the PET's units; overrides the settings."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a study, a line each.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help=f"Folder to write {PAGE} with pictures to."
)
@click.option(
    "--pseudonymise", is_flag=True, help="Call patients and files by codes, as `extractor run --pseudonymise` does."
)
def inspect(
    *,
    studies: str | None,
    ct: str | None,
    pet: str | None,
    masks: tuple[str, ...],
    label_map: str | None,
    patient: str | None,
    config_path: str | None,
    pet_units: str | None,
    as_json: bool,
    out: Path | None,
    pseudonymise: bool,
) -> None:
    r"""Show what would be understood of a study before it is extracted: files, units, geometry, regions, and every check.

    STUDY_OR_TABLE is a study table as for `extractor run`, or the folder of one study, in which ct, pet and label_map are files
    (or folders with a DICOM series) of that name and every other image is the mask of the region it is named after. Or give
    --ct, --pet and --mask.

    Registration is judged by the Dice overlap of the body outlines of CT (above -500 HU) and PET (above SUV 0.2) where both
    images are; below 0.80 is a warning. Nothing is moved.

    No name, UID or date of a DICOM header is printed. The exit status is 0 when every study would be extracted, 1 when one would
    be refused, 2 when the call was wrong.

    \b
      extractor inspect studies.csv --config extract.yaml
      extractor inspect studies.csv --config extract.yaml --patient P001 --out look
      extractor inspect --ct P001/CT --pet P001/PET --mask spine=P001/spine.nii.gz --json
    """
    from extractor.config import load_config, parse_config, undisturbed  # noqa: PLC0415
    from extractor.inspection.choose import Single  # noqa: PLC0415
    from store_schema.pseudonyms import PlainIds, Pseudonyms  # noqa: PLC0415

    given = {} if pet_units is None else {"pet_units": pet_units}
    config = parse_config(load_config(config_path).model_dump() | given, origin="--pet-units with the settings")
    undisturbed(config, "extractor inspect")
    single = Single(ct, pet, dict(map(_named, masks)), label_map, patient)
    ids = Pseudonyms.from_environment() if pseudonymise else PlainIds()
    refused = ids.filtered(lambda: _inspect(studies, single, config, ids, as_json=as_json, out=out))
    raise click.exceptions.Exit(FAILED if refused else 0)


def _named(text: str) -> tuple[str, str]:
    name, _, place = text.partition("=")
    if not name or not place:
        raise UsageError(
            f"--mask {ascii(text)[:80]} is no NAME=FILE: expected for example --mask tumour=tumour.nii.gz."
        )
    return name, place


def _inspect(
    studies: str | None, single: Single, config: ExtractConfig, ids: PlainIds, *, as_json: bool, out: Path | None
) -> int:
    """How many studies would be refused, after all were printed."""
    from extractor.inspection.choose import chosen  # noqa: PLC0415
    from extractor.inspection.page import InspectionPage  # noqa: PLC0415
    from extractor.inspection.study import inspect_study  # noqa: PLC0415

    rows, config = chosen(studies, single, config, ids)
    refused = 0
    with contextlib.ExitStack() as stack:
        page = None if out is None else stack.enter_context(InspectionPage(out / PAGE, config, studies=len(rows)))
        told = stack.enter_context(progress("inspecting"))
        for done, row in enumerate(rows, start=1):
            found = inspect_study(row, config, clean=ids.clean)
            refused += found.findings.refused
            _print(found.findings, as_json=as_json)
            if page is not None:
                page.add(found)
            told(done, len(rows))
    if not as_json:
        click.echo(f"{len(rows)} studies: {len(rows) - refused} would be extracted, {refused} refused")
    if page is not None:
        click.echo(f"pictures: {page.path}", err=as_json)
    return refused


def _print(found: StudyFindings, *, as_json: bool) -> None:
    from extractor.inspection.words import lines  # noqa: PLC0415

    click.echo(json.dumps(found.to_json()) if as_json else "\n".join((*lines(found), "")))
