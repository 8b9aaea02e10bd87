"""Whether a kept model was fitted on the patients who are scored: surely, perhaps, not, or not to be told."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from store_schema import Entry, EntryKey, Layout, create_store
from trainer.cohort import without_outcomes
from trainer.model_config import RidgeCoxModel
from trainer.robustness.overlap import APPARENT, Overlap, overlap

HELD = 10


@pytest.fixture(scope="module")
def store(shared_kit, tmp_path_factory):
    """Vectors of ten patients, one of them with two studies."""
    made = create_store(tmp_path_factory.mktemp("overlap") / "store")
    layout = Layout(name="vector", shape=(1, 2, 1, 1), dtype="float32")
    view = made.put_view(shared_kit.view.model_copy(update={"name": "vec", "layout": layout}))
    for row, name in enumerate([*(f"P{row}" for row in range(HELD - 1)), "Q1.a"]):
        entry = Entry({"memory": np.full((1, 2, 1, 1), row, dtype=np.float32)}, {})
        made.publish(view, EntryKey(name, "PET", "spine"), entry, input_sha256=f"{row:064d}")
    return made


def card(store, *, fitted=HELD, snapshot=None, digest="0" * 64):
    model = RidgeCoxModel.model_validate(
        {
            "name": "m",
            "kind": "ridge_cox",
            "view": "vec",
            "images": {"modalities": ["PET"], "roi": "spine"},
            "clinical": False,
        }
    )
    held = store.make_snapshot(store.resolve_view("vec")) if snapshot is None else snapshot
    training = SimpleNamespace(patients=fitted, cohort_digest=digest)
    return SimpleNamespace(snapshot=held, model=model, training=training)


def scored(*patients):
    return without_outcomes(patients, pd.DataFrame(index=pd.Index(patients, dtype=object)), "months")


def test_a_part_of_the_training_patients_is_known_again(store):
    found = overlap(card(store), store, scored("P0", "P1", "P2"))
    assert (found, found.apparent, found.note) == (Overlap(3, 3, 3), True, APPARENT)
    mixed = overlap(card(store), store, scored("P0", "P1", "new"))
    assert (mixed, mixed.apparent) == (Overlap(3, 2, 2), True)
    assert "fitted on 2 of these 3 patients" in mixed.note


def test_patients_whom_the_fit_may_have_left_out_are_no_certainty(store):
    assert overlap(card(store, fitted=9), store, scored("P0", "P1", "P2")) == Overlap(3, 2, 3)
    unsure = overlap(card(store, fitted=6), store, scored("P0", "P1", "P2"))
    assert (unsure, unsure.apparent) == (Overlap(3, 0, 3), None)
    assert "may have been fitted on up to 3 of these 3 patients" in unsure.note


def test_strangers_are_told_and_another_study_of_a_patient_is_none(store):
    found = overlap(card(store), store, scored("new", "newer"))
    assert (found, found.apparent, found.note) == (Overlap(2, 0, 0), False, None)
    assert overlap(card(store), store, scored("Q1", "new")) == Overlap(2, 1, 1)


def test_a_snapshot_of_another_store_tells_nothing(store):
    found = overlap(card(store, snapshot="f" * 64), store, scored("P0"))
    assert (found, found.apparent) == (Overlap(1, None, None), None)
    assert "cannot be told" in found.note
    whole = scored("P0")
    assert overlap(card(store, snapshot="f" * 64, digest=whole.digest), store, whole).apparent
