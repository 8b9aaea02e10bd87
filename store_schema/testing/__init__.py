"""What every backend must do, as a test class: subclass it, say how to reach the bytes behind the store, and run it.

    class TestFolderStore(StoreContract):
        @pytest.fixture
        def url(self, tmp_path): return str(tmp_path / "store")
        def raw_get(self, url, path): return Path(url, path).read_bytes()
        ...

Knows no backend. The raw methods must bypass the location that is tested. With it come small entries, hypothesis strategies
and locations that fail on purpose.
"""

from store_schema.testing.care import CareContract, LaterLocation
from store_schema.testing.doubles import (
    BlindLocation,
    FailingLocation,
    HookedLocation,
    WrappedLocation,
    content_digests,
    digest_of,
    entries,
    example_entry,
    example_view,
    ids,
    json_values,
    keys,
)
from store_schema.testing.faults import FaultsContract
from store_schema.testing.promises import PromisesContract

__all__ = [
    "BlindLocation",
    "FailingLocation",
    "HookedLocation",
    "LaterLocation",
    "StoreContract",
    "WrappedLocation",
    "content_digests",
    "digest_of",
    "entries",
    "example_entry",
    "example_view",
    "ids",
    "json_values",
    "keys",
]


class StoreContract(PromisesContract, FaultsContract, CareContract):
    """The promises of SPEC.md, asked of one backend through its public interface."""
