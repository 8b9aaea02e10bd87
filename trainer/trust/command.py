"""The command `trainer trust`: reads options, calls one function, prints what came of it; computes nothing.

Heavy modules are imported inside the command, so that --help is instant.
"""

from typing import TYPE_CHECKING, Any

import click

from store_schema.console import FAILED, EngramCommand, FileOrAddress, error_console, result_console
from trainer.run_options import inputs_of, on_device, run_options, workers_of

if TYPE_CHECKING:
    from trainer.run import CvReport


@click.command(cls=EngramCommand)
@click.argument("study", type=FileOrAddress())
@click.option(
    "--plan",
    "only_plan",
    is_flag=True,
    help="Pin the views, tell what would be done with numbers of fits, views and patients and the time of fits, and do nothing.",
)
@run_options(publishing=False)
def trust(*, study: str, only_plan: bool, **options: Any) -> None:
    r"""Run or resume a study, then tell how far one of its rows is to be trusted.

    \b
    The file is that of `trainer study`, with one more section, which may be left out, and each line of it too:
      trust:
        row: PET.spine.MedSAM2.averaging
        controls: {views: [VIEW, …], ablation: [VIEW, …], permutations: 1}
        robustness: {views: [VIEW, …]}
        explain: {patients: 12}
        quality: {views: [VIEW, …], groups: [scanner]}
    What is not named is found in the store by what views say of themselves; `false` leaves a part out. By default the first row of
    images alone is looked at.

    \b
      controls    the row's model fitted anew, on the same patients, folds and seeds, on boxes at random and elsewhere,
                  a constant image, the encoder alone, other modes and layouts, and permuted outcomes; what the base
                  has over each, with its interval
      robustness  perturbed views: agreement of embeddings, and of out-of-fold risks by the folds' own models; change of c
      explain     where the kept model looks, from embeddings with patches hidden
      quality     the embeddings themselves: faults, duplicates, drift between groups, PET/CT alignment beside risk

    A rerun resumes the study and does the parts that are missing, failed or have changed, also where a task of the study failed and
    has succeeded since. A part that fails leaves the others alone, is named on the pages, and makes the exit status 1. Where
    settings were chosen on the reported folds (`search: {mode: paper}`), no difference is claimed.

    \b
    Writes into RUN, besides the files of `trainer study`: trust/index.html (summary), trust/controls, trust/robustness,
    trust/explain and trust/quality, each with a page report.html, JSON, CSV and figures; trust/models; and report.html
    with a section on it.

    \b
      extractor perturb studies.csv --store ./store --config extract.yaml --kind elsewhere
      trainer trust study.yaml --store ./store --clinical clinical.csv --out ./run --plan
      trainer trust study.yaml --store ./store --clinical clinical.csv --out ./run
    """
    from trainer.dispatch import cores  # noqa: PLC0415
    from trainer.printed import print_results, print_run  # noqa: PLC0415
    from trainer.study_config import load_trusted  # noqa: PLC0415
    from trainer.trust.printed import print_trust, print_trust_plan  # noqa: PLC0415
    from trainer.trust.trusting import plan_trust, trust  # noqa: PLC0415

    config, settings = load_trusted(study)
    config, inputs, console = on_device(config, options), inputs_of(options), result_console()
    where = {
        "out": options["out"],
        "workers": workers_of(options),
        "console": error_console(),
    }
    if only_plan:
        print_trust_plan(plan_trust(config, settings, inputs, **where), console, workers=options["workers"] or cores())
        return

    def told(study: "CvReport") -> None:
        print_run(study, console)
        print_results(config, study.results, console)

    report = trust(config, settings, inputs, **where, told=told)
    print_trust(report, console)
    raise click.exceptions.Exit(0 if report.complete else FAILED)
