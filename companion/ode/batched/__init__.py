"""Batches whose samples are solved together, and yet each as if it were alone."""

from companion.ode.batched.checks import (
    check_batched_method,
    check_batched_state,
    check_batched_times,
)
from companion.ode.batched.integrate import integrate_batched

__all__ = [
    "check_batched_method",
    "check_batched_state",
    "check_batched_times",
    "integrate_batched",
]
