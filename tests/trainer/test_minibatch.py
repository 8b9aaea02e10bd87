"""Mini-batches: sizes, events, and that nobody is lost."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.minibatch import MIN_EVENTS, deal_rows


def dealt(event, batch_size, seed=0):
    return deal_rows(event, batch_size=batch_size, stream=torch.Generator().manual_seed(seed))


@settings(max_examples=50, deadline=None)
@given(patients=st.integers(1, 600), share=st.floats(0.01, 1), batch_size=st.integers(64, 200), seed=st.integers(0, 99))
def test_every_patient_is_dealt_once_in_batches_large_enough_with_events(patients, share, batch_size, seed):
    event = torch.rand(patients, generator=torch.Generator().manual_seed(seed)) < share
    batches = dealt(event, batch_size, seed)
    assert torch.cat(batches).sort().values.tolist() == list(range(patients))
    if len(batches) > 1:
        assert min(len(rows) for rows in batches) >= batch_size
        assert min(int(event[rows].sum()) for rows in batches) >= MIN_EVENTS


def test_full_batch_keeps_the_order_and_draws_nothing():
    stream = torch.Generator().manual_seed(0)
    before = stream.get_state()
    (rows,) = deal_rows(torch.ones(100).bool(), batch_size=None, stream=stream)
    assert rows.tolist() == list(range(100))
    assert torch.equal(before, stream.get_state())


@pytest.mark.parametrize(("patients", "batches"), [(127, 1), (128, 2), (191, 2), (192, 3)])
def test_a_last_batch_too_small_is_merged(patients, batches):
    assert len(dealt(torch.ones(patients).bool(), 64)) == batches


def test_epochs_are_dealt_anew():
    stream = torch.Generator().manual_seed(0)
    event = torch.ones(200).bool()
    first, second = (deal_rows(event, batch_size=64, stream=stream) for _ in range(2))
    assert first[0].tolist() != second[0].tolist()
