"""YOLO with anchors: network, loss and decoding on one page (Redmon 2018; anchors, CIoU box loss)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detkit.detections import Detections
from detkit.models.assign import Matches, Targets, assign_by_shape, assign_by_simota
from detkit.models.backbones import STRIDES, build_backbone
from detkit.models.losses import ciou_pairs, focal_loss, quality_focal_loss, smooth_one_hot
from detkit.models.neck import ConvBlock, Pyramid
from detkit.models.network import Network

_LEVEL_WEIGHTS = (4.0, 1.0, 0.4)  # objectness: a fine grid has 16 times the cells, nearly all of them empty
_PER_MATCH = 0.2  # focal objectness is a sum per match: with this, one objectness_gain serves it and "bce" alike
_PRIOR = 0.01  # objectness and class scores at the start
_MAX_SIDE = 4.0  # the decoding makes a side up to this many times its anchor's

Assign = Literal["shape", "simota"]
Objectness = Literal["bce", "focal", "quality"]


@dataclass(frozen=True, slots=True)
class YoloSettings:
    """Architecture and loss weights.

    backbone: a name of `backbones.backbone_names()`. pretrained: start it from ImageNet weights (None: where there are
    some for it).
    width: channels of the feature pyramid. anchors_per_scale: A.
    assign: "shape" gives a box to every anchor of its shape, "simota" to the slots that predict it best so far.
    max_shape_ratio: an anchor fits a box when no side differs by more than this factor.
    objectness: "bce" asks for the IoU reached, "quality" too, weighed by the error (quality focal loss); "focal" asks
    for 0 or 1. label_smoothing: classes aim at 1 - s/2 and s/2. *_gain: weights of the three loss parts.
    """

    backbone: str = "efficientnet_lite0"
    pretrained: bool | None = None
    width: int = 96
    anchors_per_scale: int = 3
    assign: Assign = "shape"
    max_shape_ratio: float = 4.0
    objectness: Objectness = "bce"
    label_smoothing: float = 0.0
    box_gain: float = 1.5
    objectness_gain: float = 5.0
    class_gain: float = 0.3

    def __post_init__(self) -> None:
        if self.anchors_per_scale < 1 or self.width < 2:
            raise ValueError("model.anchors_per_scale must be at least 1 and model.width at least 2")
        for name, kind in (("assign", Assign), ("objectness", Objectness)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"model.{name} is {getattr(self, name)!r}; expected {' or '.join(get_args(kind))}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"model.label_smoothing is {self.label_smoothing}; expected at least 0 and below 1")


class Raw(NamedTuple):
    """Network output before decoding: per level [B, A, H, W, 5 + K], as tx, ty, tw, th, objectness, classes."""

    levels: tuple[Tensor, ...]


class Yolo(Network):
    """Backbone, feature pyramid and one anchor head per stride."""

    strides = STRIDES
    class_layers = tuple(f"heads.{level}.to_class." for level in range(len(STRIDES)))  # say nothing of other classes
    anchors_wh: Tensor  # [L, A, 2] in canvas pixels

    def __init__(self, settings: YoloSettings, class_names: Sequence[str], anchors_wh_px: Sequence[object]) -> None:
        super().__init__()
        self.settings, self.class_names = settings, tuple(class_names)
        anchors = torch.tensor(anchors_wh_px, dtype=torch.float32)  # [L, A, 2]
        self.register_buffer("anchors_wh", anchors, persistent=False)
        self.backbone = build_backbone(settings.backbone, pretrained=bool(settings.pretrained))
        self.neck = Pyramid(self.backbone.channels, settings.width)
        self.heads = nn.ModuleList(_Head(settings.width, anchors.shape[1], len(self.class_names)) for _ in STRIDES)

    def forward(self, images: Tensor) -> Raw:
        """Raw output for uint8 RGB canvases [B, H, W, 3]; H and W are multiples of 32."""
        maps = self.neck(self.backbone(images))
        return Raw(tuple(head(x) for head, x in zip(self.heads, maps, strict=True)))

    def decode(self, raw: Raw) -> tuple[Tensor, Tensor, None]:
        """Boxes [B, N, 4] xyxy in canvas pixels and scores [B, N, K] = objectness x class; no points."""
        boxes, scores = [], []
        for level, stride, anchors in zip(raw.levels, self.strides, self.anchors_wh, strict=True):
            level = level.float()  # [B, A, H, W, 5 + K]
            boxes.append(_decode_boxes(level[..., :4], grid_xy(level), anchors[:, None, None], stride).flatten(1, 3))
            scores.append((level[..., 4:5].sigmoid() * level[..., 5:].sigmoid()).flatten(1, 3))
        return torch.cat(boxes, 1), torch.cat(scores, 1), None

    def loss(self, raw: Raw, truths: Sequence[Detections]) -> dict[str, Tensor]:
        """Weighted loss parts "box", "objectness" and "class"; their sum is what is minimised.

        Args:
            raw: output for B canvases.
            truths: B labelled canvases; crowd boxes silence the objectness inside them and train nothing else.
        """
        targets = stack_targets(truths, raw.levels[0].device)
        matches = self._assign(raw, targets)
        total = max(1, sum(len(m.target) for m in matches))
        box = objectness = classes = raw.levels[0].new_zeros((), dtype=torch.float32)
        for i, (level, match) in enumerate(zip(raw.levels, matches, strict=True)):
            level = level.float()
            picked = level[match.image, match.anchor, match.row, match.column]  # [T, 5 + K]
            cell_xy = torch.stack([match.column, match.row], 1).float()
            predicted = _decode_boxes(picked[:, :4], cell_xy, self.anchors_wh[i][match.anchor], self.strides[i])
            ciou, iou = ciou_pairs(predicted, targets.boxes_xyxy[match.target])
            labels = targets.labels[match.target]
            wanted = smooth_one_hot(labels, len(self.class_names), self.settings.label_smoothing)
            box = box + (1 - ciou).sum() / total
            classes = classes + F.binary_cross_entropy_with_logits(picked[:, 5:], wanted, reduction="sum") / total
            objectness = objectness + self._objectness(level, match, iou, targets, i, total)
        gains = self.settings
        return {
            "box": gains.box_gain * box,
            "objectness": gains.objectness_gain * objectness,
            "class": gains.class_gain * classes,
        }

    def answering(self, raw: Raw, truths: Sequence[Detections]) -> list[Detections]:
        """Per canvas, the anchors that answer for its labelled boxes, each laid on the middle of its cell."""
        targets = stack_targets(truths, raw.levels[0].device)
        return answering_boxes(self._assign(raw, targets), targets, self.strides, self.anchors_wh, truths)

    def _assign(self, raw: Raw, targets: Targets) -> list[Matches]:
        """Which slots answer for which targets, per level."""
        ratio = self.settings.max_shape_ratio
        if self.settings.assign == "shape":
            grids_hw = [(level.shape[2], level.shape[3]) for level in raw.levels]
            return assign_by_shape(targets, grids_hw, self.strides, self.anchors_wh, ratio)
        boxes, logits = [], []
        for level, stride, anchors in zip(raw.levels, self.strides, self.anchors_wh, strict=True):
            offsets = level.detach()[..., :4].float()
            boxes.append(_decode_boxes(offsets, grid_xy(level), anchors[:, None, None], stride))
            logits.append(level.detach()[..., 4:])
        return assign_by_simota(targets, boxes, logits, self.strides, self.anchors_wh, min(ratio, _MAX_SIDE))

    def _objectness(
        self, level: Tensor, match: Matches, iou: Tensor, targets: Targets, index: int, total: int
    ) -> Tensor:
        """Objectness loss of one level, 0 wanted in empty cells and nothing in crowds.

        "bce" is a mean over the level's slots; the focal ones are their sum divided by all `total` matches.
        """
        kind, slots = self.settings.objectness, (match.image, match.anchor, match.row, match.column)
        wanted = torch.zeros_like(level[..., 4])  # [B, A, H, W]
        wanted[slots] = 1.0 if kind == "focal" else iou.detach().clamp(0, 1)
        counted = ~inside_crowd(level, targets, self.strides[index])
        counted[slots] = True
        if kind == "bce":
            each = F.binary_cross_entropy_with_logits(level[..., 4], wanted, reduction="none")
            return _LEVEL_WEIGHTS[index] * ((each * counted).sum() / counted.sum().clamp(min=1))
        each = focal_loss(level[..., 4], wanted) if kind == "focal" else quality_focal_loss(level[..., 4], wanted)
        return _PER_MATCH * (each * counted).sum() / total


class _Head(nn.Module):
    """One level's predictions; classes and boxes have a convolution each before the last layer."""

    def __init__(self, width: int, anchor_count: int, class_count: int) -> None:
        super().__init__()
        self.anchor_count, self.class_count = anchor_count, class_count
        self.class_conv, self.box_conv = ConvBlock(width, width), ConvBlock(width, width)
        self.to_class = nn.Conv2d(width, anchor_count * class_count, 1)
        self.to_box = nn.Conv2d(width, anchor_count * 5, 1)
        prior = -math.log((1 - _PRIOR) / _PRIOR)
        nn.init.constant_(self.to_class.bias, prior)  # type: ignore[arg-type]
        nn.init.zeros_(self.to_box.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self.to_box.bias.view(anchor_count, 5)[:, 4] = prior  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        box = self.to_box(self.box_conv(x)).view(batch, self.anchor_count, 5, height, width)
        classes = self.to_class(self.class_conv(x)).view(batch, self.anchor_count, self.class_count, height, width)
        return torch.cat([box, classes], 2).permute(0, 1, 3, 4, 2)  # [B, A, H, W, 5 + K]


def _decode_boxes(offsets: Tensor, cell_xy: Tensor, anchors_wh: Tensor, stride: int) -> Tensor:
    """xyxy in pixels of (tx, ty, tw, th): the centre reaches half a cell beyond its own, a side up to 4 anchors."""
    reach = offsets.sigmoid() * 2
    centre_xy = (reach[..., :2] - 0.5 + cell_xy) * stride
    half_wh = reach[..., 2:] ** 2 * anchors_wh / 2
    return torch.cat([centre_xy - half_wh, centre_xy + half_wh], -1)


def grid_xy(level: Tensor) -> Tensor:
    """Column and row of every cell of [B, A, H, W, ...] as [H, W, 2]."""
    rows = torch.arange(level.shape[2], device=level.device, dtype=torch.float32)
    columns = torch.arange(level.shape[3], device=level.device, dtype=torch.float32)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y], -1)


