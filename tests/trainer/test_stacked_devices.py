"""A step of a stack on a GPU mixes no devices: shown with fake tensors, which know shapes and devices and hold no number."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from trainer.batch import Batch
from trainer.spec import FitConfig, ModelSpec
from trainer.stacked_fit import StackedPart, _Memory, _RowCounts, _Stack
from trainer.stacked_loss import StackedRiskSets
from trainer.stacked_memory import Layout
from trainer.stacking import Fit, _Preparer

SHAPES = {"average": (1, 8, 12), "attention": (3, 8, 4, 4), "cnn3d": (1, 4, 8, 8), "vector": (7,), "flatten": (1, 6, 5)}
SPECS = {
    "clinical": ModelSpec(head=None, modalities=(), clinical_features=4, hidden=(8, 6)),
    "vectors": ModelSpec(head="vector", hidden=(8,), fusion="gate"),
    "flat": ModelSpec(head="flatten", hidden=(8,), clinical_features=4),
    "average": ModelSpec(head="average", hidden=(8,), fusion="gate", clinical_features=4),
    "attention": ModelSpec(head="attention", hidden=(8,)),
    "cnn3d": ModelSpec(head="cnn3d", hidden=()),
}


def batch(spec):
    rng = np.random.default_rng(0)
    images = {name: rng.normal(size=(60, *SHAPES[spec.head])) for name in spec.modalities}
    clinical, event = rng.normal(size=(60, 4)), rng.random(60) < 0.6
    return Batch.of(clinical=clinical, maps=images, time=rng.integers(1, 30, 60).astype(float), event=event)


def ready(spec):
    """Two jobs as they are made ready on the CPU."""
    preparer, whole = _Preparer(torch.device("cpu"), torch.float32), batch(spec)
    config = FitConfig(epochs=4, min_epochs=1, min_validation_events=1, l2=1e-3)
    watch = whole.rows(slice(40, None))
    return [preparer.ready(Fit(spec, config, whole.rows(slice(0, 40 - k)), watch, k, None)).job for k in range(2)]


@pytest.mark.parametrize("name", SPECS)
def test_losses_norms_and_all_that_a_step_moves_stay_on_the_device(name, monkeypatch):
    # without dropout: a stream of the GPU cannot be made without one
    jobs = ready(SPECS[name].model_copy(update={"dropout": 0.0}))
    layout, mode = Layout.of(jobs[0].network), FakeTensorMode(allow_non_fake_inputs=True)
    numbers = [layout.read(job.network.state_dict()) for job in jobs]
    # depends on numbers; and a backward pass of torch's own asks for a real GPU
    monkeypatch.setattr(StackedRiskSets, "_with_wide", lambda _self, _risk, _parts, losses, _slopes: losses)
    monkeypatch.setattr(torch.autograd, "grad", lambda _made, leaves, _slope: [torch.zeros_like(one) for one in leaves])

    def moved(part):
        return StackedPart(tuple(mode.from_tensor(one).to("cuda") for one in part.vectors), part.sets)

    with mode:
        there = [replace(job, train=moved(job.train), watch=moved(job.watch)) for job in jobs]
        values, statistics = (
            torch.stack([mode.from_tensor(one) for one in parts]).to("cuda") for parts in zip(*numbers, strict=True)
        )
        memory = _Memory(values, statistics, torch.zeros_like(values), torch.zeros_like(values))
        stack = _Stack(there, layout, memory, _RowCounts(48, 32))
        told = [*stack.step(1), stack.watch(), memory.values, memory.second]
    assert {one.device.type for one in told} == {"cuda"}
