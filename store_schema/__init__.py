"""The contract of the feature store: keys, records, commits, snapshots; knows no model, image or statistic."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from store_schema.arrays import ARRAYS as ARRAYS
    from store_schema.arrays import Entry as Entry
    from store_schema.bulk import BulkReader as BulkReader
    from store_schema.commits import State as State
    from store_schema.disk_cache import DiskCache as DiskCache
    from store_schema.keys import EntryKey as EntryKey
    from store_schema.keys import check_id as check_id
    from store_schema.location import open_location as open_location
    from store_schema.packs import Pack as Pack
    from store_schema.packs import make_pack as make_pack
    from store_schema.packs import open_pack as open_pack
    from store_schema.reader import StoredEntry as StoredEntry
    from store_schema.records import CommitRecord as CommitRecord
    from store_schema.records import Encoder as Encoder
    from store_schema.records import Intensity as Intensity
    from store_schema.records import Layout as Layout
    from store_schema.records import Prompt as Prompt
    from store_schema.records import Source as Source
    from store_schema.records import ViewSpec as ViewSpec
    from store_schema.snapshot import Snapshot as Snapshot
    from store_schema.snapshot import SnapshotRow as SnapshotRow
    from store_schema.snapshot import open_snapshot as open_snapshot
    from store_schema.store import Store as Store
    from store_schema.store import create_store as create_store
    from store_schema.store import open_store as open_store
    from store_schema.store import url as url
    from store_schema.verify import VerifyReport as VerifyReport
    from store_schema.writer import Publication as Publication
    from store_schema.zarr_store import SnapshotStore as SnapshotStore

_HOMES = {
    "arrays": ("ARRAYS", "Entry"),
    "bulk": ("BulkReader",),
    "commits": ("State",),
    "disk_cache": ("DiskCache",),
    "keys": ("EntryKey", "check_id"),
    "records": ("CommitRecord", "Encoder", "Intensity", "Layout", "Prompt", "Source", "ViewSpec"),
    "location": ("open_location",),
    "packs": ("Pack", "make_pack", "open_pack"),
    "reader": ("StoredEntry",),
    "snapshot": ("Snapshot", "SnapshotRow", "open_snapshot"),
    "store": ("Store", "create_store", "open_store", "url"),
    "verify": ("VerifyReport",),
    "writer": ("Publication",),
    "zarr_store": ("SnapshotStore",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)  # noqa: PLE0605 - the tuple above is the one list of public names


def __getattr__(name: str) -> Any:
    """Imports a public name at its first use, so that keys and errors can be had without zarr."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
