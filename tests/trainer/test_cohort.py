"""Cohorts from clinical tables: counted exclusions, strict cells, stable digests."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from store_schema.errors import CohortError, TableError
from trainer.cohort import Cohort, FlowStep, build_cohort
from trainer.columns import Columns

COLUMNS = Columns(
    time="pfs", time_unit="months", event="progressed", continuous=("age", "crea"), categorical=("iss",), centre="site"
)
HEADER = "patient,pfs,progressed,age,crea,iss,site\n"
ROWS = [
    "P03,12,1,61,1.1,II,A",
    "P01,30.5,0,55,,I,A",
    "P04,7,1,70,0.9,,B",
    "P02,12,0,48,1.4,III,B",
    "P06,,1,66,1.0,II,A",
    "P05,9,,59,1.2,I,B",
    "007,4,1,,,,B",
]


def write(folder: Path, rows=ROWS, header=HEADER, name="clinical.csv") -> Path:
    path = folder / name
    path.write_text(header + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def test_cohort_is_sorted_by_patient_whatever_the_order_of_rows(tmp_path):
    forwards = build_cohort(write(tmp_path), COLUMNS, {})
    backwards = build_cohort(write(tmp_path, ROWS[::-1]), COLUMNS, {})
    assert forwards.patients == backwards.patients == ("007", "P01", "P02", "P03", "P04")
    assert forwards.digest == backwards.digest
    assert forwards.time.tolist() == [4.0, 30.5, 12.0, 12.0, 7.0]
    assert forwards.event.tolist() == [True, False, False, True, True]
    assert forwards.centre == ("B", "A", "B", "A", "B")
    assert (forwards.time.dtype, forwards.event.dtype) == (np.float64, np.bool_)


def test_covariates_keep_missing_values_and_the_order_of_the_config(tmp_path):
    frame = build_cohort(write(tmp_path), COLUMNS, {}).frame
    assert list(frame.columns) == ["age", "crea", "iss"]
    assert list(frame.index) == ["007", "P01", "P02", "P03", "P04"]
    np.testing.assert_array_equal(frame["crea"], [np.nan, np.nan, 1.4, 1.1, 0.9])
    assert frame["iss"].tolist() == [None, "I", "III", "II", None]


def test_exclusions_are_counted_step_by_step_in_the_papers_order(tmp_path):
    available = {
        "v/PET/spine": {"P01", "P02", "P03", "P05", "P06", "007", "Z9"},
        "v/CT/spine": {"P01", "P03", "P04", "P05", "P06", "007", "Z9", "Z8"},
    }
    cohort = build_cohort(write(tmp_path), COLUMNS, available, require_clinical=True)
    assert cohort.patients == ("P01", "P03")
    assert cohort.flow == (
        FlowStep("rows of the clinical table", 0, 7),
        FlowStep("no entry v/PET/spine in the store", 1, 6, ("P04",)),
        FlowStep("no entry v/CT/spine in the store", 1, 5, ("P02",)),
        FlowStep("no clinical value", 1, 4, ("007",)),
        FlowStep("no time (pfs)", 1, 3, ("P06",)),
        FlowStep("no event status (progressed)", 1, 2, ("P05",)),
    )
    assert cohort.only_in_store == ("Z9",)


def test_flow_of_the_paper_is_reproduced_from_its_counts(tmp_path):
    rows = [f"P{i:03d},{'' if i >= 227 else 5 + i},{i % 2},{'' if i >= 262 else 60},,,A" for i in range(349)]
    entries = {f"P{i:03d}" for i in range(345)}
    cohort = build_cohort(write(tmp_path, rows), COLUMNS, {"PET": entries, "CT": entries}, require_clinical=True)
    assert [(step.excluded, step.remaining) for step in cohort.flow] == [
        (0, 349), (4, 345), (0, 345), (83, 262), (35, 227), (0, 227),
    ]  # fmt: skip


def test_every_order_of_required_entries_gives_the_same_cohort(tmp_path):
    available = {"a": {"P01", "P02", "P03"}, "b": {"P02", "P03", "P04"}}
    turned = dict(reversed(available.items()))
    one, two = (build_cohort(write(tmp_path), COLUMNS, need) for need in (available, turned))
    assert one.patients == two.patients == ("P02", "P03")
    assert one.digest == two.digest


def test_csv_parquet_and_frame_give_the_same_cohort(tmp_path):
    path = write(tmp_path)
    frame = pd.read_csv(path, dtype={"patient": str})
    frame.to_parquet(tmp_path / "clinical.parquet")
    from_csv, from_parquet, from_frame = (
        build_cohort(table, COLUMNS, {}) for table in (path, tmp_path / "clinical.parquet", frame)
    )
    for other in (from_parquet, from_frame):
        assert other.digest == from_csv.digest
        pd.testing.assert_frame_equal(other.frame, from_csv.frame)


def test_whole_number_categories_are_spelled_the_same_in_csv_and_parquet(tmp_path):
    frame = pd.DataFrame({"patient": ["a", "b", "c"], "t": [1, 2, 3], "e": [True, False, True], "T": [1, None, 3]})
    columns = Columns(time="t", time_unit="years", event="e", categorical=("T",))
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        cohort = build_cohort(tmp_path / name, columns, {})
        assert cohort.frame["T"].tolist() == ["1", None, "3"]
        assert cohort.event.tolist() == [True, False, True]
        assert cohort.time_months.tolist() == [12.0, 24.0, 36.0]


def test_a_byte_order_mark_and_spaces_around_names_do_not_matter(tmp_path):
    path = write(tmp_path, header="﻿" + HEADER.replace("pfs", " pfs "))
    assert len(build_cohort(path, COLUMNS, {})) == 5


def test_unknown_column_is_refused_with_the_columns_there_are(tmp_path):
    with pytest.raises(TableError, match=r"no column 'pfs_months': its columns are 'patient', 'pfs', 'progressed'"):
        build_cohort(write(tmp_path), COLUMNS.model_copy(update={"time": "pfs_months"}), {})


def test_same_patient_twice_is_refused_by_name(tmp_path):
    with pytest.raises(TableError, match=r"lists P01 more than once.*`columns: study`"):
        build_cohort(write(tmp_path, [*ROWS, "P01,3,1,50,1,I,A"]), COLUMNS, {})


def test_studies_of_one_patient_are_rows_of_their_own_that_share_a_person(tmp_path):
    path = write(tmp_path, ["P1,s1,5,1", "P1,s2,8,0", "P2,s1,9,1"], "patient,study,pfs,progressed\n")
    cohort = build_cohort(path, Columns(study="study", time="pfs", time_unit="days", event="progressed"), {})
    assert cohort.patients == ("P1.s1", "P1.s2", "P2.s1")
    assert cohort.person == ("P1", "P1", "P2")


@pytest.mark.parametrize("value", ["0", "-3", "0.0"])
def test_time_that_is_not_positive_is_an_error_that_names_the_patient(tmp_path, value):
    rows = [*ROWS, f"P20,{value},1,50,1,I,A"]
    with pytest.raises(CohortError, match=r"'pfs': a time must be > 0 months, and is not for P20"):
        build_cohort(write(tmp_path, rows), COLUMNS, {"v": {"P01"}})


@pytest.mark.parametrize("value", ["twelve", "12 mo", "inf", "1_2", '"12,5"'])
def test_time_that_is_not_a_number_is_an_error_that_names_row_and_patient(tmp_path, value):
    with pytest.raises(TableError, match=r"column 'pfs', row 8 \(patient P20\): expected a finite number"):
        build_cohort(write(tmp_path, [*ROWS, f"P20,{value},1,50,1,I,A"]), COLUMNS, {})


def test_covariate_that_is_not_a_number_is_an_error_that_names_row_and_patient(tmp_path):
    with pytest.raises(TableError, match=r"column 'crea', row 8 \(patient P20\).*got '<0.5'"):
        build_cohort(write(tmp_path, [*ROWS, "P20,4,1,50,<0.5,I,A"]), COLUMNS, {})


def test_event_that_was_not_declared_is_an_error(tmp_path):
    with pytest.raises(TableError, match=r"row 8 \(patient P20\): expected 1 for an event or one of \(0,\).*got '2'"):
        build_cohort(write(tmp_path, [*ROWS, "P20,4,2,50,1,I,A"]), COLUMNS, {})


def test_permuted_cohort_keeps_patients_and_covariates_and_moves_outcomes_in_pairs(tmp_path):
    cohort = build_cohort(write(tmp_path), COLUMNS, {})
    permuted = cohort.permuted(seed=1)
    assert permuted.patients == cohort.patients
    assert permuted.frame is cohort.frame
    pairs = [sorted(zip(one.time, one.event, strict=True)) for one in (cohort, permuted)]
    assert pairs[0] == pairs[1]
    assert permuted.digest != cohort.digest


def test_permuted_outcomes_of_one_person_stay_together(tmp_path):
    rng = np.random.default_rng(0)
    studies = [(f"P{person:02d}", f"S{study}") for person in range(20) for study in range(1 + person % 3)]
    times = {person: 1 + rng.integers(1, 1000) for person, _ in studies}
    frame = pd.DataFrame(studies, columns=["patient", "study"])
    frame["months"] = [times[person] for person, _ in studies]
    frame["event"] = [times[person] % 2 for person, _ in studies]
    columns = Columns(time="months", time_unit="months", event="event", study="study")
    cohort = build_cohort(frame, columns, {})
    permuted = cohort.permuted(3)
    assert not np.array_equal(permuted.time, cohort.time)
    assert sorted(permuted.time) == sorted(cohort.time)
    by_person = pd.Series(permuted.time).groupby(list(cohort.person))
    assert (by_person.nunique() == 1).all()
    np.testing.assert_array_equal(permuted.time % 2 == 1, permuted.event)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_declared_codes_are_missing_also_where_gaps_made_floats_of_them(tmp_path, suffix):
    frame = pd.DataFrame(
        {
            "patient": ["a", "b", "c", "d"],
            "age": [60.0, 999.0, np.nan, 70.0],
            "stage": [1.0, 9.0, np.nan, 2.0],
            "months": [1.0, 2.0, 3.0, 999.0],
            "event": [1, 0, 1, 0],
            "note": ["x", "n/A", "nan", "None"],
        }
    )
    path = tmp_path / f"t{suffix}"
    frame.to_csv(path, index=False) if suffix == ".csv" else frame.to_parquet(path)
    columns = Columns(
        time="months", time_unit="months", event="event", continuous=("age",), categorical=("stage", "note"),
        missing=("999", "9", "N/A", "NaN"),
    )  # fmt: skip
    cohort = build_cohort(path, columns, {})
    assert cohort.patients == ("a", "b", "c")
    np.testing.assert_array_equal(cohort.frame["age"], [60.0, np.nan, np.nan])
    assert cohort.frame["stage"].tolist() == ["1", None, None]
    assert cohort.frame["note"].tolist() == ["x", None, None]


def test_table_without_rows_leaves_nobody(tmp_path):
    (tmp_path / "t.csv").write_text(HEADER)
    with pytest.raises(CohortError, match="nobody remains of the 0 patients"):
        build_cohort(tmp_path / "t.csv", COLUMNS, {})


@pytest.mark.parametrize(("event", "censored"), [("1", "0"), ("1.0", "0.0"), ("True", "False"), ("true", "FALSE")])
def test_event_is_read_from_every_common_spelling(tmp_path, event, censored):
    path = write(tmp_path, [f"a,1,{event}", f"b,2,{censored}"], "patient,pfs,progressed\n")
    cohort = build_cohort(path, Columns(time="pfs", time_unit="months", event="progressed"), {})
    assert cohort.event.tolist() == [True, False]


def test_other_causes_count_as_censored_where_they_are_declared(tmp_path):
    path = write(tmp_path, ["a,1,relapse", "b,2,alive", "c,3,death"], "patient,pfs,end\n")
    columns = Columns(
        time="pfs", time_unit="months", event="end", event_value="relapse", censored_values=("alive", "death")
    )
    assert build_cohort(path, columns, {}).event.tolist() == [True, False, False]


def test_competing_events_keep_their_code_until_follow_up_is_cut(tmp_path):
    rows = ["P1,5,1", "P2,9,2", "P3,20,3", "P4,30,0"]
    path = write(tmp_path, rows, "patient,time,event\n")
    columns = Columns(time="time", time_unit="months", event="event", competing_values=(2, 3))
    cohort = build_cohort(path, columns, {})
    assert cohort.cause.tolist() == [1, 2, 3, 0]
    assert cohort.event.tolist() == [True, False, False, False]
    assert columns.causes == ("event = 1", "event = 2", "event = 3")
    cut = build_cohort(path, columns.model_copy(update={"censor_at": 10.0}), {})
    assert cut.cause.tolist() == [1, 2, 0, 0]
    assert cut.digest != cohort.digest
    again = Cohort.from_dict(json.loads(json.dumps(cohort.to_dict())))
    assert again.cause.tolist() == [1, 2, 3, 0]
    assert again.digest == cohort.digest
    # a permuted cohort is for models alone, to which other events are censorings
    assert cohort.permuted(1).cause is None


def test_administrative_censoring_cuts_later_times_and_keeps_events_at_the_limit(tmp_path):
    cohort = build_cohort(write(tmp_path), COLUMNS.model_copy(update={"censor_at": 7.0}), {})
    assert cohort.time.tolist() == [4.0, 7.0, 7.0, 7.0, 7.0]
    assert cohort.event.tolist() == [True, False, False, False, True]


def test_digest_changes_with_outcomes_and_centres_and_not_with_covariates(tmp_path):
    plain = build_cohort(write(tmp_path), COLUMNS, {})
    older = build_cohort(write(tmp_path, [row.replace(",61,", ",62,") for row in ROWS]), COLUMNS, {})
    later = build_cohort(write(tmp_path, [row.replace("30.5", "30.6") for row in ROWS]), COLUMNS, {})
    moved = build_cohort(write(tmp_path, [row.replace("III,B", "III,A") for row in ROWS]), COLUMNS, {})
    assert older.digest == plain.digest
    assert len({plain.digest, later.digest, moved.digest}) == 3


def test_cohort_survives_json_and_pickle_unchanged(tmp_path):
    cohort = build_cohort(write(tmp_path), COLUMNS, {"v": {"P01", "P02", "P03", "Z1"}})
    for copy in (Cohort.from_dict(json.loads(json.dumps(cohort.to_dict()))), pickle.loads(pickle.dumps(cohort))):
        assert (copy.patients, copy.person, copy.centre) == (cohort.patients, cohort.person, cohort.centre)
        assert (copy.flow, copy.only_in_store, copy.digest) == (cohort.flow, cohort.only_in_store, cohort.digest)
        pd.testing.assert_frame_equal(copy.frame, cohort.frame)


def test_rows_follow_the_order_asked_for_and_refuse_strangers(tmp_path):
    cohort = build_cohort(write(tmp_path), COLUMNS, {})
    assert cohort.rows(["P03", "007"]).tolist() == [3, 0]
    with pytest.raises(CohortError, match="P99: not in the cohort of 5 patients"):
        cohort.rows(["P01", "P99"])


def test_a_part_is_the_cohort_of_a_table_of_these_patients_alone(tmp_path):
    columns = COLUMNS.model_copy(update={"competing_values": ("2",)})
    rows = [*ROWS[:4], "P07,3,2,58,1.3,I,A"]
    whole = build_cohort(write(tmp_path, rows), columns, {})
    alone = build_cohort(write(tmp_path, [rows[4], rows[1], rows[2]], name="part.csv"), columns, {})
    part = whole.part(("P01", "P04", "P07"))
    assert part.digest == alone.digest
    pd.testing.assert_frame_equal(part.frame, alone.frame)
    assert whole.part(("P07", "P01")).cause.tolist() == [2, 0]
    with pytest.raises(CohortError, match="P99"):
        whole.part(("P01", "P99"))


def test_empty_cohort_is_refused_with_the_steps_that_emptied_it(tmp_path):
    with pytest.raises(CohortError, match=r"nobody remains of the 7 patients .*no entry v in the store: 7 excluded"):
        build_cohort(write(tmp_path), COLUMNS, {"v": set()})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "cannot be read as a csv table .*it is empty"),
        ("t.csv", b"patient,pfs\na,1,2,3\n", "row 1 under the header has 4 cells, and the header 2"),
        ("t.csv", HEADER.encode() + b"a,1,1,1,1,I,A\nb,2", "row 2 under the header has 2 cells, and the header 7"),
        ("t.csv", b"patient,pfs\n\xff\xfe,1\n", "cannot be read as a csv table"),
        ("t.csv", b"patient,pfs,pfs\na,1,2\n", "names pfs more than once"),
        ("t.csv", b"patient,pfs,progressed,age,crea,iss,site\n,1,1,1,1,1,A\n", "expected an id in every row"),
        ("t.parquet", b"not parquet", "cannot be read as a parquet table"),
        ("t.xlsx", b"", "expected .csv, .tsv or .parquet"),
    ],
)
def test_damaged_tables_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TableError, match=message):
        build_cohort(tmp_path / name, COLUMNS, {})


def test_absent_table_is_refused(tmp_path):
    with pytest.raises(TableError, match=r"absent\.csv cannot be read"):
        build_cohort(tmp_path / "absent.csv", COLUMNS, {})


@pytest.mark.parametrize(
    "wrong",
    [
        {"continuous": ("age", "age")},
        {"categorical": ("pfs",)},
        {"event_value": 0},
        {"censored_values": ()},
        {"censor_at": 0},
        {"time_unit": "weeks"},
        {"colour": "red"},
    ],
)
def test_contradicting_columns_are_refused(wrong):
    with pytest.raises(ValidationError):
        Columns(**{"time": "pfs", "time_unit": "months", "event": "progressed", **wrong})


@pytest.mark.real
@pytest.mark.skipif("ENGRAM_REAL_DATA" not in os.environ, reason="ENGRAM_REAL_DATA names no folder of real data")
def test_hn300_table_is_read_whole(tmp_path):
    source = Path(os.environ["ENGRAM_REAL_DATA"]) / "hn300" / "hn_study_clinical_survival.csv"
    frame = pd.read_csv(source, dtype=str)
    frame["patient"] = frame["centre"] + "-" + frame["idx"]
    columns = Columns(
        time="death_days", time_unit="days", event="death_event", continuous=("age",),
        categorical=("T", "N", "HPV"), centre="centre",
    )  # fmt: skip
    cohort = build_cohort(frame, columns, {})
    assert (len(cohort), int(cohort.event.sum())) == (300, 56)
    assert int(cohort.frame["HPV"].isna().sum()) == 180
    assert sorted(cohort.frame["T"].dropna().unique()) == ["1", "2", "3", "4"]


def test_outcomes_permuted_within_centres_leave_each_centre_its_own(tmp_path):
    rng = np.random.default_rng(0)
    rows = [f"P{n:02d},{rng.integers(1, 90)},{rng.integers(0, 2)},{'AB'[n % 3 == 0]}" for n in range(60)]
    path = write(tmp_path, rows, "patient,time,event,site\n")
    cohort = build_cohort(path, Columns(time="time", time_unit="months", event="event", centre="site"), {})
    permuted = cohort.permuted([3, 1], within_centres=True)
    for centre in "AB":
        mine = np.array(cohort.centre) == centre
        pairs = [sorted(zip(one.time[mine], one.event[mine], strict=True)) for one in (cohort, permuted)]
        assert pairs[0] == pairs[1]
    assert (permuted.time != cohort.time).any()
    # without centres the draw is what it was
    np.testing.assert_array_equal(cohort.permuted(5).time, cohort.time[np.random.default_rng(5).permutation(60)])
