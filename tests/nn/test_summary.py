"""The table of a network, against counting, torch, Keras and automatic differentiation."""

from __future__ import annotations

import math
import os
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from companion.nn.sizes import multiply_adds, receptive_field
from companion.nn.summary import Summary, summary

os.environ["KERAS_BACKEND"] = "torch"
import keras

VGG16 = [64, 64, "M", 128, 128, "M", *3 * [256], "M", *3 * [512], "M", *3 * [512], "M"]


def vgg16() -> nn.Sequential:
    """Without weights; the layers are numbered as torchvision's features, and then on."""
    layers: list[nn.Module] = []
    channels = 3
    with torch.device("meta"):
        for width in VGG16:
            if width == "M":
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
        layers += [nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(512 * 49, 4096), nn.ReLU()]
        layers += [nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000)]
        return nn.Sequential(*layers)


class Residual(nn.Module):
    """A block whose paths join, in place or not, after a convolution on each."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, (3, 1), padding="same", dilation=2)
        self.shortcut = nn.Conv2d(3, 4, 1, bias=False)
        self.relu = nn.ReLU()
        self.inplace = inplace

    def forward(self, x):
        main = self.second(self.first(x))
        shortcut = self.shortcut(x)
        if self.inplace:
            main += shortcut
        else:
            main = main + shortcut
        return self.relu(main)


class Twice(nn.Module):
    """Uses one layer twice, one not at all, a parameter of its own, and a function."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.unused = nn.Linear(2, 2)
        self.activation = nn.ReLU()
        self.matrix = nn.Parameter(torch.ones(5, 6), requires_grad=False)

    def forward(self, x):
        return F.linear(self.activation(self.layer(self.activation(self.layer(x)))), self.matrix)


class Tied(nn.Module):
    """An encoder and a decoder with one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 4)
        self.decoder = nn.Linear(4, 4)
        self.decoder.weight = self.encoder.weight

    def forward(self, x):
        return self.decoder(self.encoder(x))


class Heads(nn.Module):
    """Returns a nest of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 3, batch_first=True)
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        sequence, state = self.lstm(x)
        return {"scores": self.head(sequence), "state": [state], "length": x.shape[1]}


