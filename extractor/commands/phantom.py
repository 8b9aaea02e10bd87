"""`extractor phantom`: options of a synthetic cohort; computes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from store_schema.console import EngramCommand, result_console


@click.command(cls=EngramCommand)
@click.option(
    "--out", "folder", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to write to."
)
@click.option("--patients", "n", default=120, show_default=True, type=click.IntRange(min=4), help="Size of the cohort.")
@click.option("--seed", default=0, show_default=True, help="Same seed, same cohort, voxel for voxel.")
@click.option(
    "--kind",
    type=click.Choice(["standard", "far", "ct_only", "null"]),
    default="standard",
    show_default=True,
    help="Where the outcome's signal lies: spine uptake; its upper third only; CT only; nowhere.",
)
def phantom(folder: Path, n: int, seed: int, kind: Literal["standard", "far", "ct_only", "null"]) -> None:
    r"""Write a synthetic PET/CT cohort with a planted, known signal.

    \b
    DIR/studies.csv    patient, ct, pet, label_map
    DIR/clinical.csv   age, R-ISS, centre, months to progression, event
    DIR/truth.csv      the planted factors and log-hazard of each patient: the oracle
    DIR/extract.yaml, DIR/cv.yaml   settings for the commands that follow
    """
    from extractor.phantom import write_cohort  # noqa: PLC0415
    from extractor.phantom_settings import write_settings  # noqa: PLC0415

    write_cohort(folder, n=n, seed=seed, kind=kind)
    write_settings(folder)
    out = result_console()
    out.print(f"{n} synthetic patients ({kind}, seed {seed}) in {folder}. Next:", soft_wrap=True)
    out.print(
        f"  extractor run {folder}/studies.csv --store {folder}/store --config {folder}/extract.yaml --weights random:0\n"
        f"  trainer cv --store {folder}/store --clinical {folder}/clinical.csv --config {folder}/cv.yaml "
        f"--oracle {folder}/truth.csv --out {folder}/run\n"
        f"  trainer report {folder}/run",
        soft_wrap=True,
    )
