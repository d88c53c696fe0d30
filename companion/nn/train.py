"""Training a classifier: one loop, the same numbers whenever it is run or gone on with."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from companion.nn.checkpoint import check_writable, read_checkpoint, write_checkpoint
from companion.nn.layers import CrossEntropyLoss

#: The part of a training in which the learning rate rises.
WARM_UP = 0.3


@dataclass(frozen=True)
class History:
    """How a training went.

    Attributes:
        loss: of every epoch, the mean over the samples, each with the weights of its moment.
        accuracy: after every epoch, on the data held out.
        kept: the epoch, counted from 1, after which the model had the weights that it has now:
            the last, or with ``patience`` the first of those with the greatest accuracy.
    """

    loss: tuple[float, ...]
    accuracy: tuple[float, ...]
    kept: int


def fit(
    model: nn.Module,
    train: Iterable[Tensor],
    held_out: Iterable[Tensor],
    *,
    epochs: int,
    batch_size: int = 32,
    lr: float = 0.01,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    optimiser: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
    patience: int | None = None,
    seed: int = 0,
    checkpoint: str | PathLike[str] | None = None,
    progress: bool = False,
) -> History:
    """Train a classifier in place, with the learning rate of :func:`one_cycle`.

    Targets are either integer labels of shape (N,), one class for each input, or floating-point
    numbers of the logits' shape (N, C), 1 for each of the classes that are there (to be used with
    ``torch.nn.BCEWithLogitsLoss()``).  Batches are moved to the device of the model's parameters.

    Parameters that require no gradient stay as they are; running statistics of batch normalisation
    move all the same.

    The order of the samples and all random numbers of the model (dropout) follow from ``seed`` and
    from the number of the epoch, and PyTorch's own generators are left as they were found, as is
    whether each module is in training mode.  Afterwards parameters hold the gradients of the last
    batch.

    Args:
        model: gives logits (N, C) for inputs (N, ...).
        train: inputs and targets to train with: a pair of tensors, or what unpacks into one.
        held_out: inputs and targets to measure the accuracy with after every epoch.
        epochs: how often every sample is used.
        batch_size: samples a step; the last batch of an epoch may be smaller.
        lr: the greatest learning rate.
        loss: of logits and targets, a mean over the batch; the cross-entropy when not given.
        optimiser: makes one when called with the parameters and ``lr=``; for example
            ``functools.partial(torch.optim.SGD, momentum=0.9)``.
        patience: stop when the accuracy has not risen for so many epochs, and then, or in the end,
            give the model back the weights of its best epoch.  That chooses by the data held out,
            so their accuracy flatters: measure with other data.  Without it the model keeps the
            weights of the last epoch, and nothing is chosen.
        seed: of the order of samples and of what is random in the model.  The initial weights are
            the model's own: call ``torch.manual_seed`` before you make it.
        checkpoint: file to store the state of the training in after every epoch.  If it exists, the
            training goes on from there, on the same machine to the same numbers as if it had not
            been interrupted (on a GPU with ``torch.use_deterministic_algorithms(True)``).
        progress: show a progress bar.

    Returns:
        Loss and accuracy of all epochs, also of those before the checkpoint.

    Raises:
        TypeError, ValueError: an argument is not as above; the checkpoint is damaged, or of another
            training.
        FloatingPointError: the loss is not finite; the model keeps the weights with which it was.
    """
    train, held_out = _pair("train", train), _pair("held_out", held_out)
    _check_count("epochs", epochs)
    _check_count("batch_size", batch_size)
    if patience is not None:
        _check_count("patience", patience)
    if not 0 < lr < math.inf:
        raise ValueError(f"lr must be positive and finite, got {lr}")
    logits = _logits(model, train[0][:1])
    _check_targets("train", train[1], logits)
    _check_targets("held_out", held_out[1], logits)
    _check_last_batch(model, train[0], batch_size)

    loss = CrossEntropyLoss() if loss is None else loss
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("the model has no parameter that requires gradients: nothing to train")
    run = _Run(model, optimiser(parameters, lr=lr))
    settings = {"samples": len(train[0]), "epochs": epochs, "batch_size": batch_size, "lr": lr}
    settings |= {"optimiser": type(run.optimiser).__name__, "patience": patience, "seed": seed}
    file = None if checkpoint is None else Path(checkpoint)
    if file is not None:
        check_writable(file)
        if file.exists():
            run.restore(read_checkpoint(file, settings), file)

    # Nothing else is drawn from this generator, so that no checkpoint needs to hold its state.
    seeds = torch.randint(2**62, (epochs,), generator=torch.Generator().manual_seed(seed)).tolist()
    steps = math.ceil(len(train[0]) / batch_size)
    bar = tqdm(
        total=epochs * steps,
        initial=run.epochs * steps,
        desc="fit",
        unit=" batches",
        disable=not progress,
    )
    with bar, _modes_kept(model):
        while run.epochs < epochs and not run.has_stopped(patience):
            with _seeded(seeds[run.epochs], parameters[0].device):
                run.losses.append(_epoch(run, train, epochs, batch_size, lr, loss, bar))
            run.accuracies.append(accuracy(model, held_out, batch_size))
            if patience is not None and run.best == run.epochs:
                run.best_weights = copy.deepcopy(model.state_dict())
            if file is not None:
                write_checkpoint(file, {"settings": settings, **run.state()})
            bar.set_postfix(epoch=run.epochs, loss=run.losses[-1], accuracy=run.accuracies[-1])
    if patience is not None:
        model.load_state_dict(run.best_weights)
    kept = run.epochs if patience is None else run.best
    return History(tuple(run.losses), tuple(run.accuracies), kept)


def accuracy(model: nn.Module, data: Iterable[Tensor], batch_size: int = 256) -> float:
    """The share of right answers, with the model in evaluation mode.

    With integer labels an answer is right when the logit of the label is the greatest; with
    floating-point targets when of *all* classes, those and only those that are there have a
    positive logit, which is a probability of more than one half.

    Args:
        model: gives logits (N, C) for inputs (N, ...).
        data: inputs and targets, as for :func:`fit`.
        batch_size: inputs to send through the model at once.

    Raises:
        TypeError, ValueError: the data are not as above.
    """
    inputs, targets = _pair("data", data)
    _check_count("batch_size", batch_size)
    device = _device(model)
    with torch.no_grad(), _modes_kept(model):
        model.eval()
        logits = torch.cat([model(x.to(device)) for x in inputs.split(batch_size)])
    _check_targets("data", targets, logits)
    targets = targets.to(device)
    if targets.is_floating_point():
        right = ((logits > 0) == (targets > 0.5)).all(1)
    else:
        right = logits.argmax(1) == targets
    return right.sum().item() / len(inputs)


def one_cycle(progress: float) -> float:
    r"""The share of the greatest learning rate to use after a share of the training.

    It rises in a straight line from 0 to 1 while ``progress`` comes to 0.3, and falls along half a
    cosine to 0 while it comes to 1: large steps in the middle find a wide valley, small ones at the
    end go down to its floor.

    Source: Smith and Topin, *Super-convergence*, 2018 (arXiv:1708.07120), with the cosine that is
    now usual in place of the second straight line.
    """
    if progress < WARM_UP:
        return progress / WARM_UP
    return (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))) / 2


@dataclass
class _Run:
    """A training as far as it has come."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    best_weights: dict[str, Any] | None = None

    @property
    def epochs(self) -> int:
        return len(self.accuracies)

    @property
    def best(self) -> int:
        """The first epoch with the greatest accuracy, counted from 1."""
        return self.accuracies.index(max(self.accuracies)) + 1

    def has_stopped(self, patience: int | None) -> bool:
        return patience is not None and self.epochs > 0 and self.epochs - self.best >= patience

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "losses": self.losses,
            "accuracies": self.accuracies,
            "best_weights": self.best_weights,
        }

    def restore(self, state: dict[str, Any], file: Path) -> None:
        _check_weights(self.model, state["model"], file)
        ours, theirs = (
            sum(len(group["params"]) for group in optimiser["param_groups"])
            for optimiser in (self.optimiser.state_dict(), state["optimiser"])
        )
        if ours != theirs:
            raise ValueError(
                f"{file} is of a training of {theirs} parameters, this one is of {ours}: freeze "
                "the same, or give another checkpoint"
            )
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.losses, self.accuracies = state["losses"], state["accuracies"]
        self.best_weights = state["best_weights"]


