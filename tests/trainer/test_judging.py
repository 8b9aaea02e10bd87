"""Every kind of model from a store to a judged fold: shapes, planted signals, chance, determinism, nothing from test patients."""

import dataclasses
import io
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from store_schema import Entry, EntryKey, Layout, create_store, open_store
from store_schema.vectors import MISSING
from trainer.dispatch import Workers
from trainer.features import images_of
from trainer.final import fit_final
from trainer.judging import Asked, Judged, judge, train
from trainer.metrics import harrell_c
from trainer.model_config import NetworkModel
from trainer.plan import Inputs
from trainer.predicting import Newcomers, predict
from trainer.preparing import scaled
from trainer.run import cross_validate
from trainer.saved import read_model
from trainer.stored_images import StoredImages

SIDE = 8
HEADS = ("average", "flatten", "pca", "vector", "attention", "cnn3d")
SHORT = {"epochs": 2, "min_epochs": 1, "min_validation_events": 1}


def network(head, **settings):
    images = {"modalities": settings.pop("modalities", ["PET", "CT"]), "roi": "spine", "pool": settings.pop("pool", 1)}
    fixed = {
        "name": head,
        "kind": "network",
        "view": "given",
        "images": images,
        "head": head,
        "hidden": [8],
        "components": 4,
    }
    return NetworkModel.model_validate({**fixed, "fit": SHORT, **settings})


def cohort(n=160, seed=0, *, slope=1.5):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=n)
    onset, censored = 36 * rng.exponential(size=n) * np.exp(-slope * z), rng.uniform(6, 140, n)
    return pd.DataFrame(
        {
            "patient": [f"P{row:03d}" for row in range(n)],
            "age": rng.normal(60, 10, n).round(),
            "stage": rng.choice(["I", "II", "III"], n),
            "months": np.ceil(np.minimum(onset, censored)),
            "event": (onset <= censored).astype(int),
            "z": z,
        }
    )


def shape_for(head):
    return {"vector": (12,), "attention": (2, 8, SIDE, SIDE), "cnn3d": (1, 16, SIDE, SIDE)}.get(head, (SIDE, SIDE))


def arrays(head, table, *, strength=0.6):
    """Noise on what everybody shares, and in PET what only a head of this kind needs: z in a corner, in channels, in features."""
    rng = np.random.default_rng(5)
    n, shape, z = len(table), shape_for(head), table["z"].to_numpy()
    made = {}
    for modality in ("PET", "CT"):
        made[modality] = (0.5 * rng.normal(size=(n, *shape)) + rng.normal(size=(1, *shape))).astype(np.float32)
    signal = strength * z.reshape(n, *[1] * len(shape))
    place = {
        "vector": np.s_[:, :3],
        "attention": np.s_[:, :, 3:5, 2:6, 2:6],
        "cnn3d": np.s_[:, :, 4:8, 2:6, 2:6],
    }.get(head, np.s_[:, 1:4, 1:4])
    made["PET"][place] += signal
    return made


def judged(model, data, seed=0):
    (answer,) = judge([Asked(model, seed, data)])
    assert isinstance(answer, Judged)
    return answer


@pytest.mark.parametrize("head", ["attention", "cnn3d"])
def test_a_head_of_memories_learns_a_signal_of_its_kind_and_is_at_chance_on_permuted_outcomes(head, make_part):
    fit = {"epochs": 30, "learning_rate": 0.01, "min_validation_events": 2}
    model, table = network(head, modalities=["PET"], fit=fit, hidden=[16]), cohort()
    images = arrays(head, table)

    def held_out(permuted):
        data = make_part(model, table, {"PET": images["PET"]}, permuted=permuted)
        time, event = data.outcome(data.fold.test)
        return harrell_c(risk=judged(model, data).test_risk, time=time, event=event).c

    assert held_out(None) > 0.65
    assert 0.36 < np.mean([held_out(seed) for seed in range(3)]) < 0.64


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("fusion", "clinical"), [("concat", False), ("gate", True)])
def test_a_fold_is_judged_by_every_head_with_every_fusion_the_same_each_time(head, fusion, clinical, make_part):
    model, table = network(head, fusion=fusion, clinical=clinical), cohort(60)
    data = make_part(model, table, arrays(head, table))
    first, again, other = judged(model, data), judged(model, data), judged(model, data, seed=1)
    assert (first.train_risk.shape, first.test_risk.shape) == ((48,), (12,))
    assert first.curves.epochs_run == 2
    np.testing.assert_array_equal(first.test_risk, again.test_risk)
    assert not np.array_equal(first.test_risk, other.test_risk)
    if fusion == "gate":
        assert first.alpha.shape == (12,)
        assert 0 < first.alpha.min() <= first.alpha.max() < 1
    else:
        assert first.alpha is None


@pytest.mark.parametrize("head", HEADS)
def test_changing_test_patients_images_changes_nothing_that_was_fitted(head, make_part):
    model, table = network(head), cohort(60)
    images = arrays(head, table)
    data = make_part(model, table, images)
    spoiled = {name: array.copy() for name, array in images.items()}
    for array in spoiled.values():
        array[data.cohort.rows(data.fold.test)] += 100
    before, after = judged(model, data), judged(model, dataclasses.replace(data, images=StoredImages(spoiled)))
    np.testing.assert_array_equal(before.train_risk, after.train_risk)
    assert before.curves == after.curves
    assert not np.array_equal(before.test_risk, after.test_risk)


