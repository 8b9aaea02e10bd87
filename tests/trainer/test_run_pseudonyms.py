"""Runs on a store that names patients by pseudonyms: the same numbers, and no patient in anything that is written or said."""

import json

import pandas as pd
import pytest

from store_schema import create_store
from store_schema.errors import CohortError, TableError, UsageError
from store_schema.pseudonyms import PlainIds, Pseudonyms, settle_rule
from trainer.report.page import write_report

KEY = b"a planted key of many bytes"


def pseudonymised(kit, folder, *, study=None):
    """A store keyed by pseudonyms; its clinical table names patients plainly."""
    ids, table = Pseudonyms(KEY), kit.draw()
    table["patient"] = [f"KOWALSKA-{row:03d}" for row in range(len(table))]
    store = create_store(folder / "store")
    settle_rule(store, ids)
    kit.fill(store, table.assign(patient=[ids.key(patient, study) for patient in table["patient"]]))
    table.drop(columns=["z", "log_hazard"]).to_csv(folder / "clinical.csv", index=False)
    table[["patient", "z"]].to_csv(folder / "truth.csv", index=False)
    return {"store_url": str(folder / "store"), "clinical": folder / "clinical.csv"}


def everything_in(folder):
    return b"\n".join(str(path).encode() + path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_pseudonyms_join_tables_and_store_and_no_patient_is_written(cv, kit, tmp_path):
    inputs = pseudonymised(kit, tmp_path) | {"oracle": tmp_path / "truth.csv"}
    report = cv(inputs=inputs | {"ids": Pseudonyms(KEY)}, oracle={"columns": ["z"]})
    assert report.results.complete
    assert len(report.plan.cohort) == 40
    assert set(report.plan.cohort.patients) == {Pseudonyms(KEY).key(f"KOWALSKA-{row:03d}") for row in range(40)}
    assert write_report(str(tmp_path / "run")).endswith("report.html")
    assert b"KOWALSKA" not in everything_in(tmp_path / "run")
    assert b"KOWALSKA" in everything_in(tmp_path), "the search must be able to find one"
    assert json.loads(report.folder.read("run.json"))["key_fingerprint"] == Pseudonyms(KEY).rule.key_fingerprint


def test_pseudonyms_change_no_number(cv, kit, tmp_path):
    inputs = pseudonymised(kit, tmp_path)
    table = pd.read_csv(inputs["clinical"])
    table["patient"] = [Pseudonyms(KEY).key(patient) for patient in table["patient"]]
    table.to_csv(tmp_path / "done.csv", index=False)
    store = create_store(tmp_path / "unruled")
    drawn = kit.draw()
    kit.fill(store, drawn.assign(patient=table["patient"]))
    plain = cv("plain", inputs={"store_url": str(tmp_path / "unruled"), "clinical": tmp_path / "done.csv"})
    hidden = cv("hidden", inputs=inputs | {"ids": Pseudonyms(KEY)})
    assert [row.scores for row in plain.results.rows] == [row.scores for row in hidden.results.rows]


def test_pseudonyms_of_studies_keep_a_patients_studies_together(cv, kit, tmp_path):
    inputs = pseudonymised(kit, tmp_path, study="base")
    table = pd.read_csv(inputs["clinical"]).assign(visit="base")
    table.to_csv(inputs["clinical"], index=False)
    columns = {**kit.settings["columns"], "study": "visit"}
    report = cv(inputs=inputs | {"ids": Pseudonyms(KEY)}, columns=columns)
    cohort = report.plan.cohort
    assert cohort.person == tuple(patient.partition(".")[0] for patient in cohort.patients)
    assert b"KOWALSKA" not in everything_in(tmp_path / "run")


@pytest.mark.parametrize(
    ("ids", "said"),
    [(PlainIds(), "holds pseudonyms"), (Pseudonyms(b"another key of many bytes"), "another pseudonym key")],
)
def test_a_store_of_other_ids_is_refused(cv, kit, tmp_path, ids, said):
    with pytest.raises(UsageError, match=said):
        cv(inputs=pseudonymised(kit, tmp_path) | {"ids": ids})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.__setitem__("patient", [f["patient"][1], *f["patient"][1:]]),
        lambda f: f.__setitem__("months", ["KOWALSKA-007", *f["months"][1:]]),
        lambda f: f.__setitem__("months", 0),
        lambda f: f.__setitem__("event", 9),
    ],
)
def test_a_refused_table_names_no_patient_behind_pseudonyms(cv, kit, tmp_path, change):
    inputs = pseudonymised(kit, tmp_path)
    frame = pd.read_csv(inputs["clinical"])
    change(frame)
    frame.to_csv(inputs["clinical"], index=False)
    with pytest.raises((TableError, CohortError)) as caught:
        cv(inputs=inputs | {"ids": Pseudonyms(KEY)})
    assert "KOWALSKA" not in str(caught.value)
