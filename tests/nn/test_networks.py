"""The networks: keys, shapes and counts as published facts; outputs against written-out ones."""

import contextlib
import copy
import inspect
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from companion.nn import explicit
from companion.nn.networks import NETWORKS, efficientnet_lite0, resnet, vgg16, vgg19
from companion.nn.networks import efficientnet_lite as lite
from companion.nn.networks.initial import he_normal
from companion.nn.networks.resnet import ResidualBlock, Shortcut
from companion.nn.networks.vgg import VGG
from companion.nn.pretrained.imagenet import top
from companion.nn.pretrained.weights import WeightsError

IMAGE = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


def on_meta(name: str) -> torch.nn.Module:
    """The network without its numbers: made at once."""
    with torch.device("meta"):
        return NETWORKS[name]()


def shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


# Facts: torchvision 0.28 for VGG, He et al. for residual networks, the file for EfficientNet-Lite


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("vgg16", 138_357_544),
        ("vgg16_bn", 138_365_992),
        ("vgg19", 143_667_240),
        ("vgg19_bn", 143_678_248),
        ("resnet20", 269_722),
        ("resnet32", 464_154),
        ("resnet44", 658_586),
        ("resnet56", 853_018),
        ("efficientnet_lite0", 4_652_008),
    ],
)
def test_parameters(name, parameters):
    assert sum(p.numel() for p in on_meta(name).parameters()) == parameters


WIDTHS = {
    16: (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512),
    19: (64, 64, 128, 128, *[256] * 4, *[512] * 8),
}


@pytest.mark.parametrize(
    ("name", "indices"),
    [
        ("vgg16", (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)),
        ("vgg19", (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)),
        ("vgg16_bn", (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)),
        ("vgg19_bn", (0, 3, 7, 10, 14, 17, 20, 23, 27, 30, 33, 36, 40, 43, 46, 49)),
    ],
)
def test_vgg_has_torchvisions_keys_and_shapes(name, indices):
    expected = {}
    channels = 3
    for i, width in zip(indices, WIDTHS[int(name[3:5])], strict=True):
        expected[f"features.{i}.weight"] = (width, channels, 3, 3)
        expected[f"features.{i}.bias"] = (width,)
        if name.endswith("bn"):
            for entry in ("weight", "bias", "running_mean", "running_var"):
                expected[f"features.{i + 1}.{entry}"] = (width,)
            expected[f"features.{i + 1}.num_batches_tracked"] = ()
        channels = width
    for i, rows, columns in ((0, 4096, 25088), (3, 4096, 4096), (6, 1000, 4096)):
        expected[f"classifier.{i}.weight"] = (rows, columns)
        expected[f"classifier.{i}.bias"] = (rows,)
    assert shapes(on_meta(name)) == expected


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("vgg16", "vgg16-397923af.pth"),
        ("vgg16_bn", "vgg16_bn-6c64b313.pth"),
        ("vgg19", "vgg19-dcbb9e9d.pth"),
        ("vgg19_bn", "vgg19_bn-c79401a0.pth"),
    ],
)
def test_vgg_asks_for_torchvisions_file(name, file, tmp_path, monkeypatch):
    asked = []

    def refuse(url: str, path: str, hash_prefix: str) -> None:
        asked.append((url, Path(path).name, hash_prefix))
        raise OSError("no network in this test")

    monkeypatch.delenv("COMPANION_WEIGHTS", raising=False)
    monkeypatch.setattr("companion.nn.pretrained.weights.cache_directory", lambda: tmp_path)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(WeightsError, match="no network in this test"):
        NETWORKS[name]("imagenet")
    url = f"https://download.pytorch.org/models/{file}"
    assert asked == [(url, file, re.search("-(.*)[.]pth", file)[1])]


def test_every_name_makes_a_network():
    for name, make in NETWORKS.items():
        assert isinstance(on_meta(name), torch.nn.Module)
        defaults = [p for p in inspect.signature(make).parameters.values() if p.default is p.empty]
        assert defaults == []


# VGG


def random_vgg(depth: int, batch_norm: bool, dtype: torch.dtype = torch.float32) -> VGG:
    """With random numbers that keep signals and statistics in a sensible range, quickly drawn."""
    with torch.device("meta"):
        model = VGG(depth, batch_norm=batch_norm, classes=7).to(dtype)
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for key, value in model.state_dict().items():
        if value.dim() > 1:
            bound = (6 / value[0].numel()) ** 0.5
            value.uniform_(-bound, bound, generator=generator)
        elif key.endswith(("running_var", "weight")):
            value.uniform_(0.5, 2, generator=generator)
        elif value.is_floating_point():
            value.uniform_(-0.1, 0.1, generator=generator)
        else:
            value.zero_()
    return model.eval()


