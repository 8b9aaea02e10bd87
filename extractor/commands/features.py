"""`extractor import-features` and `extractor radiomics`: options, and what is printed; computes nothing.

Heavy modules are imported inside the commands, so that --help is instant.
"""

from __future__ import annotations

from pathlib import Path

import click

from extractor.commands import options
from store_schema import events
from store_schema.console import EngramCommand, FileOrAddress, error_console, result_console, say

_TABLE = FileOrAddress()


def _settings(_context: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    """KEY=VALUE pairs as a dictionary."""
    settings: dict[str, str] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not (key.strip() and equals and value.strip()) or key.strip() in settings:
            raise click.BadParameter(f"{text!a}: expected KEY=VALUE, each key once, such as bin_width_suv=0.25")
        settings[key.strip()] = value.strip()
    return settings


@click.command("import-features", cls=EngramCommand)
@click.argument("table", type=_TABLE)
@click.option(
    "--store",
    "store_url",
    required=True,
    metavar="URL",
    help="Feature store: a folder, s3://BUCKET/PREFIX, …; created where absent.",
)
@click.option("--name", required=True, help="Name of the view, such as radiomics.")
@click.option(
    "--setting",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_settings,
    help="How the features were measured; other settings are another view. May be repeated.",
)
@click.option("--leave-out", multiple=True, metavar="COLUMN", help="A column that is no feature. May be repeated.")
@options.dry_run
@options.make_current
@options.no_pack
@options.pseudonymise
def import_features(
    *,
    table: str,
    store_url: str,
    name: str,
    settings: dict[str, str],
    leave_out: tuple[str, ...],
    dry_run: bool,
    make_current: bool,
    no_pack: bool,
    pseudonymise: bool,
) -> None:
    r"""Bring measured features, such as radiomics, into a store as vectors, under the keys of the embeddings.

    TABLE is a CSV or Parquet table with the columns patient, modality and roi, optionally study, and a column of numbers for each
    feature; a row is one entry. An empty cell, NaN, NA, N/A or null is a feature that is not known: it stays so, and is read
    back as NaN. A row with any other text, an infinite number, or one that float32 cannot hold fails, and the rest is written.

    The view is told from others by its name, the names of its features, and what --setting says. A rerun resumes; the exit
    status is 0 when every row is committed, 1 when some failed, 2 when the call was wrong.

    \b
      extractor import-features radiomics.csv --store ./store --name radiomics --setting software=mirp --dry-run
    """
    from extractor.advice import print_summary  # noqa: PLC0415
    from extractor.importing import ImportOptions  # noqa: PLC0415
    from extractor.importing import import_features as run_import  # noqa: PLC0415
    from extractor.outcome import StdoutNames, print_plan  # noqa: PLC0415
    from store_schema.pseudonyms import PlainIds, Pseudonyms  # noqa: PLC0415

    chosen = ImportOptions(
        table,
        store_url,
        name,
        settings,
        leave_out,
        dry_run=dry_run,
        make_current=make_current,
        pack=not no_pack,
        ids=Pseudonyms.from_environment() if pseudonymise else PlainIds(),
    )
    report = run_import(chosen)
    out, names = result_console(), StdoutNames.in_order(chosen.ids, (item.patient for item in report.plan))
    print_plan(names.all(report.plan), out)
    out.print(
        f"{report.features} features of {len(report.plan)} entries; {report.missing} of "
        f"{report.features * len(report.plan)} values are not known",
        soft_wrap=True,
    )
    if not dry_run:
        print_summary(names.all(report.outcomes), out)
    if report.snapshot:
        out.print(f"snapshot {name} {report.snapshot}  view {report.view_id}", soft_wrap=True)
    if report.error:
        told = f"The run's records could not be written, the commits above stand. {report.error}"
        say(told, "records_not_written", level="error")
    raise click.exceptions.Exit(1 if report.failed else 0)


@click.command(cls=EngramCommand)
@click.argument("studies", type=_TABLE)
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Feature table to write.")
@click.option("--config", "config_path", type=_TABLE, help="Settings in YAML, the same as for `extractor run`.")
@click.option("--resume", is_flag=True, help="Add to the table what it lacks; images and settings must be the same.")
def radiomics(*, studies: str, out: Path, config_path: str | None, resume: bool) -> None:
    r"""Measure radiomics features of every study of a table with mirp, for `extractor import-features`.

    CT in Hounsfield units and PET in SUV, both on the CT grid, resampled by mirp to 2 mm; bins of 25 HU and 0.25 SUV; shape, first
    order, GLCM, GLRLM, GLSZM and NGTDM features as the IBSI defines them. Needs `pip install engram[extractor,radiomics]`.

    The table holds patients as the study table names them; `import-features --pseudonymise` makes codes of them. With
    --resume rows that it holds already are not measured again. One bad study never stops the rest; the exit status is 1 when one
    failed.

    \b
      extractor radiomics studies.csv --out radiomics.csv --config extract.yaml
      extractor import-features radiomics.csv --store ./store --name radiomics --setting software=mirp
    """
    from extractor.config import load_config, undisturbed  # noqa: PLC0415
    from extractor.radiomics import SETTINGS, measure_table, mirp_measure  # noqa: PLC0415

    config = undisturbed(load_config(config_path), "extractor radiomics")
    measure = mirp_measure()
    report = measure_table(studies, out, config, measure=measure, console=error_console(), resume=resume)
    printed = result_console()
    printed.print(
        f"{report.measured} entries measured, {report.held} were in {out} already, {len(report.failed)} failed"
    )
    # events told each failure already
    for item, reason in () if events.on() else report.failed.items():
        printed.print(f"  {item}: {reason}", markup=False, soft_wrap=True)
    shown = " ".join(f"--setting {key}={value}" for key, value in SETTINGS.items())
    printed.print(f"Next: extractor import-features {out} --store URL --name radiomics {shown}", soft_wrap=True)
    raise click.exceptions.Exit(1 if report.failed else 0)
