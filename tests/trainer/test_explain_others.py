"""Explanations of linear models on vectors, and of stores that call patients by pseudonyms."""

import io
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from store_schema import Entry, EntryKey, create_store
from store_schema.errors import TableError, UsageError
from store_schema.pseudonyms import Pseudonyms, settle_rule
from trainer.attribution import attribution
from trainer.columns import Columns
from trainer.dispatch import Workers
from trainer.explaining import ExplainOptions, _persons, _Work, explain
from trainer.final import fit_final
from trainer.plan import Inputs
from trainer.predicting import Newcomers
from trainer.run import cross_validate
from trainer.saved import read_model

from .explained_help import record
from .occluded_help import BOXES, UNSEEN, occluded_entry, occlusion_view, publish

FEATURES = 6
NAMES = ("KOWALSKA-1", "NOWAK-2")


@pytest.fixture(scope="module")
def made(shared_kit, tmp_path_factory) -> SimpleNamespace:
    """Vectors of patients under pseudonyms, two of them with patches hidden, and two models that read them."""
    folder, ids, table = (
        tmp_path_factory.mktemp("vectors"),
        Pseudonyms(b"a key of a test, long enough"),
        shared_kit.draw(),
    )
    table.loc[: len(NAMES) - 1, "patient"] = NAMES
    layout = shared_kit.view.layout.model_copy(update={"name": "vector", "shape": (1, FEATURES, 1, 1)})
    spec = shared_kit.view.model_copy(update={"name": "vectors", "layout": layout})
    store = create_store(folder / "store")
    settle_rule(store, ids)
    base, occluded = store.put_view(spec), store.put_view(occlusion_view(spec))
    rng, hidden = np.random.default_rng(0), {}
    for patient, z in zip(table["patient"], table["z"], strict=True):
        vector = rng.normal(size=(1, FEATURES, 1, 1)).astype(np.float16)
        vector[0, 0] += np.float16(z)
        key = EntryKey(ids.key(patient), "PET", "spine")
        publish(store, base, key, Entry({"memory": vector}, {"valid": [True]}))
        if patient in NAMES:
            hidden[patient] = vector, [vector + np.float16(0.25 * (n + 1)) for n in range(len(BOXES))]
            entry = occluded_entry({"memory": vector, "mean_map": np.zeros((1, 1), np.float32)}, hidden[patient][1])
            kept = {name: array for name, array in entry.arrays.items() if "mean_map" not in name}
            publish(store, occluded, key, Entry(kept, entry.attributes))
    table.drop(columns=["z", "log_hazard"]).to_csv(folder / "clinical.csv", index=False)
    image = {"view": "vectors", "images": {"roi": "spine", "modalities": ["PET"]}, "clinical": True}
    models = [
        {"name": "linear", "kind": "ridge_cox", **image},
        {"name": "vector", "kind": "network", "head": "vector", **image},
    ]
    settings = shared_kit.parse({**shared_kit.settings, "models": models})
    inputs = Inputs(folder / "clinical.csv", store.url, ids=ids)
    quiet = Console(file=io.StringIO())
    report = cross_validate(settings, inputs, out=str(folder / "run"), workers=Workers(number=0), console=quiet)
    assert report.results.complete
    for name in ("linear", "vector"):
        fit_final(report.folder.url, name, out=str(folder / name))
    return SimpleNamespace(folder=folder, ids=ids, store=store, hidden=hidden)


def explained(made, name, out, patients=()):
    newcomers = Newcomers(made.store.url, clinical=made.folder / "clinical.csv", ids=made.ids)
    options = ExplainOptions(str(made.folder / name), newcomers, patients=tuple(patients))
    return explain(options, out=str(out), told=lambda done, of: None).found


