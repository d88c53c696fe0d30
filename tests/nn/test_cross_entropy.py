"""Softmax cross-entropy, explicit and default, against torch and against its theorems."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from companion import nn
from companion.nn.functional.cross_entropy import cross_entropy

CASES = settings(max_examples=200, deadline=None)


@st.composite
def cases(draw):
    """(options of the loss, logits, target), the target of class indices or probabilities."""
    classes = draw(st.integers(1, 5))
    shape = draw(st.sampled_from([(classes,), (3, classes), (2, classes, 3), (2, classes, 2, 2)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    logits = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    options = {
        "reduction": draw(st.sampled_from(["none", "mean", "sum"])),
        "label_smoothing": draw(st.sampled_from([0.0, 0.1, 1.0])),
        "weight": draw(st.none() | st.just(torch.rand(classes, generator=generator).double())),
    }
    if draw(st.booleans()):
        target = torch.rand(shape, generator=generator, dtype=torch.float64).requires_grad_()
    else:
        index_shape = shape[:1] + shape[2:] if len(shape) > 1 else ()
        target = torch.randint(0, classes, index_shape, generator=generator)
        options["ignore_index"] = draw(st.sampled_from([-100, -1, 0]))
        ignored = torch.rand(index_shape, generator=generator) < draw(st.sampled_from([0, 0.3, 1]))
        target = target.masked_fill(ignored, options["ignore_index"])
    return options, logits.requires_grad_(), target


@CASES
@given(cases())
def test_outputs_and_gradients(case):
    options, logits, target = case
    theirs = torch.nn.CrossEntropyLoss(**options)(logits, target)
    layer = nn.CrossEntropyLoss(**options)
    default = layer(logits, target)
    with nn.explicit():
        ours = layer(logits, target)
    inputs = [t for t in (logits, target) if t.requires_grad]
    G = torch.randn_like(theirs)
    expected = torch.autograd.grad(theirs, inputs, G)
    for got in (default, ours):
        torch.testing.assert_close(got, theirs, rtol=1e-12, atol=1e-12, equal_nan=True)
        gradients = torch.autograd.grad(got, inputs, G)
        torch.testing.assert_close(gradients, expected, rtol=1e-12, atol=1e-12, equal_nan=True)


def test_explicit_is_its_own_function():
    logits = torch.randn(2, 3, requires_grad=True)
    with nn.explicit():
        loss = nn.CrossEntropyLoss(reduction="none")(logits, torch.tensor([0, 1]))
    names, nodes = set(), [loss.grad_fn]
    while nodes:
        node = nodes.pop()
        names.add(type(node).__name__)
        nodes.extend(function for function, _ in node.next_functions if function)
    assert "_CrossEntropyBackward" in names
    assert not any("LogSoftmax" in name for name in names)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 99))
def test_the_gradient_is_p_minus_y_and_the_hessian_the_covariance(seed):
    torch.manual_seed(seed)
    z, y = torch.randn(5, dtype=torch.float64), torch.tensor(2)
    p = z.softmax(0)
    gradient = torch.func.grad(cross_entropy)(z, y)
    torch.testing.assert_close(gradient, p - F.one_hot(y, 5), rtol=1e-13, atol=1e-13)
    hessian = torch.func.hessian(cross_entropy)(z, y)
    torch.testing.assert_close(hessian, p.diag() - p.outer(p), rtol=1e-13, atol=1e-13)


def test_derivatives_of_any_order_in_any_mode():
    torch.manual_seed(0)
    z = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    y = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)
    w = torch.rand(4, dtype=torch.float64)
    indices = torch.tensor([0, 3, -100])

    def soft(z, y):
        return cross_entropy(z, y, w, label_smoothing=0.1, reduction="none")

    def hard(z):
        return cross_entropy(z, indices, w, label_smoothing=0.1)

    for loss, inputs in ((soft, (z, y)), (hard, (z,))):
        torch.autograd.gradcheck(loss, inputs, check_forward_ad=True, check_batched_grad=True)
        torch.autograd.gradgradcheck(
            loss, inputs, check_fwd_over_rev=True, check_rev_over_rev=True, check_batched_grad=True
        )
    torch.testing.assert_close(
        torch.vmap(cross_entropy)(z, indices.clamp(0)),
        cross_entropy(z, indices.clamp(0), reduction="none"),
    )


def test_logits_of_any_size():
    z = torch.tensor([[1000.0, -1000.0, 999.0]], dtype=torch.float64, requires_grad=True)
    loss = cross_entropy(z, torch.tensor([2]))
    loss.backward()
    p = 1 / (1 + math.exp(-1))
    torch.testing.assert_close(loss.item(), 1 + math.log1p(math.exp(-1)), rtol=1e-15, atol=0)
    torch.testing.assert_close(z.grad[0].tolist(), [p, 0.0, -p], rtol=1e-12, atol=0)


def test_a_class_that_is_ruled_out():
    """Its logit is -inf; asked for it costs infinitely much, and else nothing."""
    z = torch.tensor([[0.5, -torch.inf, 1.0]], requires_grad=True)
    for target in (torch.tensor([2]), torch.tensor([[0.0, 0.0, 1.0]])):
        loss = cross_entropy(z, target)
        torch.testing.assert_close(loss, F.cross_entropy(z[:, ::2], torch.tensor([1])))
        (gradient,) = torch.autograd.grad(loss, z)
        assert gradient[0, 1] == 0
        assert gradient.isfinite().all()
        tangent = torch.func.jvp(
            lambda z, target=target: cross_entropy(z, target), (z.detach(),), (torch.ones(1, 3),)
        )[1]
        torch.testing.assert_close(tangent, torch.zeros(()))  # a constant added to all logits
    assert cross_entropy(z, torch.tensor([1])) == torch.inf


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kind", ["indices", "probabilities", "double probabilities"])
def test_lower_precisions(dtype, autocast, kind):
    torch.manual_seed(0)
    logits = torch.randn(5, 7).to(dtype)
    target = {
        "indices": torch.randint(0, 7, (5,)),
        "probabilities": torch.rand(5, 7).to(dtype),
        "double probabilities": torch.rand(5, 7).double(),
    }[kind]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours, theirs = cross_entropy(logits, target), F.cross_entropy(logits, target)
    exact = F.cross_entropy(logits.double(), target.double() if kind != "indices" else target)
    torch.testing.assert_close(ours, exact.to(ours.dtype))
    assert ours.dtype is theirs.dtype or kind == "double probabilities"


def test_byte_indices_are_served():
    logits, target = torch.randn(2, 300), torch.tensor([7, 255])
    with nn.explicit():
        ours = nn.CrossEntropyLoss()(logits, target.byte())
    torch.testing.assert_close(ours, F.cross_entropy(logits, target))


LOGITS = torch.zeros(2, 5)
WRONG_TARGETS = [
    (torch.tensor([0, 5]), ValueError, r"from 0 to 4, got 5 \(in 1 of 2 places\); .*target - 1"),
    (torch.tensor([5, -100]), ValueError, r"got 5 \(in 1 of 2 places\)"),
    (torch.tensor([9, 9]), ValueError, r"got 9 \(in 2 of 2 places\); does the last layer have"),
    (torch.tensor([0, -1]), ValueError, r"got -1 .*CrossEntropyLoss\(ignore_index=-1\)"),
    (torch.tensor([0, 1]).int(), TypeError, r"got torch.int32 .*target.long\(\)"),
    (torch.tensor([0.0, 1.0]), TypeError, r"got torch.float32 .*target.long\(\)"),
    (torch.eye(5)[:2].long(), TypeError, r"of shape \(2, 5\); one-hot rows\? target.argmax\(1\)"),
    (torch.tensor([[0], [1]]), ValueError, r"of shape \(2, 1\); drop .*target.squeeze\(-1\)"),
    (torch.tensor([0, 1, 2]), ValueError, r"and shape \(2,\), or .*\(2, 5\).* of shape \(3,\)$"),
    (torch.zeros(2, 4), ValueError, r"probabilities of shape \(2, 5\).*float32 of shape \(2, 4\)$"),
    ([0, 1], TypeError, "expected target as a torch.Tensor, got list"),
]


@pytest.mark.parametrize("context", [nn.explicit, torch.enable_grad])
@pytest.mark.parametrize(("target", "error", "said"), WRONG_TARGETS)
def test_wrong_targets(target, error, said, context):
    with context(), pytest.raises(error, match=said) as raised:
        nn.CrossEntropyLoss()(LOGITS, target)
    assert str(raised.value).startswith("CrossEntropyLoss(): ")


@pytest.mark.parametrize("context", [nn.explicit, torch.enable_grad])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reduction": "average"}, "expected reduction among .*, got 'average'"),
        ({"label_smoothing": 1.5}, "expected label_smoothing from 0 to 1, got 1.5"),
        ({"label_smoothing": -0.1}, "expected label_smoothing from 0 to 1, got -0.1"),
        ({"weight": torch.ones(4)}, r"each of the 5 classes .* of shape \(4,\)"),
        ({"ignore_index": 3}, "ignore_index=3 means nothing for a target of probabilities"),
    ],
)
def test_wrong_options(options, said, context):
    with context(), pytest.raises(ValueError, match=said) as raised:
        nn.CrossEntropyLoss(**options)(LOGITS, torch.ones(2, 5) / 5)
    assert str(raised.value).startswith("CrossEntropyLoss(): ")


@pytest.mark.parametrize(
    ("logits", "error", "said"),
    [
        (torch.zeros(2, 5).long(), TypeError, r"floating-point logits, got torch.int64; .*order"),
        (torch.zeros(()), ValueError, r"expected logits \(N, C\), got a scalar"),
        ("logits", TypeError, "expected logits as a torch.Tensor, got str"),
    ],
)
def test_wrong_logits(logits, error, said):
    with pytest.raises(error, match=said):
        nn.CrossEntropyLoss()(logits, torch.tensor([0, 1]))


def test_other_errors_of_torch_come_through():
    loss = nn.CrossEntropyLoss(torch.ones(5).double())
    with pytest.raises(RuntimeError, match="expected scalar type Float but found Double"):
        loss(LOGITS, torch.tensor([0, 1]))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu():
    logits = torch.randn(3, 5, dtype=torch.float64, device="cuda", requires_grad=True)
    weight = torch.rand(5, dtype=torch.float64, device="cuda")
    for target in (torch.tensor([0, 4, -100], device="cuda"), logits.detach().softmax(1)):
        layer = nn.CrossEntropyLoss(weight, label_smoothing=0.1)
        with nn.explicit():
            ours = layer(logits, target)
        torch.testing.assert_close(ours, layer(logits, target))
        torch.testing.assert_close(
            torch.autograd.grad(ours, logits), torch.autograd.grad(layer(logits, target), logits)
        )
