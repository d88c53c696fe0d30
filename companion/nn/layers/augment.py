"""Room for a flow: channels of zeros."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import pad

from companion.nn.layers.checks import require_batch, require_count


class Augment(nn.Module):
    """Appends channels of zeros, which a flow may use to go around what it cannot cross.

    Trajectories of an ODE do not cross, so that a flow of the plane cannot carry the inside of a
    circle out of it; with one more dimension it lifts it out.

    Shapes: (N, C, ...) -> (N, C + channels, ...).

    Source: Dupont, Doucet and Teh, *Augmented neural ODEs*, NeurIPS 2019.

    Args:
        channels: How many to append.

    Raises:
        TypeError, ValueError: ``channels`` is no integer or is negative; on a call, the input is
            no batch.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        require_count("Augment: channels", channels, least=0)
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        require_batch("Augment", x)
        return augmented(x, self.channels)

    def extra_repr(self) -> str:
        return f"{self.channels}"


def augmented(x: Tensor, channels: int) -> Tensor:
    """The input with channels of zeros appended along axis 1."""
    require_count("augment", channels, least=0)  # less than 0 would cut channels off
    if not channels:
        return x
    axes_after = x.ndim - 2
    return pad(x, (0, 0) * axes_after + (0, channels))
