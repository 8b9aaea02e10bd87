"""`extractor gallery`: options of a contact sheet of a store; computes nothing.

Heavy modules are imported inside the command, so that --help is instant.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from store_schema.console import FAILED, EngramCommand, progress
from store_schema.errors import UsageError

if TYPE_CHECKING:
    from extractor.gallery.cards import Card
    from store_schema import EntryKey

WORKERS = 4
"""Entries read at once; a whole-body mask takes some 80 MB."""


@click.command(cls=EngramCommand)
@click.argument("store_url", metavar="STORE")
@click.option(
    "--run", "run_id", metavar="RUN", help="Entries and failures of a run, by its id or a unique beginning of it."
)
@click.option("--view", help="Current entries of a view; with --run, which of the run's views.")
@click.option("--snapshot", metavar="ID", help="Entries of a snapshot.")
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="HTML file to write.")
@click.option(
    "--where", multiple=True, metavar="FIELD=GLOB", help="Only entries that pass; may be repeated, all must hold."
)
@click.option("--limit", type=click.IntRange(min=1), help="Entries to show at most.")
@click.option(
    "--scale",
    type=(float, float),
    metavar="LOW HIGH",
    help="Range of the memory maps' colours; default from the entries.",
)
@click.option(
    "--per-file",
    default=500,
    show_default=True,
    type=click.IntRange(min=1),
    help="Entries in a file; more go to page-2.html, …",
)
def gallery(
    store_url: str,
    *,
    run_id: str | None,
    view: str | None,
    snapshot: str | None,
    out: Path,
    where: tuple[str, ...],
    limit: int | None,
    scale: tuple[float, float] | None,
    per_file: int,
) -> None:
    r"""Write a contact sheet of a store for the eye: masks, boxes and memory maps of every entry, and what failed.

    Nothing but the store is read. Without --run, --view or --snapshot the newest run is shown, in its first view. The page needs
    no network; it sorts, filters and turns pages by itself. A filter is FIELD=GLOB[,GLOB…] or FIELD!=GLOB[,GLOB…] with FIELD one
    of patient, modality, roi.

    The exit status is 1 when an entry could not be read, which its card says.

    \b
      extractor gallery ./store --out gallery.html
      extractor gallery ./store --view medsam2-sequential-paper --where 'patient=MM_0*' --out gallery.html
      extractor gallery s3://features/project --run 20261124T1015 --limit 200 --out gallery.html
    """
    from extractor.gallery.cards import Reader, card, common_scale  # noqa: PLC0415
    from extractor.gallery.choose import choose  # noqa: PLC0415
    from extractor.gallery.page import write_pages  # noqa: PLC0415
    from store_schema import open_store  # noqa: PLC0415
    from store_schema.parallel import each  # noqa: PLC0415

    if scale is not None and not scale[0] < scale[1]:
        raise UsageError(f"--scale {scale[0]:g} {scale[1]:g} does not rise: expected a lower and a higher value.")
    store = open_store(store_url)
    chosen = choose(store, run=run_id, view=view, snapshot=snapshot, terms=where, limit=limit)
    reader = Reader(store, chosen.view_id)
    colours = scale or common_scale(reader, chosen.numbers)
    with progress("drawing entries") as told:

        def drawn(item: tuple[int, tuple[EntryKey, int | None]]) -> Card:
            place, (key, number) = item
            made = card(reader, key, number, colours)
            told(place, len(chosen.numbers))
            return made

        workers = min(WORKERS, store.location.parallel)
        cards = each(drawn, enumerate(chosen.numbers.items(), start=1), parallel=workers, window=workers)
        written = write_pages(cards, chosen, store.view(chosen.view_id), colours, out=out, per_file=per_file)
    failed = f", {len(chosen.failed)} failed or refused in the run" if chosen.failed else ""
    click.echo(f"{written.cards} entries, {written.doubtful} to look at{failed}: {', '.join(map(str, written.paths))}")
    raise click.exceptions.Exit(FAILED if written.unread else 0)
