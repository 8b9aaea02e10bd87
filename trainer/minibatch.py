"""Deals training patients into mini-batches that each hold events; knows nothing of models or losses."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

MIN_EVENTS = 8


def deal_rows(
    event: Bool[Tensor, " patient"], *, batch_size: int | None, stream: torch.Generator
) -> list[Int[Tensor, " row"]]:
    """Rows of each mini-batch of one epoch.

    Patients with and without the event are shuffled apart and dealt in turn, so that every batch has its share of
    events and a risk set as large as the others'. No batch is smaller than `batch_size` or has fewer than 8 events:
    there are fewer, larger batches instead, down to one, in which rows keep their order.

    Parameters
    ----------
    event
        True where the event was observed.
    batch_size
        Least patients of a batch; None for one batch.
    stream
        Drawn from where there are several batches, on the CPU.

    References
    ----------
    Protocol section 5.
    """
    patients = len(event)
    number = 1 if batch_size is None else max(1, min(patients // batch_size, int(event.sum()) // MIN_EVENTS))
    if number == 1:
        return [torch.arange(patients)]
    shuffled = torch.randperm(patients, generator=stream)
    # events first, so that dealing in turn spreads them evenly
    dealt = shuffled[torch.argsort(event.cpu()[shuffled].logical_not(), stable=True)]
    return [dealt[start::number] for start in range(number)]
