"""The command `trainer publish`, and what --publish does after a run; reads options, calls one function, prints.

Heavy modules are imported inside the functions, so that --help is instant.
"""

import click

from store_schema.console import EngramCommand, say
from store_schema.errors import EngramError
from store_schema.redact import redact


@click.command(cls=EngramCommand)
@click.argument("run")
@click.option("--store", "store_url", required=True, metavar="URL", help="Feature store to publish into.")
@click.option("--run-id", metavar="ID", help="Name of the published run; by default made from the run itself.")
def publish(run: str, store_url: str, run_id: str | None) -> None:
    r"""Publish the finished run in the folder RUN: figures, curves and report become records of a store.

    Whoever reads the store's project then sees the run in its catalogue and pages. Over a service (https://HOST/v1/projects/P) it
    needs a key of the write scope. Published records never change; the same run published again is the same records.

    \b
    Records: results.json, measures.json, run.json (settings, snapshots, versions), km.json (Kaplan-Meier curves of the outer risk
    quartiles with numbers at risk), report.html and its figures (SVG), and last trainer.json, which makes the run visible.

    \b
    Left out, since it tells of single patients: their ids, outcomes, covariates, out-of-fold risks and gate weights (also as
    figures), who is in which fold and who was excluded, names in warnings, and reasons of failed fits. Addresses of stores and
    tables are left out as well. A record that would still spell a patient's id is refused, and then nothing is published. Curves
    show times of events and censorings, and tables show levels of covariates however rare, as in a publication.

    \b
      trainer publish ./run --store https://features.example/v1/projects/myeloma
    """
    from trainer.publishing import publish_run, publishing_store  # noqa: PLC0415

    made = publish_run(run, publishing_store(store_url), run_id=run_id)
    click.echo(f"published {made.run_id} in {made.url}{' (it was there before)' if made.before else ''}")


def check_publishing(store_url: str | None) -> None:
    """Refuses --publish before anything is fitted, where there is nowhere to publish to."""
    if store_url is None:
        raise click.UsageError("--publish needs the feature store to publish into: name it with --store URL")
    from trainer.publishing import publishing_store  # noqa: PLC0415

    publishing_store(store_url)


def publish_after(run_url: str, store_url: str, *, complete: bool) -> bool:
    """Publishes a run that was just written; says whether it did, and tells how to do it later where it did not."""
    from trainer.publishing import publish_run, publishing_store  # noqa: PLC0415

    if not complete:
        told = "not published: the run is incomplete. The same command does what is missing, and publishes it"
        say(told, "not_published", level="error")
        return False
    try:
        made = publish_run(run_url, publishing_store(store_url))
    except EngramError as error:
        later = f"trainer publish {run_url} --store {store_url}"
        told = f"not published: {type(error).__name__}: {error}\nThe results are safe in {run_url}. Publish them by: {later}"
        say(redact(told), "not_published", level="error")
        return False
    click.echo(f"published {made.run_id} in {made.url}{' (it was there before)' if made.before else ''}")
    return True
