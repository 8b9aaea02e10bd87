"""Whether a commit's objects hold the entry it says: arrays, metadata, attributes, layout; knows no backend and no other commit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product

from store_schema.arrays import Entry, check_entry, content_sha256, dtype_in
from store_schema.errors import ObjectAlteredError, SchemaError, StoreError
from store_schema.reader import decoded
from store_schema.records import CommitRecord, ViewSpec, members

MOST_CELLS = 2**30
"""Of one array: an image has at most 2**29 voxels."""


def check_content(commit: CommitRecord, held: Mapping[str, bytes], view: ViewSpec | None) -> None:
    """Passes where the arrays decode to the content the commit names, are an entry's, and fit the view.

    Parameters
    ----------
    held
        Bytes of every object of the commit by its path, each checked against its digest.
    view
        Specification of the commit's view; None where it cannot be read, so that nothing is held against it.

    Raises
    ------
    ObjectMissingError
        If a chunk of an array is not among the objects.
    ObjectAlteredError
        If the arrays are others.
    SchemaError
        If they are none that a writer of this schema may store, or the copies of metadata are not the objects' own.
    """
    _check_objects(commit, view)
    arrays = {
        name: decoded(metadata, name, held.__getitem__, commit.objects, where=commit.folder)
        for name, metadata in commit.arrays.items()
    }
    found = content_sha256(arrays)
    if found != commit.content_sha256:
        raise ObjectAlteredError(f"arrays decode to content {found[:16]}, the commit says {commit.content_sha256[:16]}")
    group = members(held.get("zarr.json", b""))
    if group.get("attributes") != commit.attributes or any(
        members(held.get(f"{name}/zarr.json", b"")) != metadata for name, metadata in commit.arrays.items()
    ):
        raise SchemaError("attributes or array metadata in the commit are not those in the attempt's zarr.json")
    _check_arrays(Entry(arrays, commit.attributes), view)


def _check_objects(commit: CommitRecord, view: ViewSpec | None) -> None:
    """The objects are the metadata and chunks of the arrays, each of them and nothing else: what no digest covers is not served."""
    expected = {"zarr.json"}
    for name, metadata in commit.arrays.items():
        try:
            shape = [int(size) for size in metadata["shape"]]
            chunk = [int(size) for size in metadata["chunk_grid"]["configuration"]["chunk_shape"]]
            counts = [-(-size // part) for size, part in zip(shape, chunk, strict=True)]
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise SchemaError(f"the metadata of '{name}' is none of a Zarr v3 array: {error!r}") from error
        if name == "memory" and view is not None and tuple(shape) != view.layout.shape:
            raise SchemaError(f"memory has shape {tuple(shape)}, the view declares {view.layout.shape}")
        if math.prod(counts) > len(commit.objects) or math.prod(shape) > MOST_CELLS:
            raise SchemaError(
                f"'{name}' of shape {shape} has chunks that are not among the objects, or more cells than any array"
            )
        places = product(*(range(count) for count in counts))
        expected |= {f"{name}/zarr.json", *("/".join([name, "c", *map(str, place)]) for place in places)}
    if commit.objects.keys() != expected:
        odd = sorted(commit.objects.keys() ^ expected)
        raise SchemaError(f"the objects are not those of the arrays: {', '.join(odd[:5])} ({len(odd)} in all)")


def _check_arrays(entry: Entry, view: ViewSpec | None) -> None:
    """The arrays are such as a writer of this schema may store, the memory of the shape that its view declares."""
    try:
        check_entry(entry)
    except StoreError as error:
        raise SchemaError(f"the entry must not be stored so: {error}") from error
    memory = entry.arrays["memory"]
    if view is not None and memory.shape != view.layout.shape:
        raise SchemaError(f"memory has shape {memory.shape}, the view declares {view.layout.shape}")
    if view is not None and memory.dtype.name != dtype_in(view.layout, "memory"):
        raise SchemaError(f"memory is {memory.dtype}, the view declares {dtype_in(view.layout, 'memory')}")
