"""Models that do unusual things, and uses of GradCAM that are none."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from companion.cam import RULE_NAMES, GradCAM, guided_grad_cam
from tests.cam.networks import images, small


class Wrapped(nn.Module):
    """A small network whose forward pass is the function given."""

    def __init__(self, run, **options):
        super().__init__()
        self.net = small(**options)
        self.same = nn.Identity()
        self.run = run

    def forward(self, x):
        return self.run(self, x)


def by_default():
    return GradCAM(small(), "3")(images(), 1)


@pytest.mark.parametrize("rule", RULE_NAMES)
def test_a_model_that_standardises_in_place_leaves_the_images(rule):
    x, kept = images(), images()
    model = Wrapped(lambda self, x: self.net(x.mul_(2)))
    seen = GradCAM(model, "net.3", rule=rule)(x, 1)
    assert torch.equal(x, kept)
    apart = Wrapped(lambda self, x: self.net(2 * x))
    assert torch.equal(seen.map, GradCAM(apart, "net.3", rule=rule)(kept, 1).map)


def test_operations_in_place_on_views_of_the_output_change_nothing():
    def run(self, x):
        x = self.net[:4](x)
        x.flatten(2).neg_()
        x[:, :1].mul_(2)
        return self.net[4:](x.add_(1))

    def apart(self, x):
        x = -self.net[:4](x)
        x = torch.cat([2 * x[:, :1], x[:, 1:]], dim=1)
        return self.net[4:](x + 1)

    seen, expected = (GradCAM(Wrapped(one), "net.3")(images(), 1) for one in (run, apart))
    torch.testing.assert_close(seen.map, expected.map, rtol=1e-12, atol=1e-15)
    assert torch.equal(seen.activation, by_default().activation)


def test_several_layers_with_an_operation_in_place_between_them():
    x = images()
    for layers in (["3", "4"], ["4", "2"]):
        seen = GradCAM(small(inplace=True), layers)(x, 1)
        for record in seen:
            expected = GradCAM(small(), record.layer)(x, 1)
            assert torch.equal(record.activation, expected.activation)
            torch.testing.assert_close(record.map, expected.map, rtol=1e-12, atol=1e-15)


def test_an_output_that_is_lost_is_told():
    def run(self, x):
        given = self.net[:4](x)
        same = self.same(given)
        given.mul_(3)  # and same with it
        return self.net[4:](same)

    with pytest.raises(ValueError, match="returns its own input, which the model overwrites"):
        GradCAM(Wrapped(run), "same")(images(), 1)


@pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"]
)
def test_a_part_without_gradients(mode):
    def run(self, x):
        with mode():
            x = self.net[:3](x)
        return self.net[3:](x.clone())

    model = Wrapped(run)
    assert torch.equal(GradCAM(model, "net.3")(images(), 1).map, by_default().map)
    words = {torch.no_grad: "under no_grad", torch.inference_mode: "in inference mode"}[mode]
    with pytest.raises(ValueError, match=words):
        GradCAM(model, "net.1")(images(), 1)


@pytest.mark.parametrize("layer", ["net.0", "net.3"])
def test_a_layer_before_or_in_a_checkpoint(layer):
    def run(self, x):
        return checkpoint(self.net[1:], self.net[0](x), use_reentrant=False)

    model = Wrapped(run).train()
    state = copy.deepcopy(model.state_dict())
    seen = GradCAM(model, layer)(images(), 1)  # whose gradient runs batch norm once more
    expected = GradCAM(small().train(), layer.removeprefix("net."))(images(), 1)
    torch.testing.assert_close(seen.map, expected.map, rtol=1e-12, atol=1e-15)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.filterwarnings("ignore:None of the inputs")
def test_a_reentrant_checkpoint_is_told():
    model = Wrapped(lambda self, x: checkpoint(self.net, x, use_reentrant=True))
    with pytest.raises(ValueError, match="reentrant checkpoint"):
        GradCAM(model, "net.3")(images(), 1)


def test_a_training_step_that_is_not_over_is_not_disturbed():
    model, x = small().train(), images()
    loss = model(x).sum()
    GradCAM(model, "3")(x, 1)
    loss.backward()
    assert model[0].weight.grad is not None


def test_buffers_that_are_replaced_are_put_back():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(()))
            self.register_buffer("nothing", None)

        def forward(self, x):
            self.count = self.count + 1
            return x

    model = nn.Sequential(Counter(), *small()).train()
    kept = model[0].count
    GradCAM(model, "4")(images(), 1)
    assert model[0].count is kept
    assert kept == 0


def test_parametrised_convolutions():
    model = small()
    model[3] = nn.utils.parametrizations.weight_norm(model[3])
    torch.testing.assert_close(GradCAM(model)(images(), 1).map, by_default().map)
    model[3] = nn.utils.parametrizations.spectral_norm(model[3])
    state = copy.deepcopy(model.train().state_dict())
    GradCAM(model, "3")(images(), 1)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_a_module_of_two_names():
    model = Wrapped(lambda self, x: self.net(x))
    model.alias = model.net[3]
    assert GradCAM(model, "alias")(images(), 1).layer == "alias"
    assert GradCAM(model, model.alias).layers == ("net.3",)
    with pytest.raises(ValueError, match="given twice"):
        GradCAM(model, ["alias", "net.3"])


def test_containers_and_the_model_itself_are_layers():
    model, x = Wrapped(lambda self, x: self.net[5:](self.net[:5](x))), images()
    model.features = model.net[:5]
    model.run = lambda self, x: self.net[5:](self.features(x))
    assert torch.equal(GradCAM(model, "features")(x, 1).map, GradCAM(small(), "4")(x, 1).map)
    features = small()[:4]
    seen = GradCAM(features, features)(x, lambda y: y.square().sum((1, 2, 3)))
    assert seen.layer == ""
    torch.testing.assert_close(seen.gradient, 2 * seen.activation, rtol=1e-12, atol=1e-15)


def test_a_layer_that_mixes_the_batch_is_told():
    model = Wrapped(lambda self, x: self.net(torch.cat([x, x]))[: len(x)])
    with pytest.raises(ValueError, match=r"expected feature maps of shape \(3, C, h, w\)"):
        GradCAM(model, "net.3")(images(), 1)


@pytest.mark.parametrize("rule", RULE_NAMES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_map_is_never_nan(rule, bad):
    x = images()
    x[1, 0, 5, 5] = bad
    with pytest.raises(ValueError, match="layer '3': its output is infinite or not a number"):
        GradCAM(small(), "3", rule=rule)(x, 1)


def test_a_gradient_that_is_infinite_is_told():
    with pytest.raises(ValueError, match="layer '3': its map is infinite or not a number"):
        GradCAM(small(), "3")(images(), lambda y: y[:, 1] * float("inf"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_told():
    with pytest.raises(ValueError, match="TorchScript"):
        GradCAM(torch.jit.trace(small(), images()), "3")(images(), 1)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("layer", ["2", "4"])
def test_an_interruption_leaves_nothing(error, layer):
    def interrupt(*_):
        raise error

    model = small().train()
    state = copy.deepcopy(model.state_dict())
    handle = model[3].register_forward_hook(interrupt)
    with pytest.raises(error):
        GradCAM(model, layer)(images(), 1)
    handle.remove()
    assert torch.is_grad_enabled()
    assert not any(m._forward_hooks for m in model.modules())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert compiles()


def compiles():
    """Whether torch.compile does anything."""
    graphs = []
    function = torch.compile(lambda x: x + 1, backend=lambda graph, _: graphs.append(1) or graph)
    function(torch.ones(2))
    return bool(graphs)


def test_compilation_is_off_until_the_last_thread_leaves():
    model, x = small(), images()
    inside, leave, found = threading.Event(), threading.Event(), []

    def pause(*_):
        inside.set()
        leave.wait()

    model.register_forward_pre_hook(pause)
    thread = threading.Thread(target=lambda: GradCAM(model, "3")(x, 1))
    thread.start()
    inside.wait()  # so the other one is last to leave, and first to have come
    found.append(compiles())
    GradCAM(small(), "3")(x, 1)
    found.append(compiles())
    leave.set()
    thread.join()
    assert [*found, compiles()] == [False, False, True]


def test_a_hook_of_the_user_may_explain_too():
    model, x, inside = small(), images(), []
    cam = GradCAM(model, "3")

    def hook(*_):
        if not inside:
            inside.append(None)
            inside.append(cam(x, 2).map)

    model[4].register_forward_hook(hook)
    assert torch.equal(cam(x, 1).map, by_default().map)
    assert torch.equal(inside[1], GradCAM(small(), "3")(x, 2).map)


def test_another_thread_may_run_the_model_meanwhile():
    model, x = small(), images()
    plain, modes = [], []
    entered, ran = threading.Event(), threading.Event()

    def other():
        entered.wait()
        with torch.no_grad():
            plain.append(model(-x))
            modes.append(torch.is_grad_enabled())
            plain.append(GradCAM(model, "3")(-x, 2).map)
        ran.set()

    thread = threading.Thread(target=other)
    thread.start()

    def pause(*_):
        if threading.current_thread() is not thread:
            entered.set()
            ran.wait()

    handle = model[3].register_forward_pre_hook(pause)
    seen = GradCAM(model, "3")(x, 1)
    thread.join()
    handle.remove()
    assert modes == [False]
    assert torch.equal(seen.map, by_default().map)
    assert torch.equal(plain[0], small()(-x))
    assert torch.equal(plain[1], GradCAM(small(), "3")(-x, 2).map)
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("again", [copy.deepcopy, lambda cam: pickle.loads(pickle.dumps(cam))])
def test_a_copy_explains_its_own_model(again):
    cam = GradCAM(small(), "3")
    other = again(cam)
    with torch.no_grad():
        cam.model[3].weight.zero_()
    assert torch.equal(other(images(), 1).map, by_default().map)


@pytest.mark.parametrize("rule", RULE_NAMES)
def test_memory_goes_without_the_garbage_collector(rule):
    gc.collect()
    gc.disable()
    try:
        model = small()
        seen = GradCAM(model, ["3", "0"], rule=rule)(images(), [[1, 2]] * 3)
        guided_grad_cam(model, images(), 1)
        left = [weakref.ref(one) for one in (model, seen[0], seen[0].map, seen[0].activation)]
        del model, seen
        assert all(one() is None for one in left)
    finally:
        gc.enable()


def test_records_are_compared_by_identity():
    seen = by_default()
    assert seen == seen
    assert seen != by_default()
