"""Grad-CAM: what does a map cost, beside pytorch-grad-cam, torchcam and captum?

ResNet-18 and VGG16 with random weights at 224 x 224, batches of 1 and 8, in evaluation mode; all
contenders in one process, each in turn with ours.  A ratio is the median of those of the pairs of
neighbours in time, with the interval of 95 % of its bootstrap: drifts of the machine's speed
cancel in pairs, and where the interval is wide, the machine was not quiet.  The floor is the least
that a map can cost: a forward pass, and the gradient from the score to the layer, from a graph
that begins at the layer.
pytorch-grad-cam also enlarges its map to the image's size, on the processor; the others do not.

Run:  make bench, or  python benchmarks/gradcam.py  with the packages of requirements-bench.txt
"""

from __future__ import annotations

import gc
import statistics
import warnings
from collections.abc import Callable

import torch
from measure import interleaved, paired_ratio, store
from torch import Tensor, nn

from companion.cam import GradCAM

THREADS = 2
SIZE = 224
TEN = list(range(0, 1000, 100))


def import_torchvision():
    """torchvision for CUDA beside a torch without: declaring two operators lets it be imported."""
    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision

        torchvision.kept = library
    return torchvision


def floor(model: nn.Module, layer: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """The least that a map costs, written by hand for this one purpose."""
    leaves = []

    def cut(module: nn.Module, arguments: object, output: Tensor) -> Tensor:
        torch.set_grad_enabled(True)
        leaves.append(output.detach().requires_grad_())
        return leaves[0].clone()

    hook = layer.register_forward_hook(cut)
    with torch.no_grad():
        output = model(images)
    hook.remove()
    with torch.enable_grad():
        score = output.gather(1, classes[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, leaves[0])
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return (weights * leaves[0].detach()).sum(dim=1)


def contenders(
    model: nn.Module, layers: list[nn.Module], images: Tensor, classes: list[list[int]]
) -> dict[str, Callable[[], object]]:
    """One map for each of ``layers`` and for each class: ``classes`` holds K to an image."""
    from captum.attr import LayerGradCam
    from pytorch_grad_cam import GradCAM as PytorchGradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    from torchcam.methods import GradCAM as TorchCAM

    count, columns = len(images), list(zip(*classes, strict=True))
    ours = GradCAM(model, layers if len(layers) > 1 else layers[0])
    asked = [list(row) for row in classes] if len(columns) > 1 else list(columns[0])
    by_captum = [LayerGradCam(model, layer) for layer in layers]
    by_pytorch = PytorchGradCAM(model, layers)

    def torchcam() -> object:
        with TorchCAM(model, layers) as extractor:
            scores = model(images)
            return [
                extractor(list(column), scores, retain_graph=column is not columns[-1])
                for column in columns
            ]

    def captum() -> object:
        return [
            attribution.attribute(images, target=list(column) if count > 1 else column[0])
            for attribution in by_captum
            for column in columns
        ]

    def pytorch_grad_cam() -> object:
        return [by_pytorch(images, [ClassifierOutputTarget(c) for c in col]) for col in columns]

    return {
        "companion": lambda: ours(images, asked),
        "torchcam": torchcam,
        "captum": captum,
        "pytorch-grad-cam": pytorch_grad_cam,
    }


def one_map(model: nn.Module, layer: nn.Module, batch: int, rounds: int) -> dict[str, object]:
    """What one map of each image costs."""
    images = torch.rand(batch, 3, SIZE, SIZE)
    classes = torch.arange(batch) * 7
    runs = contenders(model, [layer], images, [[int(c)] for c in classes])
    runs["floor"] = lambda: floor(model, layer, images, classes)
    return compared(runs, rounds)


def compared(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, object]:
    """Our milliseconds, and how many times as long each of the others takes.

    Each is compared with ours in a run of two, which take turns at being first: with more, each
    would always come after the same one, and find the memory as that one left it.
    """
    figures: dict[str, object] = {}
    for name in runs:
        if name == "companion":
            continue
        times = interleaved({"companion": runs["companion"], name: runs[name]}, rounds)
        figures.setdefault("companion [ms]", round(1e3 * statistics.median(times["companion"]), 1))
        figures[f"{name} / companion"] = paired_ratio(times[name], times["companion"])
    return figures


def saved_bytes(model: nn.Module, run: Callable[[], object]) -> int:
    """Bytes that autograd keeps for the backward passes of ``run``, without parameters."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(seen.values())


def traces(model: nn.Module, layer: nn.Module, calls: int) -> dict[str, int]:
    """Hooks, gradients and live tensors that ``calls`` calls leave behind."""
    images = torch.rand(1, 3, 32, 32)
    cam = GradCAM(model, layer)
    cam(images)
    before = _live_tensors()
    for _ in range(calls):
        cam(images)
    return {
        "calls": calls,
        "hooks left": sum(len(m._forward_hooks) for m in model.modules()),
        "gradients left": sum(p.grad is not None for p in model.parameters()),
        "tensors more than before": _live_tensors() - before,
    }


def _live_tensors() -> int:
    gc.collect()
    return sum(isinstance(thing, Tensor) for thing in gc.get_objects())


def main() -> None:
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    models = import_torchvision().models
    resnet, vgg = models.resnet18().eval(), models.vgg16().eval()
    last = [
        ("ResNet-18", resnet, resnet.layer4, {1: 200, 8: 40}),
        ("VGG16", vgg, vgg.features[28], {1: 24, 8: 10}),
    ]
    figures: dict[str, object] = {}
    for name, model, layer, batches in last:
        for batch, rounds in batches.items():
            figures[f"{name}, last layer, batch {batch}"] = one_map(model, layer, batch, rounds)
    image = torch.rand(1, 3, SIZE, SIZE)
    ten = contenders(resnet, [resnet.layer4], image, [TEN])
    figures["ResNet-18, ten classes of one image"] = compared(ten, 6)
    stages = [resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4]
    four = contenders(resnet, stages, image, [[7]])
    deepest = GradCAM(resnet, resnet.layer1)
    four["companion, layer1 alone"] = lambda: deepest(image, 7)
    figures["ResNet-18, four layers"] = compared(four, 12)
    eight = torch.rand(8, 3, SIZE, SIZE)
    runs = contenders(resnet, [resnet.layer4], eight, [[7]] * 8)
    figures["ResNet-18, layer4, batch 8: bytes saved for the backward pass"] = {
        name: saved_bytes(resnet, run) for name, run in runs.items()
    }
    fresh = models.resnet18().eval()  # one on which no peer has left its hooks
    figures["ResNet-18, layer4: what calls leave behind"] = traces(fresh, fresh.layer4, 2000)
    store("gradcam", figures)


if __name__ == "__main__":
    main()
