"""One residual layer, which is one step of Euler's method."""

from __future__ import annotations

from torch import Tensor, nn


class Residual(nn.Module):
    r"""A residual layer, :math:`z \mapsto z + h\, f(t, z)`: one step of Euler's method.

    With a field of its own in every layer, and h = 1, layers of this kind are the residual network
    of He, Zhang, Ren and Sun, *Deep residual learning for image recognition*, CVPR 2016 (without
    an activation after the sum).  With one field for all, t = n/N and h = 1/N, they are Euler's
    method for dz/dt = f(t, z) from 0 to 1.

    Shapes: any; that of the output is that of the input.

    Args:
        f: A module, called as ``f(t, z)`` with t a tensor of no axes and of z's dtype.
        t: The time at which the field is taken.
        h: The size of the step.

    Attributes:
        t, h: Numbers that may be changed; they are not in the state_dict.

    Raises:
        TypeError: f is no module.
        ValueError: On a call, f returns another shape than that of z.
    """

    def __init__(self, f: nn.Module, t: float = 0.0, h: float = 1.0) -> None:
        super().__init__()
        if not isinstance(f, nn.Module):
            raise TypeError(
                f"Residual: f must be a torch.nn.Module, called as f(t, z), got {type(f).__name__}"
            )
        self.f = f
        self.t = t
        self.h = h

    def forward(self, z: Tensor) -> Tensor:
        change = self.f(z.new_full((), self.t), z)
        if change.shape != z.shape:  # which the sum might broadcast
            raise ValueError(
                f"Residual: f returned a tensor of shape {tuple(change.shape)} for an input of "
                f"shape {tuple(z.shape)}: a residual must have the shape of what it is added to "
                "(stride 1, padding='same', as many channels out as in)"
            )
        return z + self.h * change

    def extra_repr(self) -> str:
        return f"t={self.t:g}, h={self.h:g}"
