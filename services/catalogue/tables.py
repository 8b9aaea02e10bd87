"""Lists of the catalogue as Parquet, in row groups, so that a long list is never in memory as a whole; knows no query."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from tempfile import SpooledTemporaryFile
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MEDIA_TYPE = "application/vnd.apache.parquet"
GROUP_ROWS = 20_000
IN_MEMORY_BYTES = 8 * 2**20
"""Of a file; a larger one is written to the disk."""
PART_BYTES = 2**20

_TEXT, _TIME = pa.string(), pa.timestamp("us", tz="UTC")
ENTRIES = pa.schema(
    {
        **dict.fromkeys(("view", "patient", "modality", "roi"), _TEXT),
        "number": pa.int32(),
        "withdrawn": pa.bool_(),
        **dict.fromkeys(("commit_sha256", "attempt", "input_sha256", "content_sha256"), _TEXT),
        "size_bytes": pa.int64(),
        "written_at": _TIME,
    }
)
VIEWS = pa.schema(
    {
        **dict.fromkeys(("id", "name", "encoder"), _TEXT),
        "trained": pa.bool_(),
        "layout": _TEXT,
        "shape": pa.list_(pa.int32()),
        **dict.fromkeys(("precision", "grid"), _TEXT),
        **dict.fromkeys(("entries", "patients", "withdrawn", "size_bytes"), pa.int64()),
        "written_at": _TIME,
    }
)
COVERAGE = pa.schema(
    {**dict.fromkeys(("patient", "modality", "roi"), _TEXT), "number": pa.int32(), "withdrawn": pa.bool_()}
)
SNAPSHOTS = pa.schema({"id": _TEXT, "view": _TEXT, "rows": pa.int64(), "written_at": _TIME})
RUNS = pa.schema({"id": _TEXT, "kind": _TEXT, "started_at": _TIME, "summary": _TEXT})
"""The summary is JSON."""


class Table:
    """A Parquet file that is gone once it was sent."""

    def __init__(self, schema: Any, chunks: Iterable[Sequence[dict[str, Any]]]) -> None:
        self._file = SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115 - closed by whoever sends it
        try:
            self._write(schema, chunks)
            self.size_bytes = self._file.tell()
            self._file.seek(0)
        except BaseException:
            self._file.close()
            raise

    def _write(self, schema: Any, chunks: Iterable[Sequence[dict[str, Any]]]) -> None:
        held: list[dict[str, Any]] = []
        with pq.ParquetWriter(self._file, schema, compression="zstd") as writer:
            for chunk in chunks:
                held += chunk
                if len(held) >= GROUP_ROWS:
                    writer.write_table(pa.Table.from_pylist(held, schema))
                    held = []
            writer.write_table(pa.Table.from_pylist(held, schema))

    @property
    def small(self) -> bool:
        """Whether all of it is in memory anyway."""
        return self.size_bytes <= IN_MEMORY_BYTES

    def parts(self) -> Iterator[bytes]:
        """Its bytes; afterwards it is gone."""
        with self._file:
            while part := self._file.read(PART_BYTES):
                yield part
