"""The stages of studies in one process: overlapped, in order, bounded, and whole however one of them ends."""

import itertools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from extractor.config import ExtractConfig
from extractor.outcome import ItemOutcome
from extractor.pipeline import work_through
from extractor.study import StudyFiles
from extractor.table import StudyRow
from extractor.work import LoadedStudy, StudyTask, Write
from extractor.worker import StudyResult, StudyStage

WAIT_S = 20.0


def task(patient: str) -> StudyTask:
    row = StudyRow(2, patient, StudyFiles(patient, "ct.nii", None, {}), {})
    return StudyTask(row, ExtractConfig(), {})


def outcome(patient: str, layout: str) -> ItemOutcome:
    return ItemOutcome(patient, "CT", "spine", layout, "committed", "by a test")


@dataclass(frozen=True)
class Told(Write):
    """A write that tells when it is done, and may wait or fail first."""

    after: threading.Event | None = None
    error: Exception | None = None
    log: list[str] = field(default_factory=list)

    def __call__(self) -> ItemOutcome:
        if self.after is not None:
            assert self.after.wait(WAIT_S)
        if self.error is not None:
            raise self.error
        patient, layout = self.item
        self.log.append(f"wrote {patient}/{layout}")
        return outcome(patient, layout)


def write(patient: str, layout: str, **how) -> Told:
    return Told(None, (patient, layout), None, 0.0, **how)


class Stages:
    """Loads and embeds studies for a test, and writes down what happens."""

    def __init__(self, *, prefetch: bool = True) -> None:
        self.log: list[str] = []
        self.events: list[StudyStage | StudyResult] = []
        self.prefetch = prefetch

    def load(self, this: StudyTask) -> LoadedStudy:
        self.log.append(f"loaded {this.row.patient}")
        return LoadedStudy((outcome(this.row.patient, "held"),))

    def embed(self, loaded: LoadedStudy) -> Iterator[ItemOutcome | Write]:
        patient = loaded.outcomes[0].patient
        self.log.append(f"embedded {patient}")
        yield write(patient, "paper", log=self.log)

    def embed_group(self, group: Sequence[LoadedStudy]) -> Iterator[tuple[int, ItemOutcome | Write]]:
        for place, study in enumerate(group):
            for made in self.embed(study):
                yield place, made

    def run(self, patients: str, *, at_once: int = 1) -> dict[str, StudyResult]:
        groups = itertools.batched([task(patient) for patient in patients], at_once)
        work_through(groups, self.load, self.events.append, prefetch=self.prefetch, embed=self.embed_group)
        return self.results

    @property
    def results(self) -> dict[str, StudyResult]:
        return {event.task.row.patient: event for event in self.events if isinstance(event, StudyResult)}

    def stages_of(self, patient: str) -> list[str | None]:
        mine = [event for event in self.events if event.task.row.patient == patient]
        return [event.stage if isinstance(event, StudyStage) else "result" for event in mine]


@pytest.mark.parametrize("at_once", [1, 2, 9])
@pytest.mark.parametrize("prefetch", [True, False])
def test_every_study_ends_in_one_result_with_all_outcomes_after_its_stages(prefetch, at_once):
    stages = Stages(prefetch=prefetch)
    results = stages.run("abcde", at_once=at_once)
    assert list(results) == list("abcde")
    for patient, result in results.items():
        assert result.error is None
        assert [one.layout for one in result.outcomes] == ["held", "paper"]
        assert stages.stages_of(patient) == ["loading", "embedding", "writing", "result"]


def test_a_study_that_cannot_be_read_leaves_the_others_of_its_group_alone():
    class Broken(Stages):
        def load(self, this: StudyTask) -> LoadedStudy:
            if this.row.patient in "ad":
                raise ZeroDivisionError("planted")
            return super().load(this)

    stages = Broken()
    results = stages.run("abcd", at_once=3)
    assert {patient: result.error is None for patient, result in results.items()} == {
        "a": False,
        "b": True,
        "c": True,
        "d": False,
    }
    assert "ZeroDivisionError: planted" in results["a"].error
    assert stages.stages_of("a") == ["loading", "result"]
    assert [one.layout for one in results["c"].outcomes] == ["held", "paper"]


