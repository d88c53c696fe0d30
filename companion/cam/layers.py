"""Which layers are explained: modules, dotted names, or the last convolution."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from torch import nn

Layer = nn.Module | str


def find_layers(model: nn.Module, layer: Layer | Sequence[Layer] | None) -> dict[str, nn.Module]:
    """The layers asked for, by their dotted names, in the order asked for.

    Args:
        model: Any module.
        layer: A submodule of ``model``, its dotted name, or several of them; by default the last
            ``Conv2d`` that ``model`` registers.

    Raises:
        ValueError: A name or a module that ``model`` does not have (the message lists close
            names), a layer given twice, an empty sequence, or no convolution to take by default.
        TypeError: ``layer`` is neither a module nor a name.
    """
    if layer is None:
        return _last_convolution(model)
    if not isinstance(layer, nn.Module | str | Iterable):
        _raise_type(layer)
    asked = [layer] if isinstance(layer, nn.Module | str) else list(layer)
    if not asked:
        raise ValueError("layer: got an empty sequence; name at least one layer")
    found: dict[str, nn.Module] = {}
    for one in asked:
        name, module = _find(model, one)
        if any(module is other for other in found.values()):
            raise ValueError(f"layer: {name!r} was given twice")
        found[name] = module
    return found


def _find(model: nn.Module, layer: Layer) -> tuple[str, nn.Module]:
    modules = dict(model.named_modules(remove_duplicate=False))
    if isinstance(layer, str):
        if layer in modules:
            return layer, modules[layer]
        raise ValueError(
            f"layer: {type(model).__name__} has no layer named {layer!r}; "
            f"{_candidates(model, layer)}"
        )
    if not isinstance(layer, nn.Module):
        _raise_type(layer)
    for name, module in modules.items():
        if module is layer:
            return name, module
    raise ValueError(
        f"layer: this {type(layer).__name__} is not a part of the {type(model).__name__} to be "
        f"explained; {_candidates(model, '')}"
    )


def _raise_type(layer: Any) -> NoReturn:
    raise TypeError(f"layer: expected a module or its dotted name, got {type(layer).__name__}")


def _last_convolution(model: nn.Module) -> dict[str, nn.Module]:
    convolutions = _convolutions(model)
    if not convolutions:
        raise ValueError(
            f"layer: {type(model).__name__} has no Conv2d to take by default; name the layer"
        )
    return dict(convolutions[-1:])


def _convolutions(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [
        (name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)
    ]


def _candidates(model: nn.Module, name: str) -> str:
    names = [other for other, _ in model.named_modules() if other]
    close = get_close_matches(name, names, n=5, cutoff=0.6)
    if close:
        return f"did you mean {', '.join(map(repr, close))}?"
    convolutions = [repr(name) for name, _ in _convolutions(model)]
    return f"its convolutions are {', '.join(convolutions) or 'none'}"
