"""DepthCAM: what do maps at 24 depths cost, beside one gradient of the same solve?

The book's ODE-Net for scenes of 64 x 64 pixels, whose maps have 16 x 16 places, in evaluation mode,
with dopri5, on one thread; batches of 1 and of 8 images, one class for each.  Whatever is
timed begins with the image and has the forward pass in it:

- one gradient of the score with respect to the block's input, or to all parameters, the usual way;
- DepthCAM with one depth, halfway, and with 24, evenly spaced;
- 24 maps one by one: solve to the depth without a graph, then on to the end with one, and pull the
  score back to the depth.

Contenders are timed in pairs with the gradient with respect to the block's input, which take turns.
A ratio is the median of those of the pairs, with the interval of 95 % of its bootstrap: where it is
wide, the machine was not quiet.  Calls of f are counted by a hook; a vector-Jacobian product, of
which one belongs to nearly each of the backward pass, is not a call.

Run:  make bench, or  python benchmarks/depth_cam.py
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from measure import interleaved, paired_ratio, store
from safetensors.torch import load_file
from torch import Tensor

from companion.cam import DepthCAM
from companion.data import scenes
from companion.nn import ODEBlock, ODENet

WEIGHTS = Path(__file__).parents[1] / "book" / "synthesis" / "ode_net_scenes.safetensors"
DEPTHS = 24
BATCHES = (1, 8)
STRATEGIES = ("checkpointed", "backsolve", "reversible")
TOLERANCE = 1e-3
ROUNDS = 20
INPUT, PARAMETERS = "gradient, block's input", "gradient, all parameters"
ONE, MANY, SEPARATE = "DepthCAM, 1 depth", f"DepthCAM, {DEPTHS} depths", f"{DEPTHS} separate maps"


def network(strategy: str) -> ODENet:
    model = ODENet(gradient=strategy, rtol=TOLERANCE, atol=TOLERANCE)
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()


def score(model: ODENet, z1: Tensor, targets: Tensor) -> Tensor:
    """The sum over the images of the logits of their targets."""
    logits = model.classifier(model.pool(z1))
    return logits.gather(1, targets[:, None]).sum()


def of_input(model: ODENet, images: Tensor, targets: Tensor) -> Tensor:
    """The gradient with respect to the block's input, and to nothing else."""
    model.requires_grad_(False)
    z0 = model.stem(images).requires_grad_()
    (gradient,) = torch.autograd.grad(score(model, model.block(z0), targets), z0)
    return gradient


def of_parameters(model: ODENet, images: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    model.requires_grad_(True)
    z1 = model.block(model.stem(images))
    return torch.autograd.grad(score(model, z1, targets), tuple(model.parameters()))


def part(block: ODEBlock, start: float, end: float, z: Tensor) -> Tensor:
    """The state at ``end`` when it is z at ``start``."""
    if start == end:
        return z
    settings = {name: getattr(block, name) for name in ("method", "rtol", "atol", "gradient")}
    return ODEBlock(block.f, (start, end), **settings)(z)


def separate(model: ODENet, images: Tensor, targets: Tensor) -> Tensor:
    """The maps of all depths, shape (N, T, h, w), from a Grad-CAM pass for each."""
    model.requires_grad_(False)
    (t0, t1), maps = model.block.t, []
    for t in torch.linspace(t0, t1, DEPTHS, dtype=torch.float64).tolist():
        z = part(model.block, t0, t, model.stem(images)).requires_grad_()
        z1 = part(model.block, t, t1, z)
        (gradient,) = torch.autograd.grad(score(model, z1, targets), z)
        maps.append((gradient.mean((2, 3), keepdim=True) * z.detach()).sum(1))
    return torch.stack(maps, dim=1)


def contenders(model: ODENet, images: Tensor, targets: Tensor) -> dict[str, Callable[[], object]]:
    cam = DepthCAM(model)
    start, end = model.block.t
    halfway = [(start + end) / 2]
    given = model, images, targets
    return {
        INPUT: lambda: of_input(*given),
        PARAMETERS: lambda: of_parameters(*given),
        ONE: lambda: cam(images, targets, halfway),
        MANY: lambda: cam(images, targets, DEPTHS),
        SEPARATE: lambda: separate(*given),
    }


def calls(model: ODENet, run: Callable[[], object]) -> int:
    """How often f is called, whoever calls it."""
    count = 0

    def called(*_: object) -> None:
        nonlocal count
        count += 1

    hook = model.block.f.register_forward_hook(called)
    run()
    hook.remove()
    return count


def compared(strategy: str, batch: int) -> dict[str, object]:
    """What everything costs, in units of the gradient with respect to the block's input."""
    model = network(strategy)
    sample = scenes(batch, seed=1)
    runs = contenders(model, sample.images, sample.labels[:, 0])
    maps, by_one = runs[MANY]().map, runs[SEPARATE]()
    ratios = {}
    for name, run in runs.items():
        if name == INPUT:
            continue
        rounds = ROUNDS // 4 if name == SEPARATE else ROUNDS
        times = interleaved({INPUT: runs[INPUT], name: run}, rounds)
        ratios[name] = paired_ratio(times[name], times[INPUT])
        milliseconds = round(1e3 * statistics.median(times[INPUT]), 1)
    return {
        f"{INPUT} [ms]": milliseconds,
        f"in units of the {INPUT}": ratios,
        "calls of f": {name: calls(model, run) for name, run in runs.items()},
        "largest difference from the separate maps, of the largest value": float(
            f"{float((maps - by_one).abs().max() / by_one.abs().max()):.0e}"
        ),
    }


def main() -> None:
    torch.set_num_threads(1)
    store(
        "depth_cam",
        {
            strategy: {
                f"tolerance {TOLERANCE:g}, batch {batch}": compared(strategy, batch)
                for batch in BATCHES
            }
            for strategy in STRATEGIES
        },
    )


if __name__ == "__main__":
    main()
