"""`extractor run`: options of an extraction, and what is printed of it; computes nothing.

Heavy modules are imported inside the command, so that --help is instant.
"""

from __future__ import annotations

import click

from extractor.commands import options
from store_schema.console import WRONG_USE, EngramCommand, FileOrAddress, error_console, result_console
from store_schema.errors import WeightsError
from store_schema.redact import redact

_TABLE = FileOrAddress()


@click.command(cls=EngramCommand)
@click.argument("studies", type=_TABLE)
@click.option(
    "--store",
    "store_url",
    required=True,
    metavar="URL",
    help="Feature store: a folder, s3://BUCKET/PREFIX, …; created where absent.",
)
@click.option(
    "--config",
    "config_path",
    type=_TABLE,
    help="Settings in YAML; a PET that is no DICOM series needs `pet_units: suv`.",
)
@click.option(
    "--weights", metavar="PATH|NAME|random:SEED", help="Checkpoint file, published MedSAM2 file name, or random."
)
@click.option("--model", type=click.Choice(["medsam2", "mini"]), help="Architecture; overrides the settings.")
@click.option(
    "--jobs", type=click.IntRange(min=0), help="Processes; default one a core, on cuda one; 0 works in this process."
)
@click.option(
    "--device", default="cpu", show_default=True, help="torch device: cpu, cuda, or several GPUs: cuda:0,cuda:1."
)
@click.option(
    "--at-once",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Studies that share batches on a large GPU; last digits then depend on which do.",
)
@click.option(
    "--scheduler", metavar="ADDRESS", help="Dask scheduler, such as tcp://host:8786, instead of local processes."
)
@click.option(
    "--shard", metavar="I/N", help="Work on part I of N of the table, from 1: for arrays of jobs without Dask."
)
@options.dry_run
@options.make_current
@options.no_pack
@options.pseudonymise
def run(
    *,
    studies: str,
    store_url: str,
    config_path: str | None,
    weights: str | None,
    model: str | None,
    jobs: int | None,
    device: str,
    at_once: int,
    scheduler: str | None,
    shard: str | None,
    dry_run: bool,
    make_current: bool,
    no_pack: bool,
    pseudonymise: bool,
) -> None:
    r"""Embed every study of a table and write a snapshot of exactly that table.

    STUDIES is a CSV or Parquet table with the columns patient, ct, pet, one column per ROI mask (named after the ROI), and
    optionally study (several studies of a patient) and label maps (with `derive: [spine_dilated, skeleton]` in the settings;
    `extractor regions --help` names their columns, and shows the regions before a run).
    Paths are relative to the table; they, the table and the settings may also be addresses: s3://…, gs://…, az://…, https://…, with
    the usual credentials of the environment. A presigned address is recorded without its query.

    `baselines: [resnet50, vit, hiera, hiera-last2]` in the settings makes views of encoders without prompt or memory beside the
    memories, from the same slices; with `layouts: []` they are made alone.

    A rerun resumes: what is committed is not made again. One bad study never stops the rest; the exit status is 0 when
    everything is committed, 1 when something failed, 2 when the call was wrong. Withdrawn entries are listed and left alone.

    With --pseudonymise patients, studies and files are called by codes, the same on every machine with the same key; a store holds
    either plain ids or the pseudonyms of one key. `trainer cv --pseudonymise` with that key finds them again. What is sent to
    workers is sealed under it: each needs the same ENGRAM_PSEUDONYM_KEY in its own environment.

    Workers of a --scheduler take their credentials from their own environment. They must reach store, images and weights by the
    same addresses, and run the same version of engram. With --device cuda a worker is one process with one GPU, started by
    `dask worker ADDRESS --nworkers 1 --nthreads 3 --resources GPU=1`; its threads load and write while the GPU computes.

    With --shard each of N runs works on its own patients, whatever the order of the table. The one that finds everything of the
    table held writes the snapshot. Where something failed, or images name their voxels in another file (.mhd), the same command
    without --shard does what is left, and writes it.

    \b
      extractor run studies.csv --store ./store --config extract.yaml --weights MedSAM2_latest.pt
      extractor run studies.csv --store ./store --config extract.yaml --model mini --weights random:0
      extractor run s3://images/studies.csv --store s3://features/project --config extract.yaml --pseudonymise
      extractor run studies.csv --store /shared/store --config extract.yaml --scheduler tcp://head:8786 --device cuda
      extractor run … --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"    (sbatch --array=1-8)
    """
    from extractor.advice import print_summary  # noqa: PLC0415
    from extractor.config import load_config, parse_config  # noqa: PLC0415
    from extractor.outcome import print_plan  # noqa: PLC0415
    from extractor.run import RunOptions  # noqa: PLC0415
    from extractor.run import run as run_extraction  # noqa: PLC0415
    from extractor.shards import Shard  # noqa: PLC0415
    from store_schema.pseudonyms import PlainIds, Pseudonyms  # noqa: PLC0415

    given = {name: value for name, value in (("weights", weights), ("model", model)) if value is not None}
    settings = load_config(config_path).model_dump() | given
    config = parse_config(settings, origin="--weights/--model with the settings")
    chosen = RunOptions(
        studies,
        store_url,
        jobs,
        device,
        scheduler,
        None if shard is None else Shard.parse(shard),
        dry_run=dry_run,
        make_current=make_current,
        pack=not no_pack,
        ids=Pseudonyms.from_environment() if pseudonymise else PlainIds(),
        at_once=at_once,
    )
    try:
        report = run_extraction(config, chosen, console=error_console())
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
    if chosen.shard is not None and not dry_run and not report.snapshots:
        click.echo(_no_snapshot(report.missing), err=True)
    if report.error:
        click.echo(f"The run's records could not be written, the commits above stand. {report.error}", err=True)
    raise click.exceptions.Exit(1 if report.failed else 0)


def _no_snapshot(missing: int) -> str:
    """Why a part of a table ended without a snapshot, and what comes next."""
    if not missing:
        return "No snapshot: items of this part failed. Mend them and run it again."
    return (
        f"No snapshot yet: {missing} entries of other parts are not there. The last part to end writes it; if all have ended, run "
        "the same command without --shard: it does what is left."
    )
