"""Where a network looks: Grad-CAM and its relatives, and what to do with their maps."""

from companion.cam.depth import DepthCAM
from companion.cam.depth_maps import DepthMaps
from companion.cam.gradcam import RULE_NAMES, GradCAM
from companion.cam.guided import guided_backpropagation, guided_grad_cam
from companion.cam.images import normalise, superimpose, upsample
from companion.cam.overlay import colour, overlay
from companion.cam.record import CAM
from companion.cam.targets import Top

__all__ = [
    "CAM",
    "RULE_NAMES",
    "DepthCAM",
    "DepthMaps",
    "GradCAM",
    "Top",
    "colour",
    "guided_backpropagation",
    "guided_grad_cam",
    "normalise",
    "overlay",
    "superimpose",
    "upsample",
]
