"""Records of runs in a store: append-only files by run and name; knows no entry and what no record means."""

from __future__ import annotations

from store_schema.commits import create_or_read
from store_schema.errors import AlreadyExistsError, NotCommittedError, ObjectMissingError
from store_schema.keys import check_id
from store_schema.location import Location


class RunRecords:
    """The part of a store that holds the records of runs."""

    location: Location

    def put_run(self, run_id: str, name: str, data: bytes) -> None:
        """Adds one record to a run; records are never overwritten. The same bytes again are fine: an answer may have been lost.

        Raises
        ------
        AlreadyExistsError
            If the run has a record of that name.
        """
        path = _run_path(run_id, name)
        there = create_or_read(self.location, path, data)
        if there not in {None, data}:
            raise AlreadyExistsError(
                f"{self.location.url}/{path} exists: runs are append-only. Use another run id or record name."
            )

    def run_ids(self) -> list[str]:
        """Ids of all runs, sorted."""
        return self.location.children("runs")

    def run_names(self, run_id: str) -> list[str]:
        """Names of a run's records, sorted."""
        return self.location.children(f"runs/{check_id('run', run_id)}")

    def read_run(self, run_id: str, name: str) -> bytes:
        """One record of a run.

        Raises
        ------
        NotCommittedError
            If there is none of that name.
        """
        try:
            return self.location.get(_run_path(run_id, name))
        except ObjectMissingError as error:
            others = f": it has {self.run_names(run_id)}" if self.location.can_list else ""
            raise NotCommittedError(f"{self.location.url} has no record '{name}' of run {run_id}{others}.") from error


def _run_path(run_id: str, name: str) -> str:
    return f"runs/{check_id('run', run_id)}/{check_id('record', name)}"
