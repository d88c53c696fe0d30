"""What all layers share: drop-in for torch.nn, its kernels by default, the book's on demand."""

from __future__ import annotations

import copy
import inspect
import io
import pickle

import numpy as np
import pytest
import torch
import torch.nn.utils.parametrizations
import torch.nn.utils.prune
from torch.utils._python_dispatch import TorchDispatchMode

from companion import nn

IMAGE = (2, 3, 8, 8)

#: Constructor of a layer from a module of layers, and the shape of its input.
LAYERS = {
    "Conv2d": (lambda m: m.Conv2d(3, 4, 3, padding=1), IMAGE),
    "MaxPool2d": (lambda m: m.MaxPool2d(2), IMAGE),
    "AvgPool2d": (lambda m: m.AvgPool2d(2), IMAGE),
    "AdaptiveAvgPool2d": (lambda m: m.AdaptiveAvgPool2d((4, 3)), IMAGE),
    "BatchNorm2d": (lambda m: m.BatchNorm2d(3), IMAGE),
    "Linear": (lambda m: m.Linear(3, 4), (2, 3)),
    "Flatten": (lambda m: m.Flatten(), IMAGE),
    "Dropout": (lambda m: m.Dropout(), IMAGE),
    "ReLU": (lambda m: m.ReLU(), IMAGE),
    "ReLU6": (lambda m: m.ReLU6(), IMAGE),
    "Sequential": (lambda m: m.Sequential(m.BatchNorm2d(3), m.ReLU(inplace=True)), IMAGE),
}

#: torch's kernels for what the book writes out.
VENDORS = (
    "convolution", "max_pool", "avg_pool", "batch_norm", "relu", "hardtanh", "dropout", "addmm",
    "softmax", "nll_loss", "threshold",
)  # fmt: skip


class Recorder(TorchDispatchMode):
    """The kernels that run within the block."""

    def __init__(self):
        super().__init__()
        self.kernels = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.kernels.append(str(function))
        return function(*args, **(kwargs or {}))


def kernels(layer, *inputs):
    """The kernels of a forward and a backward pass."""
    inputs = [x.clone().requires_grad_() if x.is_floating_point() else x for x in inputs]
    with Recorder() as recorder:
        layer(*inputs).sum().backward()
    return recorder.kernels


def arguments(layer):
    """Names, kinds and defaults of the constructor's arguments."""
    parameters = inspect.signature(type(layer)).parameters.values()
    return [(p.name, p.kind, p.default) for p in parameters]


@pytest.fixture(params=LAYERS, ids=str)
def case(request):
    build, shape = LAYERS[request.param]
    ours, theirs = build(nn), build(torch.nn)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs, torch.randn(shape)


def test_drop_in(case):
    ours, theirs, x = case
    assert isinstance(ours, type(theirs))
    assert arguments(ours) == arguments(theirs)
    assert repr(ours) == repr(theirs)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    torch.manual_seed(0)
    expected = theirs(x.clone())
    torch.manual_seed(0)
    assert torch.equal(ours(x.clone()), expected)


