"""What an explanation holds."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from companion.cam.images import normalise, upsample


@dataclass(frozen=True, eq=False)
class CAM:
    """The class activation maps of one layer.

    Where several classes of each image were asked for, K of them, every shape but that of
    ``activation`` has K after N.  All tensors are detached; those that were in half precision are
    float32.

    Attributes:
        map: The raw, signed map :math:`M = \\sum_k w_k \\odot A_k`, shape ``(N, h, w)``.
        weights: Shape ``(N, C)`` for rules with one weight to a channel, else ``(N, C, h, w)``.
        activation: The layer's output :math:`A`, shape ``(N, C, h, w)``.
        gradient: :math:`\\partial y^c / \\partial A`, shape ``(N, C, h, w)``; ``None`` for rules
            without gradients.
        score: :math:`y^c`, shape ``(N,)``.
        target: The classes, shape ``(N,)``; ``None`` where the score was a function.
        layer: The layer's dotted name.
    """

    map: Tensor
    weights: Tensor
    activation: Tensor
    gradient: Tensor | None
    score: Tensor
    target: Tensor | None
    layer: str

    def heatmap(self, size: tuple[int, int]) -> Tensor:
        """ReLU, then upsampling to ``size``, then division by the maximum.

        Args:
            size: Height and width, usually the image's.

        Returns:
            Values in [0, 1], shape ``(N, *size)``.  Where a map has no positive value, zeros.
        """
        return normalise(upsample(self.map.relu(), size))
