"""Refuses to send to other machines what they cannot open: addresses whose secret stays in this process; knows no cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from extractor.config import ExtractConfig
from extractor.table import StudyRow
from store_schema.errors import UsageError
from store_schema.files import remembered

_INSTEAD = (
    "A signature or password never leaves the process that was given it. Use addresses that the workers open with credentials of "
    "their own environment (s3://…, gs://…, az://…), or --shard I/N instead of --scheduler: each part reads the table itself."
)


def check_sendable(
    rows: Sequence[StudyRow], config: ExtractConfig, *, secrets: Mapping[str, str] | None = None
) -> None:
    """Refuses studies and weights whose addresses were presigned or carried a password.

    Parameters
    ----------
    secrets
        What was taken out of addresses, by the address without it; by default what this process remembers.

    Raises
    ------
    UsageError
        If a worker elsewhere could not open them.
    """
    hidden = remembered() if secrets is None else secrets
    for weights in (config.weights, *config.baseline_weights.values()):
        if weights in hidden:
            raise UsageError(f"the address of the weights, {weights}, cannot be sent to Dask workers. {_INSTEAD}")
    signed = [row for row in rows if any(place in hidden for place in row.files.places)]
    if signed:
        raise UsageError(
            f"{len(signed)} of {len(rows)} studies (first: line {signed[0].line} of the table) have addresses that are presigned "
            f"or carry a password, and cannot be sent to Dask workers. {_INSTEAD}"
        )
