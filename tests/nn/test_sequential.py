"""Layers one after the other, and the note that says where an error arose."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch

from companion import nn


def test_it_is_torchs():
    layers = [nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)]
    ours, theirs = nn.Sequential(*layers), torch.nn.Sequential(*layers)
    x = torch.randn(5, 4)
    assert torch.equal(ours(x), theirs(x))
    assert repr(ours) == repr(theirs)
    assert isinstance(ours, torch.nn.Sequential)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert isinstance(ours[:2], nn.Sequential)
    named = nn.Sequential(OrderedDict(first=layers[0], second=layers[1]))
    assert torch.equal(named(x), theirs[:2](x))
    assert torch.equal(nn.Sequential()(x), x)


def test_a_layer_used_twice_runs_twice():
    layer = nn.Linear(3, 3)
    x = torch.randn(2, 3)
    assert torch.equal(nn.Sequential(layer, layer)(x), layer(layer(x)))


def test_the_notes_lead_from_the_inside_out():
    model = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Flatten(), nn.Linear(27, 2)))
    with pytest.raises(ValueError, match=r"expected 27 features .* got 48") as raised:
        model(torch.zeros(1, 3, 4, 4))
    assert raised.value.__notes__ == [
        "in layer '1', Linear, given an input of shape (1, 48)",
        "in layer '1', Sequential, given an input of shape (1, 3, 4, 4)",
    ]


def test_the_note_says_what_was_no_tensor():
    with pytest.raises(TypeError) as raised:
        nn.Sequential(nn.MaxPool2d(2, return_indices=True), nn.MaxPool2d(2))(torch.zeros(1, 4, 4))
    assert raised.value.__notes__ == ["in layer '1', MaxPool2d, given tuple"]


def test_compile_reports_the_error_of_the_layer():
    traced = torch.compile(nn.Sequential(nn.Linear(3, 2)), fullgraph=True, backend="eager")
    with pytest.raises(Exception, match="expected 3 features"):
        traced(torch.zeros(1, 4))


def test_an_interruption_is_not_an_error_of_a_layer():
    class Interrupted(torch.nn.Module):
        def forward(self, x):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as raised:
        nn.Sequential(Interrupted())(torch.zeros(1))
    assert not hasattr(raised.value, "__notes__")
