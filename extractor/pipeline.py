"""Overlaps the stages of studies in one process: the next is loaded and the last one written while one is embedded.

It knows nothing of what the stages do, of other processes, or of a plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from extractor.embedding import embed_study
from extractor.outcome import ItemOutcome
from extractor.work import LoadedStudy, StudyTask, Write
from extractor.worker import Load, StudyResult, StudyStage, Told, reason_of

Embed = Callable[[LoadedStudy], Iterator[ItemOutcome | Write]]


def work_through(
    tasks: Iterable[StudyTask], load: Load, tell: Told, *, prefetch: bool = True, embed: Embed = embed_study
) -> None:
    """Extracts one study after the other; every study ends in a result that is told.

    The network runs in the calling thread. With `prefetch` a second thread loads the next study meanwhile, and asks for no task
    beyond it; a third writes what is embedded, in order. At most three studies are in memory: one loaded, one in the network,
    one being written. Numbers do not depend on it. Without `prefetch` a study is loaded once the one before is written.

    A study that raises is a result with an error. When the call ends early, what is embedded is still written.

    Parameters
    ----------
    tasks
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
            _Stages(iter(tasks), load, tell, loader, writer, embed).run(prefetch=prefetch)
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
    defect = _Defect()
    with defect:
        tell(StudyStage(task, "loading"))
        study = load(task)
        with network:
            tell(StudyStage(task, "embedding"))
            made = list(embed(study))
        tell(StudyStage(task, "writing"))
        outcomes = [*study.outcomes, *(one() if isinstance(one, Write) else one for one in made)]
    if defect.error is not None:
        return StudyResult(task, error=reason_of(defect.error))
    return StudyResult(task, tuple(outcomes))


@dataclass(frozen=True)
class _Coming:
    """A study that is being loaded; its task is None where there is none left."""

    task: Future[StudyTask | None]
    loaded: Future[LoadedStudy]


@dataclass
class _Stages:
    """The three stages, and the threads of two of them."""

    tasks: Iterator[StudyTask]
    load: Load
    tell: Told
    loader: ThreadPoolExecutor
    writer: ThreadPoolExecutor
    embed: Embed
    _written: list[Future[None]] = field(default_factory=list)
    """One for each study that is not known to be written."""

    def run(self, *, prefetch: bool) -> None:
        coming = self._coming()
        while (task := coming.task.result()) is not None:
            loaded = coming.loaded
            error = loaded.exception()
            # Before the next is loaded: else a slow writer would let a fourth study into memory.
            self._wait_for_writes(but=1)
            if prefetch:
                coming = self._coming()
            self._embed(task, loaded, error)
            del loaded
            if not prefetch:
                self._wait_for_writes()
                coming = self._coming()
        self._wait_for_writes()

    def _coming(self) -> _Coming:
        task = self.loader.submit(next, self.tasks, None)
        return _Coming(task, self.loader.submit(self._loaded, task))

    def _loaded(self, coming: Future[StudyTask | None]) -> LoadedStudy:
        task = coming.result()
        if task is None:
            return LoadedStudy(())
        self.tell(StudyStage(task, "loading"))
        return self.load(task)

    def _embed(self, task: StudyTask, loaded: Future[LoadedStudy], error: BaseException | None) -> None:
        """Runs the network on one study; its writing, and then its result, wait in the writer's queue."""
        outcomes: list[ItemOutcome] = []
        writes: list[Future[ItemOutcome]] = []
        defect = _Defect()
        if error is None:
            self.tell(StudyStage(task, "embedding"))
            with defect:
                study = loaded.result()
                outcomes += study.outcomes
                for made in self.embed(study):
                    if isinstance(made, Write):
                        writes.append(self.writer.submit(made))
                    else:
                        outcomes.append(made)
            self.tell(StudyStage(task, "writing"))
        self._written.append(self.writer.submit(self._finish, task, outcomes, writes, error or defect.error))

    def _finish(
        self,
        task: StudyTask,
        outcomes: list[ItemOutcome],
        writes: list[Future[ItemOutcome]],
        error: BaseException | None,
    ) -> None:
        """Tells the study's result; in the writer's queue it stands behind the study's writes."""
        errors = [error, *(write.exception() for write in writes)]
        found = next((one for one in errors if one is not None), None)
        if found is None:
            self.tell(StudyResult(task, (*outcomes, *(write.result() for write in writes))))
        else:
            self.tell(StudyResult(task, error=reason_of(found)))

    def _wait_for_writes(self, but: int = 0) -> None:
        """Lets no more than `but` studies be in the writer's hands, so that memory is bounded."""
        while len(self._written) > but:
            self._written.pop(0).result()