def _epoch(
    run: _Run,
    data: tuple[Tensor, Tensor],
    epochs: int,
    batch_size: int,
    lr: float,
    loss: Callable[[Tensor, Tensor], Tensor],
    bar: tqdm,
) -> float:
    """Use every sample once; returns the mean of the loss over the samples."""
    run.model.train()
    device = _device(run.model)
    batches = torch.randperm(len(data[0])).split(batch_size)
    total = 0.0
    for step, batch in enumerate(batches):
        for group in run.optimiser.param_groups:
            # The middle of the step: neither its first nor its last rate is 0.
            group["lr"] = lr * one_cycle((run.epochs + (step + 0.5) / len(batches)) / epochs)
        x, y = (part[batch.to(part.device)].to(device) for part in data)
        error = loss(run.model(x), y)
        value = error.item()
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss is {value} in epoch {run.epochs + 1}, batch {step + 1} of "
                f"{len(batches)}: try a smaller lr than {lr}, and see whether all inputs are finite"
            )
        run.optimiser.zero_grad()
        error.backward()
        run.optimiser.step()
        total += value * len(batch)
        bar.update()
    return total / len(data[0])


@contextmanager
def _modes_kept(model: nn.Module) -> Iterator[None]:
    """Whether each module is in training mode is afterwards as before."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Within the block, the generators of the CPU and of the device begin anew."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        # Not torch.manual_seed, which would also seed devices that are nobody's business here.
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _logits(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad(), _modes_kept(model):
        return model.eval()(inputs.to(_device(model)))


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def _pair(name: str, data: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Inputs and targets, as many of one as of the other."""
    parts = tuple(data) if isinstance(data, Iterable) and not isinstance(data, Tensor) else (data,)
    if len(parts) != 2 or not all(isinstance(part, Tensor) for part in parts):
        raise TypeError(
            f"{name} must be a pair of tensors, inputs and targets, got {type(data).__name__} of "
            f"{', '.join(type(part).__name__ for part in parts[:3])}"
        )
    inputs, targets = parts
    if inputs.ndim < 1 or targets.shape[:1] != inputs.shape[:1]:
        raise ValueError(
            f"{name} must have a target for every input, got inputs of shape "
            f"{tuple(inputs.shape)} and targets of shape {tuple(targets.shape)}"
        )
    if not len(inputs):
        raise ValueError(f"{name} is empty: it must have at least one sample")
    return inputs, targets


