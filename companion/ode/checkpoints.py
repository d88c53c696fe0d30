"""What it takes to repeat a solve from any of some places on its way."""

from __future__ import annotations

from array import array
from typing import Any, NamedTuple

import torch
from torch import Tensor

from companion.ode.field import Leaves
from companion.ode.observe import Observer
from companion.ode.random import random_state
from companion.ode.runge_kutta import RungeKuttaMarch

#: Checkpoints for every step of a segment.  A step's graph is that many times larger than a
#: state, or more: its stages, and what f computes on the way to each.
PER_STEP = 16


class Checkpoint(NamedTuple):
    """Where a solve was before one of its steps.

    Attributes:
        step: number of the step.
        output: number of the next state to be put out.
        memory: see `RungeKuttaMarch.remember`.
        random: the states of the random number generators.
    """

    step: int
    output: int
    memory: Any
    random: list[Tensor]


class Checkpoints(Observer):
    """Checkpoints on the way of a solve, at equal numbers of steps.

    When there are too many, every other one is dropped.  Without a limit there are too many when
    there are more than ``PER_STEP`` for every step between two of them, so that both numbers grow
    like the square root of the number of steps.

    Args:
        device: of the state.
        limit: how many to keep at most.

    Attributes:
        knots: the times at which the accepted steps began, and where the last one ended.
        draws: whether f has drawn random numbers.
        notes: for every time in knots the note of the step that ended there.
        kept: the checkpoints.
        random: for every accepted step the states of the random number generators before it;
            None where no try was rejected before, so that they follow from the step before.
    """

    def __init__(self, device: torch.device, limit: int | None) -> None:
        self.device, self.limit = device, limit
        self.knots = array("d")
        self.notes: list[Any] = []
        self.kept: list[Checkpoint] = []
        self.random: list[list[Tensor] | None] = []
        self.draws = False
        self._stride = 1
        self._state, self._content, self._tries = [], None, 0
        self._note_random_state()

    def look(self, march: RungeKuttaMarch, output: int) -> None:
        """To be called at the beginning of every step, when the one before has been read out."""
        number = len(self.knots)
        self.knots.append(march.t)
        self.notes.append(march.note)
        if number % self._stride:
            return
        self.kept.append(Checkpoint(number, output, march.remember(), self._state))
        most = PER_STEP * self._stride if self.limit is None else self.limit
        if len(self.kept) > most:
            self.kept = self.kept[::2]
            self._stride *= 2

    def close(self, march: RungeKuttaMarch) -> None:
        """To be called after the last step."""
        self.knots.append(march.t)
        self.notes.append(march.note)

    def tried(self, t: float, y: Leaves, h: float) -> None:
        self._tries += 1
        self._note_random_state()

    def accepted(self, t: float, y: Leaves, h: float) -> None:
        # Only what a rejected step drew has to be skipped; otherwise a step would cost a state.
        first = not self.random
        self.random.append(self._state if first or self._tries > 1 else None)
        self._tries = 0
        # What is drawn from here on to know f at the end of the step belongs to the next one.
        self._note_random_state()

    def _note_random_state(self) -> None:
        state = random_state(self.device)
        content = [part.numpy().tobytes() for part in state]
        if content != self._content:
            self.draws = self._content is not None
            self._state, self._content = state, content