def test_deltas_of_a_linear_model_are_its_coefficients_times_the_change_of_the_vector(made, tmp_path):
    assert explained(made, "linear", tmp_path / "out").failures == {}
    card, trained = read_model(str(made.folder / "linear"))
    assert card.selection is not None
    for patient, (vector, hidden) in made.hidden.items():
        (image,) = record(tmp_path / "out", made.ids.key(patient)).images
        change = card.selection.transform(np.stack(hidden).reshape(-1, FEATURES).astype(float))
        change -= card.selection.transform(vector.reshape(1, FEATURES).astype(float))
        weights = [trained.coefficients[name] for name in card.selection.names]
        found = [patch.delta for patch in image.patches]
        np.testing.assert_allclose(found[: len(BOXES)], change @ weights, atol=1e-6)
        assert found[len(BOXES) :] == [0.0] * len(UNSEEN)
        assert np.ptp(found) > 0


def test_a_network_on_vectors_is_explained_too(made, tmp_path):
    found = explained(made, "vector", tmp_path / "out")
    assert found.failures == {}
    assert len(found.patients) == len(NAMES)


def test_pseudonyms_stand_in_the_place_of_ids_in_all_that_is_written(made, tmp_path):
    found = explained(made, "linear", tmp_path / "out", patients=[NAMES[0]])
    assert found.patients == (made.ids.key(NAMES[0]),)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert any(path.suffix == ".svg" for path in files)
    for path in files:
        said = str(path.relative_to(tmp_path)).encode() + path.read_bytes()
        assert not any(name.encode() in said for name in (*NAMES, "KOWALSKA", "NOWAK"))
    by_pseudonym = explained(made, "linear", tmp_path / "again", patients=[made.ids.key(NAMES[1])])
    assert by_pseudonym.patients == (made.ids.key(NAMES[1]),)
    assert len(pd.read_csv(tmp_path / "again/deltas.csv")) == len(BOXES) + len(UNSEEN)


def test_several_studies_of_one_person_are_drawn_together_and_counted_once(made, tmp_path):
    explained(made, "linear", tmp_path / "out")
    first, second = (record(tmp_path / "out", made.ids.key(name)) for name in NAMES)
    apart = attribution([first, second])
    together = attribution([first, second.model_copy(update={"person": first.person})])
    assert [one.patients for one in apart] == [2] * len(BOXES)
    assert [one.patients for one in together] == [1] * len(BOXES)
    assert [one.signed for one in apart] == [one.signed for one in together]
    assert all(one.signed_low is not None for one in apart)
    assert all(one.signed_low is None for one in together)


def test_who_was_imaged_twice_weighs_as_much_as_who_was_imaged_once(made, tmp_path):
    explained(made, "linear", tmp_path / "out")
    first, second = (record(tmp_path / "out", made.ids.key(name)) for name in NAMES)
    again = first.model_copy(update={"patient": f"{first.patient}.s2"})
    for mine, thrice in zip(attribution([first, second]), attribution([first, again, second]), strict=True):
        assert (thrice.signed, thrice.absolute) == (pytest.approx(mine.signed), pytest.approx(mine.absolute))
        assert (thrice.signed_low, thrice.signed_high) == (mine.signed_low, mine.signed_high)
        assert (thrice.patients, thrice.patches) == (2, mine.patches + mine.patches // 2)


def test_the_table_says_whose_a_study_with_dots_is_and_without_one_it_is_refused(tmp_path):
    table = tmp_path / "clinical.csv"
    table.write_text("who,visit\nP.1,2019.03\nP,1.2019.03\n")
    columns = Columns(patient="who", study="visit", time="t", time_unit="months", event="e")
    card = SimpleNamespace(columns=columns)
    with pytest.raises(TableError, match=r"P\.1\.2019\.03"):
        _persons(card, Newcomers(clinical=table))
    table.write_text("who,visit\nP.1,2019.03\nQ,1.2019.03\n")
    told = _persons(card, Newcomers(clinical=table))
    asked = SimpleNamespace(asker=SimpleNamespace(card=card), persons=told)
    assert [_Work._person(asked, key) for key in ("P.1.2019.03", "Q.1.2019.03", "R.1")] == ["P.1", "Q", "R"]
    bare = SimpleNamespace(asker=asked.asker, persons={})
    with pytest.raises(UsageError, match="several dots"):
        _Work._person(bare, "P.1.2019.03")
