"""The rule of all explicit algorithms: they are for real numbers."""

from __future__ import annotations

from torch import Tensor


def require_real(name: str, **tensors: Tensor | None) -> None:
    """Refuse complex numbers, of which the book speaks in the convolution theorem alone.

    Args:
        name: The name of the function, which opens the message.
        tensors: Its arguments; None is nothing to refuse.

    Raises:
        TypeError: A tensor is complex.
    """
    for argument, tensor in tensors.items():
        if isinstance(tensor, Tensor) and tensor.is_complex():
            raise TypeError(
                f"{name}: expected {argument} of real numbers, got {tensor.dtype}; "
                "the explicit algorithms are for these alone"
            )