def vgg_by_keys(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """What torchvision's names mean: the gaps between the numbers of layers tell the rest."""
    convs = [k for k, v in state.items() if k.startswith("features") and v.dim() == 4]
    numbers = [int(key.split(".")[1]) for key in convs]
    step = 3 if f"features.{numbers[0] + 1}.running_mean" in state else 2
    for here, following in zip(numbers, [*numbers[1:], numbers[-1] + step + 1], strict=True):
        weight, bias = (state[f"features.{here}.{entry}"] for entry in ("weight", "bias"))
        x = F.conv2d(x, weight, bias, padding=1)
        if step == 3:
            entries = ("running_mean", "running_var", "weight", "bias")
            x = F.batch_norm(x, *(state[f"features.{here + 1}.{e}"] for e in entries))
        x = x.relu()
        if following - here == step + 1:
            x = F.max_pool2d(x, 2)
    x = F.adaptive_avg_pool2d(x, 7).flatten(1)
    for i in (0, 3, 6):
        x = F.linear(x, state[f"classifier.{i}.weight"], state[f"classifier.{i}.bias"])
        x = x if i == 6 else x.relu()
    return x


@pytest.mark.parametrize("batch_norm", [False, True])
def test_vgg_computes_what_torchvisions_keys_mean(batch_norm):
    model = random_vgg(16, batch_norm)
    x = torch.randn(1, 3, 64, 48, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert relative(model(x), vgg_by_keys(model.state_dict(), x)) <= 1e-6


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_vgg19_explicit_equals_default(dtype, bound):
    # Images of 64x64, up to the classifier; benchmarks/vgg_explicit.py does all of it at 224x224.
    model = on_meta("vgg19")
    convolutions = torch.nn.Sequential(model.features, model.avgpool).to_empty(device="cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        he_normal(convolutions.to(dtype))
        x = torch.randn(1, 3, 64, 64, dtype=dtype)
    with torch.inference_mode():
        default = convolutions(x)
        with explicit():
            by_the_book = convolutions(x)
    assert default.shape == (1, 512, 7, 7)
    assert 0 < relative(by_the_book, default) <= bound


def test_random_weights_begin_as_torchvisions(monkeypatch):
    monkeypatch.setattr("companion.nn.networks.vgg.WIDTHS", (64, 64, 64, 64, 64))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = VGG(16, classes=2)
    for i in (0, 10, 28):
        layer = model.features[i]
        assert layer.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)
        assert not layer.bias.any()
    for i in (0, 3, 6):
        assert model.classifier[i].weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert not model.classifier[i].bias.any()
    assert model.training


def test_hooks_on_a_convolution_of_vgg_see_its_own_output():
    model = random_vgg(16, batch_norm=False)
    seen = []
    model.features[28].register_forward_hook(lambda layer, inputs, out: seen.append(out))
    with torch.inference_mode():
        model(torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    assert (seen[0] < 0).any()


def test_weights_of_another_vgg_are_refused(tmp_path):
    path = tmp_path / "vgg16.pth"
    torch.save(vgg_state_of_zeros(), path)
    with pytest.raises(WeightsError, match=r"it lacks features\.1\.weight, features\.1\.bias"):
        vgg16(path, batch_norm=True)
    with pytest.raises(
        WeightsError, match=r"it lacks features\.16\.weight.*it has features\.17\.weight"
    ) as error:
        vgg19(path)
    assert str(path) in str(error.value)
    with pytest.raises(WeightsError, match=r"classifier.6.weight is \(1000, 4096\) and not \(10,"):
        vgg16(path, classes=10)


def vgg_state_of_zeros() -> dict[str, Tensor]:
    """VGG16's keys and shapes in a file of a few kilobytes: every tensor repeats one number."""
    return {key: torch.zeros(1).expand(shape) for key, shape in shapes(on_meta("vgg16")).items()}


@pytest.mark.parametrize("make", [vgg16, vgg19, efficientnet_lite0])
def test_imagenets_weights_have_a_thousand_classes(make):
    with pytest.raises(
        ValueError, match=rf"{make.__name__}: .*got classes=10; load them with 1000"
    ):
        make("imagenet", classes=10)


# Residual networks


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "maps"), [(28, (28, 14, 7)), (32, (32, 16, 8))])
def test_resnets_maps_halve_twice(channels, size, maps):
    model = resnet(20, channels=channels, classes=5)
    x = model.stem(torch.randn(2, channels, size, size))
    sides = []
    for stage in model.stages:
        x = stage(x)
        sides.append(tuple(x.shape[1:]))
    assert sides == [(c, n, n) for c, n in zip((16, 32, 64), maps, strict=True)]
    logits = model(torch.randn(2, channels, size, size))
    assert logits.shape == (2, 5)
    logits.sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.classifier.parameters())
    assert all(p.grad is not None for p in model.parameters())


