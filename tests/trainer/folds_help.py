"""Makes stores of disturbed views and a run whose folds are judged on them, for tests; knows no expectation."""

import hashlib
import io
import shutil

import numpy as np
from rich.console import Console

from store_schema import Entry, EntryKey, Layout, open_store
from trainer.dispatch import Workers
from trainer.plan import Inputs
from trainer.robustness.measuring import Asked
from trainer.run import cross_validate

HERE = {"workers": Workers(number=0), "told": lambda done: None}
ABSENT = ("P003", "P004", "P038")
"""Whom one perturbed view lacks."""


def disturbed(view, kind, size=None):
    flags = {**view.flags, "perturbation": kind} | ({} if size is None else {"perturbation_size_mm": size})
    return view.model_copy(update={"name": f"{view.name}-{kind}", "flags": flags})


def publish(store, view, made, digest):
    for (patient, modality), entry in made.items():
        told = hashlib.sha256(f"{digest}{patient}{modality}".encode()).hexdigest()
        store.publish(view, EntryKey(patient, modality, "spine"), entry, input_sha256=told)


def shifted(entry, noise):
    memory = entry.arrays["memory"].astype(np.float32) + noise
    arrays = {"memory": memory.astype(np.float16), "mean_map": memory.mean(axis=(0, 1)).astype(np.float32)}
    return Entry(arrays, {"valid": [True]})


def vector_entries(table, seed):
    rng = np.random.default_rng(seed)
    made = {}
    for patient, z in zip(table["patient"], table["z"], strict=True):
        values = rng.normal(size=5)
        values[0] = z
        made[patient, "PET"] = Entry({"memory": values.reshape(1, 5, 1, 1).astype(np.float32)}, {})
    return made


def fill_views(store, kit, table):
    """Of maps and of vectors: the same again, with noise, without some patients, and dealt to other patients."""
    rng = np.random.default_rng(1)
    maps = {
        (patient, modality): kit.entry(z if modality == "PET" else 0.3 * z, [0, row, channel])
        for row, (patient, z) in enumerate(zip(table["patient"], table["z"], strict=True))
        for channel, modality in enumerate(("PET", "CT"))
    }
    layout = Layout(name="vector", shape=(1, 5, 1, 1), dtype="float32")
    vector_view = kit.view.model_copy(update={"name": "vec", "layout": layout})
    vectors = vector_entries(table, 5)
    publish(store, store.put_view(vector_view), vectors, "base")
    other = vector_view.model_copy(update={"name": "vec2"})
    publish(store, store.put_view(other), vector_entries(table, 6), "other")
    order = rng.permutation(len(table))
    patients = list(table["patient"])
    dealt = dict(zip(patients, [patients[place] for place in order], strict=True))
    for view, base in ((kit.view, maps), (vector_view, vectors)):
        publish(store, store.put_view(disturbed(view, "same")), base, "same")
        noisy = {key: with_noise(entry, rng) for key, entry in base.items()}
        publish(store, store.put_view(disturbed(view, "noise", 2.0)), noisy, "noise")
        some = {key: entry for key, entry in noisy.items() if key[0] not in ABSENT}
        publish(store, store.put_view(disturbed(view, "some", 3.0)), some, "some")
        strange = {(patient, modality): base[dealt[patient], modality] for patient, modality in base}
        publish(store, store.put_view(disturbed(view, "dealt")), strange, "dealt")


def with_noise(entry, rng):
    noise = 0.5 * rng.normal(size=entry.arrays["memory"].shape)
    if "mean_map" in entry.arrays:
        return shifted(entry, noise)
    return Entry({"memory": entry.arrays["memory"] + noise.astype(np.float32)}, {})


def settings(kit):
    image = {"kind": "network", "view": "tiny", "images": {"roi": "spine"}, "hidden": [4]}
    vector = {
        "kind": "network",
        "view": "vec",
        "head": "vector",
        "hidden": [4],
        "images": {"modalities": ["PET"], "roi": "spine"},
    }
    linear = {"kind": "ridge_cox", "images": {"modalities": ["PET"], "roi": "spine"}, "clinical": False}
    return {
        **kit.settings,
        "splits": {"folds": 3, "repeats": 2},
        "search": {"mode": "both", "points": 2, "inner_folds": 2},
        "models": [
            {"name": "cox", "kind": "ridge_cox"},
            {"name": "image", "fusion": "gate", **image},
            {"name": "attention", "head": "attention", **image, "images": {"roi": "spine", "modalities": ["PET"]}},
            {"name": "both", "fusion": "gate", "clinical": True, **image},
            {"name": "vector", **vector},
            {"name": "radiomics", "view": "vec", **linear},
            {"name": "radiomics2", "view": "vec2", **linear},
            {"name": "tuned", **vector, "clinical": True, "search": {"fit.learning_rate": {"choice": [1e-4, 1e-2]}}},
            {"name": "either", "kind": "choice", "of": ["cox", "vector"]},
            {"name": "views", "kind": "choice", "of": ["radiomics", "radiomics2"]},
        ],
    }


def run_of(config, folder, name):
    quiet = Console(file=io.StringIO())
    inputs = Inputs(folder / "clinical.csv", str(folder / "store"))
    report = cross_validate(config, inputs, out=str(folder / name), workers=Workers(number=0), console=quiet)
    assert report.results.complete, report.results.failures


def make_folded(folder, cohort_folder, kit):
    """Folder with a store of views, base and perturbed, and a finished run of every kind of row on the base."""
    shutil.copytree(cohort_folder / "store", folder / "store")
    shutil.copy(cohort_folder / "clinical.csv", folder / "clinical.csv")
    fill_views(open_store(str(folder / "store")), kit, kit.draw())
    run_of(kit.parse(settings(kit)), folder, "run")
    return folder


def view_of(row):
    return "tiny" if row in ("image", "attention", "both") else "vec"


def asked(folder, row, *kinds, run="run", **more):
    view = view_of(row)
    (base,) = (one for one in open_store(str(folder / "store")).view_ids() if one.rpartition("-")[0] == view)
    perturbed = tuple(f"{view}-{kind}" for kind in kinds)
    return Asked(str(folder / "store"), base, perturbed, run_url=str(folder / run), row=row, resamples=100, **more)


def silent(done, total):
    assert 0 <= done <= total
