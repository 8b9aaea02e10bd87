"""What the command lines share: help that keeps its examples, errors as one line and an exit status; knows no command.

Results go to stdout, progress, logs and errors to stderr.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click

from store_schema.errors import EngramError, UsageError
from store_schema.redact import redact

FAILED, WRONG_USE = 1, 2
KEEP_LINES = "\b\n"
"""Click keeps the lines of a paragraph that starts so; docstrings write it as a backslash and a b."""


class EngramCommand(click.Command):
    """A command whose raw docstring may mark its examples, so that each keeps its line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.help = _with_examples(self.help)


class EngramGroup(click.Group):
    """A group of commands whose errors end in one line on stderr: exit status 2 for a wrong call, else 1."""

    command_class = EngramCommand

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.help = _with_examples(self.help)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; only errors that Engram raises on purpose are turned into lines."""
        try:
            return super().invoke(ctx)
        except EngramError as error:
            click.echo(redact(f"{type(error).__name__}: {error}"), err=True)
            sys.exit(WRONG_USE if isinstance(error, UsageError) else FAILED)


class FileOrAddress(click.Path):
    """A file that is there, or an address, which is looked at when it is read."""

    name = "file|url"

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The text itself; an address may hold a secret and is repeated in no error."""
        return value if "://" in value else super().convert(value, param, ctx)


def _with_examples(text: str | None) -> str | None:
    return text and text.replace("\\b\n", KEEP_LINES)


def result_console() -> Any:
    """Where results are printed: stdout, as wide as needed when it is no terminal."""
    return _console(stderr=False)


def error_console() -> Any:
    """Where progress and logs are printed: stderr."""
    return _console(stderr=True)


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr with the time left; gives the function that moves it: done, of how many."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=error_console()) as bars:
        bar = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


def _console(*, stderr: bool) -> Any:
    from rich.console import Console  # noqa: PLC0415 - keeps --help instant

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else 160)
