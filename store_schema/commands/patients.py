"""`pseudonym`: says what a patient is called in a pseudonymised store; keeps, logs and records no id."""

from __future__ import annotations

import sys

import click

from store_schema.console import EngramCommand
from store_schema.errors import UsageError


@click.command(cls=EngramCommand)
@click.argument("patient", metavar="ID")
@click.option("--study", help="One study of the patient, where the study table has a column `study`.")
@click.option("--store", "url", metavar="URL", help="Refuse a key other than the one that this store was written with.")
def pseudonym(patient: str, study: str | None, url: str | None) -> None:
    r"""Print what the patient ID is called in stores written with --pseudonymise: PATIENT in their keys.

    The secret key comes from the environment variable ENGRAM_PSEUDONYM_KEY and must be the one of the extraction. Any other key
    gives another pseudonym, which the store does not hold, and nothing would be found to withdraw: give --store to be sure.

    ID and study are written as in the study table. An ID of - is read from stdin, so that it stands neither in the shell's
    history nor in the list of processes. The patient's own pseudonym means all studies of the patient when it is withdrawn.

    \b
      export ENGRAM_PSEUDONYM_KEY="$(cat project.key)"
      store-schema pseudonym MM-0042 --store ./store
      store-schema pseudonym MM-0042 --study 2024-03
      store-schema withdraw ./store --patient "$(store-schema pseudonym - --store ./store < id.txt)" --reason "consent withdrawn"
    """
    from store_schema.pseudonyms import Pseudonyms, check_rule  # noqa: PLC0415 - keeps --help instant
    from store_schema.store import open_store  # noqa: PLC0415

    own = _read_id() if patient == "-" else patient
    for name, text in (("ID", own), ("study", study)):
        if text is not None and not text.strip():
            raise UsageError(f"the {name} is empty (is a variable not set?): give it as in the study table.")
    ids = Pseudonyms.from_environment()
    if url is not None and not check_rule(open_store(url).location, ids):
        raise UsageError(f"{url} does not say what its patients are called: no extraction has written into it.")
    click.echo(ids.key(own, study))


def _read_id() -> str:
    """One line of stdin."""
    lines = sys.stdin.read().splitlines()
    if len(lines) != 1:
        raise UsageError(f"stdin has {len(lines)} lines: expected one, the ID.")
    return lines[0]
