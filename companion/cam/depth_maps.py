"""What an explanation at many depths holds."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from companion.cam.images import normalise, upsample
from companion.cam.record import CAM
from companion.ode import Stats


@dataclass(frozen=True, eq=False)
class DepthMaps:
    r"""The class activation maps of a block at T depths.

    Where several classes of each image were asked for, K of them, every shape but those of
    ``depth`` and ``activation`` has K after N.  All tensors are detached; those that were in half
    precision are float32.

    Attributes:
        depth: Times of an ODE block, float64; numbers of layers of a residual network, int64;
            shape ``(T,)``.
        map: The raw, signed maps :math:`M(t) = \sum_k w_k(t) \odot z_k(t)`, shape
            ``(N, T, h, w)``.
        weights: Shape ``(N, T, C)`` for rules with one weight to a channel, which for
            ``"grad-cam"`` are :math:`\alpha_k(t)`, else ``(N, T, C, h, w)``.
        activation: The state :math:`z(t)`, shape ``(N, T, C, h, w)``.
        gradient: The adjoint :math:`a(t) = \partial y^c / \partial z(t)`, shape
            ``(N, T, C, h, w)``.
        score: :math:`y^c`, shape ``(N,)``.
        target: The classes, shape ``(N,)``; ``None`` where the score was a function.
        layer: The block's dotted name; of a list of layers, the first one's and the last one's.
        stats: What the solve cost, and its way back for the last of the classes
            (``stats.backward``); ``None`` for a residual network.
    """

    depth: Tensor
    map: Tensor
    weights: Tensor
    activation: Tensor
    gradient: Tensor
    score: Tensor
    target: Tensor | None
    layer: str
    stats: Stats | None

    def at(self, i: int) -> CAM:
        """The maps of the depth with this index in ``depth``, as :class:`GradCAM` gives them.

        Args:
            i: From 0 to T - 1, or from -T to -1, counted from the end.

        Raises:
            IndexError: There is no such depth.
        """
        if not -len(self.depth) <= i < len(self.depth):
            raise IndexError(
                f"i: there are {len(self.depth)} depths, 0 to {len(self.depth) - 1}; got {i}"
            )
        axis = self.score.ndim  # behind N, or N and K
        return CAM(
            map=self.map.select(axis, i),
            weights=self.weights.select(axis, i),
            activation=self.activation[:, i],
            gradient=self.gradient.select(axis, i),
            score=self.score,
            target=self.target,
            layer=self.layer,
        )

    def heatmap(self, size: tuple[int, int]) -> Tensor:
        """ReLU, then upsampling to ``size``, then each map divided by its own maximum.

        Args:
            size: Height and width, usually the image's.

        Returns:
            Values in [0, 1], shape ``(N, T, *size)``.  Where a map has no positive value, zeros.
        """
        return normalise(upsample(self.map.relu(), size))
