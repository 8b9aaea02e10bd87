"""Options that several commands have, so that they are told alike; computes nothing."""

from __future__ import annotations

import click

dry_run = click.option("--dry-run", is_flag=True, help="Show the plan and its reasons; write nothing.")
make_current = click.option("--make-current", is_flag=True, help="Commit again an input that a later one has replaced.")
no_pack = click.option("--no-pack", is_flag=True, help="Do not pack what the snapshots hold, mean maps or vectors.")
pseudonymise = click.option(
    "--pseudonymise", is_flag=True, help="Key patients by HMAC with the secret in ENGRAM_PSEUDONYM_KEY; no id leaves."
)
