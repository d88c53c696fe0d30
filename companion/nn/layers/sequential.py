"""Layers one after the other."""

from __future__ import annotations

import torch


class Sequential(torch.nn.Sequential):
    """:class:`torch.nn.Sequential`, which says in which layer an error arose, and on what input."""

    def forward(self, input):
        try:
            for name, layer in self._modules.items():  # noqa: B007 (the note uses them)
                input = layer(input)
        except Exception as error:
            if not torch.compiler.is_compiling():  # which cannot trace a note
                error.add_note(
                    f"in layer {name!r}, {type(layer).__name__}, given {_describe(input)}"
                )
            raise
        return input


def _describe(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"an input of shape {tuple(value.shape)}"
    return type(value).__name__
