"""`extractor run`: embeds every study of a table; computes nothing itself.

Heavy modules are imported inside the command, so that --help is instant.
"""

from __future__ import annotations

from typing import Any

import click

from extractor.commands.running import Asked, carried_out, extracting
from store_schema.console import EngramCommand


@click.command(cls=EngramCommand)
@extracting
def run(**given: Any) -> None:
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
    same addresses, and run the same version of engram. With --device cuda a worker is one process with one GPU, whose
    threads load and write while the GPU computes. `extractor worker --help` tells how to start them, and how to guard a cluster by
    TLS: then --scheduler is a tls:// address.

    With --shard each of N runs works on its own patients, whatever the order of the table. The one that finds everything of the
    table held writes the snapshot. Where something failed, or images name their voxels in another file (.mhd), the same command
    without --shard does what is left, and writes it.

    --metrics-port and --metrics-file tell how many studies and entries are through, what they took and what is left, wherever they
    are worked on, and no patient. With --log-format json a study is named by its line of the table, on stdout too.

    \b
      extractor run studies.csv --store ./store --config extract.yaml --weights MedSAM2_latest.pt
      extractor run studies.csv --store ./store --config extract.yaml --model mini --weights random:0
      extractor run s3://images/studies.csv --store s3://features/project --config extract.yaml --pseudonymise
      extractor run studies.csv --store /shared/store --config extract.yaml --device cuda \
        --scheduler tls://head:8786 --tls-ca ca.pem --tls-cert cert.pem --tls-key key.pem
      extractor run … --log-format json --metrics-port 9464 --metrics-host 0.0.0.0 2> run.jsonl
      extractor run … --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"    (sbatch --array=1-8)
    """
    from extractor.config import parse_config  # noqa: PLC0415

    asked = Asked(**given)
    config = parse_config(asked.settings(), origin="--weights/--model with the settings")
    chosen = asked.options()
    with asked.metrics() as metrics:
        status = carried_out(config, chosen, metrics)
    raise click.exceptions.Exit(status)
