"""Grad-CAM at every depth: of a network of continuous depth, the adjoint is the explanation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from companion.cam.blocks import DepthPass, find_block
from companion.cam.capture import as_found
from companion.cam.depth_maps import DepthMaps
from companion.cam.depths import Depths, require_depths
from companion.cam.explained import explained, single
from companion.cam.gradcam import require_images, require_model
from companion.cam.layers import Layer
from companion.cam.rules import RULES
from companion.cam.targets import Asked, Targets, ask, require_names


class DepthCAM:
    r"""Where a network looks at every depth: class activation maps from one backward solve.

    The block of an ODE-Net solves :math:`dz/dt = f(t, z)` from :math:`t_0` to :math:`t_1`.  With
    the score as the loss, :math:`L = y^c`, the adjoint of its solve is the gradient that Grad-CAM
    averages, at every depth t (Pontryagin et al., 1962; Chen et al., 2018):

    .. math::
        a(t) = \frac{\partial y^c}{\partial z(t)}, \qquad
        \frac{da}{dt} = -a \frac{\partial f}{\partial z}, \qquad
        \alpha_k(t) = \frac{1}{hw} \sum_{ij} a_{kij}(t), \qquad
        M(t) = \sum_k \alpha_k(t)\, z_k(t).

    So one forward pass and, for each class, one backward solve give the maps at all depths:
    those of :class:`GradCAM` of the block's output at :math:`t_1`, and of its input at
    :math:`t_0`.  The block's own gradient strategy goes back: ``Backsolve`` and ``Gauss`` solve
    for a, and ``Checkpointed`` and ``Reversible`` have that of the steps, with a polynomial
    between the ends of these.

    Of a residual network the depths are whole numbers, the layers that the state has passed:
    depth 0 is the input of the first layer, and depth n the output of layer n.

    What passes the block by, such as a skip connection round all of it, is no part of a(t).
    The model is left as it was found, and may be frozen, compiled, or run within ``no_grad``, as
    :class:`GradCAM` says; no parameter's gradient is computed.

    Args:
        model: Any module that maps images, shape ``(N, channels, H, W)``, to logits, shape
            ``(N, classes)`` (or to anything, if ``targets`` is a function).
        block: The block, by module or by dotted name: a :class:`companion.nn.ODEBlock`, or any
            module that calls :func:`companion.solve` exactly once for a state of shape
            ``(N, C, h, w)``; or a ``Sequential`` (or a list) of residual layers.  By default the
            model's only ``ODEBlock``.
        rule: ``"grad-cam"``, ``"grad-cam++"``, ``"hires-cam"``, ``"layer-cam"`` or
            ``"xgrad-cam"``.
        names: The names of the classes, so that ``targets`` may be names.

    Raises:
        TypeError: ``model`` is no module, or ``block`` or ``names`` of the wrong type.
        ValueError: A block or a rule that does not exist, or no block given where the model has
            not exactly one ``ODEBlock``.

    Example:
        >>> import torch
        >>> from companion.cam import DepthCAM
        >>> from companion.nn import ODENet
        >>> model = ODENet(in_channels=1, classes=10, width=4)
        >>> seen = DepthCAM(model)(torch.rand(2, 1, 28, 28), targets=[3, 0], depths=5)
        >>> seen.depth.tolist()
        [0.0, 0.25, 0.5, 0.75, 1.0]
        >>> seen.weights.shape
        torch.Size([2, 5, 4])
        >>> seen.heatmap((28, 28)).shape
        torch.Size([2, 5, 28, 28])
    """

    def __init__(
        self,
        model: nn.Module,
        block: Layer | Iterable[Layer] | None = None,
        *,
        rule: str = "grad-cam",
        names: Sequence[str] | None = None,
    ) -> None:
        if rule not in RULES:
            raise ValueError(f"rule: expected one of {', '.join(map(repr, RULES))}; got {rule!r}")
        require_model(model)
        self.model = getattr(model, "_orig_mod", model)  # what torch.compile was given
        self.rule = rule
        self.names = require_names(names)
        self._block = find_block(self.model, block)

    @property
    def block(self) -> str:
        """The block's dotted name."""
        return self._block.name

    def __call__(
        self,
        images: Tensor,
        targets: Targets = None,
        depths: Depths = None,
        *,
        counterfactual: bool = False,
    ) -> DepthMaps:
        """The maps of a batch at every depth, from one forward pass.

        Args:
            images: What the model takes, shape ``(N, channels, H, W)``, floating point.
            targets: As for :class:`GradCAM`; every class of a list takes a backward solve of its
                own.
            depths: How many, evenly spaced with both ends among them; or the times themselves,
                strictly increasing (decreasing, if the block solves backwards in time).  By
                default 9 times.  For residual layers numbers of layers, by default all.
            counterfactual: Explain :math:`-y^c`: what speaks against the class.

        Raises:
            TypeError: An argument of the wrong type.
            ValueError: A class or a depth that does not exist; a block that did not run exactly
                once, does not make exactly one solve, has a state of another shape or a gradient
                strategy that keeps no path; a score that does not depend on the block; values
                that are not finite.
            SolverError: A solve that does not reach its end.
        """
        require_images(images)
        asked_depths = require_depths(depths)
        with as_found(self.model):
            seen = self._block.forward(self.model, images, asked_depths)
            asked = ask(targets, seen.output, len(images), self.names)
            return self._record(seen, asked, len(images), -1 if counterfactual else 1)

    def _record(self, seen: DepthPass, asked: Asked, count: int, sign: int) -> DepthMaps:
        scores = asked.scores(seen.output, count)
        states, gradients = seen.pull_back(scores, sign)
        with torch.no_grad():
            # Every depth of every image is an image of its own to the rules.
            parts = explained(
                self.block,
                states.flatten(0, 1),
                [one.flatten(0, 1) for one in gradients],
                partial(_weights, self.rule),
                asked,
            )
            found = {name: _by_depth(value, count) for name, value in parts._asdict().items()}
            if asked.several:
                # (N, T, K, ...) to (N, K, T, ...); the states have no K.
                found |= {
                    name: found[name].transpose(1, 2) for name in ("map", "weights", "gradient")
                }
            return DepthMaps(
                seen.depth.to(states.device),
                **found,
                score=asked.together([single(score.detach()) for score in scores]),
                target=asked.target,
                layer=self.block,
                stats=seen.stats,
            )


def _weights(rule: str, maps: Tensor, gradients: Sequence[Tensor], which: int) -> Tensor:
    return RULES[rule](maps, gradients[which])


def _by_depth(value: Tensor, count: int) -> Tensor:
    """Shape (N, T, ...) from (N T, ...)."""
    return value.unflatten(0, (count, -1))
