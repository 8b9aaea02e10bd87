"""What the command lines share: help that keeps its examples, errors as one line and an exit status; knows no command.

Results go to stdout, progress, logs and errors to stderr: for people, or as JSON lines.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import Any, Self

import click

from store_schema import events
from store_schema.errors import EngramError, UsageError
from store_schema.redact import redact

FAILED, WRONG_USE = 1, 2
_ONE_LINE = 10_000
"""Columns of a console that breaks no line."""
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
            tell_error(error)
            sys.exit(WRONG_USE if isinstance(error, UsageError) else FAILED)


class LoggedGroup(EngramGroup):
    """A group whose commands tell what they do as lines for people, or as JSON lines, one event a line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_log_format())

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Adds a command, with the option."""
        cmd.params.append(_log_format())
        super().add_command(cmd, name)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """See `click.Command.main`; with JSON lines nothing else reaches stderr, whatever happens."""
        given = kwargs.get("args", args[0] if args else None)
        arguments = sys.argv[1:] if given is None else list(given)
        if events.asked_format(arguments) != events.JSON:
            return super().main(*args, **kwargs)
        ending = _Ending()
        with events.json_lines():
            events.tell("started", command=self._command_of(arguments), engram=version("engram"))
            with ending:
                ending.status = super().main(*args, **kwargs | {"standalone_mode": False}) or 0
            events.tell(
                "ended", level="error" if ending.status else "info", exit_status=ending.status, seconds=ending.seconds
            )
        sys.exit(ending.status)

    def _command_of(self, arguments: Sequence[str]) -> str | None:
        return next((argument for argument in arguments if argument in self.commands), None)


class _Ending:
    """Turns what a command ends in into an event and an exit status."""

    def __init__(self) -> None:
        self.status, self._began_s = 0, time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the beginning, to the millisecond."""
        return round(time.monotonic() - self._began_s, 3)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if error is None:
            return False
        if isinstance(error, SystemExit):
            self.status = error.code if isinstance(error.code, int) else int(error.code is not None)
        elif isinstance(error, click.ClickException):
            self.status = error.exit_code
            events.tell("error", level="error", kind=type(error).__name__, message=error.format_message())
        elif isinstance(error, click.Abort):
            self.status = FAILED
            events.tell("interrupted", level="error")
        elif isinstance(error, Exception):
            self.status = FAILED
            kind, where = type(error).__name__, events.places(error)
            events.tell("crashed", level="critical", kind=kind, where=where, message=str(error))
        else:
            return False
        return True


def _log_format() -> click.Option:
    return click.Option(
        [events.FORMAT_OPTION],
        type=click.Choice([events.PLAIN, events.JSON]),
        envvar=events.FORMAT_VARIABLE,
        expose_value=False,
        show_envvar=True,
        help="Of what stderr tells: lines for people (default), or JSON lines that name no patient.",
    )


def tell_error(error: EngramError) -> None:
    """An error as one line on stderr."""
    if events.on():
        events.tell("error", level="error", kind=type(error).__name__, message=str(error))
    else:
        click.echo(redact(f"{type(error).__name__}: {error}"), err=True)


def say(message: str, event: str, *, level: events.Level = "info", **members: Any) -> None:
    """A line on stderr for people, or the event with these members and the line as its message."""
    if events.on():
        events.tell(event, level=level, message=message, **members)
    else:
        click.echo(message, err=True)


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
    """Where progress and logs are printed: stderr; each line is a message where events are told."""
    return _console(stderr=True)


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr with the time left, or events; gives the function that moves it: done, of how many."""
    if events.on():
        yield events.steps(what)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=error_console()) as bars:
        bar = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


def _console(*, stderr: bool) -> Any:
    from rich.console import Console  # noqa: PLC0415 - keeps --help instant

    stream = sys.stderr if stderr else sys.stdout
    if stderr and events.on():
        return Console(file=stream, highlight=False, width=_ONE_LINE, force_terminal=False, no_color=True)
    return Console(file=stream, highlight=False, width=None if stream.isatty() else 160)
