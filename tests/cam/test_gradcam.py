"""GradCAM: the map itself, what it costs, and what it leaves behind."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from companion.cam import RULE_NAMES, GradCAM, Top
from companion.cam.rules import RULES
from tests.cam.networks import images, small

EXACT = {"rtol": 1e-12, "atol": 1e-15}


def by_hand(model, layer, x, classes):
    """Activation, gradient and scores from one plain graph over the whole model."""
    kept = []
    hook = layer.register_forward_hook(lambda m, i, o: kept.append(o))
    output = model(x)
    hook.remove()
    score = output[torch.arange(len(x)), classes]
    (gradient,) = torch.autograd.grad(score.sum(), kept[0])
    return kept[0].detach(), gradient, score.detach()


@pytest.mark.parametrize("name", ["0", "1", "2", "3", "4"])
def test_the_map_is_the_mean_gradient_times_the_activation(name):
    model, x, classes = small(), images(), torch.tensor([1, 4, 0])
    activation, gradient, score = by_hand(model, model.get_submodule(name), x, classes)
    alpha = gradient.sum(dim=(2, 3)) / (gradient.shape[2] * gradient.shape[3])
    seen = GradCAM(model, name)(x, classes)
    torch.testing.assert_close(seen.weights, alpha, **EXACT)
    torch.testing.assert_close(
        seen.map, torch.einsum("nk,nkij->nij", alpha, activation), rtol=1e-12, atol=1e-15
    )
    torch.testing.assert_close(seen.activation, activation, **EXACT)
    torch.testing.assert_close(seen.gradient, gradient, **EXACT)
    torch.testing.assert_close(seen.score, score, **EXACT)
    assert seen.layer == name
    assert seen.target.tolist() == [1, 4, 0]
    assert not any(t.requires_grad for t in (seen.map, seen.weights, seen.activation, seen.score))


def test_layers_go_by_module_name_or_default():
    model, x = small(), images()
    by_name = GradCAM(model, "3")(x, 2).map
    assert torch.equal(GradCAM(model, model[3])(x, 2).map, by_name)
    assert torch.equal(GradCAM(model)(x, 2).map, by_name)
    assert GradCAM(model).layers == ("3",)


def test_an_operation_in_place_behind_the_layer_changes_nothing():
    """pytorch-grad-cam mixes the weights before ReLU with the maps after it here."""
    x = images()
    torch.testing.assert_close(
        GradCAM(small(inplace=True), "3")(x, 1).map, GradCAM(small(), "3")(x, 1).map, **EXACT
    )


def test_frozen_parameters_no_grad_and_inference_mode_change_nothing():
    model, x = small(), images()
    expected = GradCAM(model, "3")(x, 1).map
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert torch.equal(GradCAM(model, "3")(x, 1).map, expected)
    with torch.no_grad():
        assert torch.equal(GradCAM(model, "3")(x, 1).map, expected)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        inside = GradCAM(model, "3")(x.clone(), 1)
    assert torch.equal(inside.map, expected)
    assert not inside.map.is_inference()


def test_a_compiled_model_is_explained():
    model, x = small(), images()
    expected = GradCAM(model, "3")(x, 1).map
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(x)  # from now on a graph without hooks is there
    for layer in ("3", model[3]):
        seen = GradCAM(compiled, layer)(x, 1)
        assert torch.equal(seen.map, expected)
        assert seen.layer == "3"


def test_a_compiled_part_of_a_model_is_explained():
    model, x = small(), images()
    expected = GradCAM(model, "3")(x, 1).map
    model[3] = torch.compile(model[3], backend="eager")
    model[4].compile(backend="eager")
    model(x)
    assert torch.equal(GradCAM(model, "3")(x, 1).map, expected)
    assert torch.equal(GradCAM(model, "4")(x, 1).activation, expected_activation(model, x))


def expected_activation(model, x):
    with torch.no_grad():
        return model[:5](x)


def test_channels_last_and_a_width_of_one():
    model, x = small(), images(count=1)
    expected = GradCAM(model, "3")(x, 1).map
    last = GradCAM(copy.deepcopy(model).to(memory_format=torch.channels_last), "3")(
        x.to(memory_format=torch.channels_last), 1
    )
    torch.testing.assert_close(last.map, expected, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_maps_in_single(dtype):
    model, x = small(), images()
    expected = GradCAM(model, "3")(x, 1).map
    half = GradCAM(copy.deepcopy(model).to(dtype), "3")(x.to(dtype), 1)
    assert half.map.dtype == half.gradient.dtype == torch.float32
    assert (
        torch.corrcoef(torch.stack([half.map.flatten().double(), expected.flatten()]))[0, 1] > 0.98
    )
    with torch.autocast("cpu", torch.bfloat16):
        seen = GradCAM(copy.deepcopy(model).float(), "3")(x.float(), 1)
        assert torch.is_autocast_enabled("cpu")
    assert seen.map.dtype == torch.float32


def test_the_model_is_left_as_it_was_found():
    model, x = small().train(), images()
    model[0].weight.requires_grad_(False)
    model[7].weight.grad = torch.ones_like(model[7].weight)
    state = copy.deepcopy(model.state_dict())
    flags = [p.requires_grad for p in model.parameters()]
    GradCAM(model, "3")(x, 1)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert [p.requires_grad for p in model.parameters()] == flags
    assert model.training
    assert torch.equal(model[7].weight.grad, torch.ones_like(model[7].weight))
    assert sum(p.grad is not None for p in model.parameters()) == 1
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    assert x.grad is None
    assert not x.requires_grad


def test_hooks_are_gone_after_an_exception():
    model = small()
    with pytest.raises(RuntimeError):
        GradCAM(model, "3")(torch.rand(1, 4, 14, 14, dtype=torch.float64))
    with pytest.raises(ValueError, match="class 9 does not exist"):
        GradCAM(model, "3")(images(), 9)
    assert not any(m._forward_hooks for m in model.modules())
    assert torch.is_grad_enabled()


def test_nothing_below_the_layer_is_recorded():
    model, x = small(), images()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        GradCAM(model, "4")(x, 1)
    own = {p.data_ptr() for p in model.parameters()}
    assert all(t.numel() <= 3 * 6 * 6 * 6 for t in kept if t.data_ptr() not in own)
    assert not any(t.data_ptr() == model[0].weight.data_ptr() for t in kept)


def test_several_layers_share_one_pass():
    model, x = small(), images()
    runs = []
    model[0].register_forward_hook(lambda *_: runs.append(1))
    records = GradCAM(model, ["4", "0", model[2]])(x, 3)
    assert runs == [1]
    assert [record.layer for record in records] == ["4", "0", "2"]
    for record in records:
        torch.testing.assert_close(record.map, GradCAM(model, record.layer)(x, 3).map, **EXACT)


def test_several_classes_share_one_pass():
    model, x = small(), images()
    runs = []
    model[0].register_forward_hook(lambda *_: runs.append(1))
    classes = [[0, 1], [4, 2], [3, 3]]
    seen = GradCAM(model, "3")(x, classes)
    assert runs == [1]
    assert seen.map.shape == (3, 2, 5, 5)
    assert seen.weights.shape == (3, 2, 6)
    assert seen.target.tolist() == classes
    for column in range(2):
        one = GradCAM(model, "3")(x, [row[column] for row in classes])
        torch.testing.assert_close(seen.map[:, column], one.map, **EXACT)
        torch.testing.assert_close(seen.score[:, column], one.score, **EXACT)


def test_the_default_is_the_largest_logit_and_top_orders_them():
    model, x = small(), images()
    logits = model(x)
    assert torch.equal(GradCAM(model)(x).target, logits.argmax(1))
    assert torch.equal(GradCAM(model)(x, Top(3)).target, logits.topk(3).indices)


@pytest.mark.parametrize(
    "targets",
    [
        [1, 1, 1],
        (1, 1, 1),
        np.int64(1),
        np.array([1, 1, 1]),
        [np.int32(1)] * 3,
        torch.tensor(1),
        [torch.tensor(1)] * 3,
        torch.ones(3, dtype=torch.int32),
        torch.ones(3, dtype=torch.uint8),
    ],
    ids=repr,
)
def test_a_class_is_any_integer(targets):
    assert GradCAM(small())(images(), targets).target.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "targets", [torch.tensor([[1, 2]] * 3), [torch.tensor([1, 2])] * 3, np.array([[1, 2]] * 3)]
)
def test_several_classes_may_come_in_a_tensor(targets):
    assert GradCAM(small())(images(), targets).target.tolist() == [[1, 2]] * 3


@pytest.mark.parametrize("k", [2.0, True, "3", None])
def test_a_number_of_classes_is_an_integer(k):
    with pytest.raises(TypeError, match="Top: expected a number of classes"):
        Top(k)
    with pytest.raises(ValueError, match="k = 0"):
        Top(0)


def test_as_many_names_as_classes():
    with pytest.raises(ValueError, match="got 2 names, the model has 5 classes"):
        GradCAM(small(), names=["ant", "bee"])(images(), "bee")


def test_targets_by_name_and_by_function():
    model, x = small(), images()
    names = ["ant", "bee", "cat", "cat", "dog"]
    named = GradCAM(model, "3", names=names)
    assert named(x, ["ant", 4, "dog"]).target.tolist() == [0, 4, 4]
    difference = GradCAM(model, "3")(x, lambda y: y[:, 4] - y[:, 0])
    assert difference.target is None
    torch.testing.assert_close(
        difference.map, named(x, "dog").map - named(x, "ant").map, rtol=1e-11, atol=1e-15
    )
    with pytest.raises(ValueError, match=r"'cat' names the classes \[2, 3\]"):
        named(x, "cat")
    with pytest.raises(ValueError, match="did you mean 'bee'"):
        named(x, "beee")
    with pytest.raises(ValueError, match="names are not known"):
        GradCAM(model, "3")(x, "ant")


def test_the_counterfactual_turns_the_map_of_a_linear_rule_round():
    model, x = small(), images()
    cam = GradCAM(model, "3")
    torch.testing.assert_close(cam(x, 1, counterfactual=True).map, -cam(x, 1).map, **EXACT)
    layer = GradCAM(model, "3", rule="layer-cam")
    against = layer(x, 1, counterfactual=True)
    torch.testing.assert_close(
        against.map, ((-layer(x, 1).gradient).relu() * against.activation).sum(1), **EXACT
    )


@pytest.mark.parametrize("rule", RULES)
def test_the_counterfactual_of_any_rule_is_the_map_of_the_negative_score(rule):
    cam, x = GradCAM(small(), "4", rule=rule), images()
    negative = cam(x, lambda y: -y[:, 1])
    torch.testing.assert_close(cam(x, 1, counterfactual=True).map, negative.map, **EXACT)


@pytest.mark.parametrize("rule", sorted(set(RULE_NAMES) - set(RULES)))
def test_a_rule_without_gradient_has_no_counterfactual(rule):
    model, runs = small(), []
    model.register_forward_hook(lambda *_: runs.append(1))
    with pytest.raises(ValueError, match=f"{rule} has no gradient to turn round"):
        GradCAM(model, "3", rule=rule)(images(), counterfactual=True)
    assert not runs


def test_images_of_a_batch_do_not_mix():
    model, x = small(), images()
    together = GradCAM(model, "3")(x, [1, 2, 3]).map
    for n in range(3):
        torch.testing.assert_close(
            together[n], GradCAM(model, "3")(x[n : n + 1], n + 1).map[0], rtol=1e-10, atol=1e-14
        )


@pytest.mark.parametrize("cut", [lambda y: y[:2], lambda y: y[..., None], lambda y: y[0]])
def test_logits_are_one_row_to_an_image(cut):
    class Cut(nn.Sequential):
        def forward(self, x):
            return cut(super().forward(x))

    with pytest.raises(ValueError, match=r"the model returned shape .* for 3 images"):
        GradCAM(Cut(*small()), "3")(images())
    with pytest.raises(ValueError, match=r"one floating-point score per image, shape \(3,\)"):
        GradCAM(small(), "3")(images(), lambda y: y[:2, 0])


class Odd(nn.Module):
    """Runs ``first`` twice, never runs ``unused``, and returns a pair."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.unused = nn.Conv2d(3, 3, 3)
        self.detached = nn.Conv2d(3, 3, 1)
        self.linear = nn.Linear(3, 5)
        self.double()

    def forward(self, x):
        x = self.first(self.first(x))
        aside = self.detached(x).detach()
        return self.linear((x + aside).mean(dim=(2, 3))), aside


