"""The commands of `trainer` about kept models: fit, predict, validate; each reads options, calls one function, prints.

Heavy modules are imported inside the commands, so that --help is instant.
"""

import click

from store_schema.console import FAILED, EngramCommand, FileOrAddress, result_console, say

_FILE = FileOrAddress()


@click.command(cls=EngramCommand)
@click.argument("run")
@click.option("--model", "row", required=True, metavar="NAME", help="Row of the run, as its table calls it.")
@click.option("--out", required=True, metavar="MODEL", help="Folder of the model; written once.")
@click.option(
    "--store", "store_url", metavar="URL", help="Where the feature store lies now, if not where the run found it."
)
def fit(*, run: str, row: str, out: str, store_url: str | None) -> None:
    r"""Fit a row of a finished run on its whole cohort, and keep the model for patients to come.

    MODEL holds card.json (settings, preprocessing, baseline hazard, who it was fitted on, what cross-validation said) and, of a
    network, weights.safetensors. Neither can be executed.

    \b
      trainer fit ./run --model image --out ./model
      trainer predict --model ./model --store ./store --out predictions.csv
    """
    from trainer.final import fit_final  # noqa: PLC0415
    from trainer.printed import print_model  # noqa: PLC0415

    made = fit_final(run, row, out=out, store_url=store_url)
    print_model(made.card, made.url, result_console())


@click.command(cls=EngramCommand)
@click.option("--model", "model_url", required=True, metavar="MODEL", help="Folder that `trainer fit` wrote.")
@click.option(
    "--store", "store_url", metavar="URL", help="Feature store with the model's view; not for a clinical model."
)
@click.option("--clinical", type=_FILE, help="Table with the model's covariates, where it has any; no outcome is read.")
@click.option("--snapshot", metavar="ID", help="Read this snapshot of the view instead of the present entries.")
@click.option(
    "--times",
    metavar="T,T,…",
    help="Times of the survival columns, in the model's unit; default 1, 2, 3, 5 years.",
)
@click.option("--out", metavar="FILE", help="CSV file; default standard output.")
@click.option("--pseudonymise", is_flag=True, help="Call patients as an extraction with the same key did.")
def predict(
    *,
    model_url: str,
    store_url: str | None,
    clinical: str | None,
    snapshot: str | None,
    times: str | None,
    out: str | None,
    pseudonymise: bool,
) -> None:
    r"""Score patients by a kept model: log-risk, risk group, probability of being free of the event.

    Only entries of the very view that the model was fitted on are read. Covariates are preprocessed by the model's own frozen
    preprocessing: a missing value is filled as in training. Risk groups are the quartiles of the training patients' risks.
    Patients who lack an entry or a row of the table are named on stderr and make the exit status 1.

    Research use: a score is no diagnosis.

    \b
      trainer predict --model ./model --store ./store --clinical new.csv --times 12,24 --out predictions.csv
    """
    from pathlib import Path  # noqa: PLC0415

    from store_schema.pseudonyms import PlainIds, Pseudonyms  # noqa: PLC0415
    from trainer.columns import usual_horizons  # noqa: PLC0415
    from trainer.predicting import Newcomers, predict  # noqa: PLC0415
    from trainer.saved import read_model  # noqa: PLC0415

    card, trained = read_model(model_url)
    ids = Pseudonyms.from_environment() if pseudonymise else PlainIds()
    wanted = usual_horizons(card.time_unit) if times is None else _numbers(times)
    scores = predict(card, trained, Newcomers(store_url, snapshot, clinical, ids), times=wanted)
    if out is None:
        click.echo(scores.to_csv(), nl=False)
    else:
        Path(out).write_text(scores.to_csv(), encoding="utf-8")
    for patient, reason in scores.left_out.items():
        say(ids.clean(f"not scored: {patient}: {reason}"), "not_scored", level="error")
    if card.columns.competing_values:
        say(
            "note: survival is as if competing events were abolished: patients come to the event less often than it says",
            "note",
        )
    if card.judged.overconfident:
        say("note: the calibration slope of this model lies below 1: its survival curves spread too far", "note")
    say(f"{len(scores.patients)} patients scored, {len(scores.left_out)} left out", "summary")
    raise click.exceptions.Exit(FAILED if scores.left_out else 0)


