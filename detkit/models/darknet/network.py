"""Darknet's networks as their cfg files describe them: layers, decoding and loss (Redmon 2017, 2018; Bochkovskiy 2020).

The convolution before each head gives A x (5 + K) maps; it is kept as two, boxes and classes, so that the first may go
on with other classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detkit.detections import Detections
from detkit.models.assign import Matches, Targets, assign_by_shape
from detkit.models.darknet.blocks import ConvLayer, HeadConv, plain_layer
from detkit.models.darknet.cfg import Cfg, parse_cfg
from detkit.models.darknet.layers import Conv, Head, Layer, Route, ScaleChannels, Shortcut
from detkit.models.depthwise import quicken_depthwise
from detkit.models.losses import ciou_pairs
from detkit.models.network import Network
from detkit.models.yolo import answering_boxes, grid_xy, inside_crowd, stack_targets

_STAGE_STRIDES = (8, 16, 32)  # where a backbone's second, third and fourth stage begin
_LEVEL_WEIGHTS = (4.0, 1.0, 0.4)  # objectness up to these strides: a fine grid has 16 times the cells, nearly all empty
_FAR = 8  # canvases: a box that leaves it is cut off there
_REACH = 0.45  # of `scale_xy`, on either side of a cell's middle; the sigmoid gets to 0.5 at infinity only
_LARGEST_POWER = 10.0  # of a side: exp of it times any anchor is beyond every canvas


@dataclass(frozen=True, slots=True)
class DarknetSettings:
    """Architecture and loss weights.

    cfg: a Darknet cfg file, or its text, which is what a run keeps; the number of classes is that of the data.
    max_shape_ratio: an anchor fits a box when no side differs by more than this factor; a box that fits none has its
    nearest. *_gain: weights of the three loss parts.
    """

    cfg: str = ""
    max_shape_ratio: float = 4.0
    box_gain: float = 1.5
    objectness_gain: float = 5.0
    class_gain: float = 0.3

    @property
    def backbone(self) -> str:
        """What it is built on, in words."""
        return "darknet"

    @property
    def pretrained(self) -> bool:
        """There are no ImageNet weights for it."""
        return False

    def __post_init__(self) -> None:
        if self.max_shape_ratio <= 1:
            raise ValueError(f"darknet.max_shape_ratio is {self.max_shape_ratio}; expected above 1")


class Raw(NamedTuple):
    """Network output before decoding: per head [B, A, H, W, 5 + K], as tx, ty, tw, th, objectness, classes."""

    levels: tuple[Tensor, ...]


class Darknet(Network):
    """The layers of a cfg: those up to the first head's branch are the backbone, in four stages by their stride."""

    def __init__(self, settings: DarknetSettings, class_names: Sequence[str]) -> None:
        super().__init__()
        self.settings, self.class_names = settings, tuple(class_names)
        self.cfg = parse_cfg(settings.cfg, "the cfg of the network")
        layers = self.cfg.layers
        self._kept = {index for layer in layers for index in _named(layer)}  # outputs that are needed again
        self._stage_of = _stages(self.cfg)
        self.backbone = _Backbone()
        self.neck = nn.ModuleDict()
        self.heads = nn.ModuleDict()  # under the index of their convolution
        for index, conv in self.cfg.convs:
            after = layers[index + 1] if index + 1 < len(layers) else None
            if isinstance(after, Head):
                self.heads[str(index)] = HeadConv(conv, len(after.anchors_wh_px), len(self.class_names))
            else:
                self._home(index)[str(index)] = ConvLayer(conv)
        quicken_depthwise(self)
        self.class_layers = tuple(f"heads.{index}.to_class." for index in self.heads)
        for number, head in enumerate(self.cfg.heads):
            self.register_buffer(f"anchors_{number}", torch.tensor(head.anchors_wh_px), persistent=False)

    @property
    def strides(self) -> tuple[int, ...]:
        """Canvas pixels per cell, per head."""
        return tuple(head.stride_px for head in self.cfg.heads)

    @property
    def anchors_wh(self) -> list[Tensor]:
        """Per head [A, 2] in canvas pixels."""
        return [self.get_buffer(f"anchors_{number}") for number in range(len(self.cfg.heads))]

    def forward(self, images: Tensor) -> Raw:
        """Raw output for uint8 RGB canvases [B, H, W, 3]; H and W are multiples of 32."""
        x = images.permute(0, 3, 1, 2).float() / 255  # [B, 3, H, W]
        kept: dict[int, Tensor] = {}
        levels = []
        for index, layer in enumerate(self.cfg.layers):
            if isinstance(layer, Head):
                levels.append(x)  # [B, A, H, W, 5 + K]
            elif isinstance(layer, Conv):
                x = self.conv_layer(index)(x)
            else:
                x = plain_layer(layer, x, [kept[i] for i in _named(layer)])
            if index in self._kept:
                kept[index] = x
        return Raw(tuple(levels))

    def decode(self, raw: Raw) -> tuple[Tensor, Tensor, None]:
        """Boxes [B, N, 4] xyxy in canvas pixels and scores [B, N, K] = objectness x class; no points.

        Rows are in Darknet's order: head by head, row by row, cell by cell, anchor by anchor.
        """
        boxes, scores = [], []
        for head, level, anchors in zip(self.cfg.heads, raw.levels, self.anchors_wh, strict=True):
            cell_xy = grid_xy(level)[:, :, None]  # [H, W, 1, 2]
            level = level.float().permute(0, 2, 3, 1, 4)  # [B, H, W, A, 5 + K]
            found = _decode_boxes(level[..., :4], cell_xy, anchors, head)
            boxes.append(_near(found, level.shape[1], level.shape[2], head.stride_px).flatten(1, 3))
            classes = level[..., 5:].softmax(-1) if head.softmax else level[..., 5:].sigmoid()
            scores.append((level[..., 4:5].sigmoid() * classes).flatten(1, 3))
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
        for i, (head, level, match) in enumerate(zip(self.cfg.heads, raw.levels, matches, strict=True)):
            level = level.float()
            picked = level[match.image, match.anchor, match.row, match.column]  # [T, 5 + K]
            cell_xy = torch.stack([match.column, match.row], 1).float()
            predicted = _decode_boxes(picked[:, :4], cell_xy, self.anchors_wh[i][match.anchor], head)
            ciou, iou = ciou_pairs(predicted, targets.boxes_xyxy[match.target])
            box = box + (1 - ciou).sum() / total
            classes = classes + _class_loss(picked[:, 5:], targets.labels[match.target], head) / total
            objectness = objectness + _objectness(level, match, iou, targets, head)
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
        """Which slots answer for which targets, per head: those of `assign_by_shape` that the decoding can reach."""
        ratio = self.settings.max_shape_ratio
        within = _within_reach(targets, torch.cat(self.anchors_wh), ratio)
        grids_hw = [(level.shape[2], level.shape[3]) for level in raw.levels]
        found = assign_by_shape(within, grids_hw, self.strides, self.anchors_wh, ratio)
        centre_xy = (targets.boxes_xyxy[:, :2] + targets.boxes_xyxy[:, 2:]) / 2
        reachable = []
        for head, match in zip(self.cfg.heads, found, strict=True):
            cell_xy = torch.stack([match.column, match.row], 1)
            off = centre_xy[match.target] / head.stride_px - cell_xy  # [T, 2] in cells
            own = (off.floor() == 0).all(1)
            easy = ((off - 0.5).abs() < _REACH * head.scale_xy).all(1)
            reachable.append(Matches(*(column[own | easy] for column in match)))
        return reachable

    def conv_layer(self, index: int) -> ConvLayer | HeadConv:
        """The convolution that is layer `index` of the cfg."""
        name = str(index)
        found = self.heads[name] if name in self.heads else self._home(index)[name]
        assert isinstance(found, ConvLayer | HeadConv)
        return found

    def _home(self, index: int) -> nn.ModuleDict:
        """Where the convolution of a layer lies that is not a head's."""
        stage = self._stage_of[index]
        return self.neck if stage is None else self.backbone.stage(stage)


