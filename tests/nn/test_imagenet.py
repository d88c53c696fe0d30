"""Names of ImageNet's classes, and the classes that logits stand for."""

import math

import pytest
import torch

from companion.nn.pretrained.imagenet import Prediction, imagenet_classes, top


def test_the_names_stand_in_the_order_of_the_logits():
    names = imagenet_classes()
    assert len(names) == 1000
    known = {
        0: "tench",
        1: "goldfish",
        134: "crane bird",
        281: "tabby",
        355: "llama",
        517: "crane",
        638: "maillot",
        639: "maillot tank suit",
        652: "military uniform",
        698: "palace",
        836: "sunglass",
        837: "sunglasses",
        985: "daisy",
        999: "toilet tissue",
    }
    assert {i: names[i] for i in known} == known


def test_no_two_names_are_alike_and_none_is_a_comment():
    names = imagenet_classes()
    assert len(set(names)) == 1000
    assert all(name == name.strip() and name and "#" not in name for name in names)


@pytest.mark.parametrize("shape", [(1000,), (1, 1000)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_top_orders_by_probability(shape, dtype):
    logits = torch.zeros(1000, dtype=dtype)
    logits[[7, 652, 3]] = torch.tensor([2, 5, 4], dtype=dtype)
    best = top(logits.reshape(shape), k=3)
    assert [p.index for p in best] == [652, 3, 7]
    assert [p.name for p in best] == ["military uniform", "tiger shark", "cock"]
    total = 997 + math.exp(2) + math.exp(5) + math.exp(4)
    assert best[1] == Prediction(3, "tiger shark", pytest.approx(math.exp(4) / total, rel=1e-12))


def test_all_probabilities_sum_to_one_even_of_huge_logits():
    logits = torch.linspace(0, 1e4, 1000)
    assert sum(p.probability for p in top(logits, k=1000)) == pytest.approx(1)
    assert len(top(logits)) == 5


def test_top_leaves_the_graph_alone():
    logits = torch.zeros(1000, requires_grad=True)
    assert isinstance(top(logits, k=1)[0].probability, float)


@pytest.mark.parametrize(
    ("logits", "k", "error", "message"),
    [
        ([0.0] * 1000, 5, TypeError, "got list"),
        (torch.zeros(1000, dtype=torch.long), 5, TypeError, "got torch.int64"),
        (torch.zeros(10), 5, ValueError, r"got \(10,\); these names fit"),
        (torch.zeros(2, 1000), 5, ValueError, r"\[top\(row\) for row in logits\]"),
        (torch.zeros(1, 1, 1000), 5, ValueError, "these names fit"),
        (torch.zeros(1000), 0, ValueError, "k must be between 1 and 1000, got 0"),
        (torch.zeros(1000), 1001, ValueError, "got 1001"),
        (torch.full((1000,), math.nan), 5, ValueError, "nan or infinity"),
        (torch.randn(1000).softmax(0), 5, ValueError, "before the softmax"),
    ],
)
def test_what_is_not_logits_is_refused(logits, k, error, message):
    with pytest.raises(error, match=message):
        top(logits, k)
