"""Which layers are explained: modules, dotted names, or the last convolution."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple, NoReturn

from torch import nn

Layer = nn.Module | str


class Kind(NamedTuple):
    """What is looked for: the argument that names it, and the modules to propose instead."""

    argument: str
    plural: str
    types: tuple[type[nn.Module], ...]


_LAYER = Kind("layer", "convolutions", (nn.Conv2d,))


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
    return find(model, layer, _LAYER)


def find(model: nn.Module, layer: Layer | Iterable[Layer], kind: Kind) -> dict[str, nn.Module]:
    """As :func:`find_layers`, without a default, for an argument of another name."""
    if not isinstance(layer, nn.Module | str | Iterable):
        _raise_type(layer, kind)
    asked = [layer] if isinstance(layer, nn.Module | str) else list(layer)
    if not asked:
        raise ValueError(f"{kind.argument}: got an empty sequence; name at least one layer")
    found: dict[str, nn.Module] = {}
    for one in asked:
        name, module = _find(model, one, kind)
        if any(module is other for other in found.values()):
            raise ValueError(f"{kind.argument}: {name!r} was given twice")
        found[name] = module
    return found


def _find(model: nn.Module, layer: Layer, kind: Kind) -> tuple[str, nn.Module]:
    modules = dict(model.named_modules(remove_duplicate=False))
    if isinstance(layer, str):
        if layer in modules:
            return layer, modules[layer]
        raise ValueError(
            f"{kind.argument}: {type(model).__name__} has no layer named {layer!r}; "
            f"{_candidates(model, layer, kind)}"
        )
    if not isinstance(layer, nn.Module):
        _raise_type(layer, kind)
    for name, module in modules.items():
        if module is layer:
            return name, module
    raise ValueError(
        f"{kind.argument}: this {type(layer).__name__} is not a part of the "
        f"{type(model).__name__} to be explained; {_candidates(model, '', kind)}"
    )


def _raise_type(layer: Any, kind: Kind) -> NoReturn:
    raise TypeError(
        f"{kind.argument}: expected a module or its dotted name, got {type(layer).__name__}"
    )


def modules_of(model: nn.Module, kind: Kind) -> list[tuple[str, nn.Module]]:
    """The modules of a kind that ``model`` registers, by their dotted names."""
    return [
        (name, module) for name, module in model.named_modules() if isinstance(module, kind.types)
    ]


def _last_convolution(model: nn.Module) -> dict[str, nn.Module]:
    convolutions = modules_of(model, _LAYER)
    if not convolutions:
        raise ValueError(
            f"layer: {type(model).__name__} has no Conv2d to take by default; name the layer"
        )
    return dict(convolutions[-1:])


def _candidates(model: nn.Module, name: str, kind: Kind) -> str:
    names = [other for other, _ in model.named_modules() if other]
    close = get_close_matches(name, names, n=5, cutoff=0.6)
    if close:
        return f"did you mean {', '.join(map(repr, close))}?"
    proposed = [repr(name) for name, _ in modules_of(model, kind)]
    return f"its {kind.plural} are {', '.join(proposed) or 'none'}"