@pytest.mark.parametrize("how", ["copy", "pickle", "save"])
def test_copies(case, how):
    layer, _, x = case
    layer.eval()
    if how == "copy":
        other = copy.deepcopy(layer)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(layer))
    else:
        file = io.BytesIO()
        torch.save(layer, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    assert type(other) is type(layer)
    assert torch.equal(other(x.clone()), layer(x.clone()))


REPARAMETRISED = {
    "weight norm": torch.nn.utils.parametrizations.weight_norm,
    "spectral norm": torch.nn.utils.parametrizations.spectral_norm,
    "pruned": lambda layer: torch.nn.utils.prune.l1_unstructured(layer, "weight", 0.5),
}


@pytest.mark.parametrize("change", REPARAMETRISED.values(), ids=REPARAMETRISED)
@pytest.mark.parametrize("kind", ["Conv2d", "Linear"])
def test_weights_that_are_computed(kind, change):
    """The explicit algorithms, too, take the weight that torch.nn.utils puts in place."""
    build, shape = LAYERS[kind]
    layer = change(build(nn).double()).eval()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    inputs = [x, *layer.parameters()]
    expected = layer(x)
    with nn.explicit():
        y = layer(x)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    G = torch.randn_like(y)
    torch.testing.assert_close(
        torch.autograd.grad(y, inputs, G),
        torch.autograd.grad(expected, inputs, G),
        rtol=1e-12,
        atol=1e-12,
    )


def test_by_default_torchs_kernels_and_no_others(case):
    """That is what makes the default layers cost what torch's cost."""
    ours, theirs, x = case
    assert kernels(ours, x) == kernels(theirs, x)


def test_explicitly_none_of_torchs_kernels(case):
    ours, _, x = case
    with nn.explicit():
        ran = kernels(ours, x)
    assert ran
    assert not [kernel for kernel in ran if any(vendor in kernel for vendor in VENDORS)]


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
def test_explicitly_no_complex_numbers(case):
    ours, _, x = case
    with nn.explicit():
        if isinstance(ours, nn.Flatten):  # it moves no number
            assert torch.equal(ours(x.cfloat()), ours(x).cfloat())
            return
        with pytest.raises(TypeError, match="complex64"):
            ours.to(torch.cfloat)(x.cfloat())


def test_the_loss_and_the_global_average_refuse_complex_numbers():
    x, target = torch.ones(2, 3, 1, 1).cfloat(), torch.tensor([0, 2])
    with nn.explicit(), pytest.raises(TypeError, match=r"of real numbers, got torch\.complex64"):
        nn.GlobalAvgPool2d()(x)
    with pytest.raises(TypeError, match=r"of real numbers, got torch\.complex64"):
        nn.functional.cross_entropy(x[..., 0, 0], target)
    with nn.explicit(), pytest.raises(TypeError, match=r"logits, got torch\.complex64"):
        nn.CrossEntropyLoss()(x[..., 0, 0], target)


def test_the_loss_runs_torchs_kernels_or_none_of_them():
    arguments = torch.randn(2, 5), torch.tensor([1, 4])
    assert kernels(nn.CrossEntropyLoss(), *arguments) == kernels(
        torch.nn.CrossEntropyLoss(), *arguments
    )
    with nn.explicit():
        ran = kernels(nn.CrossEntropyLoss(), *arguments)
    assert not [kernel for kernel in ran if any(vendor in kernel for vendor in VENDORS)]


@pytest.mark.parametrize("training", [True, False])
def test_compile_traces_the_default_path_whole(case, training):
    ours, theirs, x = case
    ours.train(training)
    theirs.train(training)
    torch._dynamo.reset()
    traced = torch.compile(ours, fullgraph=True, backend="eager")
    torch.manual_seed(0)
    expected = theirs(x.clone())
    torch.manual_seed(0)
    assert torch.equal(traced(x.clone()), expected)


def test_compile_traces_the_global_average_and_the_loss():
    x, target = torch.randn(IMAGE), torch.tensor([0, 2])
    pool, loss = nn.GlobalAvgPool2d(), nn.CrossEntropyLoss(label_smoothing=0.1)
    traced = torch.compile(lambda x: loss(pool(x), target), fullgraph=True, backend="eager")
    assert torch.equal(traced(x), loss(pool(x), target))


def test_a_whole_network_of_either_kind_learns_the_same():
    """Logits, loss, gradients and statistics of every layer at once, in float64."""

    def network(m):
        return m.Sequential(
            m.Conv2d(3, 4, 3, stride=2, padding=1, bias=False),
            m.BatchNorm2d(4),
            m.ReLU(inplace=True),
            m.MaxPool2d(3, 2, 1),
            m.Dropout(0.2),
            m.Conv2d(4, 6, 3, padding="same"),
            m.ReLU6(inplace=True),
            m.AvgPool2d(2, ceil_mode=True),
            m.AdaptiveAvgPool2d(2),
            m.Flatten(),
            m.Linear(24, 5),
        ).double()

    torch.manual_seed(0)
    ours, theirs = network(nn), network(torch.nn)
    ours.load_state_dict(theirs.state_dict())
    x, target = torch.randn(4, 3, 17, 15).double(), torch.tensor([0, 4, 2, 2])
    torch.manual_seed(1)
    expected = torch.nn.CrossEntropyLoss()(theirs(x), target)
    expected.backward()
    torch.manual_seed(1)
    with nn.explicit():
        loss = nn.CrossEntropyLoss()(ours(x), target)
    loss.backward()  # the choice was made when the forward pass ran
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        [p.grad for p in ours.parameters()],
        [p.grad for p in theirs.parameters()],
        rtol=1e-10,
        atol=1e-12,
    )
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-12, atol=1e-14)


