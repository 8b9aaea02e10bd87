"""The summary of failures: one group a kind, the next step of each kind, nothing left without one."""

import io

import pytest
from rich.console import Console

import store_schema.errors as errors
from extractor.advice import DEFECT, grouped, next_step, print_summary
from extractor.outcome import ItemOutcome
from extractor.worker import DIED, NO_WORKER


def failed(patient: str, reason: str, modality: str = "CT") -> ItemOutcome:
    return ItemOutcome(patient, modality, "spine", "paper", "failed", reason)


def summary(outcomes: list[ItemOutcome]) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_summary(outcomes, console)
    return " ".join(console.file.getvalue().replace("│", " ").split())


def test_reasons_that_differ_in_study_file_or_number_alone_are_one_group():
    outcomes = [
        failed(f"P{n:03d}", f"ImageError: /data/P{n:03d}/ct.nii.gz is damaged or cut short: {n} of 300 bytes")
        for n in range(9)
    ]
    (group,) = grouped(outcomes)
    assert group.patients == tuple(f"P{n:03d}" for n in range(9))
    assert group.items == 9
    assert group.reason == outcomes[0].reason


@pytest.mark.parametrize(
    "place",
    ["/a b/x", "s3://bucket/P2/ct.nii.gz", "https://host/P2/ct.nii.gz#0123456789ab", "/data/P2.follow-up/ct.nii"],
)
def test_addresses_are_no_difference(place):
    first = failed("P1", "FileNotFoundError: /data/P1/ct.nii.gz is not there.")
    expected = 2 if " " in place else 1
    assert len(grouped([first, failed("P2", f"FileNotFoundError: {place} is not there.")])) == expected


def test_other_reasons_are_other_groups_and_the_largest_comes_first():
    outcomes = [failed("P1", "MaskError: mask is empty"), *(failed(f"Q{n}", DIED) for n in range(3))]
    assert [group.reason for group in grouped(outcomes)] == [DIED, "MaskError: mask is empty"]


def test_items_of_one_study_are_one_study():
    (group,) = grouped([failed("P1", DIED, "CT"), failed("P1", DIED, "PET")])
    assert (group.patients, group.items) == (("P1",), 2)


def test_what_did_not_fail_is_no_failure():
    assert grouped([ItemOutcome("P1", "CT", "spine", "paper", "withdrawn", "withdrawn")]) == []


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("file not found: CT /data/x.nii.gz", "correct the path"),
        ("FileNotFoundError: s3://b/x is not there.", "correct the path"),
        ("patient 'p1' differs by case alone from 'P1' in the store: not every", "as the store has it"),
        ("BackendError: /x cannot be written ([Errno 28] No space left on device)", "add space"),
        (DIED, "fewer --jobs"),
        (f"{NO_WORKER}: why", "extractor doctor"),
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB (x.py:3)", "more memory"),
        ("MemoryError:  (image_files.py:80)", "more memory"),
        ("PermissionError: /x may not be read: check the credentials", "right"),
        ("ImageError: x is damaged", "image viewer"),
        ("GeometryError: x", "register"),
        ("MaskError: empty", "leave its cell"),
        ("IntensityError: x", "SUV"),
        ("ObjectAlteredError: x", "store-schema verify"),
        ("WeightsError: x", "checkpoint"),
        ("BackendError: x", "store-schema doctor"),
        ("OSError: s3://x could not be read (the server answered 503): check network", "network"),
        ("the Dask scheduler was lost: run the same command again", "start the scheduler"),
        ("ZeroDivisionError: division by zero (memory.py:12)", "it is a defect"),
    ],
)
def test_each_kind_of_failure_has_its_own_next_step(reason, said):
    assert said in next_step(reason)


def test_no_error_of_ours_is_called_a_defect():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.EngramError)]
    of_a_study = [
        kind for kind in kinds if kind.__name__ not in ("EngramError", "CohortError", "TaskError", "StoreError")
    ]
    assert len(of_a_study) > 12
    assert [k.__name__ for k in of_a_study if next_step(f"{k.__name__}: x") == DEFECT] == ["EntryWithdrawnError"]


def test_the_summary_names_studies_reason_and_step_and_counts_the_rest():
    outcomes = [ItemOutcome("P0", "CT", "spine", "paper", "committed", "ok", 0)]
    outcomes += [failed(f"P{n}", f"MaskError: /d/P{n}.nii is empty") for n in range(1, 10)]
    said = summary(outcomes)
    assert "Items: 1 committed, 9 failed" in said
    assert "P1, P2, P3, P4, P5, P6 and 3 more" in said
    assert "MaskError: /d/P1.nii is empty" in said
    assert "leave its cell in the table empty" in said


def test_without_failures_there_is_no_table():
    assert summary([ItemOutcome("P0", "CT", "spine", "paper", "done", "ok", 0)]) == "Items: 1 done"
    assert summary([]) == "Items: none"
