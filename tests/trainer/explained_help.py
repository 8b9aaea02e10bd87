"""Explains planted stores for tests, and asks the ordinary prediction for the same; knows no expectation."""

import shutil
from html.parser import HTMLParser

import pandas as pd

from store_schema import Entry, EntryKey, create_store, open_store
from trainer.explain_results import parse_explained
from trainer.explaining import ExplainOptions, explain
from trainer.predicting import Newcomers, predict
from trainer.saved import read_model

from .occluded_help import BOXES, publish


def explained(
    made, out, name="both", *, store=None, occlusion=None, patients=(), snapshot=None, told=lambda done, of: None
):
    newcomers = Newcomers(str(store or made.folder / "store"), snapshot, made.clinical)
    options = ExplainOptions(str(made.folder / "models" / name), newcomers, occlusion, tuple(patients))
    return explain(options, out=str(out), told=told)


def record(out, patient):
    return parse_explained((out / "patients" / f"{patient}.json").read_bytes(), where=patient)


def brute_force(made, folder, name, patient, modality):
    """Log-risks by `trainer predict` of newcomers who are the patient with the hidden embedding for their own."""
    store, table = create_store(folder), pd.read_csv(made.clinical).set_index("patient")
    store.put_view(made.store.view(made.base))
    hidden = made.store.read(made.occluded, EntryKey(patient, modality, "spine")).arrays
    rows = {}
    for number in range(len(BOXES)):
        for one in ("PET", "CT"):
            arrays = made.store.read(made.base, EntryKey(patient, one, "spine")).arrays
            if one == modality:
                arrays = {name: hidden[f"occluded_{name}"][number] for name in ("memory", "mean_map")}
            key = EntryKey(f"N{number}", one, "spine")
            publish(
                store, made.base, key, Entry({name: arrays[name] for name in ("memory", "mean_map")}, {"valid": [1]})
            )
        rows[f"N{number}"] = table.loc[patient]
    pd.DataFrame(rows).T.rename_axis("patient").to_csv(folder / "new.csv")
    card, trained = read_model(str(made.folder / "models" / name))
    return predict(card, trained, Newcomers(str(folder), clinical=folder / "new.csv"), times=[1]).log_risk


def copied(made, tmp_path):
    shutil.copytree(made.folder / "store", tmp_path / "store")
    return open_store(tmp_path / "store")


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.ids, self.labelled, self.text = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        told = dict(attrs)
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in {"href", "src", "xlink:href", "action", "srcset"}]
        self.ids += [told["id"]] if "id" in told else []
        self.labelled += told["aria-labelledby"].split() if "aria-labelledby" in told else []

    def handle_data(self, data):
        self.text.append(data)
