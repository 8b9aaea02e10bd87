"""Takes several passes through the network side by side, step by step, so that their streams share batches; knows no volume.

A pass is a generator: it yields a slice that its tracks keep, is sent what became of them, and returns what it made.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

from extractor.tracking import Moment, Step
from store_schema.errors import EngramError

Pass = Generator[Moment, list[Step], object]
"""Of one volume."""
Stepped = Callable[[Sequence[Moment]], list[list[Step]]]
"""Takes the tracks of these slices one frame further, all or none of them."""
FAILURES = (EngramError, OSError, RuntimeError, MemoryError)
"""What a pass may end in while the others go on; torch raises RuntimeError."""


def side_by_side[Made](
    passes: Sequence[Generator[Moment, list[Step], Made]], stepped: Stepped
) -> list[Made | Exception]:
    """What each pass made, or the error that it ended in; the others go on without it.

    Which passes share a step follows from the passes alone: each is at its first slice when the others are at theirs. A step that
    fails is tried again for each pass by itself, and ends those that fail alone.
    """
    return _Side(passes, stepped).run()


class _Side[Made]:
    """Passes under way, the slices at which they wait, and what became of those that are over."""

    def __init__(self, passes: Sequence[Generator[Moment, list[Step], Made]], stepped: Stepped) -> None:
        self._passes, self._stepped = passes, stepped
        self._waiting: dict[int, Moment] = {}
        self._over: dict[int, Made | Exception] = {}

    def run(self) -> list[Made | Exception]:
        """What each pass made."""
        for number in range(len(self._passes)):
            self._go_on(number, None)
        while self._waiting:
            moments, self._waiting = self._waiting, {}
            for number, found in self._taken(moments).items():
                if isinstance(found, Exception):
                    self._end(number, found)
                else:
                    self._go_on(number, found)
        return [self._over[number] for number in range(len(self._passes))]

    def _go_on(self, number: int, steps: list[Step] | None) -> None:
        one = self._passes[number]
        try:
            # a generator begins by being sent nothing
            self._waiting[number] = next(one) if steps is None else one.send(steps)
        except StopIteration as end:
            self._over[number] = end.value
        except FAILURES as error:
            self._over[number] = error

    def _end(self, number: int, error: Exception) -> None:
        self._passes[number].close()
        self._over[number] = error

    def _taken(self, moments: dict[int, Moment]) -> dict[int, list[Step] | Exception]:
        try:
            return dict(zip(moments, self._stepped(list(moments.values())), strict=True))
        except FAILURES as error:
            if len(moments) == 1:
                return dict.fromkeys(moments, error)
        return {number: self._taken({number: moment})[number] for number, moment in moments.items()}
