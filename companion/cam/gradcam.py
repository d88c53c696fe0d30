"""Grad-CAM and its relatives: one forward pass, one gradient, one map."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from companion.cam.capture import as_found, forward, forward_with
from companion.cam.explained import explained, gradients, single
from companion.cam.layers import Layer, find_layers
from companion.cam.perturbation import ablation_cam, score_cam
from companion.cam.record import CAM
from companion.cam.rules import RULES, eigen_cam
from companion.cam.targets import Asked, Targets, ask, require_names

_PERTURBATIONS = {"score-cam": score_cam, "ablation-cam": ablation_cam}
#: Every rule of :class:`GradCAM`.
RULE_NAMES = (*RULES, "eigen-cam", *_PERTURBATIONS)


class GradCAM:
    r"""Where a network looks: class activation maps of one layer, or of several.

    The map of class c is :math:`M = \sum_k \alpha_k A_k` with
    :math:`\alpha_k = \frac{1}{hw} \sum_{ij} \partial y^c / \partial A_{kij}` (Selvaraju et al.,
    2017), or what another rule makes of the same gradient.

    Only what lies between the layer and the score is differentiated; everything below it runs
    without a graph, no parameter's gradient is computed, and the model is left as it was found:
    no hook stays, ``training``, ``requires_grad``, ``.grad`` and the buffers are untouched.  It
    makes no difference whether parameters are frozen, whether the caller is in ``no_grad`` or
    ``inference_mode``, or whether the model was compiled.  The model runs in its own mode: in
    training mode dropout draws from the global random state, and the statistics of batch norm are
    those of the images that run together (for ``"score-cam"`` and ``"ablation-cam"`` the changed
    ones), so call ``model.eval()`` first unless that is what is to be explained.

    Args:
        model: Any module that maps images, shape ``(N, channels, H, W)``, to logits, shape
            ``(N, classes)`` (or to anything, if ``targets`` is a function).
        layer: The layer by module or by dotted name, or several; by default the model's last
            ``Conv2d``.  Its output has shape ``(N, C, h, w)``.
        rule: ``"grad-cam"``, ``"grad-cam++"``, ``"hires-cam"``, ``"layer-cam"``, ``"xgrad-cam"``,
            ``"eigen-cam"`` (no class), ``"score-cam"`` or ``"ablation-cam"`` (no gradient; as
            many forward passes as the layer has channels).
        names: The names of the classes, so that ``targets`` may be names.

    Raises:
        TypeError: ``model`` is no module, or ``layer`` or ``names`` of the wrong type.
        ValueError: A layer or a rule that does not exist.

    Example:
        >>> import torch
        >>> from companion.cam import GradCAM
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3),
        ...     torch.nn.ReLU(),
        ...     torch.nn.AdaptiveAvgPool2d(1),
        ...     torch.nn.Flatten(),
        ...     torch.nn.Linear(8, 5),
        ... )
        >>> seen = GradCAM(model, "1")(torch.rand(2, 3, 16, 16), targets=[3, 0])
        >>> seen.map.shape, seen.weights.shape
        (torch.Size([2, 14, 14]), torch.Size([2, 8]))
        >>> seen.heatmap((16, 16)).shape
        torch.Size([2, 16, 16])
    """

    def __init__(
        self,
        model: nn.Module,
        layer: Layer | Sequence[Layer] | None = None,
        *,
        rule: str = "grad-cam",
        names: Sequence[str] | None = None,
    ) -> None:
        if rule not in RULE_NAMES:
            raise ValueError(
                f"rule: expected one of {', '.join(map(repr, RULE_NAMES))}; got {rule!r}"
            )
        require_model(model)
        self.model = getattr(model, "_orig_mod", model)  # what torch.compile was given
        self.rule = rule
        self.names = require_names(names)
        self._layers = find_layers(self.model, layer)
        self._several = layer is not None and not isinstance(layer, nn.Module | str)

    @property
    def layers(self) -> tuple[str, ...]:
        """The dotted names of the layers that are explained."""
        return tuple(self._layers)

    def __call__(
        self, images: Tensor, targets: Targets = None, *, counterfactual: bool = False
    ) -> CAM | tuple[CAM, ...]:
        """The maps of a batch, from one forward pass.

        Args:
            images: What the model takes, shape ``(N, channels, H, W)``, floating point.
            targets: The class of every image (an index or a name), or one for each image; a list
                of classes for each image; ``Top(k)``; a function of the model's output that
                returns one score per image, shape ``(N,)`` (``"score-cam"`` and
                ``"ablation-cam"`` call it for batches of other sizes, too); by default the class
                with the largest logit.
            counterfactual: Explain :math:`-y^c`: what speaks against the class; for the rules
                with a gradient.

        Returns:
            The record of the layer; a tuple of them if several layers were asked for.

        Raises:
            TypeError: ``images`` or ``targets`` is of the wrong type.
            ValueError: A class that does not exist, a layer that did not run exactly once or whose
                output is not ``(N, C, h, w)``, a score that does not depend on the layer, values
                that are not finite, or the counterfactual of a rule without a gradient.
        """
        require_images(images)
        if counterfactual and self.rule not in RULES:
            raise ValueError(f"counterfactual: {self.rule} has no gradient to turn round")
        with as_found(self.model):
            seen = forward(self.model, self._layers, images)
            asked = ask(targets, seen.output, len(images), self.names)
            scores = asked.scores(seen.output, len(images))
            found = self._gradients(scores, seen.activations, -1 if counterfactual else 1)
            with torch.no_grad():
                records = tuple(
                    self._record(name, activation, of_layer, scores, asked, images)
                    for name, activation, of_layer in zip(
                        self._layers, seen.activations, found, strict=True
                    )
                )
        return records if self._several else records[0]

    def _gradients(
        self, scores: Sequence[Tensor], activations: tuple[Tensor, ...], sign: int
    ) -> list[list[Tensor]]:
        """For every layer, the gradients of every score; none for rules that need none."""
        if self.rule not in RULES:
            return [[] for _ in activations]
        return gradients(scores, activations, self.layers, sign)

    def _record(
        self,
        name: str,
        activation: Tensor,
        found: list[Tensor],
        scores: Sequence[Tensor],
        asked: Asked,
        images: Tensor,
    ) -> CAM:
        values = [single(score.detach()) for score in scores]
        weigh = partial(self._weights, name, images, values, asked)
        parts = explained(name, activation, found, weigh, asked)
        return CAM(**parts._asdict(), score=asked.together(values), target=asked.target, layer=name)

    def _weights(
        self,
        name: str,
        images: Tensor,
        scores: Sequence[Tensor],
        asked: Asked,
        maps: Tensor,
        gradients: Sequence[Tensor],
        which: int,
    ) -> Tensor:
        if self.rule in RULES:
            return RULES[self.rule](maps, gradients[which])
        if self.rule == "eigen-cam":
            return eigen_cam(maps)

        def again(inputs: Tensor, output: Tensor | None, image: Tensor) -> Tensor:
            result = forward_with(self.model, self._layers[name], inputs, output)
            return asked.of(result, image, which)

        return _PERTURBATIONS[self.rule](maps, images, scores[which], again)


def require_model(model: Any) -> None:
    """Raise unless ``model`` is a module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")


def require_images(images: Any) -> None:
    """Raise unless ``images`` is a batch of floating-point images."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images: expected a tensor, got {type(images).__name__}")
    if not images.is_floating_point():
        raise TypeError(
            f"images: expected floating point, got {images.dtype}; convert: images.float() / 255"
        )
    if images.ndim != 4 or len(images) == 0:
        raise ValueError(
            f"images: expected a batch of shape (N, channels, H, W), got {tuple(images.shape)}"
            + ("; one image is a batch of one: images[None]" if images.ndim == 3 else "")
        )