@click.command(cls=EngramCommand)
@click.option("--model", "model_url", required=True, metavar="MODEL", help="Folder that `trainer fit` wrote.")
@click.option(
    "--clinical",
    required=True,
    type=_FILE,
    help="Table of the other cohort: its outcomes, and covariates where the model reads any.",
)
@click.option(
    "--store", "store_url", metavar="URL", help="Feature store with the model's view; not for a clinical model."
)
@click.option("--snapshot", metavar="ID", help="Read this snapshot of the view instead of the present entries.")
@click.option(
    "--columns",
    "columns_path",
    type=_FILE,
    help="YAML with the table's `columns`, where outcomes are named or coded otherwise.",
)
@click.option(
    "--developed-on",
    "run_url",
    metavar="RUN",
    help="Run that the model came from: refuse patients who are in its cohort.",
)
@click.option("--times", metavar="T,T,…", help="Horizons, in the model's unit; default 1, 2, 3, 5 years.")
@click.option("--out", required=True, metavar="FOLDER", help="Folder of the results; written over an older one.")
@click.option("--pseudonymise", is_flag=True, help="Call patients as an extraction with the same key did.")
def validate(
    *,
    model_url: str,
    clinical: str,
    store_url: str | None,
    snapshot: str | None,
    columns_path: str | None,
    run_url: str | None,
    times: str | None,
    out: str,
    pseudonymise: bool,
) -> None:
    r"""Judge a kept model on another cohort: of another hospital, scanner or time.

    The model is frozen: weights, preprocessing, baseline hazard and risk groups are those of the card, and nothing of the other
    cohort flows into them. Discrimination, calibration, Brier scores and decision curves are those of `trainer cv`. Apart from that
    stands what a recalibration would do (of the baseline hazard alone, or of the slope too), judged on other patients than it was
    made from.

    Follow-up is cut where that of the model ends. The very cohort that the model was fitted on is refused; with --developed-on also
    any patient of it.

    \b
    Writes into FOLDER: validation.json, measures.csv, predictions.csv, report.html and figures/*.svg.

    \b
      trainer validate --model ./model --store ./store-b --clinical b.csv --out ./validation
      trainer validate --model ./model --clinical b.csv --columns b-columns.yaml --developed-on ./run --out ./validation
    """
    from store_schema.pseudonyms import PlainIds, Pseudonyms  # noqa: PLC0415
    from trainer.predicting import Newcomers  # noqa: PLC0415
    from trainer.printed import print_validation  # noqa: PLC0415
    from trainer.report.validation_page import write_validation_page  # noqa: PLC0415
    from trainer.saved import card_sha256, read_model  # noqa: PLC0415
    from trainer.validating import columns_of, judge, refuse_developers, score_others, write_validation  # noqa: PLC0415

    horizons = None if times is None else tuple(_numbers(times))
    card, trained = read_model(model_url)
    ids = Pseudonyms.from_environment() if pseudonymise else PlainIds()
    newcomers = Newcomers(store_url, snapshot, clinical, ids)
    scored = score_others(card, trained, newcomers, columns_of(card, columns_path))
    if run_url is not None:
        refuse_developers(run_url, card.training.cohort_sha256, scored.cohort, ids)
    digest = card_sha256(model_url)
    found = judge(card, scored, horizons=horizons, card_sha256=digest, overlap_checked=run_url is not None)
    folder = write_validation(found, scored, card, out)
    write_validation_page(folder)
    print_validation(found, folder, result_console())


def _numbers(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise click.UsageError(f"--times expects numbers, such as 12,24,60, got {text!r}") from error
    if not all(0 < number < float("inf") for number in found):
        raise click.UsageError(f"--times expects positive numbers, got {text!r}")
    return found
