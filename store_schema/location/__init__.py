"""Opens the place a store lies in and moves whole objects; the only package that knows backends, and no record or array.

Few things are asked of a backend: read one object, write one, create one that must not exist yet, delete one, list names.
Everything above runs the same protocol over every backend.
"""

from store_schema.location.base import PROBES, Location, ObjectInfo, check_path
from store_schema.location.filesystem import FilesystemLocation
from store_schema.location.folder import TEMPORARY, FolderLocation
from store_schema.location.memory import MemoryLocation
from store_schema.location.objects import ObjectLocation
from store_schema.location.opening import open_location
from store_schema.location.service import ServiceLocation

__all__ = [
    "PROBES",
    "TEMPORARY",
    "FilesystemLocation",
    "FolderLocation",
    "Location",
    "MemoryLocation",
    "ObjectInfo",
    "ObjectLocation",
    "ServiceLocation",
    "check_path",
    "open_location",
]
