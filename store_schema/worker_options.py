"""The `worker` command that the programs have in common: its options, and what becomes of them; knows no program and no Dask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import click

from store_schema.tls import TlsFiles, unguarded
from store_schema.tls_options import taken_tls, tls_options
from store_schema.worker_command import WorkerOptions, become, command, environment, shown
from store_schema.worker_limits import limits_here, split

_OPTIONS: tuple[Callable[[Callable[..., Any]], Callable[..., Any]], ...] = (
    click.argument("address"),
    click.argument("more", nargs=-1, type=click.UNPROCESSED, metavar="[-- OPTIONS OF dask worker]"),
    click.option(
        "--device",
        type=click.Choice(("cpu", "cuda")),
        default="cpu",
        show_default=True,
        help="cpu: a process a core; cuda: a process a GPU, each with its own.",
    ),
    tls_options,
    click.option(
        "--local-directory", metavar="FOLDER", help="Scratch folder on a local disk; default below the temporary one."
    ),
    click.option("--name", help="What the workers are called; several get -0, -1, … appended."),
    click.option("--host", metavar="HOST", help="Address by which the scheduler and other workers reach these."),
    click.option(
        "--dashboard-port",
        type=click.IntRange(min=0, max=65535),
        metavar="PORT",
        help="Open Dask's pages here, which anybody may read; default none.",
    ),
    click.option(
        "--death-timeout",
        "death_timeout_s",
        type=click.IntRange(min=1),
        default=300,
        show_default=True,
        metavar="SECONDS",
        help="How long workers look for the scheduler before they end.",
    ),
    click.option("--print", "only_print", is_flag=True, help="Print the command that would be run, and end."),
)


@dataclass(frozen=True)
class Program:
    """What a program's workers need."""

    preload: tuple[str, ...]
    gpu_threads: int
    least_bytes: int
    """Memory that a process needs."""


def worker_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with the options of workers, in their order."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def start_workers(
    program: Program, options: Mapping[str, Any], *, checked: Callable[[str, TlsFiles | None], TlsFiles | None]
) -> None:
    """Become `dask worker` with what this process may use, or print that command.

    Parameters
    ----------
    program
        Whose workers they are.
    options
        Values of `worker_options`.
    checked
        Gives the TLS files with which a worker reaches an address.

    Raises
    ------
    UsageError
        If files and address do not fit, a GPU is asked for and there is none, or memory or options do not fit the GPUs.
    """
    given = dict(options)
    device, only_print = given.pop("device"), given.pop("only_print")
    tls = taken_tls(given)
    checked(given["address"], tls)
    shares = split(limits_here(device=device), device, gpu_threads=program.gpu_threads, least_bytes=program.least_bytes)
    arguments, variables = command(shares, WorkerOptions(tls=tls, **given)), environment(shares, program.preload)
    if only_print:
        click.echo(shown(arguments, variables))
        return
    if (danger := unguarded(given["address"])) is not None:
        click.echo(f"warning: {danger}", err=True)
    become(arguments, variables)
