"""Processes stand in as threads, which meet at a barrier where the real ones gather."""

import threading

import jax
import numpy as np
import pytest

from dlx import agreement
from dlx.agreement import agreed, told


class Light(RuntimeError):
    pass


class Grave(RuntimeError):
    pass


@pytest.fixture
def together(monkeypatch):
    """Returns `run(*actions)`: the result or the error of each, every one on a process of its own."""

    def run(*actions):
        mine, rows, found = threading.local(), [None] * len(actions), [None] * len(actions)
        barrier = threading.Barrier(len(actions), timeout=20)

        def gathered(row):
            rows[mine.index] = row
            barrier.wait()
            everyone = np.stack(rows)
            barrier.wait()
            return everyone

        def process(index):
            mine.index = index
            try:
                found[index] = actions[index]()
            except Exception as error:
                found[index] = error

        monkeypatch.setattr(agreement, "_gathered", gathered)
        monkeypatch.setattr(jax, "process_count", lambda: len(actions))
        monkeypatch.setattr(jax, "process_index", lambda: mine.index)
        threads = [threading.Thread(target=process, args=(index,)) for index in range(len(actions))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    return run


def fails(error):
    def action():
        raise error

    return action


def asks(action):
    return lambda: agreed(action, Light, Grave)


def test_alone_it_is_a_call():
    assert agreed(lambda: 3) == 3 and told(lambda: [1]) == [1]
    with pytest.raises(Grave, match="^lost$"):
        agreed(fails(Grave("lost")))


def test_where_all_goes_well_each_has_its_own_result(together):
    assert together(asks(lambda: 1), asks(lambda: 2), asks(lambda: 3)) == [1, 2, 3]


def test_one_failure_is_everyones_and_says_whose_it_is(together):
    first, second, third = together(asks(lambda: 1), asks(fails(Light("bad byte"))), asks(lambda: 3))
    assert type(first) is type(second) is type(third) is Light
    assert str(first) == str(third) == "process 1: bad byte" and str(second) == "bad byte"


def test_the_gravest_failure_is_everyones(together):
    found = together(asks(fails(Light("a"))), asks(fails(Grave("b"))), asks(lambda: 3))
    assert [type(error) for error in found] == [Grave] * 3
    assert str(found[0]) == "process 1: b" and str(found[0].__cause__) == "a"


def test_what_nobody_expected_stops_all(together):
    first, second = together(asks(fails(KeyError("x"))), asks(fails(Light("b"))))
    assert isinstance(first, KeyError) and type(second) is RuntimeError and "process 0" in str(second)


def test_all_hear_the_first_processs_answer_or_its_failure(together):
    def answers(action):
        return lambda: told(action, Light)

    assert together(answers(lambda: ["ä", 1]), answers(fails(Grave("never asked")))) == [["ä", 1]] * 2
    found = together(answers(fails(Light("no"))), answers(lambda: 1))
    assert [type(error) for error in found] == [Light] * 2
