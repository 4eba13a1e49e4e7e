"""Streams: scores against brute force and blind to the future; NAB's points against its rules, row by row."""

import numpy as np
import pytest

from dlx import streaming


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    return rng.normal(size=200) + np.linspace(100, 110, 200)


@pytest.mark.parametrize(("long", "short"), [(20, 1), (50, 7), (500, 3)])
def test_moving_z_is_mean_and_deviation_of_what_came_before(values, long, short):
    found = streaming.moving_z(values, long, short)
    assert found[0] == 0
    for now in range(2, 200):
        before = values[max(0, now - long) : now]
        latest = values[max(0, now + 1 - short) : now + 1].mean()
        assert found[now] == pytest.approx((latest - before.mean()) / before.std(), rel=1e-6)


def test_a_constant_stream_is_never_far_and_its_first_change_is():
    values = np.full(50, 1e4)
    assert (streaming.moving_z(values, 10) == 0).all()
    values[30] += 1
    found = streaming.moving_z(values, 10)
    assert np.isfinite(found).all() and found[30] > 10 and (found[:30] == 0).all()


def test_scores_do_not_see_the_future(values):
    changed = values.copy()
    changed[120:] = -1e6
    for score in (
        lambda v: streaming.moving_z(v, 30, 4),
        lambda v: streaming.records(v, 10),
        lambda v: streaming.records(streaming.moving_z(v, 30), 5),
    ):
        np.testing.assert_array_equal(score(values)[:120], score(changed)[:120])
        assert (score(values)[120:] != score(changed)[120:]).any()


def test_records_are_above_all_that_are_held_against_them(values):
    found = streaming.records(values, 12)
    for now in range(200):
        highest = values[max(0, now - 12) : now].max(initial=-np.inf)
        assert found[now] == (values[now] if values[now] > highest else -np.inf)


def nab_rule(labels):
    """NAB's points of each row, by its rules, one row after the other."""

    def sigmoid(position):
        return -1.0 if position >= 3 else 2 / (1 + np.exp(5 * position)) - 1

    found, begin, end, width = [], None, None, None
    for row, label in enumerate(labels):
        if label:
            if begin is None:
                begin = row
                stop = row
                while stop + 1 < len(labels) and labels[stop + 1]:
                    stop += 1
            width = stop - begin + 1
            found.append(sigmoid(-(stop - row + 1) / width) / sigmoid(-1.0))
            end = stop
            if row == stop:
                begin = None
        else:
            found.append(0.11 * sigmoid(3.0 if end is None else abs(end - row) / (width - 1)))
    return np.array(found)


def test_rows_are_worth_what_nabs_rules_say():
    labels = np.zeros(300, int)
    labels[50:70] = labels[100:150] = labels[290:300] = 1
    value, inside = streaming.worth(labels)
    np.testing.assert_allclose(value, nab_rule(labels), atol=1e-12)
    assert value[50] == 1 and value[0] == -0.11 and inside.max() == 2 and (inside[labels == 0] == -1).all()


def total(scores, labels, threshold):
    """The NAB score at a threshold, by the rules."""
    points, windows = 0.0, 0
    for score, label in zip(scores, labels, strict=True):
        value = nab_rule(label)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], label, [0]]))).reshape(-1, 2)
        windows += len(edges)
        for begin, end in edges:
            points += max([value[r] for r in range(begin, end) if score[r] >= threshold], default=-1)
        points += sum(value[r] for r in range(len(label)) if not label[r] and score[r] >= threshold)
    return 100 * (points + windows) / (2 * windows)


def test_the_best_threshold_is_found_among_all():
    rng = np.random.default_rng(1)
    for _ in range(5):
        labels = [np.zeros(60, int), np.zeros(40, int)]
        labels[0][20:30] = labels[0][45:50] = labels[1][10:14] = 1
        scores = [rng.integers(0, 12, len(label)) + 4.0 * label * rng.random(len(label)) for label in labels]
        found = streaming.alarms(scores, labels)
        every = [total(scores, labels, one) for one in np.unique(np.concatenate(scores))]
        assert found.nab_score == pytest.approx(max([*every, 0.0]))
        assert found.nab_score == pytest.approx(total(scores, labels, found.threshold))


def test_rows_of_one_score_are_alarms_together():
    labels = np.zeros(40, int)
    labels[10:15] = 1
    scores = np.zeros(40)
    scores[[10, *range(20, 39)]] = 5  # the window costs more false alarms than it is worth
    found = streaming.alarms([scores], [labels])
    assert found.nab_score == 0 and found.threshold == np.inf


def test_alarms_are_counted_by_windows_and_by_runs():
    labels = np.zeros(40, int)
    labels[10:15] = labels[30:35] = 1
    scores = np.zeros(40)
    scores[[10, 12]] = 2  # one window is found, at once
    scores[[3, 4, 20]] = 2  # two runs of false alarms
    found = streaming.alarms([scores], [labels], threshold=1.0)
    assert (found.window_recall, found.window_precision) == (0.5, pytest.approx(1 / 3))
    perfect = streaming.alarms([labels.astype(float)], [labels])
    assert perfect.nab_score == 100 and perfect.window_recall == perfect.window_precision == 1
    silent = streaming.alarms([np.full(40, -np.inf)], [labels])
    assert silent.nab_score == 0 and silent.window_recall == silent.window_precision == 0


def test_what_makes_no_sense_is_refused(values):
    with pytest.raises(ValueError, match="long=1 must be at least 2"):
        streaming.moving_z(values, 1)
    with pytest.raises(ValueError, match="short=9 from 1 to long"):
        streaming.moving_z(values, 8, 9)
    with pytest.raises(ValueError, match="hold=0 must be at least 1"):
        streaming.records(values, 0)
    with pytest.raises(ValueError, match="no row is labelled as an anomaly"):
        streaming.alarms([values], [np.zeros(200, int)])
