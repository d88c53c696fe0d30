"""The progress bar: how far it goes, and that it is closed whatever happens."""

import math
from typing import ClassVar

import pytest
import torch

from companion import FixedStep, SolverError, solve
from companion.ode import observe
from tests.ode.problems import F64

Y0 = torch.ones(2, dtype=F64)


class Bar:
    """What the observer uses of tqdm, writing down what happens to it."""

    made: ClassVar[list["Bar"]] = []

    def __init__(self, total=None, **options):
        self.total, self.options = total, options
        self.n, self.updates, self.is_open = 0.0, [], True
        Bar.made.append(self)

    def update(self, n):
        assert self.is_open
        self.updates.append(n)
        self.n += n

    def close(self):
        self.is_open = False


@pytest.fixture
def bars(monkeypatch):
    monkeypatch.setattr(Bar, "made", [])
    monkeypatch.setattr(observe, "tqdm", Bar)
    return Bar.made


def decay(t, y):
    return -y


@pytest.mark.parametrize("times", [[0.0, 0.3, 2.5], [1.0, -0.3], [-0.3, -0.3 + 19 / 7]])
@pytest.mark.parametrize("control", [None, FixedStep(0.1)])
def test_the_bar_goes_from_the_first_to_the_last_time(bars, times, control):
    sol = solve(decay, Y0, times, control=control, progress=True)
    (bar,) = bars
    assert bar.total == pytest.approx(abs(times[-1] - times[0]))
    assert bar.n == pytest.approx(bar.total)
    assert bar.n <= bar.total
    assert len(bar.updates) == sol.stats.accepted
    assert min(bar.updates) > 0
    assert not bar.is_open


def test_rejected_steps_do_not_move_it(bars):
    sol = solve(decay, Y0, [0.0, 2.0], first_step=2.0, rtol=1e-9, progress=True)
    assert sol.stats.rejected > 0
    assert len(bars[0].updates) == sol.stats.accepted
    assert bars[0].n == pytest.approx(2.0)


def test_without_a_last_time_it_counts_steps(bars):
    sol = solve(decay, Y0, [0.0, math.inf], event=lambda t, y: y[0] - 0.5, progress=True)
    (bar,) = bars
    assert bar.total is None
    assert bar.updates == [1] * sol.stats.accepted
    assert not bar.is_open


def test_an_error_on_the_way_closes_it(bars):
    def f(t, y):
        return -y if t < 0.5 else y / 0

    with pytest.raises(SolverError):
        solve(f, Y0, [0.0, 1.0], progress=True)
    (bar,) = bars
    assert 0 < bar.n < 1
    assert not bar.is_open


@pytest.mark.parametrize(
    ("f", "options"),
    [
        (lambda t, y: y[0], {}),
        (lambda t, y: y / 0, {}),
        (decay, {"gradient": "backsolve", "dense": True}),
    ],
)
def test_an_error_before_the_first_step_leaves_no_bar_behind(bars, f, options):
    with pytest.raises((ValueError, SolverError)):
        solve(f, Y0.clone().requires_grad_(), [0.0, 1.0], progress=True, **options)
    assert not any(bar.is_open for bar in bars)


def test_no_bar_unless_asked_for(bars, capsys):
    solve(decay, Y0, [0.0, 1.0])
    solve(decay, Y0, [1.0], progress=True)
    assert not bars
    assert capsys.readouterr() == ("", "")


def test_what_is_shown(capsys):
    """On the stream of errors, so that a program's output stays its own."""
    solve(decay, Y0, [1.0, 3.5], progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "solve: 100%" in err
    assert "2.5 of 2.5" in err


def test_watching_changes_nothing():
    watched = solve(decay, Y0, [0.0, 1.0], progress=True)
    assert torch.equal(watched.y, solve(decay, Y0, [0.0, 1.0]).y)