def first_logits(output):
    return output[0][:, 0]


@pytest.mark.parametrize(
    ("layer", "targets", "error", "words"),
    [
        ("first", first_logits, ValueError, "ran more than once"),
        ("unused", first_logits, ValueError, "did not run"),
        ("linear", first_logits, ValueError, "expected feature maps"),
        ("detached", first_logits, ValueError, "does not depend"),
        ("detached", 1, TypeError, "returned tuple"),
        ("detached", lambda output: output[0], ValueError, "one floating-point score per image"),
        (None, lambda output: output[0].sum(), ValueError, "one floating-point score per image"),
    ],
)
def test_a_layer_or_a_score_that_cannot_be_explained(layer, targets, error, words):
    with pytest.raises(error, match=words):
        GradCAM(Odd(), "detached" if layer is None else layer)(images(), targets)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"layer": "features.3"}, ValueError, "its convolutions are '0', '3'"),
        ({"layer": nn.ReLU()}, ValueError, "is not a part of"),
        ({"layer": ["3", "3"]}, ValueError, "given twice"),
        ({"layer": []}, ValueError, "at least one"),
        ({"layer": 3}, TypeError, "dotted name, got int"),
        ({"layer": [3]}, TypeError, "dotted name"),
        ({"rule": "gradcam"}, ValueError, "expected one of 'grad-cam'"),
        ({"names": "abcde"}, TypeError, "names: expected a sequence"),
        ({"names": {0: "ant", 1: "bee"}}, TypeError, "names: expected a sequence"),
    ],
)
def test_layers_and_rules_that_do_not_exist(arguments, error, words):
    with pytest.raises(error, match=words):
        GradCAM(small(), **arguments)


