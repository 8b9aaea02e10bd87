"""Objects of the packs of a store, found through the record that lists them; knows no caller."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from services.held import Held
from services.ranges import Found, Large
from store_schema import Store
from store_schema.commits import read_or_none
from store_schema.packs import KINDS, PackRecord, record_path
from store_schema.records import check_object, parse_record, sha256, unseal

LARGE_BYTES = 2**20
"""Above it an object is read in the parts that are asked for."""
PACKS_HELD = 64
_PACK = re.compile(rf"([0-9a-f]{{64}})-({'|'.join(KINDS)})", re.ASCII)


@dataclass(frozen=True)
class PackObjects:
    """Packs of one store, of whatever snapshot."""

    store: Store
    cache: Held[tuple[str, str], bytes]
    _records: Held[str, PackRecord] = field(default_factory=lambda: Held(PACKS_HELD))

    def find(self, rest: str) -> Found | None:
        """The object at a path below `packs/`; None where no pack's record lists it.

        Raises
        ------
        ObjectMissingError, ObjectAlteredError, SchemaError
            If a listed object is gone or another one, or the record is damaged.
        """
        folder, _, path = rest.partition("/")
        match = _PACK.fullmatch(folder)
        if match is None or not path:
            return None
        snapshot_id, kind = match.groups()
        place = record_path(snapshot_id, kind)
        if f"packs/{rest}" == place:
            data = read_or_none(self.store.location, place)
            return None if data is None else Found(data, sha256(data), snapshot_id, "application/json")
        attempt, _, name = path.partition("/")
        record = self._records.get(folder)
        if record is None or record.attempt != attempt:
            # A pack may have been deleted and made again.
            data = read_or_none(self.store.location, place)
            if data is None:
                return None
            record = self._records.replace(folder, parse_record(PackRecord, unseal(data, where=place), where=place))
        if attempt != record.attempt or name not in record.objects:
            return None
        return self._object(record, f"packs/{rest}", name)

    def forget(self) -> None:
        """Drops the records that are held."""
        self._records.drop(lambda _: True)

    def _object(self, record: PackRecord, path: str, name: str) -> Found:
        at, expected, location = (self.store.store_id, path), record.objects[name], self.store.location
        held = self.cache.get(at)

        def whole() -> bytes:
            todo = "Delete the pack and make it again."
            found = check_object(location.get(path), expected, where=path, listed_by="the pack's record", todo=todo)
            return self.cache.put(at, found)

        def check() -> None:
            if location.size_bytes(path) != expected.size_bytes:
                whole()

        def part(start: int, end: int) -> bytes:
            return location.get_part(path, start=start, end=end)

        large = Large(expected.size_bytes, whole, part, check)
        data = held if held is not None else large if expected.size_bytes > LARGE_BYTES else whole()
        return Found(data, expected.sha256, record.snapshot)
