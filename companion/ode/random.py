"""The random numbers that f may draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


def random_state(device: torch.device) -> list[Tensor]:
    """The states of the generators of the CPU and of the device."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state(device))
    return states


def set_random_state(device: torch.device, states: Sequence[Tensor]) -> None:
    """Go back to these states."""
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1], device)


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Whatever is drawn inside, the numbers that come after it are as if it were not."""
    before = random_state(device)
    try:
        yield
    finally:
        set_random_state(device, before)
