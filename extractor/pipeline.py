"""Overlaps the stages of studies in one process: the next are loaded and the last ones written while some are embedded.

It knows nothing of what the stages do, of other processes, or of a plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from extractor.embedding import embed_studies, embed_study
from extractor.outcome import ItemOutcome
from extractor.spent import Spent, gpu_peak_bytes
from extractor.work import LoadedStudy, StudyTask, Write
from extractor.worker import Load, StudyResult, StudyStage, Told, reason_of

Embed = Callable[[LoadedStudy], Iterator[ItemOutcome | Write]]
EmbedGroup = Callable[[Sequence[LoadedStudy]], Iterator[tuple[int, ItemOutcome | Write]]]
Group = Sequence[StudyTask]
"""Studies that go through the network side by side; mostly one."""


def work_through(
    groups: Iterable[Group], load: Load, tell: Told, *, prefetch: bool = True, embed: EmbedGroup = embed_studies
) -> None:
    """Extracts one group of studies after the other; every study ends in a result that is told.

    The network runs in the calling thread. With `prefetch` a second thread loads the next group meanwhile, and asks for no task
    beyond it; a third writes what is embedded, in order. At most three groups are in memory: one loaded, one in the network,
    one being written. Numbers do not depend on it. Without `prefetch` a group is loaded once the one before is written.

    A study that raises is a result with an error. When the call ends early, what is embedded is still written.

    Parameters
    ----------
    groups
        Asked for one at a time, and in another thread.
    load
        Reads a study.
    tell
        Called from all three threads.
    embed
        Runs the network.
    """
    loader = ThreadPoolExecutor(1, "load")
    with ThreadPoolExecutor(1, "write") as writer:
        try:
            _Stages(iter(groups), load, tell, loader, writer, embed).run(prefetch=prefetch)
        finally:
            # Not waited for: it may be asking for a task, and nobody will want what it loads.
            loader.shutdown(wait=False, cancel_futures=True)


class _Defect:
    """Holds what a study's work raises in its block, for the study's result; what ends the process passes."""

    error: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: TracebackType | None) -> bool:
        if isinstance(error, Exception):
            self.error = error
        return self.error is not None


def work_on(
    task: StudyTask, load: Load, tell: Told, *, network: AbstractContextManager[object], embed: Embed = embed_study
) -> StudyResult:
    """Extracts one study in the calling thread; several threads overlap their studies, for the network runs for one at a time.

    A study that raises is a result with an error.

    Parameters
    ----------
    network
        Held while the network runs, such as a lock.
    """
    outcomes: list[ItemOutcome] = []
    defect, spent = _Defect(), Spent()
    with defect:
        tell(StudyStage(task, "loading"))
        with spent.timed("loading"):
            study = load(task)
        with network, spent.timed("embedding"), spent.counting():
            tell(StudyStage(task, "embedding"))
            made = list(embed(study))
        tell(StudyStage(task, "writing"))
        with spent.timed("writing"):
            outcomes = [*study.outcomes, *(one() if isinstance(one, Write) else one for one in made)]
    spent.gpu_peak_bytes = gpu_peak_bytes()
    if defect.error is not None:
        return StudyResult(task, error=reason_of(defect.error), spent=spent)
    return StudyResult(task, tuple(outcomes), spent=spent)


@dataclass(frozen=True)
class _Coming:
    """A group that is being loaded; it is None where there is none left."""

    group: Future[Group | None]
    loaded: Future[list[_Read]]


@dataclass(frozen=True)
class _Read:
    """A study, or the error that reading it ended in."""

    study: LoadedStudy | Exception
    spent: Spent


@dataclass
class _Made:
    """What came of a study's items so far, and the error that ended it."""

    task: StudyTask
    outcomes: list[ItemOutcome] = field(default_factory=list)
    writes: list[Future[ItemOutcome]] = field(default_factory=list)
    error: BaseException | None = None
    spent: Spent = field(default_factory=Spent)

    def write(self, one: Write) -> ItemOutcome:
        """Outcome of an entry that is written now."""
        with self.spent.timed("writing"):
            return one()

    def result(self) -> StudyResult:
        """The study's result, once all is written."""
        self.spent.gpu_peak_bytes = gpu_peak_bytes()
        errors = [self.error, *(write.exception() for write in self.writes)]
        found = next((one for one in errors if one is not None), None)
        if found is not None:
            return StudyResult(self.task, error=reason_of(found), spent=self.spent)
        outcomes = (*self.outcomes, *(write.result() for write in self.writes))
        return StudyResult(self.task, outcomes, spent=self.spent)


