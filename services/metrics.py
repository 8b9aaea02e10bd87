"""What Prometheus may ask: requests, times, bytes, denials, the age of the catalogue; no label names a project or a patient."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

SHARED_COUNTS = "PROMETHEUS_MULTIPROC_DIR"
"""Names the folder in which the processes of one service count together; the client library's own variable."""

TIMES_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The counters of one process, or of all that serve one address."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "engram_requests", "Requests answered.", ("method", "route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "engram_request_seconds", "From a request to the end of its answer.", ("route",),
            buckets=TIMES_S, registry=self.registry,
        )  # fmt: skip
        self.sent_bytes = Counter("engram_sent_bytes", "Bytes of bodies sent.", ("route",), registry=self.registry)
        self.in_flight = Gauge(
            "engram_requests_in_flight", "Requests being answered.", registry=self.registry, multiprocess_mode="livesum"
        )
        self.refusals = Counter("engram_refusals", "Refusals by their code.", ("code",), registry=self.registry)
        self.reconciled = Gauge(
            "engram_catalogue_reconciled_timestamp_seconds", "When the catalogue last agreed with all stores.",
            registry=self.registry, multiprocess_mode="mostrecent",
        )  # fmt: skip
        self.audit_failures = Counter(
            "engram_audit_flush_failures", "Flushes of counted reads that the database did not take; they are tried again.",
            registry=self.registry,
        )  # fmt: skip

    def text(self) -> bytes:
        """All of them, of all processes, in Prometheus's text format."""
        if SHARED_COUNTS not in os.environ:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)
