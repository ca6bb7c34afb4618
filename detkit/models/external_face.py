"""What torchvision's detectors share behind detkit's face: pixels, grids, truths, and which output is which class."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detkit.detections import Detections
from detkit.errors import UsageError
from detkit.models.backbones import STRIDES
from detkit.models.network import Network


@dataclass(frozen=True, slots=True)
class Stages:
    """The parts of a backbone that share a stride, up to 4, 8, 16 and 32: what may be frozen or learn slowly."""

    stages: tuple[nn.ModuleList, ...]


class External(Network):
    """One of torchvision's detectors: its layers and losses, detkit's canvas, classes and decoding.

    Args:
        detector: with the layers `backbone` and `transform`, whose mean and deviation are used and nothing else of it.
        columns: K numbers of the detector's outputs, one for each class; the others are background or unused.
    """

    least_px = 32  # the smallest canvas side
    mean_rgb: Tensor
    std_rgb: Tensor
    columns: Tensor

    def __init__(self, detector: Any, columns: Sequence[int]) -> None:
        super().__init__()
        self.detector = detector
        mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in _moments(detector))
        self.register_buffer("mean_rgb", mean, persistent=False)
        self.register_buffer("std_rgb", std, persistent=False)
        self.register_buffer("columns", torch.tensor(columns), persistent=False)

    @property
    def backbone(self) -> Stages:  # made anew: the layers belong to the detector
        """The detector's backbone, cut where its stride changes."""
        return Stages(_stages(_layers(self.detector.backbone)))

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """Feature maps [B, C, h, w] by torchvision's name, finest first, of uint8 RGB canvases [B, H, W, 3]."""
        if min(images.shape[1], images.shape[2]) < self.least_px:
            size = f"{images.shape[2]}x{images.shape[1]} px"
            raise UsageError("the canvas is too small for this detector", found=size, expected=f"{self.least_px} px")
        pixels = images.permute(0, 3, 1, 2).float()  # [B, 3, H, W], channels-last in memory
        found: dict[str, Tensor] = self.detector.backbone((pixels / 255 - self.mean_rgb) / self.std_rgb)
        return found

    def targets(self, truths: Sequence[Detections]) -> list[dict[str, Tensor]]:
        """Truths as torchvision takes them; boxes without area and crowds train nothing."""
        found = []
        for truth in truths:
            sides = truth.boxes_xyxy[:, 2:] - truth.boxes_xyxy[:, :2]
            kept = (sides > 0).all(1) if truth.crowd is None else (sides > 0).all(1) & ~truth.crowd
            boxes = torch.from_numpy(truth.boxes_xyxy[kept]).to(self.columns.device)
            labels = torch.from_numpy(truth.labels[kept]).to(self.columns.device)
            own = {"boxes": boxes, "labels": self.columns[labels]}
            if truth.points_xyv is not None:
                own["keypoints"] = torch.from_numpy(truth.points_xyv[kept]).to(self.columns.device)
            found.append(own)
        return found


def canvas_steps(canvas: Tensor, level: Tensor) -> tuple[Any, Any]:
    """Pixels between the cells of a level [B, C, h, w], down and across, as torchvision counts them: rounded down."""
    return canvas.shape[1] // level.shape[2], canvas.shape[2] // level.shape[3]


def grid_xy(level: Tensor, step_y: Any, step_x: Any, offset: float = 0.0) -> Tensor:
    """The places [h * w, 2] of a level's cells in pixels, row by row; in an exported graph for any h and w."""
    rows = (torch.arange(level.shape[2], device=level.device) + offset) * step_y
    columns = (torch.arange(level.shape[3], device=level.device) + offset) * step_x
    y, x = torch.meshgrid(rows.float(), columns.float(), indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2)


def grid_anchors(canvas: Tensor, levels: Sequence[Tensor], cells_xyxy: Iterable[Tensor]) -> Tensor:
    """The anchors [N, 4] of a pyramid: those of one cell, [A, 4] about its corner, in every cell of each level."""
    anchors = []
    for level, cell in zip(levels, cells_xyxy, strict=True):
        places = grid_xy(level, *canvas_steps(canvas, level)).repeat(1, 2)  # [h * w, 4]
        anchors.append((places[:, None] + cell.to(level.device)).reshape(-1, 4))
    return torch.cat(anchors)


def canvas_size_xyxy(canvas: Tensor) -> Tensor:
    """Width, height, width, height [4] of canvases [B, H, W, 3], also in an exported graph."""
    zero = torch.zeros((), device=canvas.device)
    width, height = zero + canvas.shape[2], zero + canvas.shape[1]
    return torch.stack([width, height, width, height])


def clip(boxes_xyxy: Tensor, canvas: Tensor) -> Tensor:
    """Boxes [..., 4] cut at the canvas."""
    return torch.minimum(boxes_xyxy.clamp(min=0), canvas_size_xyxy(canvas))


def _moments(detector: Any) -> tuple[Any, Any]:
    return detector.transform.image_mean, detector.transform.image_std


def _layers(backbone: Any) -> list[nn.Module]:
    """The layers a backbone runs one after the other, as far as its last stride of 32."""
    if hasattr(backbone, "body"):  # a pyramid on ResNet or MobileNet
        return list(backbone.body.values())
    parts = [backbone.features, backbone.extra[0]] if len(backbone.features) > 2 else list(backbone.features)
    return list(itertools.chain.from_iterable(parts))  # VGG up to its fully connected layers; MobileNet of SSDlite


def _stages(layers: Sequence[nn.Module]) -> tuple[nn.ModuleList, ...]:
    """The layers in four groups: up to stride 4, 8, 16 and 32."""
    groups: list[list[nn.Module]] = [[] for _ in range(len(STRIDES) + 1)]
    stride = 1
    for layer in layers:
        stride *= max([_stride_of(module) for module in layer.modules()])
        groups[sum(stride >= one for one in STRIDES)].append(layer)
    return tuple(nn.ModuleList(group) for group in groups)


def _stride_of(module: nn.Module) -> int:
    stride: Any = getattr(module, "stride", 1) if isinstance(module, nn.Conv2d | nn.MaxPool2d) else 1
    return max(stride) if isinstance(stride, tuple) else int(stride)
