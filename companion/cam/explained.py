"""From a layer's output and the gradients there to the maps: what every explanation shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from companion.cam.targets import Asked

Weigh = Callable[[Tensor, Sequence[Tensor], int], Tensor]
"""From the layer's output, the gradients of the scores and a score's number to its weights."""


class Explained(NamedTuple):
    """The fields of :class:`companion.cam.CAM` that belong to one layer.

    Where several classes of each image were asked for, every shape but that of ``activation`` has
    K after N.
    """

    map: Tensor
    weights: Tensor
    activation: Tensor
    gradient: Tensor | None


def gradients(
    scores: Sequence[Tensor], activations: tuple[Tensor, ...], names: Sequence[str], sign: int = 1
) -> list[list[Tensor]]:
    """For every layer, ``sign`` times the gradients of every score; the graph is freed.

    Args:
        scores: Each of shape ``(N,)``, a score to an image.
        activations: The layers' outputs.
        names: The layers' names.
        sign: 1, or -1 for the counterfactual.

    Raises:
        ValueError: A score does not depend on a layer.
    """
    found: list[list[Tensor]] = [[] for _ in activations]
    for which, score in enumerate(scores):
        last = which == len(scores) - 1
        for layer, one in enumerate(_gradient(score, activations, retain=not last)):
            if one is None:
                _raise_unconnected(names[layer])
            found[layer].append(sign * one)
    return found


def explained(
    name: str, activation: Tensor, gradients: Sequence[Tensor], weigh: Weigh, asked: Asked
) -> Explained:
    """The maps of one layer.

    Args:
        name: The layer's.
        activation: Its output, shape ``(N, C, h, w)``.
        gradients: Those of the K scores, each of the same shape; none for rules without.
        weigh: The rule.
        asked: What was asked for.

    Raises:
        ValueError: The output or a map is infinite or not a number.
    """
    maps = single(activation.detach())
    require_finite(name, "output", maps)
    gradients = [single(one) for one in gradients]
    weights = [weigh(maps, gradients, which) for which in range(asked.count)]
    found = asked.together([(weight * maps).sum(dim=1) for weight in weights])
    require_finite(name, "map", found)
    return Explained(
        found,
        asked.together([_alpha(weight) for weight in weights]),
        maps,
        asked.together(gradients) if gradients else None,
    )


def single(value: Tensor) -> Tensor:
    """At least single precision: sums over a map in bfloat16 have two digits."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def require_finite(name: str, what: str, values: Tensor) -> None:
    """Raise unless all values are finite."""
    if not bool(values.isfinite().all()):
        raise ValueError(
            f"layer {name!r}: its {what} is infinite or not a number in some place; are the "
            "images and the parameters finite, and do half-precision values overflow?"
        )


def _gradient(
    score: Tensor, activations: tuple[Tensor, ...], retain: bool
) -> tuple[Tensor | None, ...]:
    if not score.requires_grad:
        return (None,) * len(activations)
    # The scores of different images are different rows, so the sum's gradient holds each one's.
    return torch.autograd.grad(score.sum(), activations, retain_graph=retain, allow_unused=True)


def _raise_unconnected(name: str) -> None:
    raise ValueError(
        f"the score does not depend on the output of layer {name!r}, or the model detaches it, "
        "runs the layer under no_grad or in a reentrant checkpoint, or goes on with the layer's "
        "input instead; choose another layer or score"
    )


def _alpha(weights: Tensor) -> Tensor:
    return weights[:, :, 0, 0] if weights.shape[2:] == (1, 1) else weights