def _check_targets(name: str, targets: Tensor, logits: Tensor) -> None:
    """The targets fit the model's classes."""
    if logits.ndim != 2:
        raise ValueError(
            f"the model must give logits of shape (N, classes), got {tuple(logits.shape)}"
        )
    classes = logits.shape[1]
    if targets.is_floating_point():
        if targets.shape[1:] != logits.shape[1:]:
            raise ValueError(
                f"{name} has floating-point targets of shape {tuple(targets.shape)}, which must "
                f"have the shape of the logits, (N, {classes}); are they labels? targets.long()"
            )
        return
    if targets.dtype != torch.int64:
        raise TypeError(
            f"{name} must have targets of dtype torch.int64 (labels) or floating-point numbers, "
            f"got {targets.dtype}: targets.long() or targets.float()"
        )
    if targets.ndim != 1:
        raise ValueError(
            f"{name} must have labels of shape (N,), got {tuple(targets.shape)}; where several "
            "classes are right give floating-point targets"
        )
    lowest, highest = targets.min().item(), targets.max().item()
    if lowest < 0 or highest >= classes:
        raise ValueError(
            f"{name} has labels from {lowest} to {highest}, and the model's {classes} logits are "
            f"for 0 to {classes - 1}"
        )


def _check_last_batch(model: nn.Module, inputs: Tensor, batch_size: int) -> None:
    """If the last batch of an epoch is of one sample, the model takes it in training mode.

    Batch normalisation does not where a channel has one value for each sample.
    """
    if (len(inputs) % batch_size or batch_size) > 1:
        return
    device = _device(model)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.no_grad(), _modes_kept(model), _seeded(0, device):
            torch.func.functional_call(model.train(), buffers, (inputs[:1].to(device),))
    except ValueError as error:
        raise ValueError(
            f"with batch_size={batch_size} the last batch of {len(inputs)} samples has one sample, "
            f"which the model does not take in training mode ({error}); give another batch_size, "
            "or another number of samples"
        ) from error


def _check_weights(model: nn.Module, saved: dict[str, Any], file: Path) -> None:
    """The weights are of this model, so that none is loaded where not all are."""
    shapes, others = (
        {name: tuple(value.shape) for name, value in weights.items()}
        for weights in (model.state_dict(), saved)
    )
    if shapes != others:
        different = sorted(
            name for name in {*shapes, *others} if shapes.get(name) != others.get(name)
        )
        name = different[0]
        raise ValueError(
            f"{file} is of another model: {name} has the shape {others.get(name, 'of nothing')} "
            f"there, and {shapes.get(name, 'of nothing')} here: give another checkpoint"
        )