class _Backbone(nn.Module):
    """The convolutions up to the first head's branch, by layer index, in four stages."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.ModuleDict() for _ in range(len(_STAGE_STRIDES) + 1))

    def stage(self, number: int) -> nn.ModuleDict:
        stage = self.stages[number]
        assert isinstance(stage, nn.ModuleDict)
        return stage


def _named(layer: Layer) -> tuple[int, ...]:
    """The earlier layers whose outputs a layer asks for."""
    return layer.layers if isinstance(layer, Route | Shortcut | ScaleChannels) else ()


def _stages(cfg: Cfg) -> list[int | None]:
    """The backbone stage of each layer; None for what follows the backbone.

    It ends with the last layer that both the first head and a later branch go back to, else before the first head.
    """
    first_head = next(index for index, layer in enumerate(cfg.layers) if isinstance(layer, Head))
    later = [index for layer in cfg.layers[first_head:] for index in _named(layer) if index < first_head]
    last = max(later, default=first_head - 2)
    strides = [shape.stride_px for shape in cfg.shapes]
    stages = [sum(stride >= limit for limit in _STAGE_STRIDES) for stride in strides]
    return [max(stages[: index + 1]) if index <= last else None for index in range(len(cfg.layers))]


def _decode_boxes(offsets: Tensor, cell_xy: Tensor, anchors_wh: Tensor, head: Head) -> Tensor:
    """xyxy in canvas pixels of (tx, ty, tw, th)."""
    centre_xy = ((offsets[..., :2].sigmoid() - 0.5) * head.scale_xy + 0.5 + cell_xy) * head.stride_px
    power = offsets[..., 2:4]
    times = (power.sigmoid() * 2) ** 2 if head.squared else power.clamp(max=_LARGEST_POWER).exp()
    half_wh = times * anchors_wh / 2
    return torch.cat([centre_xy - half_wh, centre_xy + half_wh], -1)


def _near(boxes_xyxy: Tensor, rows: int, columns: int, stride_px: int) -> Tensor:
    """Boxes cut off far outside the canvas, where rounding is larger than a pixel; `exp` gets there with ease."""
    zero = boxes_xyxy.new_zeros(())  # makes numbers of what are plain integers outside an export
    width, height = zero + columns * stride_px, zero + rows * stride_px
    limit = _FAR * torch.stack([width, height, width, height])
    return torch.maximum(torch.minimum(boxes_xyxy, limit), -limit)


def _class_loss(logits: Tensor, labels: Tensor, head: Head) -> Tensor:
    """Sum of the class losses of [T, K] slots."""
    if head.softmax:
        return F.cross_entropy(logits, labels, reduction="sum")
    return F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, logits.shape[1]).float(), reduction="sum")


def _objectness(level: Tensor, match: Matches, iou: Tensor, targets: Targets, head: Head) -> Tensor:
    """Mean objectness loss of one head's slots: the IoU reached is wanted, 0 in empty cells, nothing in crowds."""
    slots = (match.image, match.anchor, match.row, match.column)
    wanted = torch.zeros_like(level[..., 4])  # [B, A, H, W]
    wanted[slots] = iou.detach().clamp(0, 1)
    counted = ~inside_crowd(level, targets, head.stride_px)
    counted[slots] = True
    each = F.binary_cross_entropy_with_logits(level[..., 4], wanted, reduction="none")
    weight = _LEVEL_WEIGHTS[min(sum(head.stride_px > stride for stride in _STAGE_STRIDES), 2)]
    return weight * ((each * counted).sum() / counted.sum().clamp(min=1))


def _within_reach(targets: Targets, anchors_wh: Tensor, ratio: float) -> Targets:
    """The boxes, each that fits no anchor shrunk or grown about its centre until it fits its nearest."""
    centre_xy, size_wh = (targets.boxes_xyxy[:, :2] + targets.boxes_xyxy[:, 2:]) / 2, _size_wh(targets.boxes_xyxy)
    factor = size_wh[:, None] / anchors_wh[None]  # [M, A, 2]
    worst, nearest = torch.maximum(factor, 1 / factor.clamp(min=1e-9)).amax(2).min(1)  # [M]
    limit = math.sqrt(ratio)
    closest_wh = torch.clamp(size_wh, anchors_wh[nearest] / limit, anchors_wh[nearest] * limit)
    half_wh = torch.where((worst < ratio)[:, None], size_wh, closest_wh) / 2
    return targets._replace(boxes_xyxy=torch.cat([centre_xy - half_wh, centre_xy + half_wh], 1))


def _size_wh(boxes_xyxy: Tensor) -> Tensor:
    return boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