def test_a_model_that_is_none():
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got function"):
        GradCAM(images, "3")


def test_a_model_without_convolutions():
    with pytest.raises(ValueError, match="no Conv2d"):
        GradCAM(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))


@pytest.mark.parametrize(
    ("targets", "error", "words"),
    [
        (5, ValueError, "class 5 does not exist; the model has 5 classes"),
        (-1, ValueError, "class -1"),
        ([1, 2], ValueError, "got 2 for 3 images"),
        ([[1], [2], 3], ValueError, "a list of classes for every image"),
        ([[1], [2], [3, 4]], ValueError, "same number"),
        ([[], [], []], ValueError, "at least one"),
        (2.0, TypeError, "targets"),
        (torch.tensor([0.5, 1, 2]), TypeError, "class index or name, got 0.5"),
        (np.array([0.5, 1, 2]), TypeError, "class index or name, got 0.5"),
        ([True, 1, 2], TypeError, "index or name"),
        (torch.ones(3, dtype=torch.bool), TypeError, "index or name"),
        (Top(6), ValueError, "has 5 classes"),
    ],
)
def test_targets_that_do_not_exist(targets, error, words):
    with pytest.raises(error, match=words):
        GradCAM(small())(images(), targets)


def test_several_classes_of_one_image_are_told_how_to_be_written():
    with pytest.raises(ValueError, match=r"several classes of one image are \[\[1, 2\]\]"):
        GradCAM(small())(images(count=1), [1, 2])


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), TypeError, r"images.float\(\) / 255"),
        (torch.zeros(3, 8, 8), ValueError, r"images\[None\]"),
        (torch.zeros(0, 3, 8, 8), ValueError, "batch"),
        ([[1.0]], TypeError, "expected a tensor"),
    ],
)
def test_images_that_are_none(x, error, words):
    with pytest.raises(error, match=words):
        GradCAM(small())(x)


