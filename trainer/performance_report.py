"""Saves Dask's performance report of a run as one page that needs no network; knows no task.

It, `at_worker`, `cluster` and `dispatch` are the only modules that know Dask. The page holds tasks by their keys with start and
end on each worker, what workers and scheduler spent their time on by function, their memory and the scheduler's log. What
was a function's time is of the last ten minutes, and missing where nobody worked for ten seconds: workers keep no more. Keys are
digests of tasks, and no value or argument of a function is on the page: no patient is.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from distributed import Client, performance_report

from store_schema.errors import UsageError
from store_schema.location import open_location

log = logging.getLogger(__name__)

ANSWER_S = 120.0
"""How long the scheduler may take to draw the report, or to say whether it can."""
CODE = "trainer"
"""What the page shows as the code that ran."""


@dataclass
class PerformanceReport:
    """Where reports go: one for each set of workers that a command has, as FILE, FILE-2, ….

    A command has one set for the fits, and others for those that follow from their results: of a search, of `trainer trust`.
    """

    path: Path
    _written: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.path.is_dir() or not self.path.absolute().parent.is_dir():
            raise UsageError(
                f"--performance-report {self.path}: expected a file in a folder that is there: make the folder, or name another"
            )

    @contextmanager
    def of(self, client: Client) -> Iterator[None]:
        """Report what is done in the block, also where it ends in an error.

        A report that cannot be made or written is a warning: it takes the place of no result and of no other error.

        Raises
        ------
        UsageError
            If the scheduler has no bokeh, or does not answer, before anything is done.
        """
        _refuse_without_bokeh(client)
        with TemporaryDirectory(prefix="engram-report-", ignore_cleanup_errors=True) as folder:
            page = Path(folder) / "report.html"
            made = performance_report(filename=str(page), mode="inline")
            with client.as_current(), _answering():
                client.sync(made.__aenter__, callback_timeout=ANSWER_S)
            try:
                yield
            finally:
                self._save(client, made, page)

    def _save(self, client: Client, made: performance_report, page: Path) -> None:
        """Fetch the report and put it in its place as a whole, or tell why not."""
        self._written += 1
        number = "" if self._written == 1 else f"-{self._written}"
        place = self.path.absolute()
        name = f"{place.stem}{number}{place.suffix}"
        try:
            with client.as_current():
                client.sync(made.__aexit__, None, None, None, code=CODE, callback_timeout=ANSWER_S)
            open_location(place.parent).put(name, page.read_bytes())
        except Exception as error:  # noqa: BLE001 - whatever Dask and bokeh raise is no reason to lose what tasks made
            log.warning(
                "Dask's performance report %s was not written: %s: %s. What the tasks made is kept",
                place.parent / name,
                type(error).__name__,
                error,
            )


@contextmanager
def _answering() -> Iterator[None]:
    """Says in words that the scheduler does not answer, before anything is done."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"--performance-report asks the scheduler, and it does not answer ({type(error).__name__}: {error}): see whether it "
            "still runs, or leave the option out"
        ) from error


def _refuse_without_bokeh(client: Client) -> None:
    """Refuse a scheduler that cannot draw the report: its process draws it."""

    def missing() -> str | None:
        # sent by value: a scheduler needs Dask alone
        try:
            import distributed.dashboard.components.scheduler  # noqa: F401, PLC0415
        except ImportError as error:
            return str(error)
        return None

    with _answering():
        why = client.run_on_scheduler(missing, callback_timeout=ANSWER_S)
    if why is not None:
        raise UsageError(
            f"--performance-report is drawn by the scheduler with bokeh, and it cannot ({why}): install bokeh there "
            "(engram[trainer] has it), or leave the option out"
        )
