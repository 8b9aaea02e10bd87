"""Names and keeps the files of a run: some written once, some replaced; knows nothing of what a run computes."""

import functools
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from store_schema.errors import AlreadyExistsError, ObjectAlteredError, ObjectMissingError, SchemaError
from store_schema.location import Location, open_location
from store_schema.records import sha256
from trainer.cohort import Cohort
from trainer.splits import Splits, parse_splits

RUN, COHORT, RESULTS, MEASURES, REPORT = "run.json", "cohort.json", "results.json", "measures.json", "report.html"


def splits_name(permutation: int) -> str:
    """File of the splits of the real outcomes (0) or of a permutation."""
    return f"splits-permuted-{permutation:03d}.json" if permutation else "splits.json"


def task_name(task_id: str) -> str:
    """File of a task's result."""
    return f"tasks/{task_id}.json"


@dataclass(frozen=True)
class RunFolder:
    """One run's files, in a place that every worker reaches."""

    location: Location

    @classmethod
    def open(cls, url: str) -> "RunFolder":
        """Folder at an address; nothing is created before something is written."""
        return cls(open_location(url))

    @property
    def url(self) -> str:
        """Address that opens it again."""
        return self.location.url

    def read(self, name: str) -> bytes | None:
        """A file's bytes; None where there is none."""
        try:
            return self.location.get(name)
        except ObjectMissingError:
            return None

    def write_once(self, name: str, data: bytes) -> bool:
        """Create a file unless it is there; says whether it was created."""
        try:
            self.location.create(name, data)
        except AlreadyExistsError:
            return False
        return True

    def keep(self, name: str, data: bytes) -> None:
        """Create a file, or find these very bytes there.

        Raises
        ------
        AlreadyExistsError
            If the file holds something else.
        """
        if not self.write_once(name, data) and self.location.get(name) != data:
            raise AlreadyExistsError(
                f"{self.url}/{name} holds something else than this run would write, and it is written once: use a new "
                "output folder, or the table and settings of the first run"
            )

    def replace(self, name: str, data: bytes | str) -> None:
        """Write a file that is derived from the others, over an older one."""
        self.location.put(name, data.encode() if isinstance(data, str) else data)

    def prune(self, below: str, kept: Collection[str], *, ending: str) -> None:
        """Remove files of an earlier call that the present results have not: those below a folder with this ending but for `kept`.

        Parameters
        ----------
        below
            Folder, from the run's own.
        kept
            Names from the run's own folder, as `replace` takes them.
        ending
            Of the names: what ends otherwise is nobody's to remove.
        """
        for name in self.location.paths(below):
            if name.endswith(ending) and name not in kept:
                self.location.delete(name)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON object; None where there is no such file.

        Raises
        ------
        SchemaError
            If the file is something else.
        """
        data = self.read(name)
        if data is None:
            return None
        try:
            record = json.loads(data)
        except ValueError as error:
            raise SchemaError(f"{self.url}/{name} is not JSON: {error}. Restore it, or use a new folder") from error
        if not isinstance(record, dict):
            raise SchemaError(f"{self.url}/{name} holds {type(record).__name__}: expected a JSON object")
        return record


def cohort_bytes(cohort: Cohort) -> bytes:
    """File of a cohort; equal cohorts give equal bytes."""
    return (json.dumps(cohort.to_dict(), indent=1, sort_keys=False) + "\n").encode()


@functools.lru_cache(maxsize=4)
def read_cohort(run_url: str, digest: str) -> Cohort:
    """Cohort of a run, checked; kept, since every task of a process needs it.

    Raises
    ------
    ObjectMissingError, ObjectAlteredError
        If the file is not there, or not the one with this digest.
    """
    return Cohort.from_dict(json.loads(_checked(run_url, COHORT, digest)))


@functools.lru_cache(maxsize=8)
def read_run_splits(run_url: str, permutation: int, digest: str) -> Splits:
    """Splits of a run, checked against their digest; `Splits.check` holds them against a cohort.

    Raises
    ------
    ObjectMissingError, ObjectAlteredError
        If the file is not there, or not the one with this digest.
    """
    name = splits_name(permutation)
    return parse_splits(_checked(run_url, name, digest), where=f"{run_url}/{name}")


def _checked(run_url: str, name: str, digest: str) -> bytes:
    data = open_location(run_url).get(name)
    if sha256(data) != digest:
        raise ObjectAlteredError(
            f"{run_url}/{name} has sha256 {sha256(data)[:16]}, the run was planned with {digest[:16]}: restore the file, or "
            "start again in a new folder"
        )
    return data
