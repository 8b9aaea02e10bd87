"""The lock of writers: first come, first served."""

import threading
import time

import pytest

from services.database.turns import Turns


def test_turns_are_given_in_the_order_in_which_they_were_asked_for():
    turns, order, threads = Turns(), [], []

    def take(number):
        with turns.taken(10) as mine:
            assert mine
            order.append(number)

    with turns.taken(10):
        for number in range(20):
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            while len(turns._waiting) < number + 2:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == list(range(20))


def test_whoever_just_had_the_turn_waits_behind_the_others():
    turns, order = Turns(), []

    def greedy():
        for _ in range(5):
            with turns.taken(10):
                order.append("greedy")
                time.sleep(0.01)

    def modest():
        with turns.taken(10):
            order.append("modest")

    first = threading.Thread(target=greedy)
    first.start()
    while not order:
        time.sleep(0.001)
    second = threading.Thread(target=modest)
    second.start()
    first.join()
    second.join()
    assert order.index("modest") <= 2


def test_never_two_at_once():
    turns, inside, most = Turns(), 0, 0

    def work():
        nonlocal inside, most
        for _ in range(200):
            with turns.taken(30) as mine:
                assert mine
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_whose_patience_ends_gets_no_turn_and_holds_up_nobody():
    turns = Turns()
    with turns.taken(1) as mine:
        assert mine
        with turns.taken(0.05) as second:
            assert not second
    with turns.taken(0.05) as third:
        assert third


def test_an_error_gives_the_turn_on():
    turns = Turns()
    with pytest.raises(ZeroDivisionError), turns.taken(1):
        raise ZeroDivisionError
    with turns.taken(0.05) as mine:
        assert mine