def test_probabilities_are_warned_about():
    model = nn.Sequential(*small(), nn.Softmax(dim=1))
    with pytest.warns(UserWarning, match="looks like probabilities") as caught:
        GradCAM(model, "3")(images())
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bias", [[1.0], [2.0, -1.0], [0.5, 0.25]])
def test_logits_that_sum_to_one_by_chance_are_no_probabilities(bias):
    model = small()
    model[7] = nn.Linear(24, len(bias), dtype=torch.float64)
    with torch.no_grad():
        model[7].weight.mul_(1e-9)
        model[7].bias.copy_(torch.tensor(bias))
    assert GradCAM(model)(images()).target.tolist() == [0, 0, 0]


def test_a_map_of_zeros_stays_a_map_of_zeros():
    model = small()
    with torch.no_grad():
        model[7].weight.zero_()
    for rule in ("grad-cam", "grad-cam++", "hires-cam", "layer-cam", "xgrad-cam", "ablation-cam"):
        heatmap = GradCAM(model, "4", rule=rule)(images(), 1).heatmap((14, 14))
        assert torch.equal(heatmap, torch.zeros(3, 14, 14, dtype=torch.float64)), rule


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_the_maps_are_the_same():
    model, x = small(), images()
    expected = GradCAM(model, "3")(x, [1, 2, 3])
    there = GradCAM(model.cuda(), "3")(x.cuda(), [1, 2, 3])
    assert there.map.is_cuda
    torch.testing.assert_close(there.map.cpu(), expected.map, rtol=1e-9, atol=1e-12)
