"""The `extractor` command: reads options, calls one function, prints what came of it; computes nothing.

Heavy modules are imported inside the commands, so that --help is instant.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from store_schema.console import WRONG_USE, EngramGroup, FileOrAddress, error_console, result_console
from store_schema.errors import WeightsError
from store_schema.redact import redact

_TABLE = FileOrAddress()


@click.group(cls=EngramGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="engram")
def main() -> None:
    r"""Turn FDG PET/CT studies and region masks into memory embeddings in a feature store.

    \b
    A first run, on your own images:
      1. studies.csv        patient,ct,pet,spine_dilated
                            P001,P001/ct.nii.gz,P001/pet_suv.nii.gz,P001/spine.nii.gz
      2. extract.yaml       pet_units: suv
      3. extractor run studies.csv --store ./store --config extract.yaml --dry-run
      4. the same without --dry-run

    Without images of your own: `extractor phantom --out demo` writes a synthetic cohort.
    """


@main.command()
@click.argument("studies", type=_TABLE)
@click.option(
    "--store",
    "store_url",
    required=True,
    metavar="URL",
    help="Feature store: a folder, s3://BUCKET/PREFIX, …; created where absent.",
)
@click.option(
    "--config", "config_path", type=_TABLE, help="Settings in YAML; `pet_units: suv` must be declared for PET."
)
@click.option(
    "--weights", metavar="PATH|NAME|random:SEED", help="Checkpoint file, published MedSAM2 file name, or random."
)
@click.option("--model", type=click.Choice(["medsam2", "mini"]), help="Architecture; overrides the settings.")
@click.option(
    "--jobs", type=click.IntRange(min=0), help="Processes; default one a core, on cuda one; 0 works in this process."
)
@click.option("--device", default="cpu", show_default=True, help="torch device: cpu, cuda, cuda:1.")
@click.option("--dry-run", is_flag=True, help="Show the plan and its reasons; write nothing.")
@click.option("--make-current", is_flag=True, help="Commit again an input that a later one has replaced.")
@click.option("--no-pack", is_flag=True, help="Do not pack the mean maps of the snapshots.")
@click.option(
    "--pseudonymise", is_flag=True, help="Key patients by HMAC with the secret in ENGRAM_PSEUDONYM_KEY; no id leaves."
)
def run(
    *,
    studies: str,
    store_url: str,
    config_path: str | None,
    weights: str | None,
    model: str | None,
    jobs: int | None,
    device: str,
    dry_run: bool,
    make_current: bool,
    no_pack: bool,
    pseudonymise: bool,
) -> None:
    r"""Embed every study of a table and write a snapshot of exactly that table.

    STUDIES is a CSV or Parquet table with the columns patient, ct, pet, one column per ROI mask (named after the ROI), and
    optionally study (several studies of a patient) and label_map (with `derive: [spine_dilated, skeleton]` in the settings).
    Paths are relative to the table; they, the table and the settings may also be addresses: s3://…, gs://…, az://…, https://…, with
    the usual credentials of the environment. A presigned address is recorded without its query.

    A rerun resumes: what is committed is not made again. One bad study never stops the rest; the exit status is 0 when
    everything is committed, 1 when something failed, 2 when the call was wrong. Withdrawn entries are listed and left alone.

    With --pseudonymise patients, studies and files are called by codes, the same on every machine with the same key; a store holds
    either plain ids or the pseudonyms of one key. `trainer cv --pseudonymise` with that key finds them again.

    \b
      extractor run studies.csv --store ./store --config extract.yaml --weights MedSAM2_latest.pt
      extractor run studies.csv --store ./store --config extract.yaml --model mini --weights random:0
      extractor run s3://images/studies.csv --store s3://features/project --config extract.yaml --pseudonymise
    """
    from extractor.config import load_config, parse_config  # noqa: PLC0415
    from extractor.outcome import print_plan, print_summary  # noqa: PLC0415
    from extractor.run import RunOptions  # noqa: PLC0415
    from extractor.run import run as run_extraction  # noqa: PLC0415
    from store_schema.pseudonyms import PlainIds, Pseudonyms  # noqa: PLC0415

    given = {name: value for name, value in (("weights", weights), ("model", model)) if value is not None}
    settings = load_config(config_path).model_dump() | given
    config = parse_config(settings, origin="--weights/--model with the settings")
    options = RunOptions(
        studies,
        store_url,
        jobs,
        device,
        dry_run=dry_run,
        make_current=make_current,
        pack=not no_pack,
        ids=Pseudonyms.from_environment() if pseudonymise else PlainIds(),
    )
    try:
        report = run_extraction(config, options, console=error_console())
    except WeightsError as error:
        # They are loaded before anything is written, so that this is a wrong call; in a worker it is an item's outcome.
        click.echo(redact(f"{type(error).__name__}: {error}"), err=True)
        raise click.exceptions.Exit(WRONG_USE) from error
    out = result_console()
    print_plan(report.plan, out)
    if not dry_run:
        print_summary(report.outcomes, out)
    for layout, snapshot in (report.snapshots or {}).items():
        packed = f"  packed in {report.pack_s[layout]:.1f} s" if layout in report.pack_s else ""
        out.print(f"snapshot {layout:7s} {snapshot}  view {report.views[layout]}{packed}", soft_wrap=True)
    if report.error:
        click.echo(f"The run's records could not be written, the commits above stand. {report.error}", err=True)
    raise click.exceptions.Exit(1 if report.failed else 0)


@main.command()
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
