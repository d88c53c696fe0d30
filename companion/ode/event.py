"""What may end a solve early: the zero of a function of time and state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Event:
    """The solve ends where ``condition(t, y, *args)`` passes through zero.

    Args:
        condition: takes what f takes, and returns a real tensor of any shape, usually 0-dim;
            every component is watched on its own.
        direction: 1 counts rising zeros only, -1 falling ones, 0 both.
        at_start: whether a zero at the initial time counts.  With a direction it does if the
            value leaves zero in this direction.

    Raises:
        TypeError, ValueError: if the condition is not callable or the direction no such number.
    """

    condition: Callable[..., Tensor]
    direction: int = 0
    at_start: bool = True

    def __post_init__(self) -> None:
        if not callable(self.condition):
            raise TypeError(
                "Event: condition must be callable as condition(t, y, *args), got "
                f"{type(self.condition).__name__}"
            )
        if self.direction not in (-1, 0, 1) or isinstance(self.direction, bool):
            raise ValueError(f"Event: direction must be -1, 0 or 1, got {self.direction!r}")


@dataclass(frozen=True)
class EventRecord:
    """The event that ended a solve.

    Attributes:
        t: its time, 0-dim, in the dtype of the times given.  Gradients flow to it and to y by
            the implicit function theorem, also with respect to whatever the condition uses.
        y: the state there, with the structure of y0.
        index: which of the events it was.
        component: which component of the condition's value, counted in its flattened form.
    """

    t: Tensor
    y: Any
    index: int
    component: int


def check_events(event: Any) -> tuple[Event, ...]:
    """One event or several, each an `Event` or a bare condition, as a tuple of events."""
    if event is None:
        return ()
    events = event if isinstance(event, Sequence) else (event,)
    if not events:
        raise ValueError("event is empty: leave it out to solve to the last time")
    return tuple(e if isinstance(e, Event) else Event(e) for e in events)