class Decides(nn.Module):
    """Needs numbers to go on, and keeps notes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer("runs", torch.zeros(()))
        self.last = None

    def forward(self, x):
        self.runs += 1
        self.last = x
        return self.layer(x) if x.sum() == 0 else x


ZOO = {
    "vgg16": (vgg16, (3, 224, 224)),
    "residual": (Residual, (3, 9, 9)),
    "twice": (Twice, (6,)),
    "tied": (Tied, (4,)),
    "heads": (Heads, (7, 5)),
    "decides": (Decides, (3,)),
    "attention": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (5, 8)),
    "no parameters": (nn.ReLU, (3, 4)),
}


@pytest.fixture(params=ZOO)
def network(request) -> tuple[nn.Module, tuple[int, ...]]:
    make, shape = ZOO[request.param]
    return make(), shape


def rows_of(table: Summary) -> dict:
    return {row.name: row for row in table.rows}


def lines_of(table: Summary) -> list[str]:
    return str(table).splitlines()


class TestTheArticle:
    layer = nn.Conv2d(3, 10, 5)

    def test_its_table(self):
        table = summary(self.layer, (200, 200, 3), channels_last=True)
        (row,) = table.rows
        assert row.outputs == ((None, 196, 196, 10),)
        assert (row.parameters, table.parameters, table.trainable) == (760, 760, 760)
        assert row.multiply_adds == multiply_adds((196, 196), 5, 3, 10)
        line = next(line for line in lines_of(table) if "Conv2d)" in line)
        assert line.split("  ")[0] == "(Conv2d)"
        assert "(None, 196, 196, 10)" in line
        assert " 760 " in line

    def test_keras_says_the_same(self):
        theirs = keras.Sequential([keras.Input((200, 200, 3)), keras.layers.Conv2D(10, 5)])
        said = []
        theirs.summary(print_fn=lambda line, **_: said.append(line))
        words = {"(None, 196, 196, 10)", "760", "Total params: 760", "Trainable params: 760"}
        ours = str(summary(self.layer, (200, 200, 3), channels_last=True))
        for word in words:
            assert word in "\n".join(said)
            assert word in ours

    def test_channels_first(self):
        (row,) = summary(self.layer, (3, 200, 200)).rows
        assert row.outputs == ((None, 10, 196, 196),)


class TestCounts:
    def test_vgg16(self):
        table = summary(vgg16(), (3, 224, 224))
        assert table.parameters == table.trainable == 138_357_544
        convolutions = channels = 0
        size = 224
        for width in VGG16:
            if width == "M":
                size //= 2
            else:
                channels, before = width, channels or 3
                convolutions += multiply_adds((size, size), 3, before, channels)
        dense = 512 * 49 * 4096 + 4096 * 4096 + 4096 * 1000
        assert table.multiply_adds == convolutions + dense

    def test_the_column_of_parameters_adds_up(self, network):
        model, shape = network
        table = summary(model, shape)
        own = list(model.parameters())
        assert sum(row.parameters for row in table.rows) == sum(p.numel() for p in own)
        assert table.parameters == sum(p.numel() for p in own)
        trainable = sum(p.numel() for p in own if p.requires_grad)
        assert sum(row.trainable for row in table.rows) == table.trainable == trainable
        assert table.parameter_bytes == 4 * table.parameters
        assert table.multiply_adds == sum(row.multiply_adds for row in table.rows)

    @pytest.mark.parametrize(
        "layer",
        [
            nn.Conv2d(4, 8, (3, 2), stride=2, groups=4),
            nn.Conv2d(4, 4, 3, groups=4, padding="same", dilation=2, bias=False),
            nn.Conv2d(4, 6, 1, padding=3),
        ],
        ids=["grouped", "depthwise", "pointwise"],
    )
    def test_convolutions_are_counted_as_by_hand(self, layer):
        (row,) = summary(layer, (4, 9, 11)).rows
        output = layer(torch.zeros(1, 4, 9, 11)).shape
        assert row.outputs == ((None, *output[1:]),)
        assert row.multiply_adds == multiply_adds(
            output[2:], layer.kernel_size, 4, layer.out_channels, layer.groups
        )

    def test_attention_is_counted_as_by_hand(self):
        """Length 5, width 8, 2 heads: projections, scores, means, and the last projection."""
        expected = 5 * 8 * 24 + 5 * 5 * 8 + 5 * 5 * 8 + 5 * 8 * 8

        class Attention(nn.MultiheadAttention):
            def forward(self, x):
                assert x.sum() == 0  # run with numbers, where torch has a fused attention
                return super().forward(x, x, x)[0]

        fast = torch.backends.mha.get_fastpath_enabled()
        assert summary(Attention(8, 2, batch_first=True), (5, 8)).multiply_adds == expected
        assert torch.backends.mha.get_fastpath_enabled() is fast

    def test_frozen_parameters(self):
        model = nn.Sequential(nn.Linear(2, 3).requires_grad_(False), nn.Linear(3, 4).double())
        model[0].double()
        table = summary(model, (2,))
        assert (table.parameters, table.trainable, table.non_trainable) == (25, 16, 9)
        assert (table.parameter_bytes, table.trainable_bytes) == (200, 128)
        assert "Non-trainable params: 9 (72 B)" in str(table)

    def test_running_statistics_are_what_keras_counts_as_non_trainable(self):
        table = summary(nn.BatchNorm2d(4), (4, 1, 1))
        theirs = keras.layers.BatchNormalization()
        theirs.build((None, 1, 1, 4))
        assert table.parameters == sum(math.prod(v.shape) for v in theirs.trainable_variables)
        batches_tracked = 1  # torch's alone
        assert table.buffers - batches_tracked == sum(
            math.prod(v.shape) for v in theirs.non_trainable_variables
        )
        assert "Buffers, such as running statistics: 9" in lines_of(table)


class TestRows:
    def test_a_module_used_twice_has_two_rows_and_its_parameters_once(self):
        table = summary(Twice(), (6,))
        assert [row.name for row in table.rows] == [
            "layer", "activation", "layer", "activation", "", "unused"
        ]  # fmt: skip
        first, _, second, *_ = table.rows
        assert (first.parameters, first.shared) == (42, 0)
        assert (second.parameters, second.shared) == (0, 42)
        assert first.multiply_adds == second.multiply_adds == 36
        shared = [line for line in lines_of(table) if line.startswith("layer") and "shared" in line]
        assert len(shared) == 1

    def test_a_module_made_of_others_has_a_row_for_what_is_its_own(self):
        row = rows_of(summary(Twice(), (6,)))[""]
        assert (row.kind, row.outputs) == ("Twice", ((None, 5),))
        assert (row.parameters, row.trainable, row.multiply_adds) == (30, 0, 30)
        assert "(Twice)" in str(summary(Twice(), (6,)))

    def test_a_module_that_is_never_called_says_so(self):
        table = summary(Twice(), (6,))
        assert [row.called for row in table.rows] == 5 * [True] + [False]
        assert table.rows[-1].outputs == ()
        assert table.rows[-1].parameters == 6
        assert "not called" in lines_of(table)[-6]

    def test_a_parameter_of_two_modules_counts_once(self):
        encoder, decoder = summary(Tied(), (4,)).rows
        assert (encoder.parameters, decoder.parameters, decoder.shared) == (20, 4, 16)
        assert "4 + 16 shared" in str(summary(Tied(), (4,)))

    def test_nested_modules_have_their_full_names(self):
        model = nn.Sequential(nn.Sequential(nn.ReLU(), nn.Sequential(nn.Linear(2, 3))), nn.Tanh())
        names = [(row.name, row.kind) for row in summary(model, (2,)).rows]
        assert names == [("0.0", "ReLU"), ("0.1.0", "Linear"), ("1", "Tanh")]

    def test_all_outputs_are_told(self):
        rows = rows_of(summary(Heads(), (7, 5)))
        assert rows["lstm"].outputs == ((None, 7, 3), (1, None, 3), (1, None, 3))
        assert rows["head"].outputs == ((None, 7, 2),)
        assert "(None, 7, 3), (1, None, 3), (1, None, 3)" in str(summary(Heads(), (7, 5)))

    def test_a_module_that_returns_no_tensor_says_so(self):
        class Looks(nn.Module):
            def forward(self, x):
                return None

        table = summary(Looks(), (1, 4, 4))
        assert table.rows[0].outputs == ()
        assert "(Looks)       no tensor " in str(table)

    def test_every_axis_that_the_batch_changes_is_none(self):
        class Unfolds(nn.Module):
            def forward(self, x):
                return x.flatten(0, 1), x[:, 0].T, x.sum(0)

        (row,) = summary(Unfolds(), (3, 4)).rows
        assert row.outputs == ((None, 4), (4, None), (3, 4))

    def test_a_network_for_batches_of_one(self):
        class One(nn.Module):
            def forward(self, x):
                return x.reshape(1, 12)

        assert summary(One(), (3, 4)).rows[0].outputs == ((1, 12),)


class TestReceptiveFields:
    def test_vgg16(self):
        rows = rows_of(summary(vgg16(), (3, 224, 224)))
        (conv5_3, same), (pool5, _) = rows["28"].receptive_field, rows["30"].receptive_field
        assert conv5_3 == same
        assert (conv5_3.size, conv5_3.jump) == (196, 16)
        assert (pool5.size, pool5.jump) == (212, 32)
        assert rows["29"].receptive_field == rows["28"].receptive_field  # a ReLU in place
        assert rows["32"].receptive_field is None  # flattened

    def test_they_are_the_support_of_the_gradient(self):
        """Layer by layer and on both axes, for positive weights; the middle output is looked at."""
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 2, (3, 5), stride=(1, 2), padding=(1, 2)),
            nn.BatchNorm2d(2),
            nn.ReLU(inplace=True),
            nn.AvgPool2d((2, 1)),
            nn.Conv2d(2, 1, (2, 3), padding="same", dilation=(2, 1)),
            nn.AvgPool2d(3, 2, 1, ceil_mode=True),
            nn.Conv2d(1, 1, 2, groups=1),
        ).double()
        for p in model.parameters():
            nn.init.uniform_(p, 0.1, 1.0)
        model.eval()
        x = torch.rand(1, 1, 60, 70, dtype=torch.float64)
        fields = [row.receptive_field for row in summary(model, (1, 60, 70)).rows]
        for depth, pair in enumerate(fields, start=1):
            x.requires_grad_()
            y = model[:depth](x)
            i, j = y.shape[2] // 2, y.shape[3] // 2
            (g,) = torch.autograd.grad(y[0, 0, i, j], x)
            for axis, position, field in zip((1, 0), (i, j), pair, strict=True):
                seen = g[0, 0].sum(axis).nonzero().flatten().tolist()
                assert seen[0] == field.start + field.jump * position
                assert seen[-1] == seen[0] + field.size - 1
        assert fields[-1][0] != fields[-1][1]

    def test_max_pooling_and_adaptive_pooling(self):
        model = nn.Sequential(
            nn.MaxPool2d(3, dilation=2, stride=2, padding=1), nn.AdaptiveMaxPool2d((None, 2))
        )
        first, last = (row.receptive_field for row in summary(model, (1, 17, 17)).rows)
        window = (3, 2, 2, 1)
        assert first == 2 * (receptive_field([window]),)
        assert last == (receptive_field([window]), receptive_field([window, (4, 4)]))

    def test_windows_of_several_sizes_are_not_told(self):
        (row,) = summary(nn.AdaptiveAvgPool2d(3), (1, 7, 7)).rows
        assert row.receptive_field is None

    def test_padding_with_values_of_the_image_is_not_told(self):
        layer = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")
        assert summary(layer, (1, 7, 7)).rows[0].receptive_field is None

    def test_it_ends_where_a_layer_has_two_outputs(self):
        row, _ = summary(_WithPositions(), (1, 8, 8)).rows
        assert row.outputs == 2 * ((None, 1, 4, 4),)
        assert row.receptive_field is None

    @pytest.mark.parametrize("inplace", [True, False])
    def test_it_ends_where_paths_join(self, inplace):
        rows = rows_of(summary(Residual(inplace), (3, 9, 9)))
        assert [field.size for field in rows["second"].receptive_field] == [7, 3]
        assert [field.size for field in rows["shortcut"].receptive_field] == [1, 1]
        assert rows["relu"].receptive_field is None

    def test_both_axes_are_printed_where_they_differ(self):
        lines = lines_of(summary(Residual(), (3, 9, 9)))
        ends = {line.split()[0]: line for line in lines if line}
        assert ends["first"].endswith("  3")
        assert ends["second"].endswith("  7 x 3")
        assert ends["relu"].endswith("  -")

    def test_no_column_without_images(self):
        assert "Receptive" not in str(summary(nn.Linear(2, 2), (2,)))


class TestLeftAsFound:
    @pytest.mark.parametrize("fails", [False, True])
    def test_everything(self, network, fails):
        model, shape = network
        modules = list(model.modules())
        for k, module in enumerate(modules):
            module.training = bool(k % 2)  # not all alike
        handle = model.register_forward_hook(lambda *_: None)
        before = [_state(module) for module in modules]
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        copies = {k: t.clone() for k, t in tensors.items() if not t.is_meta}
        if fails:
            shape = (*shape, 3)
            with pytest.raises(ValueError, match="does not take an input"):
                summary(_Fails(model), shape)
        else:
            summary(model, shape)
        assert [_state(module) for module in modules] == before
        after = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        assert all(after[k] is tensor for k, tensor in tensors.items())
        assert all(torch.equal(tensors[k], copy) for k, copy in copies.items())
        assert all(tensor.grad is None for tensor in tensors.values())
        handle.remove()

    def test_nothing_is_computed(self):
        class Shapes(nn.Linear):
            def forward(self, x):
                assert x.is_meta
                assert self.weight.is_meta
                return super().forward(x)

        assert summary(Shapes(3, 2), (3,)).multiply_adds == 6

    def test_a_network_that_needs_numbers_gets_zeros_on_its_device(self):
        model = Decides()
        (row,) = summary(model, (3,)).rows
        assert (row.name, row.outputs) == ("layer", ((None, 2),))
        assert model.last is None
        assert model.runs == 0

    def test_it_runs_in_evaluation_mode(self):
        """A batch of one value cannot be normalised in training."""
        table = summary(nn.Sequential(nn.BatchNorm1d(3), nn.Dropout()).train(), (3,))
        assert [row.outputs for row in table.rows] == 2 * [((None, 3),)]

    @pytest.mark.cuda
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
    def test_on_a_gpu(self):
        for make in (Residual, Decides):
            model = make().cuda()
            shape = (3, 9, 9) if make is Residual else (3,)
            assert summary(model, shape).rows == summary(make(), shape).rows
            assert all(t.is_cuda for t in model.state_dict().values())


class _WithPositions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.pool(x)[0])


def _state(module: nn.Module) -> dict:
    """Its attributes, with the lengths of what is in the hooks' dictionaries."""
    return {
        name: dict(value) if isinstance(value, dict) else value
        for name, value in vars(module).items()
    }


