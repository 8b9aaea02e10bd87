"""Measures what slices and fits take of a GPU, for the capacity guide.

python tests/benchmarks/capacity_gpu.py --device cuda            # prints them
python tests/benchmarks/capacity_gpu.py --device cuda --write    # puts them in the place of the assumed ones
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator

import numpy as np
import torch
from capacity_costs import CONSTANTS, Constants
from capacity_keeping import kept
from capacity_measure import slice_costs

from trainer.batch import Batch
from trainer.spec import FitConfig, ModelSpec
from trainer.together import FitJob, fit_together

PATIENTS, SETTINGS, EPOCHS = 181, 16, (5, 15)
"""Of the outer training part, as many fits at once, and epochs whose difference is taken."""
SHAPES = {"average": (64, 64), "attention": (2, 32, 32, 32)}
"""What each head reads of one patient."""


def gpu_constants(device: str) -> dict[str, float]:
    """Seconds of a GPU for a slice in either part of the network, and for a patient and epoch in either head.

    Raises
    ------
    RuntimeError
        If torch has no such device.
    """
    encoder, stream, start = slice_costs("medsam2", device=device)
    found = {
        "gpu.encoder_s_per_slice": encoder,
        "gpu.stream_s_per_slice": stream,
        "gpu.stream_s_per_stream": start,
    }
    for head in SHAPES:
        # The first only warms up.
        _, few, many = (_fits_s(head, epochs, device) for epochs in (EPOCHS[0], *EPOCHS))
        found[f"gpu.{head}_s_per_patient_epoch"] = (many - few) / (EPOCHS[1] - EPOCHS[0]) / PATIENTS / SETTINGS
    return found


def _fits_s(head: str, epochs: int, device: str) -> float:
    jobs = list(_jobs(head, epochs))
    begun = time.perf_counter()
    # The models come back to the CPU, so that the GPU has ended.
    fit_together(jobs, device=device)
    return time.perf_counter() - begun


def _jobs(head: str, epochs: int) -> Iterator[FitJob]:
    rng = np.random.default_rng(0)
    whole = Batch.of(
        maps={"PET": rng.normal(size=(PATIENTS, *SHAPES[head])).astype(np.float32)},
        time=rng.integers(1, 100, PATIENTS).astype(float),
        event=rng.random(PATIENTS) < 0.6,
    )
    train, watched = (whole.rows(torch.arange(*ends)) for ends in ((0, 145), (145, PATIENTS)))
    # The attention head is told how many memory layers it reads.
    features = (SHAPES[head][0],) if head == "attention" else ()
    spec = ModelSpec(head=head, modalities=("PET",), hidden=(64,), features=features)
    for number in range(SETTINGS):
        config = FitConfig(epochs=epochs, patience=epochs, min_epochs=1, min_validation_events=1)
        yield FitJob(spec, config, train, watched, seed=number)


def main() -> None:
    """Measure, print, and write where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    values = gpu_constants(options.device)
    print(json.dumps(values, indent=2))
    if options.write:
        name = torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else options.device
        command = f"python tests/benchmarks/capacity_gpu.py --device {options.device} --write"
        how = "volumes of 8 and 14 slices, two streams; 16 fits at once of 5 and 15 epochs: the differences"
        constants = kept(Constants.read(), values, how=how, command=command, device=name)
        CONSTANTS.write_text(json.dumps(constants.entries, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
