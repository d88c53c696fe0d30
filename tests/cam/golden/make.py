"""Write pytorch_grad_cam.npz: what pytorch-grad-cam 1.5.7 says of a small network.

It needs torchvision and OpenCV, so the tests compare with stored maps.  To make them anew, install
what requirements-bench.txt pins (`make bench` does) and run, from the repository's root,

    PYTHONPATH=.:benchmarks:.venv/peers python tests/cam/golden/make.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from gradcam import import_torchvision

from tests.cam.networks import images, small

CLASSES = [1, 4, 0]
LAYERS = ("3", "4")


def main() -> None:
    import_torchvision()
    import pytorch_grad_cam as peer
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    rules = {
        "grad-cam": peer.GradCAM,
        "grad-cam++": peer.GradCAMPlusPlus,
        "hires-cam": peer.HiResCAM,
        "layer-cam": peer.LayerCAM,
        "xgrad-cam": peer.XGradCAM,
        "eigen-cam": peer.EigenCAM,
        "score-cam": peer.ScoreCAM,
        "ablation-cam": peer.AblationCAM,
    }
    model, x = small(), images()
    stored = {f"state/{key}": value.numpy() for key, value in model.state_dict().items()}
    stored["images"] = x.numpy()
    for layer in LAYERS:
        for name, rule in rules.items():
            explain = rule(model, [model.get_submodule(layer)])
            stored[f"{name}/{layer}"] = explain(x, [ClassifierOutputTarget(c) for c in CLASSES])
    both = peer.GradCAM(model, [model.get_submodule(layer) for layer in LAYERS])
    stored["grad-cam/3 and 4"] = both(x, [ClassifierOutputTarget(c) for c in CLASSES])
    np.savez_compressed(Path(__file__).with_name("pytorch_grad_cam.npz"), **stored)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
