"""Makes a worker of a Dask cluster ready before it counts as there: what tasks need is loaded, and the code it runs is noted.

Imports hold the lock that heartbeats need. Sources are digested now, since those on disk may be others by the time a client asks.
"""

import trainer.dispatch  # noqa: F401 - torch and the store
from trainer.versions import versions


def dask_setup(worker: object) -> None:
    """Note which code and libraries this process has loaded; Dask calls it when a worker starts."""
    versions()