class _Fails(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        self.model(x[..., 0])
        raise RuntimeError("on purpose")


def test_a_compiled_network_is_the_network():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    assert summary(torch.compile(model), (2,)) == summary(model, (2,))


def test_networks_in_double_precision():
    assert summary(nn.Linear(2, 3).double(), (2,)).parameter_bytes == 72


class OneByOne(nn.Module):
    """It sends its samples through the layer one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, x):
        return [self.layer(sample) for sample in x]


def test_samples_that_are_taken_one_by_one():
    (row,) = summary(OneByOne(), (2,)).rows
    assert (row.name, row.outputs, row.parameters) == ("layer", ((3,),), 9)


def test_in_inference_mode():
    expected = summary(Residual(), (3, 9, 9))
    with torch.inference_mode():
        assert summary(Residual(), (3, 9, 9)) == expected


def test_html_has_the_cells_of_the_text():
    table = summary(Residual(), (3, 9, 9))
    text = re.sub(r"<[^>]*>", " ", table._repr_html_())
    assert text.split() == [
        word for word in str(table).split() if set(word) != {"-"} or word == "-"
    ]
    odd = type("A<b>", (nn.ReLU,), {})
    assert "(A&lt;b&gt;)" in summary(odd(), (2,))._repr_html_()
    assert "A<b>" not in summary(odd(), (2,))._repr_html_()


@pytest.mark.parametrize(
    ("count", "said"),
    [(255, "1020 B"), (256, "1 KiB"), (380, "1.484 KiB"), (2**18, "1 MiB"), (3 * 2**28, "3 GiB")],
)
def test_memory_is_in_units_of_1024(count, said):
    layer = nn.Linear(count, 1, bias=False, device="meta")
    assert f"Total params: {count:,} ({said})" in str(summary(layer, (count,)))


@pytest.mark.parametrize(
    ("model", "shape", "error", "message"),
    [
        (nn.Linear, (3,), TypeError, "model is of type type, expected a torch.nn.Module"),
        (nn.ReLU(), 3, TypeError, "input_shape is 3, expected integers"),
        (nn.ReLU(), "3x4", TypeError, "input_shape is '3x4'"),
        (nn.ReLU(), (None, 3), TypeError, "without the axis of the batch"),
        (nn.ReLU(), (3, 0), ValueError, r"input_shape is \(3, 0\), expected positive"),
        (nn.ReLU(), (2**40, 2**40), ValueError, "does not take an input of shape"),
        (nn.ReLU(), (2**80,), ValueError, r"fails with [A-Z][A-Za-z]*Error: [^\n]*\Z"),
        (nn.LazyLinear(3), (2,), ValueError, "'weight' of LazyLinear has no shape yet; call"),
        (nn.Sequential(nn.ReLU(), nn.Sequential(nn.Linear(3, 4))), (5,), ValueError,
         r"Sequential .* \(1, 5\), a batch of 1; it fails in layer '1.0' with RuntimeError: .*5"),
        (nn.Conv2d(3, 4, 3, device="meta"), (4, 8, 8), ValueError, "Conv2d .* fails with"),
    ],
    ids=lambda value: None,
)  # fmt: skip
def test_mistakes_are_named(model, shape, error, message):
    with pytest.raises(error, match=message):
        summary(model, shape)