def test_a_depth_counts_the_layers_with_weights():
    for depth in (8, 20, 110):
        with torch.device("meta"):
            model = resnet(depth)
        weights = [p for p in model.parameters() if p.dim() > 1]
        assert len(weights) == depth


@pytest.mark.parametrize("depth", [2, 18, 34, 21, -4])
def test_no_depth_between(depth):
    with pytest.raises(ValueError, match=rf"6n \+ 2.*got {depth}"):
        resnet(depth)


def test_the_shortcut_has_no_parameters():
    x = torch.arange(2 * 2 * 3 * 3, dtype=torch.float64).view(2, 2, 3, 3)
    out = Shortcut(new_channels=2, stride=2)(x)
    assert out.shape == (2, 4, 2, 2)
    assert out[1, 0].tolist() == [[18, 20], [24, 26]]
    assert not out[:, 2:].any()
    assert Shortcut(new_channels=0, stride=1)(x) is x


@pytest.mark.parametrize(("channels", "stride"), [(4, 1), (6, 2)])
def test_a_residual_block_adds_before_its_relu(channels, stride):
    block = ResidualBlock(4, channels, stride).double().eval()
    for norm in (block.residual[1], block.residual[4]):
        torch.nn.init.uniform_(norm.running_mean)
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    y = x
    for conv, norm, step in ((0, 1, stride), (3, 4, 1)):
        y = F.conv2d(y, block.residual[conv].weight, stride=step, padding=1)
        layer = block.residual[norm]
        y = F.batch_norm(y, layer.running_mean, layer.running_var, layer.weight, layer.bias)
        y = y.relu() if conv == 0 else y
    y[:, :4] += x[:, :, ::stride, ::stride]
    assert relative(block(x), y.relu()) <= 1e-14


# EfficientNet-Lite0


@pytest.fixture(scope="module")
def pretrained_lite():
    return efficientnet_lite0("imagenet").eval()


def photograph() -> Tensor:
    return torch.from_numpy(np.array(Image.open(IMAGE))).permute(2, 0, 1)


