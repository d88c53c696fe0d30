"""Does the heatmap depend on what the model has learned?  (Adebayo et al., 2018)"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized


def cascade(model: nn.Module, seed: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """The model with its layers drawn anew, one more each time, from the last to the first.

    A map that shows what the model has learned falls apart as soon as the last layer is random.
    Layers are the modules with parameters and a ``reset_parameters``, in the order in which the
    model registers them; batch norm returns to its state before training, statistics included.

    Args:
        model: It is not changed.
        seed: Of the new parameters.  The global random state is as before after each step.

    Yields:
        The name of the layer that was drawn last, and a copy of the model.

    Raises:
        ValueError: There is no such layer, or one is parametrised (weight norm, spectral norm),
            so that it does not hold the weights that it uses.
    """
    randomised = copy.deepcopy(model)
    layers = [
        (name, module)
        for name, module in randomised.named_modules()
        if callable(getattr(module, "reset_parameters", None))
        and next(module.parameters(), None) is not None
    ]
    if not layers:
        raise ValueError(f"model: {type(model).__name__} has no layer with reset_parameters")
    for name, module in layers:
        if is_parametrized(module):
            raise ValueError(
                f"model: layer {name!r} is parametrised, so nothing draws it anew; call "
                "torch.nn.utils.parametrize.remove_parametrizations on it, in a copy of the model"
            )
    for number, (name, module) in enumerate(reversed(layers)):
        with torch.random.fork_rng():
            torch.manual_seed(seed + number)
            module.reset_parameters()
        yield name, copy.deepcopy(randomised)


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's rank correlation of two maps, position by position; ties share their mean rank.

    Args:
        first: Shape ``(N, h, w)``.
        second: The same.

    Returns:
        Values in [-1, 1], shape ``(N,)``; NaN where one of the maps is constant (it has no order).

    Raises:
        ValueError: The shapes differ or are not ``(N, h, w)``, or a value is NaN.
    """
    if first.ndim != 3:
        raise ValueError(f"first: expected shape (N, h, w), got {tuple(first.shape)}")
    if first.shape != second.shape:
        raise ValueError(f"second: expected shape {tuple(first.shape)}, got {tuple(second.shape)}")
    if bool(first.isnan().any() | second.isnan().any()):
        raise ValueError("first, second: expected no NaN, which has no rank")
    x, y = (_ranks(maps.flatten(1)) for maps in (first, second))
    x, y = (ranks - ranks.mean(dim=1, keepdim=True) for ranks in (x, y))
    return (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1))


def _ranks(values: Tensor) -> Tensor:
    """The mean rank of each value among its row's, in double precision."""
    ranks = torch.empty(values.shape, dtype=torch.float64, device=values.device)
    for row, out in zip(values, ranks, strict=True):
        _, group, sizes = torch.unique(row, return_inverse=True, return_counts=True)
        last = sizes.cumsum(0)
        out.copy_((last - (sizes - 1) / 2)[group])
    return ranks
