"""Feature tables in a store: what is stored, what stays missing, what is refused; resume, plan, pseudonyms, exit status."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from extractor.cli import main
from extractor.feature_table import read_feature_table
from extractor.importing import ImportOptions, ImportReport, import_features
from store_schema import EntryKey, open_store
from store_schema.errors import InvalidKeyError, TableError
from store_schema.packs import open_pack
from store_schema.pseudonyms import KEY_VARIABLE, PlainIds, Pseudonyms
from store_schema.vectors import MISSING, by_name
from store_schema.withdraw import withdraw

TABLE = """patient,modality,roi,volume,energy,mean
P1,PET,a,12.5,3e9,0.1
P1,CT,a,12.5,,-20
P2,PET,a,7,NaN,0.3
"""


def written(folder: Path, text: str = TABLE) -> Path:
    (folder / "f.csv").write_text(text)
    return folder / "f.csv"


def bring(table: Path, **options) -> ImportReport:
    return import_features(ImportOptions(table, str(table.parent / "store"), "radiomics", **options))


def stored(table: Path, report: ImportReport, key: str) -> dict[str, float]:
    store = open_store(str(table.parent / "store"))
    return dict(
        by_name(store.view(report.view_id).layout, store.read(report.view_id, EntryKey.parse(key)).arrays["memory"])
    )


def test_a_table_becomes_a_view_of_named_vectors_and_what_is_missing_stays_missing(tmp_path):
    table = written(tmp_path)
    report = bring(table, settings={"software": "mirp"})
    assert {o.result for o in report.outcomes} == {"committed"}
    assert (report.features, report.missing, report.failed) == (3, 2, False)
    store = open_store(str(tmp_path / "store"))
    view = store.view(report.view_id)
    assert view.layout.features == ("energy", "mean", "volume")
    assert view.layout.shape == (1, 3, 1, 1)
    assert view.flags == {"software": "mirp"}
    assert stored(table, report, "P1/PET/a") == {"energy": 3e9, "mean": float(np.float32(0.1)), "volume": 12.5}
    absent = stored(table, report, "P1/CT/a")
    assert np.isnan(absent["energy"])
    assert (absent["mean"], absent["volume"]) == (-20, 12.5)
    entry = store.read(report.view_id, EntryKey.parse("P1/CT/a"))
    assert entry.attributes["missing"] == ["energy"]
    assert entry.commit.sources[0].role == "features"
    snapshot = store.snapshot(report.snapshot)
    assert sorted(map(str, snapshot.keys)) == ["P1/CT/a", "P1/PET/a", "P2/PET/a"]
    assert open_pack(snapshot, "memory").load().shape == (3, 1, 3, 1, 1)
    assert store.verify().ok


def test_a_rerun_writes_nothing_and_a_changed_row_alone_anew(tmp_path):
    table = written(tmp_path)
    first = bring(table)
    again = bring(table)
    assert {item.state for item in again.plan} == {o.result for o in again.outcomes} == {"done"}
    assert again.snapshot == first.snapshot
    written(tmp_path, TABLE.replace("12.5,3e9", "12.6,3e9"))
    changed = bring(table)
    assert [(item.state, o.result, o.number) for item, o in zip(changed.plan, changed.outcomes, strict=True)] == [
        ("stale", "committed", 1),
        ("done", "done", 0),
        ("done", "done", 0),
    ]
    written(tmp_path)
    back = bring(table)
    assert (back.outcomes[0].result, back.outcomes[0].number) == ("superseded", 0)
    assert back.snapshot == first.snapshot
    current = bring(table, make_current=True)
    assert (current.outcomes[0].result, current.outcomes[0].number) == ("committed", 2)


def test_neither_the_order_of_columns_and_rows_nor_the_format_is_another_input(tmp_path):
    table = written(tmp_path)
    first = bring(table)
    frame = pd.read_csv(table)[["roi", "mean", "patient", "volume", "modality", "energy"]][::-1]
    frame.to_parquet(tmp_path / "f.parquet")
    again = bring(tmp_path / "f.parquet")
    assert again.view_id == first.view_id
    assert {o.result for o in again.outcomes} == {"done"}
    assert again.snapshot == first.snapshot


def test_a_dry_run_writes_nothing_and_other_features_or_settings_are_another_view(tmp_path):
    table = written(tmp_path)
    dry = bring(table, dry_run=True)
    assert {item.state for item in dry.plan} == {"new"}
    assert not (tmp_path / "store").exists()
    views = {dry.view_id, bring(table, dry_run=True, settings={"bin": "1"}).view_id}
    views.add(bring(table, dry_run=True, leave_out=("mean",)).view_id)
    assert len(views) == 3


def test_bad_rows_fail_with_reasons_and_the_rest_is_written(tmp_path):
    rows = {
        "P3": ("1e39", "which float32 cannot hold"),
        "P4": ("1e-60", "which float32 cannot hold"),
        "P5": ("inf", "no number"),
        "P6": ("1,5".replace(",", ";"), "no number"),
        "P7": (repr(MISSING), "which float32 cannot hold"),
    }
    text = TABLE + "".join(f"{patient},PET,a,{cell},1,1\n" for patient, (cell, _) in rows.items()) + "P8,PET,a,,,\n"
    report = bring(written(tmp_path, text))
    failed = {o.patient: o.reason for o in report.outcomes if o.result == "failed"}
    assert failed.keys() == {*rows, "P8"}
    for patient, (_, said) in rows.items():
        assert "volume" in failed[patient]
        assert said in failed[patient]
    assert "no feature is known" in failed["P8"]
    assert sum(o.result == "committed" for o in report.outcomes) == 3
    assert report.failed
    assert len(open_store(str(tmp_path / "store")).snapshot(report.snapshot)) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("patient,modality,volume\nP1,PET,1\n", r"lacks the column\(s\) \['roi'\]"),
        ("patient,modality,roi\nP1,PET,a\n", "no feature"),
        ("patient,modality,roi,volume\n", "no rows"),
        ("patient,modality,roi,scanner,volume\nP1,PET,a,GE,1\n", "'scanner' holds no number.*--leave-out scanner"),
        ("patient,modality,roi,feature,value\nP1,PET,a,mean,1\n", "long table.*pivot"),
        ("patient,modality,roi,v\nP1,PET,a,1\nP1,PET,a,2\n", "more than one row"),
        ("patient,modality,roi,v,v\nP1,PET,a,1,2\n", "more than once"),
    ],
)
def test_a_table_that_is_none_is_refused_whole(tmp_path, text, said):
    with pytest.raises(TableError, match=said):
        bring(written(tmp_path, text))
    assert not (tmp_path / "store").exists()


def test_ids_that_no_store_takes_or_that_differ_by_case_alone_are_refused(tmp_path):
    for text in ("P 1,PET,a,1", "P1,PET,a,1\np1,PET,a,1", ",PET,a,1"):
        with pytest.raises(InvalidKeyError):
            bring(written(tmp_path, f"patient,modality,roi,v\n{text}\n"))
    bring(written(tmp_path))
    report = bring(written(tmp_path, TABLE.replace("P2", "p2")))
    assert {o.patient: o.result for o in report.outcomes}["p2"] == "failed"


def test_withdrawn_entries_are_left_alone_and_are_no_failure(tmp_path):
    table = written(tmp_path)
    bring(table)
    withdraw(open_store(str(tmp_path / "store")), patients=["P2"], reason="consent")
    report = bring(table)
    assert [o.result for o in report.outcomes] == ["done", "done", "withdrawn"]
    assert not report.failed
    assert len(open_store(str(tmp_path / "store")).snapshot(report.snapshot)) == 2


def test_pseudonyms_are_those_of_an_extraction_and_no_id_is_written(tmp_path):
    text = TABLE.replace("patient,", "patient,study,").replace("P1,", "Anna,base,").replace("P2,", "Berta,base,")
    table, ids = written(tmp_path, text), Pseudonyms(b"1" * 32)
    report = bring(table, ids=ids)
    assert {o.patient for o in report.outcomes} == {ids.key("Anna", "base"), ids.key("Berta", "base")}
    for path in (tmp_path / "store").rglob("*"):
        assert not path.is_file() or b"Anna" not in path.read_bytes(), path


def test_the_command_tells_plan_counts_and_failures_by_its_exit_status(tmp_path, monkeypatch):
    table, store = written(tmp_path), str(tmp_path / "store")
    call = ["import-features", str(table), "--store", store, "--name", "radiomics"]
    first = CliRunner().invoke(main, [*call, "--setting", "software=mirp"])
    assert first.exit_code == 0, first.output
    assert "3 features of 3 entries; 2 of 9 values are not known" in first.output
    written(tmp_path, TABLE + "P9,PET,a,x,1,1\n")
    assert CliRunner().invoke(main, [*call, "--setting", "software=mirp"]).exit_code == 1
    assert CliRunner().invoke(main, [*call, "--setting", "software"]).exit_code == 2
    assert CliRunner().invoke(main, [*call, "--leave-out", "colour"]).exit_code == 2
    monkeypatch.setenv(KEY_VARIABLE, "k" * 32)
    assert CliRunner().invoke(main, [*call, "--pseudonymise"]).exit_code == 2
    records = sorted((tmp_path / "store" / "runs").rglob("finish.json"))
    assert sorted(json.loads(path.read_text())["failed"] for path in records) == [0, 1]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(-(2.0**99), 2.0**99, width=32)), min_size=1, max_size=6))
def test_every_float32_and_every_gap_is_read_as_it_was_written(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("t")
    names = ",".join(f"f{i}" for i in range(len(values)))
    cells = ",".join("" if value is None else repr(value) for value in values)
    (folder / "f.csv").write_text(f"patient,modality,roi,{names}\nP1,PET,a,{cells}\n")
    (row,) = read_feature_table(folder / "f.csv", PlainIds()).rows
    expected = np.array([np.nan if value is None else value for value in values], np.float64)
    np.testing.assert_array_equal(row.values, expected)
    assert (row.problem is None) == any(value is not None for value in values)
    if row.problem is None:
        kept = np.where(row.vector.ravel() == np.float32(MISSING), np.nan, row.vector.ravel().astype(np.float64))
        np.testing.assert_array_equal(kept, expected)
