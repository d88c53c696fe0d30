"""The rules on maps small enough for a pencil, and what they have in common."""

from __future__ import annotations

import copy

import pytest
import torch

import companion.nn
from companion.cam import GradCAM, Top, guided_backpropagation, guided_grad_cam
from companion.cam.rules import (
    RULES,
    eigen_cam,
    grad_cam,
    grad_cam_plus_plus,
    hires_cam,
    layer_cam,
    xgrad_cam,
)
from tests.cam.networks import images, small

A = torch.tensor([[[[1.0, 2.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]], dtype=torch.float64)
G = torch.tensor([[[[1.0, -1.0], [2.0, 0.0]], [[3.0, 1.0], [0.0, 0.0]]]], dtype=torch.float64)


def test_with_a_pencil():
    assert grad_cam(A, G).flatten().tolist() == [0.5, 1.0]
    assert torch.equal(hires_cam(A, G), G)
    assert torch.equal(layer_cam(A, G), torch.where(G > 0, G, 0.0))
    # (1*1 - 1*2 + 2*0 + 0*1) / 4, and no activation at all
    assert xgrad_cam(A, G).flatten().tolist() == [-0.25, 0.0]
    # 1/(2+4) * 1 + 4/(8+32) * 2; then 9/18 * 3 + 1/2 * 1
    expected = torch.tensor([1 / 6 + 0.2, 2.0], dtype=torch.float64)
    torch.testing.assert_close(grad_cam_plus_plus(A, G).flatten(), expected)


def test_tiny_gradients_lose_no_digits_in_grad_cam_plus_plus():
    weights = grad_cam_plus_plus(A, 1e-200 * G) / 1e-200
    torch.testing.assert_close(weights.flatten(), torch.tensor([1.5, 2.0], dtype=torch.float64))


@pytest.mark.parametrize("sign", [1, -1])
def test_eigen_cam_is_the_best_rank_one_summary_of_the_maps(sign):
    generator = torch.Generator().manual_seed(0)
    maps = sign * torch.randn(3, 4, 5, 6, dtype=torch.float64, generator=generator)
    weights = eigen_cam(maps)
    projected = (weights * maps).sum(dim=1).flatten(1)
    largest = torch.linalg.svdvals(maps.flatten(2))[:, 0]
    torch.testing.assert_close(projected.norm(dim=1), largest)
    assert (projected.sum(1) >= 0).all()
    torch.testing.assert_close(weights.norm(dim=1).flatten(), torch.ones(3, dtype=torch.float64))


def test_eigen_cam_of_nothing_is_nothing():
    zeros = torch.zeros(1, 3, 4, 4)
    assert torch.equal((eigen_cam(zeros) * zeros).sum(1), torch.zeros(1, 4, 4))


@pytest.mark.parametrize("rule", sorted(RULES.keys() - {"grad-cam++"}))  # it is not homogeneous
def test_scaling_the_score_scales_the_weights(rule):
    model, x = small(), images()
    one = GradCAM(model, "4", rule=rule)(x, lambda y: y[:, 1]).weights
    three = GradCAM(model, "4", rule=rule)(x, lambda y: 3 * y[:, 1]).weights
    torch.testing.assert_close(three, 3 * one, rtol=1e-12, atol=1e-15)


def test_with_global_average_pooling_and_one_linear_layer_they_all_are_cam():
    model, x = small(head="gap"), images()
    maps = {rule: GradCAM(model, "4", rule=rule)(x, 2).map for rule in RULES}
    activation = GradCAM(model, "4")(x, 2).activation
    cam = torch.einsum("k,nkij->nij", model[7].weight[2], activation).detach()
    positions = activation.shape[2] * activation.shape[3]
    for rule in ("grad-cam", "hires-cam", "xgrad-cam"):
        torch.testing.assert_close(positions * maps[rule], cam, rtol=1e-11, atol=1e-15)


def test_ablation_is_exact_where_the_head_is_linear():
    """y - y_k = w_k mean(A_k), so the weight is that share of y."""
    model, x = small(head="gap"), images()
    seen = GradCAM(model, "4", rule="ablation-cam")(x, 3)
    lost = model[7].weight[3] * seen.activation.mean(dim=(2, 3))
    torch.testing.assert_close(seen.weights, lost.detach() / seen.score[:, None])
    assert seen.gradient is None


def test_a_score_of_zero_has_no_share_to_lose():
    model, x = small(), images(count=1)
    with torch.no_grad():
        score = model(x)[0, 1]
    seen = GradCAM(model, "4", rule="ablation-cam")(x, lambda y: y[:, 1] - score)
    assert torch.equal(seen.weights, torch.zeros_like(seen.weights))


def test_score_cam_weighs_by_what_is_left_of_the_score():
    model, x = small(), images(count=2)
    seen = GradCAM(model, "3", rule="score-cam")(x, [1, 4])
    torch.testing.assert_close(seen.weights.sum(1), torch.ones(2, dtype=torch.float64))
    from companion.cam import upsample

    masks = upsample(seen.activation, (14, 14))
    low, high = masks.amin(dim=(2, 3), keepdim=True), masks.amax(dim=(2, 3), keepdim=True)
    masks = (masks - low) / (high - low)
    with torch.no_grad():
        first = torch.stack([model(x[:1] * mask)[0, 1] for mask in masks[0]])
    torch.testing.assert_close(seen.weights[0], first.softmax(0), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("rule", ["score-cam", "ablation-cam"])
def test_the_rows_that_run_at_once_do_not_matter(rule, monkeypatch):
    model, x = small(), images()
    expected = GradCAM(model, "3", rule=rule)(x, [1, 2, 3]).weights
    monkeypatch.setattr("companion.cam.perturbation._ROWS", 5)
    torch.testing.assert_close(
        GradCAM(model, "3", rule=rule)(x, [1, 2, 3]).weights, expected, rtol=1e-9, atol=1e-13
    )


def test_guided_backpropagation_leaves_the_model_alone_and_sees_functions():
    class Functional(torch.nn.Module):
        def __init__(self, layers):
            super().__init__()
            self.layers = layers

        def forward(self, x):
            x = torch.nn.functional.relu(self.layers[1](self.layers[0](x)))
            x = torch.relu_(self.layers[3](x))
            return self.layers[7](self.layers[6](self.layers[5](x)))

    model, x = small(), images()
    expected = guided_backpropagation(model, x, 2)
    plain = x.clone().requires_grad_()
    model(plain)[:, 2].sum().backward()
    assert not torch.allclose(plain.grad, expected, rtol=1e-3)
    torch.testing.assert_close(guided_backpropagation(Functional(model), x, 2), expected)
    assert isinstance(model[2], torch.nn.ReLU)
    again = x.clone().requires_grad_()
    model(again)[:, 2].sum().backward()
    assert torch.equal(again.grad, plain.grad)


def test_guided_functions_take_their_input_by_name_and_other_rectifiers_stay():
    def named(x):
        return torch.nn.functional.relu(input=torch.relu(input=x))

    def clamped(x):
        return torch.nn.functional.hardtanh(input=x, min_val=0.0, max_val=6.0)

    def leaky(x):
        return torch.nn.functional.hardtanh(torch.nn.functional.leaky_relu(x, 0.5))

    def method(x):
        return x.relu()

    def in_place(x):
        return x.relu_()

    def six(x):
        return torch.nn.functional.relu6(x)

    x = torch.tensor([[[[0.5, -0.5, 0.5, 7.0]]]])
    signs = torch.tensor([1.0, 1.0, -1.0, 1.0])
    expected = {
        named: [1.0, 0.0, 0.0, 1.0],
        clamped: [1.0, 0.0, 0.0, 0.0],
        leaky: [1.0, 0.5, -1.0, 0.0],
        method: [1.0, 0.0, 0.0, 1.0],
        in_place: [1.0, 0.0, 0.0, 1.0],
        six: [1.0, 0.0, 0.0, 0.0],
    }
    for function, gradient in expected.items():
        model = Apply(lambda x, function=function: (function(x) * signs).flatten(1))
        score = guided_backpropagation(model, x, lambda y: y.sum(1))
        assert score.flatten().tolist() == gradient, function.__name__


class Apply(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def test_guided_backpropagation_of_a_model_that_begins_in_place():
    model, x = small(), images()
    kept = x.clone()
    inplace = torch.nn.Sequential(torch.nn.ReLU(inplace=True), *model)
    apart = torch.nn.Sequential(torch.nn.ReLU(), *model)
    assert torch.equal(guided_backpropagation(inplace, x, 1), guided_backpropagation(apart, x, 1))
    assert torch.equal(x, kept)


def test_guided_backpropagation_refuses_what_it_cannot_guide():
    model, x = small(), images()
    with companion.nn.explicit(), pytest.raises(ValueError, match="cannot be guided"):
        guided_backpropagation(model, x)
    with pytest.raises(ValueError, match="one class for each image"):
        guided_backpropagation(model, x, Top(2))
    with pytest.raises(ValueError, match="does not depend on the images"):
        guided_backpropagation(model, x, lambda y: y[:, 0].detach())
    with pytest.raises(ValueError, match="gradient is infinite"):
        guided_backpropagation(model, x, lambda y: y[:, 0] * float("inf"))
    with pytest.raises(TypeError, match="model: expected"):
        guided_backpropagation(images, x)


def test_guided_backpropagation_leaves_buffers_and_gradients():
    model, x = small().train(), images()
    state = copy.deepcopy(model.state_dict())
    guided_backpropagation(model, x, 1)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("rule", ["score-cam", "ablation-cam", "eigen-cam"])
def test_rules_without_gradients_take_several_layers_and_classes(rule):
    model, x = small(), images()
    state = copy.deepcopy(model.state_dict())
    classes = [[0, 1], [4, 2], [3, 3]]
    for record in GradCAM(model, ["4", "0"], rule=rule)(x, classes):
        assert not any(t.requires_grad for t in (record.map, record.weights, record.score))
        for column in range(2):
            one = GradCAM(model, record.layer, rule=rule)(x, [row[column] for row in classes])
            torch.testing.assert_close(record.map[:, column], one.map, rtol=1e-9, atol=1e-13)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())


def test_score_cam_enlarges_no_more_masks_than_run_at_once(monkeypatch):
    from companion.cam import perturbation

    enlarged = []
    upsample = perturbation.upsample
    monkeypatch.setattr(perturbation, "_ROWS", 4)
    monkeypatch.setattr(
        perturbation,
        "upsample",
        lambda maps, size: enlarged.append(len(maps)) or upsample(maps, size),
    )
    GradCAM(small(), "3", rule="score-cam")(images(), 1)
    assert max(enlarged) == 4
    assert sum(enlarged) == 18


def test_guided_relu6_stops_negative_gradients_and_saturated_units():
    model = torch.nn.Sequential(torch.nn.ReLU6(), torch.nn.Flatten(), torch.nn.Linear(4, 2))
    with torch.no_grad():
        model[2].weight.copy_(torch.tensor([[1.0, -1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]))
    x = torch.tensor([[[[1.0, 1.0], [-1.0, 7.0]]]])
    assert guided_backpropagation(model, x, 0).flatten().tolist() == [1.0, 0.0, 0.0, 0.0]


def test_guided_grad_cam_is_the_product():
    model, x = small(), images()
    heatmap = GradCAM(model, "3")(x, [1, 2, 3]).heatmap((14, 14))
    fine = guided_backpropagation(model, x, [1, 2, 3])
    product = guided_grad_cam(model, x, [1, 2, 3], layer="3")
    torch.testing.assert_close(product, fine * heatmap[:, None])
    assert guided_grad_cam(model, x).shape == x.shape