@dataclass
class _Stages:
    """The three stages, and the threads of two of them."""

    groups: Iterator[Group]
    load: Load
    tell: Told
    loader: ThreadPoolExecutor
    writer: ThreadPoolExecutor
    embed: EmbedGroup
    _written: list[Future[None]] = field(default_factory=list)
    """One for each group that is not known to be written."""

    def run(self, *, prefetch: bool) -> None:
        coming = self._coming()
        while (group := coming.group.result()) is not None:
            loaded = coming.loaded
            error = loaded.exception()
            # Before the next is loaded: else a slow writer would let a fourth group into memory.
            self._wait_for_writes(but=1)
            if prefetch:
                coming = self._coming()
            self._embed(group, loaded, error)
            del loaded
            if not prefetch:
                self._wait_for_writes()
                coming = self._coming()
        self._wait_for_writes()

    def _coming(self) -> _Coming:
        group = self.loader.submit(next, self.groups, None)
        return _Coming(group, self.loader.submit(self._loaded, group))

    def _loaded(self, coming: Future[Group | None]) -> list[_Read]:
        return [self._read(task) for task in coming.result() or ()]

    def _read(self, task: StudyTask) -> _Read:
        self.tell(StudyStage(task, "loading"))
        study, spent = None, Spent()
        defect = _Defect()
        with defect, spent.timed("loading"):
            study = self.load(task)
        if study is not None:
            return _Read(study, spent)
        assert defect.error is not None
        return _Read(defect.error, spent)

    def _embed(self, group: Group, loaded: Future[list[_Read]], error: BaseException | None) -> None:
        """Runs the network on one group; its writing, and then its results, wait in the writer's queue."""
        made = [_Made(task, error=error) for task in group]
        if error is None:
            self._pass(made, loaded.result())
        self._written.append(self.writer.submit(self._finish, made))

    def _pass(self, made: Sequence[_Made], loaded: Sequence[_Read]) -> None:
        sound: list[tuple[_Made, LoadedStudy]] = []
        for one, read in zip(made, loaded, strict=True):
            one.spent = read.spent
            if isinstance(read.study, Exception):
                one.error = read.study
            else:
                one.outcomes += read.study.outcomes
                sound.append((one, read.study))
                self.tell(StudyStage(one.task, "embedding"))
        defect, spent = _Defect(), Spent()
        with defect, spent.timed("embedding"), spent.counting():
            for place, found in self.embed([study for _, study in sound]):
                one = sound[place][0]
                if isinstance(found, Write):
                    one.writes.append(self.writer.submit(one.write, found))
                else:
                    one.outcomes.append(found)
        for place, (one, _) in enumerate(sound):
            one.error = defect.error
            one.spent.embedding_s = spent.embedding_s / len(sound)
            one.spent.slices = spent.slices if place == 0 else 0
            self.tell(StudyStage(one.task, "writing"))

    def _finish(self, made: Sequence[_Made]) -> None:
        """Tells the studies' results; in the writer's queue they stand behind their writes."""
        for one in made:
            self.tell(one.result())

    def _wait_for_writes(self, but: int = 0) -> None:
        """Lets no more than `but` groups be in the writer's hands, so that memory is bounded."""
        while len(self._written) > but:
            self._written.pop(0).result()
