"""What captum and torchcam do where a model is not as they expect it, and what this package does.

The rows of the book's page on other packages that are not about values; those are in
``test_peers.py``.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from companion.cam import GradCAM
from tests.cam.networks import images, small

CLASSES = [1, 4, 0]

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:captum")


def captum(model: nn.Module, layer: str) -> torch.Tensor:
    from captum.attr import LayerGradCam

    explain = LayerGradCam(model, model.get_submodule(layer))
    return explain.attribute(images(), target=CLASSES)[:, 0].detach()


def torchcam(model: nn.Module, layer: str, name: str = "GradCAM") -> torch.Tensor:
    import torchcam.methods as methods

    with getattr(methods, name)(model, layer) as extractor:
        return extractor(CLASSES, model(images()), normalized=False)[0].detach()


def ours(model: nn.Module, layer: str) -> torch.Tensor:
    return GradCAM(model, layer)(images(), CLASSES).map


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_torchcam_explains_what_an_operation_in_place_left_of_the_layer():
    before, after = ours(small(), "3"), ours(small(), "4")
    assert not torch.allclose(before, after)
    torch.testing.assert_close(torchcam(small(inplace=True), "3"), after.relu())
    torch.testing.assert_close(captum(small(inplace=True), "3"), before)
    torch.testing.assert_close(ours(small(inplace=True), "3"), before)


def test_with_frozen_parameters_torchcam_refuses_and_captum_does_not():
    model, expected = small().requires_grad_(False), ours(small(), "3")
    with pytest.raises(RuntimeError):
        torchcam(model, "3")
    torch.testing.assert_close(captum(model, "3"), expected)
    torch.testing.assert_close(ours(model, "3"), expected)


def test_in_no_grad_torchcam_refuses_and_captum_does_not():
    expected = ours(small(), "3")
    with torch.no_grad():
        with pytest.raises(RuntimeError):
            torchcam(small(), "3")
        torch.testing.assert_close(captum(small(), "3"), expected)
        torch.testing.assert_close(ours(small(), "3"), expected)


def test_in_inference_mode_both_refuse():
    model = small()
    expected = ours(model, "3")
    with torch.inference_mode():
        for peer in (captum, torchcam):
            with pytest.raises(RuntimeError):
                peer(model, "3")
        torch.testing.assert_close(ours(model, "3"), expected)


def test_torchcam_leaves_its_hooks_where_it_is_no_context_manager():
    from torchcam.methods import GradCAM as Peer

    model = small()
    kept = Peer(model, "3")
    kept(CLASSES, model(images()))
    assert hooks(model) > 0
    kept.remove_hooks()
    assert hooks(model) == 0
    captum(model, "3")
    ours(model, "3")
    assert hooks(model) == 0


def test_no_one_touches_the_gradients_of_the_parameters():
    model = small()
    for explain in (captum, torchcam, ours):
        explain(model, "3")
        assert all(parameter.grad is None for parameter in model.parameters())


def test_torchcam_never_divides_in_grad_cam_plus_plus():
    seen = GradCAM(small(), "3", rule="grad-cam++")(images(), CLASSES)
    a, g = seen.activation, seen.gradient
    undivided = ((g**2 * g.relu()).sum(dim=(2, 3), keepdim=True) * a).sum(dim=1).relu()
    theirs = torchcam(small(), "3", "GradCAMpp")
    torch.testing.assert_close(theirs, undivided, rtol=1e-6, atol=1e-15)
    assert not torch.allclose(theirs, seen.map.relu(), rtol=0.1)


def test_torchcam_does_not_reach_one_when_the_scores_are_tiny():
    from torchcam.methods import GradCAM as Peer

    model, tiny = small(), nn.Sequential(*small(), nn.Identity())
    tiny[7].weight.data *= 1e-6
    with Peer(tiny, "3") as extractor:
        theirs = extractor(CLASSES, tiny(images()))[0]
    raw = ours(tiny, "3").relu()
    largest = raw.amax(dim=(1, 2))
    low = raw.amin(dim=(1, 2))
    torch.testing.assert_close(theirs.amax(dim=(1, 2)), (largest - low) / (largest - low + 1e-8))
    assert (theirs.amax(dim=(1, 2)) < 0.99).all()
    heat = [GradCAM(m, "3")(images(), CLASSES).heatmap((14, 14)) for m in (model, tiny)]
    torch.testing.assert_close(*heat)


@pytest.mark.parametrize("peer", [captum, torchcam])
def test_in_training_mode_the_peers_move_the_statistics_of_batch_norm(peer):
    def moved(explain) -> bool:
        model = small().train()
        before = model[1].running_mean.clone()
        explain(model, "3")
        return not torch.equal(before, model[1].running_mean)

    assert moved(peer)
    assert not moved(ours)


def test_captum_enlarges_to_the_nearest_cell_unless_told():
    from captum.attr import LayerAttribution

    spot = torch.tensor([[[[0.0, 1.0]]]])
    nearest = LayerAttribution.interpolate(spot, (1, 4))
    assert nearest.flatten().tolist() == [0, 0, 1, 1]
    linear = LayerAttribution.interpolate(spot, (1, 4), "bilinear")
    assert linear.flatten().tolist() == [0, 0.25, 0.75, 1]


def test_how_a_class_that_does_not_exist_is_answered():
    from captum.attr import LayerGradCam
    from torchcam.methods import GradCAM as Peer

    model, x = small(), images()
    with pytest.raises((IndexError, AssertionError)):
        LayerGradCam(model, model[3]).attribute(x, target=7)
    with Peer(model, "3") as extractor, pytest.raises((IndexError, ValueError)):
        extractor(7, model(x))
    with pytest.raises(ValueError, match="class 7 does not exist; the model has 5 classes"):
        GradCAM(model, "3")(x, 7)


def test_of_a_module_that_runs_twice_the_peers_explain_the_last_run():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
            self.activation = nn.ReLU()
            self.again = nn.Identity()
            self.head = nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a = self.activation(self.first(x))
            return self.head(self.again(self.activation(self.second(a))).mean((2, 3)))

    model = Twice().double().eval()
    last = ours(model, "again")
    torch.testing.assert_close(captum(model, "activation"), last)
    torch.testing.assert_close(torchcam(model, "activation"), last.relu())
    with pytest.raises(ValueError, match="ran more than once"):
        ours(model, "activation")
