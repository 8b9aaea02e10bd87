"""Passes side by side: who shares a step, and that an error ends none but its own."""

import pytest

from extractor.lockstep import side_by_side
from store_schema.errors import MaskError


class Passes:
    """Passes of given lengths, and what was stepped together."""

    def __init__(self):
        self.steps, self.closed = [], []

    def passing(self, name, length, *, fails_at=None):
        """Yields so many moments, and makes the list of answers."""
        answers = []
        try:
            for place in range(length):
                if place == fails_at:
                    raise MaskError(f"{name} has no mask")
                answers.append((yield f"{name}{place}"))
        finally:
            self.closed.append(name)
        return answers

    def stepped(self, moments):
        self.steps.append(list(moments))
        if bad := [moment for moment in moments if moment in self.bad]:
            raise RuntimeError(f"{bad} cannot be stepped")
        return [moment.upper() for moment in moments]

    bad: tuple[str, ...] = ()


def test_each_pass_is_at_its_slice_of_the_same_number_and_the_longer_ones_go_on():
    passes = Passes()
    made = side_by_side([passes.passing("a", 1), passes.passing("b", 3), passes.passing("c", 2)], passes.stepped)
    assert made == [["A0"], ["B0", "B1", "B2"], ["C0", "C1"]]
    assert passes.steps == [["a0", "b0", "c0"], ["b1", "c1"], ["b2"]]


def test_nothing_to_do_is_nothing_made():
    passes = Passes()
    assert side_by_side([], passes.stepped) == []
    assert side_by_side([passes.passing("a", 0)], passes.stepped) == [[]]
    assert passes.steps == []


@pytest.mark.parametrize("at", [0, 1])
def test_a_pass_that_fails_leaves_the_others_alone(at):
    passes = Passes()
    failed, whole = side_by_side([passes.passing("a", 2, fails_at=at), passes.passing("b", 2)], passes.stepped)
    assert str(failed) == "a has no mask"
    assert whole == ["B0", "B1"]


def test_a_step_that_fails_is_tried_for_each_alone_and_ends_the_passes_that_it_fails_for():
    passes = Passes()
    passes.bad = ("b1",)
    made = side_by_side([passes.passing(name, 3) for name in "abc"], passes.stepped)
    assert made[0] == ["A0", "A1", "A2"]
    assert isinstance(made[1], RuntimeError)
    assert made[2] == ["C0", "C1", "C2"]
    assert passes.steps == [["a0", "b0", "c0"], ["a1", "b1", "c1"], ["a1"], ["b1"], ["c1"], ["a2", "c2"]]
    assert sorted(passes.closed) == ["a", "b", "c"]


def test_what_nobody_foresees_ends_all():
    passes = Passes()

    def stepped(moments):
        raise KeyError(moments[0])

    with pytest.raises(KeyError, match="a0"):
        side_by_side([passes.passing("a", 1), passes.passing("b", 1)], stepped)
