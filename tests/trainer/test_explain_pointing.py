"""A planted lesion: the map of a model that reads it peaks there, the map of one fitted to shuffled outcomes does not."""

import io

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from store_schema import EntryKey, create_store
from trainer.dispatch import Workers
from trainer.explain_results import parse_explained
from trainer.explaining import ExplainOptions, explain
from trainer.final import fit_final
from trainer.plan import Inputs
from trainer.predicting import Newcomers
from trainer.run import cross_validate

from .occluded_help import occluded_entry, occlusion_view, publish

SIDE, BLOCK, LESION = 8, 2, (2, 5)
"""Side of the map, of a patch, and the row and column in whose patch the lesion lies."""
PATIENTS, LOOKED_AT = 160, 24


def hidden(memory, row, column):
    """The embedding as if the patch were filled with what surrounds it: this encoder's map is the image itself."""
    changed = memory.copy()
    changed[:, :, row : row + BLOCK, column : column + BLOCK] = 0
    return changed


def place_of(row, column):
    """Box of the image that a cell of the map shows."""
    return (row, row + BLOCK, column, column + BLOCK, 0, 12)


@pytest.fixture(scope="module")
def planted(shared_kit, tmp_path_factory):
    """Patients whose hazard is the uptake of one patch of the map, the others being noise of the same size."""
    folder = tmp_path_factory.mktemp("planted")
    table, rng = shared_kit.draw(PATIENTS, seed=3), np.random.default_rng(3)
    store = create_store(folder / "store")
    base = store.put_view(shared_kit.view)
    occluded = store.put_view(occlusion_view(shared_kit.view))
    corners = [(row, column) for row in range(0, SIDE, BLOCK) for column in range(0, SIDE, BLOCK)]
    lesion = next(
        one for one in corners if one[0] <= LESION[0] < one[0] + BLOCK and one[1] <= LESION[1] < one[1] + BLOCK
    )
    for number, (patient, z) in enumerate(zip(table["patient"], table["z"], strict=True)):
        uptake = rng.normal(size=(SIDE // BLOCK, SIDE // BLOCK))
        uptake[lesion[0] // BLOCK, lesion[1] // BLOCK] = z
        cells = np.kron(uptake, np.ones((BLOCK, BLOCK)))
        memory = np.broadcast_to(cells, (1, 4, SIDE, SIDE)).astype(np.float16)
        arrays = {"memory": memory, "mean_map": memory.astype(np.float32).mean(axis=(0, 1))}
        key = EntryKey(patient, "PET", "spine")
        entry = occluded_entry(
            arrays,
            [hidden(memory, *corner) for corner in corners],
            boxes=[place_of(*corner) for corner in corners],
            unseen=(),
            bones=[("L3", 1.0) if corner == lesion else ("other", 1.0) for corner in corners],
        )
        publish(store, base, key, type(entry)({name: arrays[name] for name in arrays}, {"valid": [True]}))
        if number < LOOKED_AT:
            publish(store, occluded, key, entry)
    table["stage"] = "I"
    outcomes = ["months", "event"]
    table.to_csv(folder / "clinical.csv", index=False)
    order = np.random.default_rng(11).permutation(PATIENTS)
    table.assign(**{name: table[name].to_numpy()[order] for name in outcomes}).to_csv(
        folder / "shuffled.csv", index=False
    )
    return folder, lesion


def pointed(shared_kit, planted, table):
    """Where each patient's map peaks, by a model that was fitted to the outcomes of this table."""
    folder, _ = planted
    model = {"name": "flat", "kind": "network", "view": "tiny", "images": {"roi": "spine", "modalities": ["PET"]}}
    model |= {"head": "flatten", "hidden": [], "map_scaling": "scalar"}
    fit = {"epochs": 60, "learning_rate": 0.02, "weight_decay": 0.1, "min_validation_events": 2}
    settings = shared_kit.parse({**shared_kit.settings, "splits": {"folds": 2}, "fit": fit, "models": [model]})
    inputs, quiet = Inputs(folder / table, str(folder / "store")), Console(file=io.StringIO())
    run = cross_validate(settings, inputs, out=str(folder / f"run-{table}"), workers=Workers(number=0), console=quiet)
    kept = fit_final(run.folder.url, "flat", out=str(folder / f"model-{table}"))
    out = folder / f"out-{table}"
    report = explain(
        ExplainOptions(kept.url, Newcomers(str(folder / "store"))), out=str(out), told=lambda done, of: None
    )
    assert len(report.found.patients) == LOOKED_AT
    records = [parse_explained((out / f"patients/{one}.json").read_bytes(), where=one) for one in report.found.patients]
    peaks = [max(one.images[0].patches, key=lambda patch: abs(patch.delta)).box_zyx for one in records]
    shares = {one.bone: one.absolute for one in report.found.attribution}
    return peaks, shares


def test_the_map_of_a_model_that_reads_the_lesion_peaks_there_and_that_of_shuffled_outcomes_does_not(
    shared_kit, planted
):
    box = place_of(*planted[1])
    peaks, shares = pointed(shared_kit, planted, "clinical.csv")
    others, their_shares = pointed(shared_kit, planted, "shuffled.csv")
    assert peaks.count(box) > 0.6 * LOOKED_AT
    # a lesion whose uptake is that of the fill is none: hiding it changes nothing, and no map can point at it
    uptake = pd.read_csv(planted[0] / "clinical.csv")["z"][:LOOKED_AT]
    there = [peak == box for peak, z in zip(peaks, uptake, strict=True) if abs(z) > 0.5]
    assert len(there) > LOOKED_AT / 3
    assert np.mean(there) >= 0.9
    assert shares["L3"] > 3 * shares["other"]
    assert others.count(box) < 0.3 * LOOKED_AT
    assert their_shares["L3"] < 3 * their_shares["other"]
