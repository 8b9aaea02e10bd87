"""Tells what a program does as JSON lines on stderr, one event a line, where it was asked to; knows no command, store or table.

Numbers and words of the program are members of their own. Whatever may speak of a patient or a file stands in `message` alone,
which is filtered. While JSON lines are told, all else that this process and its children write to stderr is told as messages.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import logging
import math
import os
import re
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from store_schema.redact import HIDDEN, redact

Level = Literal["info", "warning", "error", "critical"]

FORMAT_OPTION, FORMAT_VARIABLE = "--log-format", "ENGRAM_LOG_FORMAT"
PLAIN, JSON = "plain", "json"
EVERY_S = 10.0
"""Seconds from one `progress` to the next."""
PIPE_BYTES = 1 << 20
"""Of what other code writes and is not told yet; 1 MiB is the most that Linux grants to everybody."""
FULL_PIPE_S = 0.01
"""How long room in it is waited for each time."""
_LINE_END = re.compile(r"[\r\n]+")
_OF_ENTRY = re.compile(r"(?<![A-Za-z0-9._-])[A-Za-z0-9][A-Za-z0-9._-]*(?=/(?:CT|PET)/)")
"""The patient in the name of an entry, and in paths of a store."""

Clean = Callable[[str], str]


def asked_format(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> str:
    """The format that a command line asks for, looked up before it is parsed: what is wrong with it is told in that format too."""
    found = environment.get(FORMAT_VARIABLE, PLAIN)
    for number, argument in enumerate(arguments):
        if argument == "--":
            break
        if argument == FORMAT_OPTION:
            found = next(iter(arguments[number + 1 :]), found)
        elif argument.startswith(f"{FORMAT_OPTION}="):
            found = argument.partition("=")[2]
    return found


def on() -> bool:
    """Whether events are told; else a program tells people what it does."""
    return _active is not None


def tell(event: str, *, level: Level = "info", message: str | None = None, **members: Any) -> None:
    """One event, if events are told.

    Parameters
    ----------
    event
        One of a few short words, joined by underscores.
    message
        A text that may speak of patients and files: it is filtered.
    members
        Numbers, and words of the program; None is left out, and what is no finite number is null.
    """
    # Taken once: the program may end in another thread meanwhile.
    active = _active
    if active is not None:
        active.tell(event, level, message, members)


def hide_with(clean: Clean) -> None:
    """Passes every message through this filter too, until the program ends."""
    active = _active
    if active is not None:
        active.hide_with(clean)


def release_stderr() -> None:
    """Gives stderr itself to a program that takes the place of this one: nobody would be left to read what it writes."""
    if _active is not None and _active.capture is not None:
        _active.capture.release()


def places(error: BaseException) -> list[str]:
    """Where in the code an error came up, innermost last; without its text."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames[-12:]]


@contextlib.contextmanager
def json_lines() -> Iterator[None]:
    """Events are told on stderr in the block, and nothing else reaches it; logs of libraries are events from warnings on."""
    global _active
    stderr = sys.stderr
    with contextlib.ExitStack() as stack:
        telling = _Telling(_destination(stderr, stack))
        stack.callback(telling.end)
        lines = _Lines(telling, stderr)
        _active, sys.stderr = telling, lines
        stack.callback(_restore, stderr)
        if _is_process_stderr(stderr):
            telling.capture = _Capture(telling)
            stack.callback(telling.capture.release)
        stack.enter_context(_logged(telling, stderr))
        stack.callback(lines.end)
        yield


def steps(
    what: str, *, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic
) -> Callable[[int, int], None]:
    """What takes how many steps are done of how many, and tells it now and then and at the end."""
    told_s = clock()

    def told(done: int, total: int) -> None:
        nonlocal told_s
        if done == total or clock() - told_s >= every_s:
            told_s = clock()
            tell("progress", what=what, done=done, total=total)

    return told


class _Telling:
    """Writes events, a line at a time, from whichever thread."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write: Callable[[str], None] | None = write
        # A finaliser that runs while this thread holds it may log or write to stderr.
        self._lock = threading.RLock()
        self._filters: list[Clean] = []
        self.capture: _Capture | None = None
        """What else the process writes to stderr; None where that is a stand-in."""

    def end(self) -> None:
        """Tells nothing more, whoever still asks."""
        with self._lock:
            self._write = None

    def hide_with(self, clean: Clean) -> None:
        with self._lock:
            if clean not in self._filters:
                self._filters.append(clean)

    def tell(self, event: str, level: Level, message: str | None, members: Mapping[str, Any]) -> None:
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level, "event": event}
        line |= {name: _finite(value) for name, value in members.items() if value is not None}
        if message is not None:
            line |= self._filtered(message)
        text = json.dumps(line, default=str) + "\n"
        # Who reads the log may be gone: what is told ends no work.
        with self._lock, contextlib.suppress(OSError, ValueError):
            if self._write is not None:
                self._write(text)

    def _filtered(self, message: str) -> dict[str, Any]:
        """The message that is told; where a filter fails, none is, and why."""
        with self._lock:
            filters = tuple(self._filters)
        try:
            for clean in filters:
                message = clean(message)
            return {"message": _OF_ENTRY.sub(HIDDEN, redact(message))}
        except Exception as error:  # noqa: BLE001 - whatever it is, it stops neither work nor whoever tells the rest
            return {"message": HIDDEN, "filter_failed": type(error).__name__, "filter_where": places(error)}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


_active: _Telling | None = None


def _restore(stderr: TextIO) -> None:
    global _active
    _active, sys.stderr = None, stderr


# Where lines go


def _is_process_stderr(stream: TextIO) -> bool:
    """Whether it is what C libraries and child processes write to, and no stand-in of a test."""
    try:
        return stream.fileno() == 2
    except (OSError, ValueError):
        return False


def _destination(stderr: TextIO, stack: contextlib.ExitStack) -> Callable[[str], None]:
    if not _is_process_stderr(stderr):
        return lambda text: _whole(stderr, text)
    stderr.flush()
    descriptor = os.dup(2)
    stack.callback(os.close, descriptor)

    def write(text: str) -> None:
        data = text.encode()
        while data:
            data = data[os.write(descriptor, data) :]

    return write


def _whole(stream: TextIO, text: str) -> None:
    stream.write(text)
    stream.flush()


# What becomes of everything else that is written to stderr


class _Lines(io.TextIOBase):
    """Stands for stderr: a line that is written is the message of an event."""

    encoding = "utf-8"

    def __init__(self, telling: _Telling, before: TextIO) -> None:
        self._telling, self._before = telling, before
        self._lock, self._begun, self._ended = threading.RLock(), "", False

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """Takes any text; whoever kept this stream after the program's end writes to the one before."""
        if self._ended:
            return self._before.write(text)
        with self._lock:
            *whole, self._begun = _LINE_END.split(self._begun + text)
        for line in whole:
            self._tell(line)
        return len(text)

    def end(self) -> None:
        """Tells a line that was begun."""
        self._tell(self._begun)
        self._begun, self._ended = "", True

    def _tell(self, line: str) -> None:
        if line.strip():
            self._telling.tell("message", "info", line.rstrip(), {})


