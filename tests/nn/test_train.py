"""The training loop learns, is seeded, and goes on to the same numbers when interrupted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from companion.nn.train import History, accuracy, fit, one_cycle

Pair = tuple[Tensor, Tensor]
EPOCHS = 4


def blobs(count: int, seed: int) -> Pair:
    """Points about three corners, and which corner."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    corners = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    return corners[labels] + 0.3 * torch.randn(count, 2, generator=generator), labels


TRAIN, HELD_OUT = blobs(90, 0), blobs(60, 1)


def network(seed: int = 0) -> nn.Sequential:
    """A network with all that could make two trainings differ: dropout and running statistics."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3)
        )


def train(model: nn.Module, **more: object) -> History:
    options = {"epochs": EPOCHS, "batch_size": 16} | more
    return fit(model, TRAIN, HELD_OUT, **options)


def same(model: nn.Module, other: nn.Module) -> bool:
    """Bit for bit, buffers too."""
    states = model.state_dict(), other.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


class Interrupted(Exception):
    """As Control-C, but nobody else's."""


def until(calls: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The cross-entropy, which ends the training at a later call."""
    left = [calls]

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        if not left[0]:
            raise Interrupted
        left[0] -= 1
        return nn.functional.cross_entropy(logits, labels)

    return loss


class Scripted(nn.Module):
    """Right on the first so many of the samples, as a script has it, evaluation by evaluation.

    The inputs are the numbers of the samples; its weight counts the steps.
    """

    def __init__(self, right: list[int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.right = right
        # The first evaluation is of one sample, to learn the number of classes.
        self.evaluations = -1

    def forward(self, x: Tensor) -> Tensor:
        is_right = torch.ones(len(x), dtype=torch.bool)
        if not self.training:
            is_right = x[:, 0] < self.right[self.evaluations]
            self.evaluations += 1
        return torch.stack([~is_right, is_right], 1) + self.weight


def scripted(right: list[int], **options: object) -> tuple[Scripted, History]:
    model = Scripted(right)
    data = torch.arange(10.0)[:, None], torch.ones(10, dtype=torch.int64)
    history = fit(
        model,
        data,
        data,
        epochs=len(right),
        batch_size=10,
        loss=lambda logits, labels: logits.mean(),
        optimiser=Counting,
        **options,
    )
    return model, history


class Counting(torch.optim.SGD):
    """An optimiser whose steps add one."""

    def step(self, closure: None = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.data += 1


def test_it_learns() -> None:
    model = network()
    before = accuracy(model, HELD_OUT)
    history = train(model, epochs=10, lr=0.05)
    assert before < 0.8
    assert history.accuracy[-1] > 0.95
    assert history.loss[-1] < 0.3 * history.loss[0]
    assert accuracy(model, HELD_OUT) == history.accuracy[-1]
    assert history.kept == len(history.loss) == len(history.accuracy) == 10


def test_it_is_the_plain_loop() -> None:
    """Against the loop written out, for one epoch, with SGD."""
    fitted, model = network(), network()
    del fitted[3], model[3]
    history = train(
        fitted, epochs=1, lr=0.1, optimiser=partial(torch.optim.SGD, momentum=0.9), seed=7
    )
    with torch.random.fork_rng():
        seeds = torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(7))
        torch.manual_seed(seeds.item())
        order = torch.randperm(90)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    total = 0.0
    for i in range(6):
        batch = order[16 * i : 16 * (i + 1)]
        optimiser.param_groups[0]["lr"] = 0.1 * one_cycle((i + 0.5) / 6)
        loss = nn.functional.cross_entropy(model(TRAIN[0][batch]), TRAIN[1][batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total += loss.item() * len(batch)
    assert same(fitted, model)
    assert history.loss == (pytest.approx(total / 90, rel=1e-12),)


def test_one_cycle_rises_and_falls() -> None:
    assert [one_cycle(0.0), one_cycle(0.15), one_cycle(0.3)] == pytest.approx([0, 0.5, 1])
    assert [one_cycle(0.65), one_cycle(1.0)] == pytest.approx([0.5, 0])
    rates = [one_cycle(i / 100) for i in range(101)]
    assert rates[:31] == sorted(rates[:31])
    assert rates[30:] == sorted(rates[30:], reverse=True)


def test_every_sample_is_used_once_an_epoch_in_a_new_order() -> None:
    seen = []

    class Noting(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                seen.append(x[:, 0])
            return super().forward(x)

    numbers = torch.arange(10.0)[:, None], torch.arange(10) % 2
    fit(Noting(1, 2), numbers, numbers, epochs=2, batch_size=4)
    assert [len(batch) for batch in seen] == [4, 4, 2, 4, 4, 2]
    first, second = torch.cat(seen[:3]).tolist(), torch.cat(seen[3:]).tolist()
    assert sorted(first) == sorted(second) == list(range(10))
    assert len({tuple(first), tuple(second), tuple(range(10))}) == 3


def test_the_seed_decides() -> None:
    models = [network() for _ in range(3)]
    histories = [train(model, seed=seed) for model, seed in zip(models, (0, 0, 1), strict=True)]
    assert histories[0] == histories[1] != histories[2]
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


def test_the_generator_of_others_neither_matters_nor_moves() -> None:
    one, other = network(), network()
    torch.manual_seed(5)
    history = train(one)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn)
    assert train(other) == history
    assert same(one, other)


@pytest.mark.parametrize("patience", [None, 3])
@pytest.mark.parametrize("calls", [3, 6, 7, 17, 23])
def test_an_interrupted_training_goes_on_to_the_same_numbers(
    tmp_path: Path, calls: int, patience: int | None
) -> None:
    whole = network()
    history = train(whole, patience=patience)
    again = partial(train, checkpoint=tmp_path / "training.pt", patience=patience)
    with pytest.raises(Interrupted):
        again(network(), loss=until(calls))
    # In the first epoch there is nothing to go on from yet.
    assert (tmp_path / "training.pt").exists() == (calls >= 6)
    # The weights are the checkpoint's, or, of no checkpoint, the same initial ones.
    resumed = network(seed=1 if calls >= 6 else 0)
    used = until(1000)
    assert again(resumed, loss=used) == history
    assert same(resumed, whole)


def test_going_on_does_only_what_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "training.pt"
    with pytest.raises(Interrupted):
        train(network(), checkpoint=file, loss=until(17))
    with pytest.raises(Interrupted):
        train(network(), checkpoint=file, loss=until(11))
    train(network(), checkpoint=file, loss=until(6))
    # And a training that is over is not gone on with.
    model, other = network(), network()
    assert train(model, checkpoint=file, loss=until(0)) == train(other)
    assert same(model, other)


def test_a_stopped_training_stays_stopped(tmp_path: Path) -> None:
    file = tmp_path / "training.pt"
    right = [3, 5, 4, 4, 9, 9]
    _, history = scripted(right, patience=2, checkpoint=file)
    model, again = scripted(right, patience=2, checkpoint=file)
    assert again == history
    # Only the look at the number of classes.
    assert model.evaluations == 0
    assert model.weight == 2


def test_patience_stops_and_gives_the_best_weights_back() -> None:
    model, history = scripted([3, 5, 4, 5, 9, 10], patience=2)
    assert history.accuracy == (0.3, 0.5, 0.4, 0.5)
    # Of equals the first, which had seen two steps.
    assert history.kept == 2
    assert model.weight == 2


def test_patience_begins_anew_with_every_rise() -> None:
    model, history = scripted([3, 5, 4, 6, 5, 7, 6], patience=2)
    assert len(history.accuracy) == 7
    assert history.kept == 6
    assert model.weight == 6


def test_without_patience_nothing_stops_and_nothing_is_chosen() -> None:
    model, history = scripted([9, 1, 1, 1, 1])
    assert len(history.accuracy) == 5
    assert history.kept == 5
    assert model.weight == 5


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    train(network(), checkpoint=(file := tmp_path / "training.pt"))
    for name, value, old in (
        ("epochs", 5, 4),
        ("batch_size", 32, 16),
        ("lr", 0.5, 0.01),
        ("seed", 1, 0),
        ("patience", 2, None),
        ("optimiser", torch.optim.Adam, "AdamW"),
    ):
        with pytest.raises(ValueError, match=f"of a training with {name} = {old}, this one has"):
            train(network(), checkpoint=file, **{name: value})
    with pytest.raises(ValueError, match="samples = 90, this one has 60"):
        fit(network(), HELD_OUT, HELD_OUT, epochs=EPOCHS, batch_size=16, checkpoint=file)


def test_a_checkpoint_of_another_model_is_refused_and_the_model_kept(tmp_path: Path) -> None:
    train(network(), checkpoint=(file := tmp_path / "training.pt"))
    wider = nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    before = {name: value.clone() for name, value in wider.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"training\.pt is of another model: 3\.bias has the shape"
    ):
        train(wider, checkpoint=file)
    assert all(torch.equal(before[name], value) for name, value in wider.state_dict().items())


def test_a_checkpoint_with_other_frozen_parameters_is_refused_and_the_model_kept(
    tmp_path: Path,
) -> None:
    train(network(), checkpoint=(file := tmp_path / "training.pt"))
    models = network(), network()
    for model in models:
        model[0].requires_grad_(False)
    with pytest.raises(ValueError, match=r"training of 6 parameters, this one is of 4: freeze"):
        train(models[0], checkpoint=file)
    assert same(*models)


@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"no checkpoint"),
        lambda file: file.write_bytes(file.read_bytes()[:2000]),
        lambda file: torch.save([1, 2], file),
        lambda file: torch.save({"settings": {}}, file),
    ],
    ids=["empty", "text", "truncated", "list", "other"],
)
def test_a_damaged_checkpoint_is_refused_and_left_alone(
    tmp_path: Path, write: Callable[[Path], object]
) -> None:
    train(network(), checkpoint=(file := tmp_path / "training.pt"))
    write(file)
    content = file.read_bytes()
    with pytest.raises(ValueError, match=r"training\.pt is no checkpoint of such a training"):
        train(network(), checkpoint=file)
    assert file.read_bytes() == content


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.mkdir, (tmp_path / "evil",)

    torch.save({"settings": Evil()}, file := tmp_path / "training.pt")
    with pytest.raises(ValueError, match=r"training\.pt is no checkpoint"):
        train(network(), checkpoint=file)
    assert not (tmp_path / "evil").exists()
    # It would have been made.
    with pytest.raises(TypeError):
        torch.load(file, weights_only=False)["settings"]["lr"]
    assert (tmp_path / "evil").exists()


def test_the_old_checkpoint_stays_until_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "training.pt"
    saved = []

    def save(state: object, stream: object) -> None:
        if len(saved) == 2:
            stream.write(b"the disk is full")
            raise OSError("no space left")
        saved.append(state)
        save_whole(state, stream)

    save_whole = torch.save
    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(OSError, match="no space left"):
        train(network(), checkpoint=file)
    assert len(torch.load(file)["losses"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["training.pt"]


@pytest.mark.parametrize("place", [".", "nowhere/training.pt"])
def test_where_no_checkpoint_can_be_written_nothing_is_trained(tmp_path: Path, place: str) -> None:
    with pytest.raises(ValueError, match="checkpoint must be a file in a directory"):
        train(network(), checkpoint=tmp_path / place, loss=until(0))


@pytest.mark.parametrize("kind", [nn.Module.train, nn.Module.eval])
def test_modes_are_as_found(kind: Callable[[nn.Module], nn.Module]) -> None:
    model = kind(network())
    model[1].train(not model.training)
    modes = [module.training for module in model.modules()]
    train(model, epochs=1)
    assert [module.training for module in model.modules()] == modes
    accuracy(model, HELD_OUT)
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(Interrupted):
        train(model, loss=until(2))
    assert [module.training for module in model.modules()] == modes


def test_it_trains_in_training_mode_and_measures_in_evaluation_mode() -> None:
    model = network().eval()
    before = model[1].running_mean.clone()
    train(model, epochs=1)
    moved = model[1].running_mean.clone()
    assert not torch.equal(moved, before)
    # Dropout and batch statistics would give other answers, and move the running statistics.
    results = {accuracy(model.train(), HELD_OUT) for _ in range(5)}
    assert len(results) == 1
    assert torch.equal(model[1].running_mean, moved)


def test_frozen_parameters_stay() -> None:
    model = network()
    model[0].requires_grad_(False)
    before = [parameter.clone() for parameter in model.parameters()]
    train(model, epochs=1)
    changed = [
        not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)
    ]
    assert changed == [False, False, True, True, True, True]


def test_several_classes_at_once() -> None:
    """Which of two coordinates are positive: each its own question."""
    points = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    data = points, (points > 0).float()
    model = nn.Linear(2, 2)
    history = fit(model, data, data, epochs=5, lr=0.3, loss=nn.BCEWithLogitsLoss(), batch_size=20)
    assert history.accuracy[-1] > 0.95


def test_accuracy_by_hand() -> None:
    logits = torch.tensor([[2.0, 1.0, -1.0], [0.1, 0.2, 3.0], [-1.0, -2.0, -3.0]])
    model = nn.Identity()
    assert accuracy(model, (logits, torch.tensor([0, 2, 1]))) == pytest.approx(2 / 3)
    several = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert accuracy(model, (logits, several)) == pytest.approx(2 / 3)
    # In batches, the last of which is smaller.
    assert accuracy(model, (logits, torch.tensor([0, 2, 1])), 2) == pytest.approx(2 / 3)


def test_data_may_be_what_unpacks_into_a_pair() -> None:
    one, other = network(), network()
    fit(one, list(TRAIN), iter(HELD_OUT), epochs=1)
    fit(other, TensorDataset(*TRAIN).tensors, HELD_OUT, epochs=1)
    assert same(one, other)


def test_the_bar_is_shown_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    history = train(network())
    assert capsys.readouterr().err == ""
    train(network(), progress=True)
    shown = capsys.readouterr().err
    assert "24/24" in shown
    assert f"accuracy={history.accuracy[-1]:.3g}" in shown


def test_the_bar_goes_on_where_the_training_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = partial(train, checkpoint=tmp_path / "training.pt", progress=True)
    with pytest.raises(Interrupted):
        again(network(), loss=until(17))
    assert "17/24" in capsys.readouterr().err
    again(network())
    shown = capsys.readouterr().err
    assert "12/24" in shown
    assert "24/24" in shown


def test_the_record_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        train(network(), epochs=1).loss = ()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_it_does_harm(bad: float) -> None:
    inputs = TRAIN[0].clone()
    inputs[40, 1] = bad
    model = network()
    with pytest.raises(FloatingPointError, match=r"the loss is nan in epoch 1, batch \d of 6: try"):
        fit(model, (inputs, TRAIN[1]), HELD_OUT, epochs=1, batch_size=16)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


LABELS = torch.arange(90) % 3


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ((TRAIN[0], LABELS[:80]), ValueError, r"target for every input.*\(90, 2\).*\(80,\)"),
        ((TRAIN[0][:0], LABELS[:0]), ValueError, "train is empty"),
        ((TRAIN[0], LABELS + 1), ValueError, "train has labels from 1 to 3, .* 3 logits"),
        ((TRAIN[0], LABELS - 1), ValueError, "train has labels from -1 to 1"),
        ((TRAIN[0], LABELS.float()), ValueError, r"shape \(90,\).*are they labels"),
        ((TRAIN[0], LABELS.int()), TypeError, r"got torch\.int32: targets\.long\(\)"),
        ((TRAIN[0], LABELS[:, None]), ValueError, r"labels of shape \(N,\), got \(90, 1\)"),
        (TRAIN[0], TypeError, "train must be a pair of tensors, .* got Tensor"),
        ((TRAIN[0], LABELS.tolist()), TypeError, "got tuple of Tensor, list"),
        ((*TRAIN, LABELS), TypeError, "got tuple of Tensor, Tensor, Tensor"),
        (None, TypeError, "got NoneType"),
    ],
)
def test_data_that_do_not_fit_are_refused(
    data: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fit(network(), data, HELD_OUT, epochs=1)
    with pytest.raises(error, match=message.replace("train", "held_out")):
        fit(network(), TRAIN, data, epochs=1)
    with pytest.raises(error, match=message.replace("train", "data")):
        accuracy(network(), data)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
        ({"epochs": 2.0}, TypeError, r"epochs must be an integer, got 2\.0"),
        ({"batch_size": -1}, ValueError, "batch_size must be at least 1, got -1"),
        ({"batch_size": True}, TypeError, "batch_size must be an integer, got True"),
        ({"patience": 0}, ValueError, "patience must be at least 1, got 0"),
        ({"lr": 0.0}, ValueError, r"lr must be positive and finite, got 0\.0"),
        ({"lr": math.nan}, ValueError, "lr must be positive and finite, got nan"),
    ],
)
def test_bad_options_are_refused(
    options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train(network(), **options)


def test_models_that_cannot_be_trained_are_refused() -> None:
    with pytest.raises(ValueError, match="no parameter that requires gradients"):
        train(network().requires_grad_(False))
    with pytest.raises(ValueError, match=r"logits of shape \(N, classes\), got \(1,\)"):
        train(nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)))


@pytest.mark.parametrize("batch_size", [89, 1])
def test_a_batch_of_one_is_refused_before_the_training_if_the_model_takes_none(
    batch_size: int,
) -> None:
    model, untouched = network(), network()
    state = torch.get_rng_state()
    with pytest.raises(
        ValueError, match=rf"batch_size={batch_size} .* has one sample.* training mode"
    ):
        train(model, batch_size=batch_size)
    assert same(model, untouched)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_batch_of_one_is_welcome_where_nothing_is_normalised() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.1))
    assert len(train(model, batch_size=89, epochs=1).loss) == 1


def test_looking_whether_a_batch_of_one_is_taken_changes_nothing() -> None:
    """One image is enough for these statistics, and when the first loss is asked for they have
    moved once."""
    images = torch.rand(9, 1, 2, 2), torch.arange(9) % 3
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(Interrupted):
        fit(model, images, images, epochs=1, batch_size=2, loss=until(0))
    assert model[0].num_batches_tracked == 1


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu(tmp_path: Path) -> None:
    """It learns from data of either device, and leaves all generators as they were."""
    for data in (TRAIN, tuple(part.cuda() for part in TRAIN)):
        model = network().cuda()
        states = torch.get_rng_state(), torch.cuda.get_rng_state()
        history = fit(
            model,
            data,
            HELD_OUT,
            epochs=10,
            batch_size=16,
            lr=0.05,
            checkpoint=tmp_path / f"{data[0].device.type}.pt",
        )
        assert history.accuracy[-1] > 0.95
        assert accuracy(model, HELD_OUT) == history.accuracy[-1]
        assert torch.equal(torch.get_rng_state(), states[0])
        assert torch.equal(torch.cuda.get_rng_state(), states[1])
