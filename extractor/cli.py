"""The `extractor` command: its group and its commands; computes nothing.

Heavy modules are imported inside the commands, so that --help is instant.
"""

from __future__ import annotations

import click

from extractor.commands.doctor import doctor
from extractor.commands.features import import_features, radiomics
from extractor.commands.gallery import gallery
from extractor.commands.inspect import inspect
from extractor.commands.occlude import occlude
from extractor.commands.perturb import perturb
from extractor.commands.phantom import phantom
from extractor.commands.regions import regions
from extractor.commands.run import run
from extractor.commands.segment import segment
from extractor.commands.worker import worker
from store_schema.console import LoggedGroup


@click.group(cls=LoggedGroup, context_settings={"help_option_names": ["-h", "--help"]})
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

    `extractor doctor` looks at all that a run needs on this machine.
    Without images of your own: `extractor phantom --out demo` writes a synthetic cohort.
    """


for command in (
    *(doctor, inspect, regions, segment, run, worker, gallery),
    *(occlude, perturb, import_features, radiomics, phantom),
):
    main.add_command(command)