def lite_by_keys(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The network as its authors' names and TensorFlow's 'same' padding define it."""

    def conv(key: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{key}.weight"]
        groups = x.shape[1] // weight.shape[1]
        sides = []
        for n, k in zip(reversed(x.shape[2:]), reversed(weight.shape[2:]), strict=True):
            total = max((-(-n // stride) - 1) * stride + k - n, 0)
            sides += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, sides), weight, stride=stride, groups=groups)

    def norm(key: str, x: Tensor) -> Tensor:
        entries = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{key}.{e}"] for e in entries), eps=1e-3)

    x = norm("_bn0", conv("_conv_stem", x, 2)).clamp(0, 6)
    for i in range(16):
        before, block = x, f"_blocks.{i}"
        if i > 0:
            x = norm(f"{block}._bn0", conv(f"{block}._expand_conv", x)).clamp(0, 6)
        stride = 2 if i in (1, 3, 5, 11) else 1
        x = norm(f"{block}._bn1", conv(f"{block}._depthwise_conv", x, stride)).clamp(0, 6)
        x = norm(f"{block}._bn2", conv(f"{block}._project_conv", x))
        x = x + before if x.shape == before.shape else x
    x = norm("_bn1", conv("_conv_head", x)).clamp(0, 6)
    return F.linear(x.mean((2, 3)), state["_fc.weight"], state["_fc.bias"])


@pytest.mark.parametrize("size", [(224, 224), (97, 130)])
def test_lite_computes_what_its_authors_names_mean(pretrained_lite, size):
    state = torch.load(lite.OFFICIAL.obtain(), weights_only=True)
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert relative(pretrained_lite(x), lite_by_keys(state, x)) <= 1e-5


def test_lite_recognises_what_grace_hopper_wears(pretrained_lite):
    with torch.inference_mode():
        best = top(pretrained_lite(pretrained_lite.preprocess(photograph())))
    assert best[0].index == 652
    assert best[0].name == "military uniform"
    assert 0.25 < best[0].probability < 0.4
    assert best[1].probability < 0.1


def test_lite_by_the_explicit_algorithms(pretrained_lite):
    model = efficientnet_lite0("imagenet").eval().double()
    x = model.preprocess(photograph()).double()[..., 60:157, 60:157]
    with torch.inference_mode():
        default = model(x)
        with explicit():
            assert 0 < relative(model(x), default) <= 1e-10


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("digit_classifier", (3, 1, 28, 28)),
        ("scene_classifier", (3, 1, 33, 32)),
        ("resnet20", (3, 3, 15, 16)),
        ("efficientnet_lite0", (3, 3, 65, 64)),
    ],
)
def test_networks_by_the_explicit_algorithms(name, shape, training):
    """Logits, gradients and running statistics, with the same samples dropped."""
    torch.manual_seed(0)
    default = NETWORKS[name]().double().train(training)
    by_the_book = copy.deepcopy(default)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    G = torch.randn(len(x), 1000 if name == "efficientnet_lite0" else 10, dtype=torch.float64)
    results = []
    for network, choice in ((default, contextlib.nullcontext), (by_the_book, explicit)):
        torch.manual_seed(1)
        with choice():
            logits = network(x)
        gradients = torch.autograd.grad(logits, [x, *network.parameters()], G)
        results.append([logits, *gradients, *network.buffers()])
    largest = max(g.abs().max() for g in results[0][1:])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11 * largest.item())


def test_loading_draws_no_random_numbers():
    before = torch.get_rng_state()
    efficientnet_lite0("imagenet")
    assert torch.equal(torch.get_rng_state(), before)


def test_lite_reads_its_own_file_too(pretrained_lite, tmp_path):
    path = tmp_path / "lite.pth"
    torch.save(pretrained_lite.state_dict(), path)
    again = efficientnet_lite0(path)
    for key, value in pretrained_lite.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    assert again.training


def test_a_file_that_is_not_lites_is_refused_by_its_own_names(tmp_path):
    state = torch.load(lite.OFFICIAL.obtain(), weights_only=True)
    state["_blocks.0._se_reduce.weight"] = torch.ones(1)
    path = tmp_path / "b0.pth"
    torch.save(state, path)
    with pytest.raises(WeightsError, match=r"it has _blocks\.0\._se_reduce\.weight\."):
        efficientnet_lite0(path)


def test_random_weights_of_lite_keep_gradients_alive():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = efficientnet_lite0(classes=3)
        depthwise = model.blocks[15].depthwise.conv.weight
        assert depthwise.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.05)
        x = torch.randn(2, 3, 64, 64, requires_grad=True)
        model(x).square().sum().backward()
    assert x.grad.any()


def test_drop_connect_drops_samples_and_keeps_the_mean():
    drop = lite.DropConnect(0.25)
    x = torch.ones(4000, 2, 1, 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        y = drop(x)
    kept = y[:, 0, 0, 0]
    assert torch.equal(y, kept.view(-1, 1, 1, 1).expand_as(y))
    assert sorted(kept.unique().tolist()) == pytest.approx([0, 4 / 3])
    assert y.mean().item() == pytest.approx(1, abs=0.03)
    assert drop.eval()(x) is x


def test_a_dropped_block_is_the_identity():
    block = lite.InvertedResidual(4, 4, 3, stride=1, expansion=2, drop=0.5)
    x = torch.randn(64, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        dropped = (block(x) == x).flatten(1).all(1)
    assert 20 < dropped.sum() < 44


def test_drop_connect_grows_with_depth_and_touches_sums_only():
    blocks = on_meta("efficientnet_lite0").blocks
    assert [block.drop.p for block in blocks] == pytest.approx([0.2 * i / 16 for i in range(16)])
    sums = [i for i, block in enumerate(blocks) if block.has_shortcut]
    assert sums == [2, 4, 6, 7, 9, 10, 12, 13, 14]


def test_batch_norm_of_lite_has_tensorflows_settings():
    norms = [m for m in on_meta("efficientnet_lite0").modules() if hasattr(m, "running_var")]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.01)}
    assert len(norms) == 49


def test_dropout_before_the_dense_layers():
    assert on_meta("efficientnet_lite0").dropout.p == 0.2
    assert [on_meta("vgg16").classifier[i].p for i in (2, 5)] == [0.5, 0.5]
