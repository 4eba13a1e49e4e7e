import signal
import threading

import pytest

from dlx.preemption import noticed


@pytest.fixture
def heard():
    """A handler of SIGTERM from before, and what it hears."""
    found = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: found.append(number))
    yield found
    signal.signal(signal.SIGTERM, before)


def test_sigterm_is_noted_and_not_handled_by_whom_it_was_before(heard):
    with pytest.raises(RuntimeError, match="stopped"), noticed() as stop:
        assert not stop()
        signal.raise_signal(signal.SIGTERM)
        assert stop() and stop()
        raise RuntimeError("stopped")
    assert heard == []


def test_afterwards_the_earlier_handler_is_back(heard):
    with noticed() as stop:
        assert not stop()
    signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGTERM]


def test_a_signal_that_came_too_late_is_passed_on(heard):
    with noticed():
        signal.raise_signal(signal.SIGTERM)
        assert heard == []
    assert heard == [signal.SIGTERM]


def test_another_thread_sets_no_handler(heard):
    said = []

    def run():
        with noticed() as stop:
            signal.raise_signal(signal.SIGTERM)
            said.append(stop())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert said == [False] and heard == [signal.SIGTERM]
