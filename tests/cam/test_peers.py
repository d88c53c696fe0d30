"""The same maps as captum, torchcam and pytorch-grad-cam, once each one's ways are accounted for.

captum gives raw maps.  torchcam takes the ReLU, then stretches to [0, 1] with an epsilon of 1e-8.
pytorch-grad-cam takes the ReLU, stretches with 1e-7, enlarges, and stretches again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from companion.cam import GradCAM, guided_backpropagation, upsample
from companion.cam.rules import eigen_cam
from tests.cam.networks import images, small

CLASSES = [1, 4, 0]
LAYERS = ["0", "3", "4"]


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:captum")


def stretched(maps: Tensor, eps: float) -> Tensor:
    low = maps.amin(dim=(-2, -1), keepdim=True)
    return (maps - low) / ((maps - low).amax(dim=(-2, -1), keepdim=True) + eps)


@pytest.mark.parametrize("layer", LAYERS)
def test_captum_has_the_same_raw_maps(layer):
    from captum.attr import LayerGradCam, LayerGradientXActivation

    model, x = small(), images()
    module = model.get_submodule(layer)
    theirs = LayerGradCam(model, module).attribute(x, target=CLASSES)[:, 0]
    torch.testing.assert_close(GradCAM(model, layer)(x, CLASSES).map, theirs.detach())
    theirs = LayerGradientXActivation(model, module).attribute(x, target=CLASSES).sum(dim=1)
    ours = GradCAM(model, layer, rule="hires-cam")(x, CLASSES).map
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("inplace", [False, True])
def test_captum_has_the_same_guided_gradients(inplace):
    from captum.attr import GuidedBackprop

    x = images()
    theirs = GuidedBackprop(small()).attribute(x.clone(), target=CLASSES)
    ours = guided_backpropagation(small(inplace=inplace), x, CLASSES)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)
    assert (ours != 0).any()


def torchcam(name: str, layer: str, normalized: bool) -> Tensor:
    import torchcam.methods as methods

    model, x = small(), images()
    with getattr(methods, name)(model, layer) as extractor:
        output = model(x.requires_grad_())
        return extractor(CLASSES, output, normalized=normalized)[0].detach()


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("rule", "theirs", "rtol"),
    [
        ("grad-cam", "GradCAM", 1e-12),
        ("layer-cam", "LayerCAM", 1e-12),
        ("xgrad-cam", "XGradCAM", 1e-6),  # their quotient has an epsilon of 1e-8
    ],
)
def test_torchcam_has_the_same_maps(rule, theirs, rtol, layer):
    raw = GradCAM(small(), layer, rule=rule)(images(), CLASSES).map
    expected = torchcam(theirs, layer, normalized=False)
    assert (expected > 0).flatten(1).any(1).any()
    torch.testing.assert_close(raw.relu(), expected, rtol=rtol, atol=1e-12)
    torch.testing.assert_close(
        stretched(raw.relu(), 1e-8), torchcam(theirs, layer, normalized=True), rtol=1e-6, atol=1e-8
    )


def test_torchcam_stretches_before_it_enlarges_in_score_cam():
    model, x = small(), images()
    activation = GradCAM(model, "3")(x, CLASSES).activation
    masks = upsample(stretched(activation, 1e-8), (14, 14))
    with torch.no_grad():
        scores = torch.stack(
            [
                model(masks[n][:, None] * x[n])[:, c]  # one row to a channel
                for n, c in enumerate(CLASSES)
            ]
        )
    weights = scores.softmax(dim=1)
    expected = torchcam("ScoreCAM", "3", normalized=False)
    torch.testing.assert_close(
        torch.einsum("nk,nkij->nij", weights, activation).relu(), expected, rtol=1e-6, atol=1e-9
    )


@pytest.fixture(scope="module")
def stored():
    with np.load(Path(__file__).parent / "golden" / "pytorch_grad_cam.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


@pytest.fixture(scope="module")
def stored_model(stored):
    model = small()
    prefix = "state/"
    state = {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}
    model.load_state_dict(state)
    return model


def as_pytorch_grad_cam(raw: Tensor) -> Tensor:
    return stretched(upsample(stretched(raw.relu(), 1e-7), (14, 14)).relu(), 1e-7)


@pytest.mark.parametrize("layer", ["3", "4"])
@pytest.mark.parametrize(
    "rule", ["grad-cam", "hires-cam", "layer-cam", "xgrad-cam", "ablation-cam"]
)
def test_pytorch_grad_cam_has_the_same_maps(stored, stored_model, rule, layer):
    raw = GradCAM(stored_model, layer, rule=rule)(stored["images"], CLASSES).map
    theirs = stored[f"{rule}/{layer}"].double()
    assert theirs.amax() > 0.99
    torch.testing.assert_close(as_pytorch_grad_cam(raw), theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("layer", ["3", "4"])
def test_pytorch_grad_cam_plus_plus_has_an_epsilon_in_the_quotient(stored, stored_model, layer):
    seen = GradCAM(stored_model, layer, rule="grad-cam++")(stored["images"], CLASSES)
    a, g = seen.activation, seen.gradient
    share = g**2 / (2 * g**2 + g**3 * a.sum(dim=(2, 3), keepdim=True) + 1e-6)
    weights = (share * g.relu()).sum(dim=(2, 3), keepdim=True)
    theirs = stored[f"grad-cam++/{layer}"].double()
    torch.testing.assert_close(as_pytorch_grad_cam((weights * a).sum(1)), theirs, rtol=0, atol=1e-6)
    without = torch.where(g == 0, 0, g**2 / (2 * g**2 + g**3 * a.sum(dim=(2, 3), keepdim=True)))
    torch.testing.assert_close(
        seen.weights, (without * g.relu()).sum(dim=(2, 3)), rtol=1e-9, atol=1e-15
    )


def test_pytorch_grad_cam_centres_the_maps_of_eigen_cam_and_takes_either_sign(stored, stored_model):
    activation = GradCAM(stored_model, "3")(stored["images"], CLASSES).activation
    centred = activation - activation.mean(dim=(2, 3), keepdim=True)
    maps = (eigen_cam(centred) * centred).sum(dim=1)
    theirs = stored["eigen-cam/3"].double()
    for raw, expected in zip(maps, theirs, strict=True):
        differences = [
            (as_pytorch_grad_cam(sign * raw[None])[0] - expected).abs().max() for sign in (1, -1)
        ]
        assert min(differences) < 1e-6 < max(differences)


def test_pytorch_grad_cam_enlarges_otherwise_in_score_cam(stored, stored_model, monkeypatch):
    """Its masks put the corners' centres on the image's corners; those of the overlay do not."""
    monkeypatch.setattr(
        "companion.cam.perturbation.upsample",
        lambda maps, size: F.interpolate(maps, size=size, mode="bilinear", align_corners=True),
    )
    raw = GradCAM(stored_model, "3", rule="score-cam")(stored["images"], CLASSES).map
    theirs = stored["score-cam/3"].double()
    torch.testing.assert_close(as_pytorch_grad_cam(raw), theirs, rtol=0, atol=1e-6)


def test_pytorch_grad_cam_averages_the_maps_of_several_layers(stored, stored_model):
    records = GradCAM(stored_model, ["3", "4"])(stored["images"], CLASSES)
    large = [upsample(stretched(r.map.relu(), 1e-7), (14, 14)).relu() for r in records]
    theirs = stored["grad-cam/3 and 4"].double()
    torch.testing.assert_close(
        stretched((large[0] + large[1]) / 2, 1e-7), theirs, rtol=0, atol=1e-6
    )
