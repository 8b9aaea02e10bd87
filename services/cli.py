"""The `feature-store` command: its group and its commands; serves nothing itself.

Heavy modules are imported inside the commands, so that --help is instant.
"""

from __future__ import annotations

import click

from services.admin_commands import admin
from services.serve_command import serve
from store_schema.console import EngramGroup


@click.group(cls=EngramGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="engram")
def main() -> None:
    r"""Share feature stores between projects over HTTP, with keys, grants, an audit log and a catalogue.

    \b
    A first service, on this machine:
      1. feature-store serve                        prints an admin key of the project `default`, this once
      2. export ENGRAM_API_KEY=engram_…             for `extractor`, `trainer` and `store-schema`
      3. extractor run studies.csv --store http://127.0.0.1:8000/v1/projects/default

    \b
    Looking after it:
      feature-store admin projects create myeloma
      feature-store admin keys create myeloma --scope write --label "extraction on node 3"
      feature-store admin grants create myeloma --to lymphoma --view medsam2-sequential-paper
      feature-store admin audit myeloma

    Exit status: 0 all well, 1 something is wrong or missing, 2 wrong use.
    """


main.add_command(serve)
main.add_command(admin)