def test_no_study_is_no_work():
    assert Stages().run("") == {}


def test_the_next_study_is_loaded_and_the_last_one_written_while_one_is_embedded():
    """Each of the three waits for the others: the call would not end if they took turns."""
    loaded, written = threading.Event(), threading.Event()

    class Overlapping(Stages):
        def load(self, this: StudyTask) -> LoadedStudy:
            if this.row.patient == "c":
                loaded.set()
            return super().load(this)

        def embed(self, study: LoadedStudy) -> Iterator[ItemOutcome | Write]:
            patient = study.outcomes[0].patient
            if patient == "b":
                assert loaded.wait(WAIT_S)
                written.set()
            yield write(patient, "paper", after=written if patient == "a" else None, log=self.log)

    results = Overlapping().run("abc")
    assert [result.error for result in results.values()] == [None] * 3


def test_at_most_one_study_is_loaded_ahead_and_one_waits_to_be_written():
    """While the writer is held up by `a`, `b` may be embedded and `c` loaded, and no more is begun."""
    free = threading.Event()

    class Blocked(Stages):
        def embed(self, study: LoadedStudy) -> Iterator[ItemOutcome | Write]:
            patient = study.outcomes[0].patient
            self.log.append(f"embedded {patient}")
            yield write(patient, "paper", after=free if patient == "a" else None, log=self.log)

    stages = Blocked()
    thread = threading.Thread(target=stages.run, args=("abcdef",))
    thread.start()
    thread.join(1.0)
    begun = set(stages.log)
    free.set()
    thread.join(WAIT_S)
    assert begun <= {"loaded a", "loaded b", "loaded c", "embedded a", "embedded b"}
    assert {"embedded a", "embedded b", "loaded c"} <= begun
    assert len(stages.results) == 6


def test_without_prefetch_a_study_is_loaded_once_the_one_before_is_written():
    stages = Stages(prefetch=False)
    stages.run("ab")
    assert stages.log == ["loaded a", "embedded a", "wrote a/paper", "loaded b", "embedded b", "wrote b/paper"]


@pytest.mark.parametrize("where", ["load", "embed", "write"])
@pytest.mark.parametrize("prefetch", [True, False])
def test_what_a_stage_raises_is_that_studys_result_and_the_others_go_on(where, prefetch):
    class Broken(Stages):
        def load(self, this: StudyTask) -> LoadedStudy:
            if where == "load" and this.row.patient == "b":
                raise ZeroDivisionError("by load")
            return super().load(this)

        def embed(self, study: LoadedStudy) -> Iterator[ItemOutcome | Write]:
            patient = study.outcomes[0].patient
            fails = ZeroDivisionError("by write") if where == "write" and patient == "b" else None
            yield write(patient, "paper", error=fails, log=self.log)
            if where == "embed" and patient == "b":
                raise ZeroDivisionError("by embed")
            yield write(patient, "raw", log=self.log)

    stages = Broken(prefetch=prefetch)
    results = stages.run("abc")
    assert (results["a"].error, results["c"].error) == (None, None)
    assert str(results["b"].error).startswith(f"ZeroDivisionError: by {where} (test_pipeline.py:")
    assert results["b"].outcomes == ()
    # What was embedded before the failure is written all the same: a commit that stands costs nothing.
    assert ("wrote b/paper" in stages.log) is (where == "embed")


def test_what_is_embedded_is_written_when_the_call_ends_early():
    class Stopped(Stages):
        def embed(self, study: LoadedStudy) -> Iterator[ItemOutcome | Write]:
            patient = study.outcomes[0].patient
            yield write(patient, "paper", log=self.log)
            if patient == "b":
                raise KeyboardInterrupt

    stages = Stopped()
    with pytest.raises(KeyboardInterrupt):
        stages.run("abcd")
    assert {"wrote a/paper", "wrote b/paper"} <= set(stages.log)
    assert list(stages.results) == ["a"]
    assert not any("embedded c" in line for line in stages.log)
