"""Records of what `trainer trust` found, part by part, for pages that tell it; knows neither the parts nor how they look."""

from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError

from store_schema.errors import SchemaError
from trainer.run_folder import RunFolder
from trainer.task_results import Record

TRUST, INDEX, PART, ROW = "trust", "index.html", "part.json", "row.json"
"""Folder in a run, its page, the record of each part, and that of the row that was asked for."""
ROW_FILE = f"{TRUST}/{ROW}"
PARTS = ("controls", "robustness", "explain", "quality")
"""Folders of the parts, in the order in which they are told."""
Status = Literal["done", "incomplete", "failed", "skipped"]


class KeyFigure(Record):
    """One figure of a part, with its interval and what it says.

    Attributes
    ----------
    label
        What was measured.
    value, low, high
        With its 95% interval; None where there is none.
    digits
        Decimals that are shown.
    signed
        Whether it is a difference, shown with its sign.
    reading
        In words, ended by a full stop.
    """

    label: str
    value: float | None
    low: float | None = None
    high: float | None = None
    digits: int = 3
    signed: bool = False
    reading: str

    @property
    def text(self) -> str:
        """Value and interval; a dash where there is none."""
        if self.value is None:
            return "–"
        form = f"{'+' if self.signed else ''}.{self.digits}f"
        span = "" if self.low is None or self.high is None else f" [{self.low:{form}} to {self.high:{form}}]"
        return f"{self.value:{form}}{span}"


class PartRecord(Record):
    """What became of one part.

    Attributes
    ----------
    part, title
        Its folder below `trust`, and what a person calls it.
    row
        Row of the study that was looked at.
    inputs_sha256
        Digest of all that the part follows from: with the same it is not done again. None of a part that was left out.
    status
        ``incomplete``: the page stands, and something on it failed.
    said
        What was looked at; of a part that failed or was left out, why.
    figures
        The first is the key figure.
    page
        Below the part's folder; None where there is none.
    notes
        What a reader must know first.
    """

    layout: Literal["engram-trust-part-1"] = "engram-trust-part-1"
    part: str
    title: str
    row: str
    inputs_sha256: str | None = None
    status: Status
    said: str
    figures: tuple[KeyFigure, ...] = ()
    page: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether something of it has to be done again."""
        return self.status in ("incomplete", "failed")


class AskedRow(Record):
    """Row that the last call looked at; written before any part is done, so that no part of another row is taken for its own."""

    layout: Literal["engram-trust-row-1"] = "engram-trust-row-1"
    row: str


@dataclass(frozen=True)
class Trusted:
    """What there is of the row that was asked for."""

    row: str
    parts: tuple[PartRecord, ...]
    """Its records, in the order of the parts."""
    stale: tuple[PartRecord, ...]
    """Records of other rows, which a call that did not end has left: no figure of theirs is this row's."""


def part_file(part: str, name: str = PART) -> str:
    """A file of a part, below the run's folder."""
    return f"{TRUST}/{part}/{name}"


def read_part(folder: RunFolder, part: str) -> PartRecord | None:
    """Record of one part of a run; None where it was never begun.

    Raises
    ------
    SchemaError
        If the file is something else.
    """
    return _read(folder, part_file(part), PartRecord, "record of a part")


def _read[Kind: Record](folder: RunFolder, name: str, kind: type[Kind], what: str) -> Kind | None:
    data = folder.read(name)
    if data is None:
        return None
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise SchemaError(
            f"{folder.url}/{name} is no {what}: {error.errors()[0]['msg']}. Remove it, and run `trainer trust` again"
        ) from error


def read_parts(folder: RunFolder) -> tuple[PartRecord, ...]:
    """Records of every part of a run that there is, in their order; none of a run without. Errors as of `read_part`."""
    return tuple(record for part in PARTS if (record := read_part(folder, part)) is not None)


def read_trusted(folder: RunFolder) -> Trusted | None:
    """What there is of the row that was last asked for; None of a run that nobody looked at.

    Where no call has kept which row that was, it is that of the first part, which is done first.

    Raises
    ------
    SchemaError
        If a file is something else.
    """
    records = read_parts(folder)
    if not records:
        return None
    asked = _read(folder, ROW_FILE, AskedRow, "record of a row")
    row = records[0].row if asked is None else asked.row
    return Trusted(
        row,
        tuple(record for record in records if record.row == row),
        tuple(record for record in records if record.row != row),
    )


def keep_row(folder: RunFolder, row: str) -> None:
    """Keep which row is looked at from now on; a rerun changes nothing."""
    data = AskedRow(row=row).to_json()
    if folder.read(ROW_FILE) != data:
        folder.replace(ROW_FILE, data)