class _Capture:
    """Makes events of the lines that C libraries and child processes write to the process's stderr, until it is released."""

    def __init__(self, telling: _Telling) -> None:
        self._kept, self._last = os.dup(2), f"{uuid.uuid4().hex}\n"
        self._reading, self._writing = _pipe()
        os.dup2(self._writing, 2)
        told = (self._reading, self._last, telling)
        self._reader = threading.Thread(target=_read_lines, args=told, name="stderr", daemon=True)
        self._reader.start()
        self._released = False

    def release(self) -> None:
        """Gives stderr back as it was, once all that was written is told; a second call does nothing."""
        if self._released:
            return
        self._released = True
        os.dup2(self._kept, 2)
        os.close(self._kept)
        self._end_reader()
        os.close(self._writing)
        os.close(self._reading)

    def _end_reader(self) -> None:
        """Not until nobody can write any more: helpers of multiprocessing live as long as this process."""
        while self._reader.is_alive():
            # So short a text is written whole, or not at all while the pipe is full.
            with contextlib.suppress(BlockingIOError):
                os.write(self._writing, f"\n{self._last}".encode())
                break
            self._reader.join(FULL_PIPE_S)
        self._reader.join()


def _pipe() -> tuple[int, int]:
    """A large pipe that never makes its writers wait.

    A library that holds Python's lock while it fills the pipe must lose words, and not stand still for good.
    """
    reading, writing = os.pipe()
    # Where it may not grow it stays as large as pipes are.
    with contextlib.suppress(PermissionError):
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    os.set_blocking(writing, False)
    return reading, writing


def _read_lines(reading: int, last: str, telling: _Telling) -> None:
    """Tells each line until the last one."""
    # It stays open until stderr is given back, so that nobody ever writes to a pipe that has no reader, and dies of it.
    with open(reading, encoding="utf-8", errors="backslashreplace", closefd=False) as lines:
        for line in lines:
            if line == last:
                return
            if line.strip():
                telling.tell("stderr", "warning", line.strip(), {})


@contextlib.contextmanager
def _logged(telling: _Telling, stderr: TextIO) -> Iterator[None]:
    """Log records and warnings of libraries are events in the block."""
    root = logging.getLogger()
    before = [(logger, logger.handlers[:]) for logger in (root, *_told_by_themselves(stderr))]
    level = root.level
    for logger, _ in before:
        logger.handlers[:] = [_Records(telling)]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger, handlers in before:
            logger.handlers[:] = handlers
        root.setLevel(level)


def _told_by_themselves(stderr: TextIO) -> list[logging.Logger]:
    """Loggers whose records go to stderr by handlers of their own and to no other logger, such as Dask's."""
    loggers = [one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    return [
        logger
        for logger in loggers
        if not logger.propagate and any(getattr(handler, "stream", None) is stderr for handler in logger.handlers)
    ]


class _Records(logging.Handler):
    """Tells the records of Python's logging."""

    def __init__(self, telling: _Telling) -> None:
        super().__init__()
        self._telling = telling

    def createLock(self) -> None:  # noqa: N802 - its name in logging
        """Makes none: two locks could be taken in either order, and telling has its own."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        try:
            self._tell(record)
        except Exception:  # noqa: BLE001 - who logs goes on, as with any other handler
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - its name in logging
        """Tells where a call is that cannot be told, such as one whose arguments do not fit its text."""
        members: dict[str, Any] = {
            "logger": record.name,
            "kind": type(sys.exception()).__name__,
            "where": [f"{record.filename}:{record.lineno} {record.funcName}"],
        }
        self._telling.tell("log", "error", f"a log call that cannot be told: {record.msg!r}", members)

    def _tell(self, record: logging.LogRecord) -> None:
        members: dict[str, Any] = {"logger": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            members |= {"kind": type(record.exc_info[1]).__name__, "where": places(record.exc_info[1])}
        event = "warning" if record.name == "py.warnings" else "log"
        self._telling.tell(event, _level(record.levelno), record.getMessage().strip(), members)


def _level(number: int) -> Level:
    if number >= logging.CRITICAL:
        return "critical"
    if number >= logging.ERROR:
        return "error"
    return "warning" if number >= logging.WARNING else "info"
