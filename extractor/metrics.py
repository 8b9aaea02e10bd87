"""What Prometheus may ask of a run: studies, entries, seconds, slices, progress; knows no place, and names no patient."""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Summary

from extractor.outcome import ItemOutcome
from extractor.spent import Stage
from extractor.worker import StudyResult, StudyStage

Outcome = Literal["committed", "held", "failed", "withdrawn"]
OUTCOMES: tuple[Outcome, ...] = ("committed", "held", "failed", "withdrawn")
_OF_RESULT: Mapping[str, Outcome] = {
    "committed": "committed",
    "done": "held",
    "superseded": "held",
    "withdrawn": "withdrawn",
    "failed": "failed",
}
STAGES: Mapping[Stage, str] = {"loading": "load", "embedding": "embed", "writing": "write"}
"""Label by stage."""


class RunMetrics:
    """The figures of the runs of one call, which come one after another; each tells it what is planned, and what happens."""

    def __init__(self, version: str, *, clock: Callable[[], float] = time.time) -> None:
        self.registry, self._clock = CollectorRegistry(), clock
        self._aside: dict[str, list[ItemOutcome]] = {}
        """Outcomes of items that no worker sees, of studies that one does see, by patient."""
        self._stages: dict[str, str] = {}
        """Label of the stage by patient."""
        self._make_counts()
        self._make_gauges(version)

    def _make_counts(self) -> None:
        registry = self.registry
        self._studies = Counter(
            "engram_extractor_studies",
            "Studies of the table that are through, by what became of them; once for each size of a perturbation.",
            ("outcome",),
            registry=registry,
        )  # fmt: skip
        self._entries = Counter(
            "engram_extractor_entries", "Entries by what became of them; several of a study.", ("modality", "outcome"),
            registry=registry,
        )  # fmt: skip
        self._slices = Counter(
            "engram_extractor_slices_encoded", "Slices that went through an image encoder.", registry=registry
        )
        self._seconds = Summary(
            "engram_extractor_stage_seconds", "Time of a study in a stage, of studies that a worker had.", ("stage",),
            registry=registry,
        )  # fmt: skip
        self._requeued = Counter(
            "engram_extractor_studies_requeued", "Studies that wait again, since their process or worker died or left.",
            registry=registry,
        )  # fmt: skip
        for outcome in OUTCOMES:
            self._studies.labels(outcome)
        for stage in STAGES.values():
            self._seconds.labels(stage)

    def _make_gauges(self, version: str) -> None:
        registry = self.registry
        Gauge("engram_extractor_info", "Version of the program.", ("version",), registry=registry).labels(version).set(
            1
        )
        self._views = Gauge(
            "engram_extractor_view_info", "Views that are written.", ("layout", "view"), registry=registry
        )
        self._remaining = Gauge(
            "engram_extractor_studies_remaining", "Studies that the run has to work on and that are not through.",
            registry=registry,
        )  # fmt: skip
        self._working = Gauge(
            "engram_extractor_studies_working", "Studies in a stage now.", ("stage",), registry=registry
        )
        self._progress = Gauge(
            "engram_extractor_last_progress_timestamp_seconds", "When a study last began a stage or ended.",
            registry=registry,
        )  # fmt: skip
        self._ended = Gauge(
            "engram_extractor_ended_timestamp_seconds", "When the call ended, whatever came of it; 0 before.",
            registry=registry,
        )  # fmt: skip
        started = Gauge("engram_extractor_started_timestamp_seconds", "When the call began.", registry=registry)
        started.set(self._clock())
        self._progress.set(self._clock())
        self._peak: Gauge | None = None
        self._peak_bytes = 0

    def planned(self, views: Mapping[str, str], aside: Iterable[ItemOutcome], to_do: set[str]) -> None:
        """A run begins.

        Parameters
        ----------
        views
            View id by layout.
        aside
            Outcomes of items that no worker sees.
        to_do
            Patients whose studies are worked on.
        """
        for layout, view in views.items():
            self._views.labels(layout, view).set(1)
        self._remaining.set(len(to_do))
        settled: dict[str, list[ItemOutcome]] = {}
        self._aside.clear()
        for outcome in aside:
            self._entries.labels(outcome.modality, _OF_RESULT[outcome.result]).inc()
            (self._aside if outcome.patient in to_do else settled).setdefault(outcome.patient, []).append(outcome)
        for outcomes in settled.values():
            self._studies.labels(_whole(outcomes)).inc()
        self._progress.set(self._clock())

    def stage(self, event: StudyStage) -> None:
        """A study went on to another stage, or waits again."""
        patient = event.task.row.patient
        if event.stage is None:
            self._requeued.inc()
            self._stages.pop(patient, None)
        else:
            self._stages[patient] = STAGES[event.stage]
        self._happened()

    def result(self, event: StudyResult, outcomes: Sequence[ItemOutcome]) -> None:
        """A study is through, with these outcomes of its items."""
        patient, spent = event.task.row.patient, event.spent
        for outcome in outcomes:
            self._entries.labels(outcome.modality, _OF_RESULT[outcome.result]).inc()
        self._studies.labels(_whole([*outcomes, *self._aside.pop(patient, ())])).inc()
        self._slices.inc(spent.slices)
        for stage, seconds in (("load", spent.loading_s), ("embed", spent.embedding_s), ("write", spent.writing_s)):
            # Of a study that ended before it, or whose process died, nothing is known.
            if seconds:
                self._seconds.labels(stage).observe(seconds)
        if spent.gpu_peak_bytes:
            self._saw_peak(spent.gpu_peak_bytes)
        self._stages.pop(patient, None)
        self._remaining.dec()
        self._happened()

    def ended(self) -> None:
        """The call is over."""
        self._stages.clear()
        self._happened()
        self._ended.set(self._clock())

    def _happened(self) -> None:
        counts = Tally(self._stages.values())
        for stage in STAGES.values():
            self._working.labels(stage).set(counts[stage])
        self._progress.set(self._clock())

    def _saw_peak(self, seen_bytes: int) -> None:
        if self._peak is None:
            self._peak = Gauge(
                "engram_extractor_gpu_peak_memory_bytes", "Most GPU memory that tensors of one process held at once.",
                registry=self.registry,
            )  # fmt: skip
        self._peak_bytes = max(self._peak_bytes, seen_bytes)
        self._peak.set(self._peak_bytes)


def _whole(outcomes: Sequence[ItemOutcome]) -> Outcome:
    """What became of a study, by its items: failed where one is, else committed where one is."""
    found = {_OF_RESULT[outcome.result] for outcome in outcomes}
    if found == {"withdrawn"}:
        return "withdrawn"
    return next((outcome for outcome in ("failed", "committed") if outcome in found), "held")
