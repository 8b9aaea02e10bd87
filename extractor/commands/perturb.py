"""`extractor perturb`: embeds every study of a table with its prompts disturbed, once for each size; computes nothing itself.

Heavy modules are imported inside the command, so that --help is instant.
"""

from __future__ import annotations

from typing import Any, get_args

import click

from extractor.commands.running import Asked, carried_out, extracting
from extractor.perturbation_kinds import Kind
from store_schema.console import EngramCommand, result_console


@click.command(cls=EngramCommand)
@extracting
@click.option("--kind", required=True, type=click.Choice(get_args(Kind)), help="What is disturbed; see above.")
@click.option(
    "--size",
    "sizes",
    multiple=True,
    type=float,
    metavar="NUMBER",
    help="How much, in mm; for drop a share of 0 to 1, for stride a number of slices. Repeatable: each is a view of its own.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of jitter, drop, random_boxes and elsewhere.",
)
def perturb(*, kind: str, sizes: tuple[float, ...], seed: int, **given: Any) -> None:
    r"""Embed studies with disturbed prompts, for `trainer robustness`: one view for each size, beside those of `extractor run`.

    \b
    padding       boxes padded on each side by SIZE mm (negative: shrunk), within the image
    jitter        each edge of each box moved by a normal of standard deviation SIZE mm
    dilate erode  the region's boundary moved by SIZE mm in all directions, before slices and boxes are taken
    drop          a share SIZE of the kept slices left out; at least one stays
    stride        every SIZE-th slice kept
    shift_x, shift_y, shift_z
                  the PET moved against the CT by SIZE mm towards left, posterior, superior
    Negative controls, without a size:
    random_boxes  boxes of the same size anywhere within the body, on the same slices
    elsewhere     the same, but on no pixel of the region, nor on a bone where the table has label maps; where a slice has no
                  such place, the one with the least of them, and the entry's attributes say how much
    constant      every voxel at the volume's mean

    Edges of boxes move by whole pixels, the nearest to SIZE (halves become the larger): on pixels of 4 mm paddings of 2 and of 5 mm
    are the same boxes. Regions grow and shrink by the voxels within SIZE. The PET moves by SIZE exactly. An entry that would stay
    as it is fails with a reason, since it would seem robust: what counts are the slices and prompts that its mode and layout use.
    A shift moves the PET alone: on the CT's grid the CT's entries stay as they are to the last bit, and are there for models that
    read both; what `trainer robustness` tells of the CT alone then says nothing.

    What is drawn is drawn by seed, entry and slice: a rerun draws the same. Options, settings and resuming are those of
    `extractor run`, and `perturb: {kind: padding, size: 5}` in its settings makes the same view. The sizes run one after another,
    each from the images on.

    \b
      extractor perturb studies.csv --store ./store --config extract.yaml --kind padding --size 2 --size 5 --size 10
      extractor perturb studies.csv --store ./store --config extract.yaml --kind elsewhere --seed 1
    """
    from extractor.config import parse_config  # noqa: PLC0415

    asked = Asked(**given)
    settings, chosen, statuses = asked.settings(), asked.options(), []
    configs = [
        parse_config(settings | {"perturb": {"kind": kind, "size": size, "seed": seed}}, origin="--kind/--size/--seed")
        for size in (dict.fromkeys(sizes) or (None,))
    ]
    with asked.metrics() as metrics:
        for config in configs:
            assert config.perturb is not None
            result_console().print(f"Perturbation {config.perturb.suffix.removeprefix('-')}")
            statuses.append(carried_out(config, chosen, metrics))
    raise click.exceptions.Exit(max(statuses))
