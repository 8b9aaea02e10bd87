"""Decides which study is given to a process next, and what becomes of those whose process died; knows no process and no cluster."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from extractor.work import StudyTask
from extractor.worker import DIED, MAX_DEATHS, StudyResult, StudyStage, Told


@dataclass
class Waiting:
    """Studies that wait to be worked on, and the suspects among them: a study that was in a process when it died."""

    tasks: list[StudyTask]
    tell: Told
    deaths: dict[str, int] = field(default_factory=dict)
    """Of processes that had this patient's study."""

    def __bool__(self) -> bool:
        return bool(self.tasks)

    def take(self, beside: Sequence[StudyTask]) -> StudyTask | None:
        """The next study for a process, if there is one that may be worked on beside these.

        A suspect is worked on alone, and after all others, so that the one that kills is known.
        """
        if any(map(self._suspect, beside)):
            return None
        innocent = next((task for task in self.tasks if not self._suspect(task)), None)
        chosen = self.tasks[0] if innocent is None and not beside and self.tasks else innocent
        if chosen is not None:
            self.tasks.remove(chosen)
        return chosen

    def died(self, held: Iterable[StudyTask]) -> None:
        """Counts a process's death against the studies that it had: each waits again, or is given up."""
        for task in held:
            patient = task.row.patient
            self.deaths[patient] = self.deaths.get(patient, 0) + 1
            if self.deaths[patient] < MAX_DEATHS:
                self.put_back(task)
            else:
                self.tell(StudyResult(task, error=DIED))

    def put_back(self, task: StudyTask) -> None:
        """A study waits again."""
        self.tasks.append(task)
        self.tell(StudyStage(task, None))

    def give_up(self, error: str) -> None:
        """No process will take what is left."""
        for task in self.tasks:
            self.tell(StudyResult(task, error=error))
        self.tasks.clear()

    def _suspect(self, task: StudyTask) -> bool:
        return task.row.patient in self.deaths