@pytest.mark.parametrize("head", HEADS)
def test_equal_patients_are_tied_wherever_they_stand(head, make_part):
    model, table = network(head), cohort(60)
    images = arrays(head, table)
    data = make_part(model, table, images)
    twins = list(data.cohort.rows(data.fold.test)[:3]) + list(data.cohort.rows(data.fold.train)[10:13])
    for array in images.values():
        array[twins] = array[twins[0]]
    found = judged(model, make_part(model, table, images))
    assert len(np.unique(np.concatenate([found.test_risk[:3], found.train_risk[10:13]]))) == 1


def test_attention_finds_the_channels_that_hold_the_signal(make_part):
    fit = {"epochs": 40, "learning_rate": 0.02, "min_validation_events": 2}
    model, table = network("attention", modalities=["PET"], fit=fit), cohort()
    data = make_part(model, table, {"PET": arrays("attention", table, strength=1.0)["PET"]})
    (trained,) = train([Asked(model, 0, data)])
    prepared = scaled(data.inputs(data.fold.test), trained.fitted.scalers).maps["PET"]
    with torch.no_grad():
        weights = trained.fitted.model().towers[0].weights(prepared)
    assert weights.shape == (32, 8)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(32))
    assert set(weights.mean(dim=0).argsort()[-2:].tolist()) == {3, 4}


@pytest.fixture(scope="module")
def layouts(tmp_path_factory, tiny_view):
    """A store with sixteen patients in a view of each layout that the extractor makes."""
    store, rng, snapshots = create_store(tmp_path_factory.mktemp("layouts") / "store"), np.random.default_rng(0), {}
    for shape in ((2, 32, 64, 64), (7, 64, 32, 32), (3, 64, 32, 32), (1, 64, 32, 32)):
        layout = Layout(name="any", shape=shape)
        view = store.put_view(tiny_view.model_copy(update={"name": f"layers-{shape[0]}", "layout": layout}))
        for row in range(16):
            memory = rng.normal(size=shape).astype(np.float16)
            made = Entry({"memory": memory, "mean_map": memory.mean(axis=(0, 1), dtype=np.float32)}, {"valid": [True]})
            store.publish(view, EntryKey(f"P{row:03d}", "PET", "spine"), made, input_sha256=f"{row:064x}")
        snapshots[shape[0]] = store.make_snapshot(view)
    return store.url, snapshots


@pytest.mark.parametrize("layers", [2, 7, 3, 1])
@pytest.mark.parametrize("head", ["attention", "cnn3d", "average"])
def test_every_layout_of_the_store_is_judged(layouts, make_part, head, layers):
    url, snapshots = layouts
    fit = {"epochs": 1, "min_epochs": 1, "min_validation_events": 1}
    model, table = network(head, modalities=["PET"], fit=fit), cohort(16, seed=2)
    stored = images_of(model, url, snapshots[layers], tuple(table["patient"]))
    found = judged(model, make_part(model, table, dict(stored.arrays)))
    assert np.ptp(found.train_risk) > 0
    assert np.isfinite(found.test_risk).all()


def test_every_kind_of_model_gives_the_same_numbers_in_another_process_and_when_it_is_kept(
    cohort_folder, config, kit, tmp_path
):
    shutil.copytree(cohort_folder / "store", tmp_path / "store")
    store, table = open_store(tmp_path / "store"), kit.draw()
    layout = Layout(name="features", shape=(1, 5, 1, 1), dtype="float32", features=tuple("abcde"), missing=MISSING)
    view = store.put_view(kit.view.model_copy(update={"name": "measured", "layout": layout}))
    rng = np.random.default_rng(0)
    for patient, z in zip(table["patient"], table["z"], strict=True):
        values = rng.normal(size=5).astype(np.float32) + np.float32(z) * np.array([1, 1, 0, 0, 0], dtype=np.float32)
        values[4] = MISSING if rng.random() < 0.1 else values[4]
        made = Entry({"memory": values.reshape(1, 5, 1, 1)}, {"valid": [True]})
        store.publish(view, EntryKey(patient, "PET", "spine"), made, input_sha256=values.tobytes().hex().ljust(64, "0"))
    maps, vectors = ({"view": name, "images": {"roi": "spine", "modalities": ["PET"]}} for name in ("tiny", "measured"))
    shared = {"kind": "network", "hidden": [4]}
    models = [
        *({"name": head, "head": head, **maps, **shared} for head in HEADS if head != "vector"),
        {"name": "vector", "head": "vector", **vectors, **shared},
        {"name": "radiomics", "kind": "ridge_cox", "penalty": "inner_cv", "clinical": False, **vectors},
        {"name": "reference", "kind": "pycox", "epochs": 3, "hidden": [4], "min_validation_events": 2},
    ]
    inputs = Inputs(clinical=cohort_folder / "clinical.csv", store_url=str(tmp_path / "store"))

    def run(name, processes):
        workers, quiet = Workers(number=processes), Console(file=io.StringIO())
        return cross_validate(config(models=models), inputs, out=str(tmp_path / name), workers=workers, console=quiet)

    here = run("here", 0)
    assert here.results == run("there", 1).results
    assert [row.label for row in here.results.of_kind("model")] == [model["name"] for model in models]
    assert all(row.mean is not None for row in here.results.of_kind("model"))
    newcomers = Newcomers(str(tmp_path / "store"))
    for model in models[:-1]:
        made = fit_final(here.folder.url, model["name"], out=str(tmp_path / "kept" / model["name"]))
        card, read = read_model(made.url)
        before, after = (predict(card, trained, newcomers, times=[12]) for trained in (made.trained, read))
        np.testing.assert_array_equal(before.log_risk, after.log_risk)
        assert before.log_risk.mean() == pytest.approx(card.risk_mean, abs=1e-5)
