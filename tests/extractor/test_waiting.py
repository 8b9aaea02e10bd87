"""Which study comes next, and who is blamed for a death: laws of the waiting list, without any process."""

import random

import pytest

from extractor.config import ExtractConfig
from extractor.study import StudyFiles
from extractor.table import StudyRow
from extractor.waiting import Waiting
from extractor.work import StudyTask
from extractor.worker import DIED, StudyResult, StudyStage


def task(patient: str) -> StudyTask:
    files = StudyFiles(patient=patient, ct="/ct.nii", pet=None, masks={}, label_map=None)
    return StudyTask(StudyRow(2, patient, files, {}, patient), ExtractConfig(), {})


@pytest.fixture
def told() -> list[StudyStage | StudyResult]:
    return []


def waiting(patients: str, told: list) -> Waiting:
    return Waiting([task(patient) for patient in patients], told.append)


def names(tasks) -> str:
    return "".join(one.row.patient for one in tasks)


def test_studies_come_in_the_order_of_the_table(told):
    left = waiting("ABC", told)
    assert names([left.take([]), left.take([]), left.take([])]) == "ABC"
    assert left.take([]) is None
    assert not left


def test_suspects_come_last_and_alone(told):
    left = waiting("ABC", told)
    died = [left.take([]), left.take([])]
    left.died(died)
    assert [event.stage for event in told] == [None, None]
    innocent = left.take([])
    assert names([innocent]) == "C"
    assert left.take(beside=[innocent]) is None, "a suspect waits until nothing is beside it"
    suspect = left.take(beside=[])
    assert names([suspect]) == "A"
    assert left.take(beside=[suspect]) is None, "nothing comes beside a suspect"


def test_a_second_death_gives_a_study_up_and_clears_nobody_else(told):
    left = waiting("AB", told)
    left.died([left.take([]), left.take([])])
    killer = left.take([])
    left.died([killer])
    assert told[-1] == StudyResult(killer, error=DIED)
    assert names([left.take([])]) == "B"


def test_no_worker_ends_every_study_with_the_reason(told):
    left = waiting("AB", told)
    left.give_up("why")
    assert [event.error for event in told] == ["why"] * 2
    assert not left


@pytest.mark.parametrize("seed", range(50))
def test_whatever_dies_every_study_has_one_result_and_only_the_killer_fails(seed, told):
    """Workers that die of K and, now and then, of themselves: nobody but K and the twice unlucky is given up."""
    rng, left = random.Random(seed), waiting("ABCDEFGHK", told)
    places: list[list[StudyTask]] = [[], [], []]
    accidents: dict[str, int] = {}
    done: list[str] = []
    while left or any(places):
        for place in places:
            if len(place) < 2 and (one := left.take(beside=place)) is not None:
                place.append(one)
        place = rng.choice([place for place in places if place])
        killed, accident = "K" in names(place), rng.random() < 0.1
        if killed or accident:
            for one in place:
                accidents[one.row.patient] = accidents.get(one.row.patient, 0) + 1
            left.died(place)
            place.clear()
        else:
            done.append(place.pop(0).row.patient)
    given_up = [event.task.row.patient for event in told if isinstance(event, StudyResult)]
    assert sorted(done + given_up) == list("ABCDEFGHK")
    assert "K" in given_up
    assert all(accidents[patient] == 2 for patient in given_up)
