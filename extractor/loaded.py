"""Makes a worker of a Dask cluster ready before it counts as there: what studies need is loaded, and the code it runs is noted.

Imports hold the lock that heartbeats need. Sources are digested now, since those on disk may be others by the time a client asks.
"""

import extractor.at_worker
import extractor.segmenter  # noqa: F401 - torch and sam2
from extractor.versions import versions


def dask_setup(worker: object) -> None:
    """Note which code and libraries this process has loaded; Dask calls it when a worker starts."""
    versions()
