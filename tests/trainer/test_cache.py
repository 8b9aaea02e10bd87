"""Arrays that are kept: made once, not writable, and bounded."""

import numpy as np
import pytest

from trainer.kept import Kept


def test_an_array_is_made_once_and_cannot_be_changed():
    kept, made = Kept(100), []
    first = kept.get("a", lambda: made.append(1) or np.zeros(2))
    assert kept.get("a", lambda: made.append(1) or np.zeros(2)) is first
    assert made == [1]
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1


def test_those_used_longest_ago_go_when_the_bound_is_passed():
    kept = Kept(3 * 80)
    for name in "abc":
        kept.get(name, lambda: np.zeros(10))
    kept.get("a", lambda: np.zeros(10))
    kept.get("d", lambda: np.zeros(10))
    assert kept.size_bytes == 3 * 80
    again = [name for name in "acdb" if kept.get(name, lambda: np.ones(10))[0] == 1]
    assert again == ["b"]


def test_an_array_larger_than_the_bound_is_kept_alone():
    kept = Kept(100)
    kept.get("small", lambda: np.zeros(4))
    large = kept.get("large", lambda: np.zeros(1000))
    assert kept.get("large", lambda: np.ones(1000)) is large
    assert kept.size_bytes == 8000
    kept.clear()
    assert kept.size_bytes == 0