def inside_crowd(level: Tensor, targets: Targets, stride: int) -> Tensor:
    """Bool [B, A, H, W]: the cell's centre lies in a crowd box of its image."""
    inside = torch.zeros_like(level[..., 4], dtype=torch.bool)
    centre_xy = (grid_xy(level) + 0.5) * stride  # [H, W, 2]
    for row in torch.nonzero(targets.crowd).flatten().tolist():
        x1, y1, x2, y2 = targets.boxes_xyxy[row].unbind()
        covered = (centre_xy[..., 0] > x1) & (centre_xy[..., 0] < x2) & (centre_xy[..., 1] > y1)
        inside[targets.image_index[row]] |= covered & (centre_xy[..., 1] < y2)
    return inside


def answering_boxes(
    matches: Sequence[Matches],
    targets: Targets,
    strides: Sequence[int],
    anchors_wh: Tensor | Sequence[Tensor],
    truths: Sequence[Detections],
) -> list[Detections]:
    """The anchors of matched slots, level by level, each laid on the middle of its cell and given its box's label."""
    rows: list[Tensor] = []  # of image, label, x1, y1, x2, y2
    for match, stride, anchors in zip(matches, strides, anchors_wh, strict=True):
        centre_xy = (torch.stack([match.column, match.row], 1) + 0.5) * stride  # [T, 2]
        half_wh = anchors[match.anchor] / 2
        labels = targets.labels[match.target]
        rows.append(torch.cat([torch.stack([match.image, labels], 1), centre_xy - half_wh, centre_xy + half_wh], 1))
    table = torch.cat(rows).cpu().numpy()  # [T, 6]
    own = [table[table[:, 0] == image] for image in range(len(truths))]
    return [Detections(t.size_hw, part[:, 2:], part[:, 1]) for t, part in zip(truths, own, strict=True)]


def stack_targets(truths: Sequence[Detections], device: torch.device | str = "cpu") -> Targets:
    """One table of the labelled boxes of B canvases."""
    counts = [len(truth) for truth in truths]
    index = np.repeat(np.arange(len(truths)), counts)
    crowd = [np.zeros(len(t), bool) if t.crowd is None else t.crowd for t in truths]
    columns = index, _join([t.labels for t in truths]), _join([t.boxes_xyxy for t in truths]), _join(crowd)
    return Targets(*(torch.from_numpy(np.ascontiguousarray(c)).to(device) for c in columns))


def _join(columns: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(columns) if columns else np.zeros(0)