IMAGE_LAYERS = [
    nn.Conv2d(3, 4, 3),
    nn.MaxPool2d(2),
    nn.AvgPool2d(2),
    nn.AdaptiveAvgPool2d(2),
    nn.GlobalAvgPool2d(),
    nn.BatchNorm2d(3),
]
WRONG_IMAGES = [
    (torch.zeros(IMAGE, dtype=torch.uint8), TypeError, r"got torch.uint8; .* x.float\(\) / 255"),
    (np.zeros(IMAGE), TypeError, "expected a torch.Tensor, got numpy.ndarray; convert it"),
    (torch.zeros(8, 8), ValueError, r"\(N, (C|3), H, W\).*shape \(8, 8\); .* x\[None, None\]"),
    (torch.zeros(1, *IMAGE), ValueError, r"expected a batch of images .*\(1, 2, 3, 8, 8\)$"),
    (torch.zeros(2, 3, 0, 8), ValueError, r"one pixel, got .*\(2, 3, 0, 8\); .*failed to load"),
]


@pytest.mark.parametrize("context", [nn.explicit, torch.enable_grad])
@pytest.mark.parametrize("layer", IMAGE_LAYERS, ids=lambda layer: type(layer).__name__)
@pytest.mark.parametrize(("x", "error", "said"), WRONG_IMAGES)
def test_what_is_no_image(layer, x, error, said, context):
    with context(), pytest.raises(error, match=said) as raised:
        layer(x)
    assert str(raised.value).startswith(f"{layer}: ")


WRONG_CHANNELS = [
    (3, (2, 4, 8, 8), r"got 4 in an input of shape \(2, 4, 8, 8\); .*alpha.* x\[:, :3\]"),
    (3, (4, 8, 8), r"alpha channel\? Drop it: x\[:3\]"),
    (3, (2, 8, 8, 3), r"last axis\? Put them first: x.permute\(0, 3, 1, 2\)"),
    (3, (8, 8, 3), r"last axis\? Put them first: x.permute\(2, 0, 1\)"),
    (3, (2, 1, 8, 8), r"a grey image\? Repeat its channel: x.expand\(-1, 3, -1, -1\)"),
    (3, (1, 8, 8), r"a grey image\? Repeat its channel: x.expand\(3, -1, -1\)"),
    (1, (2, 3, 8, 8), r"a colour image\? Average its channels: x.mean\(-3, keepdim=True\)"),
]


@pytest.mark.parametrize(("channels", "shape", "said"), WRONG_CHANNELS)
def test_the_commonest_wrong_channels_are_recognised_and_the_cure_cures(channels, shape, said):
    layer, x = nn.Conv2d(channels, 2, 3), torch.zeros(shape)
    with pytest.raises(ValueError, match=said) as raised:
        layer(x)
    cure = "x" + str(raised.value).rpartition(": x")[2]
    assert layer(eval(cure, {"x": x})).shape[-3] == 2


def test_other_wrong_channels_are_just_told():
    with pytest.raises(ValueError, match=r": expected 5 channels, got 7 in an .* \(2, 7, 8, 8\)$"):
        nn.Conv2d(5, 2, 3)(torch.zeros(2, 7, 8, 8))


class Whole(torch.fx.Tracer):
    """A tracer that looks into no layer of the package, as torch.fx looks into none of torch.nn."""

    def is_leaf_module(self, m, module_qualified_name):
        whole = type(m).__module__.startswith("companion.nn.layers")
        return whole and not isinstance(m, nn.Sequential)


@pytest.mark.parametrize("name", ["digit_classifier", "efficientnet_lite0"])
def test_torch_fx_traces_the_layers_as_wholes(name):
    network = nn.NETWORKS[name]().eval()
    with pytest.raises(TypeError, match=r"torch\.fx .* is_leaf_module .* True") as raised:
        torch.fx.symbolic_trace(network)
    assert "expected" not in str(raised.value)
    traced = torch.fx.GraphModule(network, Whole().trace(network))
    x = torch.rand(1, 1 if name == "digit_classifier" else 3, 28, 28)
    assert torch.equal(traced(x), network(x))


@pytest.mark.parametrize("explicit", [False, True])
def test_torch_export(explicit):
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, "same"), nn.BatchNorm2d(4), nn.ReLU6(), nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5),
    ).eval()  # fmt: skip
    x = torch.rand(2, 3, 9, 9)
    with nn.explicit() if explicit else torch.enable_grad():
        exported = torch.export.export(network, (x,))
    torch.testing.assert_close(exported.module()(x), network(x))


def test_one_dtype_for_image_and_weight():
    layer = nn.Conv2d(3, 2, 3)
    with pytest.raises(TypeError, match=r"one dtype, got torch.float64 and torch.float32; conv"):
        layer(torch.zeros(IMAGE).double())
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.zeros(IMAGE).bfloat16()).dtype is torch.bfloat16
    with pytest.raises(TypeError, match="one dtype"):
        layer.to("meta")(torch.zeros(IMAGE, device="meta").double())
