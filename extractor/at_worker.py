"""What a worker of a Dask cluster does: says what it is, and extracts the study that it was given; chooses nothing."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any, NamedTuple

from distributed import get_worker

from extractor.errands import Answer, Errand
from extractor.pipeline import work_on
from extractor.sealing import envelope, key_here
from extractor.versions import versions
from extractor.work import StudyTask
from extractor.worker import StudyResult, StudyStage, one_thread, reason_of, worker
from store_schema.errors import EngramError

_network = threading.Lock()
"""Held by the study that is in this process's network."""


class About(NamedTuple):
    """Which process a worker is, and what it runs."""

    worker_id: str
    versions: dict[str, str]
    key_fingerprint: str | None
    """Of the pseudonym key that it holds."""


def about(dask_worker: Any) -> About | str:
    """What this worker is, or why it cannot say: an error raised here would look like one of the way here."""
    try:
        return About(str(dask_worker.id), versions(), key_here())
    except (EngramError, OSError) as error:
        return reason_of(error)


def on_worker(errand: Errand) -> Answer:
    """Extracts a study where it landed; what it raises is part of the answer, so that no worker logs the study."""
    here = get_worker()
    if here.id != errand.worker_id:
        return Answer("elsewhere")
    try:
        sealing, load = envelope(errand.spec.sealed_with), worker(errand.spec)
    except (EngramError, OSError, RuntimeError, MemoryError) as error:
        return Answer("broken", error=reason_of(error))
    one_thread()
    task: StudyTask = sealing.open(errand.task)
    made = work_on(task, load, partial(_tell, here, errand), network=_network)
    return Answer("done", sealing.close((made.outcomes, made.error, made.spent)))


def _tell(here: Any, errand: Errand, event: StudyStage | StudyResult) -> None:
    """Sends a stage to the process that has the plan: the errand's key and a word."""
    if isinstance(event, StudyStage):
        here.log_event(errand.topic, (errand.key, event.stage))
