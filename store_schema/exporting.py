"""Writes the embeddings that a snapshot pins as one Parquet table, for pandas, polars, R and others; changes no store."""

from __future__ import annotations

import contextlib
import json
import math
import uuid
from collections.abc import Callable, Iterator, Sequence
from itertools import batched
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from store_schema.arrays import ARRAYS, dtype_in
from store_schema.bulk import BulkReader
from store_schema.errors import NotCommittedError, StoreError, UsageError
from store_schema.records import Json
from store_schema.snapshot import Snapshot, SnapshotRow
from store_schema.vectors import with_nan

if TYPE_CHECKING:
    import pyarrow as pa

Told = Callable[[int, int], None]
EMBEDDINGS = ("mean_map", "memory")
GROUP_BYTES = 64 * 2**20
"""Of values in one row group of the file, and in memory about three times."""
GROUP_ROWS = 4096
"""Rows in one group, at most, however small they are."""


def export_embeddings(
    snapshot: Snapshot, path: Path, *, array: str = "mean_map", overwrite: bool = False, told: Told | None = None
) -> int:
    """Writes one row an entry, in the snapshot's order, into a Parquet file, and gives the number of rows.

    Columns: patient, modality, roi, number (of the commit), commit_sha256, with memories valid_layers (null where an entry does
    not say which of its memory layers hold a memory), and the array in C order as a list of fixed size. Its shape and axes, store,
    snapshot and view stand in the file's metadata, as JSON under `engram`. The file is seen under its name when it is whole.

    Raises
    ------
    UsageError
        If the file exists, pyarrow is not installed, or there is no such array.
    NotCommittedError
        If the snapshot is empty, or an entry lacks the array: vector views have no mean maps.
    """
    if array not in EMBEDDINGS:
        raise UsageError(f"{ascii(array)[:80]} is no embedding: expected {' or '.join(EMBEDDINGS)}.")
    parquet = _parquet()
    if not len(snapshot):
        raise NotCommittedError(f"snapshot {snapshot.id[:16]}… holds no entry: there is nothing to export.")
    shape = snapshot.view.layout.shape if array == "memory" else snapshot.view.layout.shape[2:]
    temporary = path.with_name(f".engram-export-{uuid.uuid4().hex}")
    try:
        _check_place(path, overwrite=overwrite)
        schema = _schema(snapshot, array, shape)
        with parquet.ParquetWriter(temporary, schema) as writer:
            done = 0
            for columns in _columns(snapshot, array, shape):
                writer.write_table(_table(columns, schema))
                done += len(columns["roi"])
                if told is not None:
                    told(done, len(snapshot))
        temporary.replace(path)
    except OSError as error:
        raise StoreError(f"{path} could not be written: {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return len(snapshot)


def _check_place(path: Path, *, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists: give another name, or --force to replace it.")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path.parent} is no folder: make it first.")


def _parquet() -> Any:
    try:
        import pyarrow.parquet  # noqa: PLC0415 - a reader of the store needs none
    except ImportError as error:
        raise UsageError(
            "Parquet needs pyarrow: install engram[extractor], engram[trainer] or engram[service]."
        ) from error
    return pyarrow.parquet


def _schema(snapshot: Snapshot, array: str, shape: Sequence[int]) -> pa.Schema:
    import pyarrow as pa  # noqa: PLC0415 - see _parquet

    fields = [(name, pa.string()) for name in ("patient", "modality", "roi")]
    fields += [("number", pa.int32()), ("commit_sha256", pa.string())]
    fields += [("valid_layers", pa.list_(pa.bool_()))] if array == "memory" else []
    layout = snapshot.view.layout
    value = pa.from_numpy_dtype(np.dtype(dtype_in(layout, array)))
    told = {
        "store": snapshot.content.header.store_id,
        "view": snapshot.view_id,
        "snapshot": snapshot.id,
        "array": array,
        "dtype": dtype_in(layout, array),
        "shape": list(shape),
        "axes": list(ARRAYS[array].dimensions),
    } | ({"features": list(layout.features)} if layout.features and array == "memory" else {})
    return pa.schema([*fields, (array, pa.list_(value, math.prod(shape)))], metadata={"engram": json.dumps(told)})


def _columns(snapshot: Snapshot, array: str, shape: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The table some rows at a time; mean maps come from the snapshot's pack, where there is one."""
    row_bytes = math.prod(shape) * np.dtype(dtype_in(snapshot.view.layout, array)).itemsize
    count = max(1, min(GROUP_ROWS, GROUP_BYTES // row_bytes))
    reader = BulkReader(snapshot, (array,))
    for rows in batched(snapshot.rows, count):
        columns = _keys(rows)
        keys = [row.key for row in rows]
        if array == "memory":
            # A pack has no attributes, and which layers are valid is part of what a memory means.
            entries = list(reader.read(keys))
            columns["valid_layers"] = [_valid_layers(entry.attributes.get("valid_layers")) for entry in entries]
            values = with_nan(snapshot.view.layout, np.stack([entry.arrays[array] for entry in entries]))
        else:
            values = reader.stack(array, keys)
        if values.shape[1:] != tuple(shape):
            raise StoreError(
                f"{keys[0]}: {array} is {values.shape[1:]}, its view declares {tuple(shape)}: run `store-schema verify`."
            )
        yield columns | {array: values}


def _keys(rows: Sequence[SnapshotRow]) -> dict[str, Any]:
    names = {name: [getattr(row.key, name) for row in rows] for name in ("patient", "modality", "roi")}
    return names | {"number": [row.number for row in rows], "commit_sha256": [row.commit_sha256 for row in rows]}


def _valid_layers(told: Json) -> list[bool] | None:
    return [bool(valid) for valid in told] if isinstance(told, list) else None


def _table(columns: dict[str, Any], schema: pa.Schema) -> pa.Table:
    import pyarrow as pa  # noqa: PLC0415 - see _parquet

    made = []
    for field in schema:
        values = columns[field.name]
        if isinstance(values, np.ndarray):
            flat = pa.array(values.reshape(-1))
            made.append(pa.FixedSizeListArray.from_arrays(flat, math.prod(values.shape[1:])))
        else:
            made.append(pa.array(values, field.type))
    return pa.Table.from_arrays(made, schema=schema)
