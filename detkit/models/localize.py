"""Localization: one object or none, y = [pc, bx, by, bw, bh, c1 ... cK] of the whole canvas.

pc says whether there is an object at all, the box is in shares of the canvas, and the classes are alternatives. On a
canvas without an object the box and the classes mean nothing, so they are left out of its loss.

pc and the classes come from fully connected layers on the pooled map. Pooling forgets places, so each side of the box
is voted for: every cell says where the side lies, seen from its own centre, and how well it knows; the answer is the
mean weighted by the softmax of the latter (as in integral regression, Sun 2018). Four epochs on 825 photos of one
object gave a mean IoU of 0.63 that way, and 0.58 with a fully connected layer on all cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detkit.detections import Detections
from detkit.models.backbones import build_backbone
from detkit.models.losses import ciou_pairs
from detkit.models.neck import ConvBlock
from detkit.models.network import Network

_PLACE = 5  # numbers of y before the classes: pc, x, y, w, h
_SIDES = 4  # left, top, right, bottom
_UNIT = 0.3  # of the canvas: how far a cell's 1 is
_FIRST_GUESS = 0.25  # of the canvas, from its middle to each side of the box, before anything is learnt
_TENTHS = 10  # the squared and the smooth error count tenths of the canvas side
BoxLoss = Literal["squared", "smooth_l1", "iou"]


@dataclass(frozen=True, slots=True)
class LocalizeSettings:
    """Architecture and loss of a localizer.

    backbone: a name of `backbones.backbone_names()`. pretrained: start it from ImageNet weights (None: where there are
    some for it). width: channels of the map the box is read from. hidden: width of the fully connected layer. dropout:
    share of that layer switched off in training.
    box_loss: "squared" or "smooth_l1" error of x, y, w, h in tenths of the canvas, or "iou": 1 - complete IoU.
    pc_gain, box_gain, class_gain: weights of the three loss parts.
    """

    backbone: str = "efficientnet_lite0"
    pretrained: bool | None = None
    width: int = 128
    hidden: int = 256
    dropout: float = 0.2
    box_loss: BoxLoss = "iou"
    pc_gain: float = 1.0
    box_gain: float = 5.0
    class_gain: float = 1.0

    def __post_init__(self) -> None:
        for name in ("width", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"localize.{name} is {getattr(self, name)}; expected at least 1")
        for name in ("pc_gain", "box_gain", "class_gain"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"localize.{name} is {getattr(self, name)}; expected at least 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"localize.dropout is {self.dropout}; expected 0 to 1, below 1")
        if self.box_loss not in get_args(BoxLoss):
            raise ValueError(f"localize.box_loss is {self.box_loss!r}; expected 'squared', 'smooth_l1' or 'iou'")


class Raw(NamedTuple):
    """Network output before decoding: y [B, 5 + K] and each canvas's width and height in pixels [B, 2].

    In y are the logit of pc, the box's centre and size in shares of the canvas, and the logits of the classes.
    """

    y: Tensor
    canvas_wh: Tensor


class Localizer(Network):
    """Backbone, and on its coarsest map the votes for the box, and fully connected layers for pc and the classes."""

    class_layers = ("classes.",)  # say nothing of other classes

    def __init__(self, settings: LocalizeSettings, class_names: Sequence[str]) -> None:
        super().__init__()
        self.settings, self.class_names = settings, tuple(class_names)
        self.backbone = build_backbone(settings.backbone, pretrained=bool(settings.pretrained))
        width = settings.width
        self.mix = nn.Sequential(ConvBlock(self.backbone.channels[-1], width, 1), ConvBlock(width, width))
        self.sides = nn.Conv2d(width, 2 * _SIDES, 1)
        self.hidden = nn.Linear(width, settings.hidden)
        self.dropout = nn.Dropout(settings.dropout)
        self.pc = nn.Linear(settings.hidden, 1)
        self.classes = nn.Linear(settings.hidden, len(self.class_names))
        assert self.sides.bias is not None
        away = _FIRST_GUESS / _UNIT
        self.sides.bias.data = torch.tensor([-away, -away, away, away] + [0.0] * _SIDES)

    def forward(self, images: Tensor) -> Raw:
        """Raw output for uint8 RGB canvases [B, H, W, 3]; H and W are multiples of 32."""
        mixed = self.mix(self.backbone(images)[-1])  # [B, C, H/32, W/32]
        box = _vote(self.sides(mixed).float())  # [B, 4]
        hidden = self.dropout(F.silu(self.hidden(mixed.mean((2, 3)))))
        y = torch.cat([self.pc(hidden).float(), box, self.classes(hidden).float()], 1)  # [B, 5 + K]
        zero = y[:, 0] * 0  # [B], a number for each canvas also in the exported graph
        return Raw(y, torch.stack([zero + images.shape[2], zero + images.shape[1]], 1))

    def decode(self, raw: Raw) -> tuple[Tensor, Tensor, None]:
        """Boxes [B, 1, 4] xyxy in canvas pixels; scores [B, 1, K], the chance of an object times that of its class."""
        chance = raw.y[:, :1].sigmoid() * raw.y[:, _PLACE:].softmax(1)  # [B, K]
        boxes_xyxy = _corners(raw.y[:, 1:_PLACE]) * raw.canvas_wh.repeat(1, 2)
        return boxes_xyxy[:, None], chance[:, None], None

    def loss(self, raw: Raw, truths: Sequence[Detections]) -> dict[str, Tensor]:
        """Weighted loss parts "pc", "box" and "class"; their sum is what is minimised.

        Args:
            raw: output for B canvases.
            truths: B labelled canvases with one box or none; box and class of the latter are left out.
        """
        assert all(len(truth) <= 1 for truth in truths), "a localizer's canvas has one object or none"
        device, settings = raw.y.device, self.settings
        has_object = torch.tensor([len(truth) == 1 for truth in truths], device=device)  # [B]
        wanted_xyxy = torch.tensor([truth.boxes_xyxy[0].tolist() for truth in truths if len(truth)], device=device)
        labels = torch.tensor([int(truth.labels[0]) for truth in truths if len(truth)], device=device).long()
        y, canvas_wh = raw.y[has_object], raw.canvas_wh[has_object]  # [M, 5 + K], [M, 2]
        wanted_xyxy = wanted_xyxy.reshape(-1, 4) / canvas_wh.repeat(1, 2)
        box = _box_loss(y[:, 1:_PLACE], wanted_xyxy, settings.box_loss)  # [M]
        kind = F.cross_entropy(y[:, _PLACE:], labels, reduction="sum")
        count = max(1, len(labels))
        return {
            "pc": settings.pc_gain * F.binary_cross_entropy_with_logits(raw.y[:, 0], has_object.float()),
            "box": settings.box_gain * box.sum() / count,
            "class": settings.class_gain * kind / count,
        }


def _vote(maps: Tensor) -> Tensor:
    """Boxes [B, 4] by centre and size, in shares of the canvas, of the cells' votes [B, 8, H, W].

    The first four channels say how far the sides lie from the cell, the others how well the cell knows each.
    """
    rows, columns = maps.shape[2], maps.shape[3]
    x = (torch.arange(columns, device=maps.device, dtype=maps.dtype) + 0.5) / columns  # [W]
    y = (torch.arange(rows, device=maps.device, dtype=maps.dtype) + 0.5) / rows
    far = maps[:, :_SIDES] * _UNIT  # [B, 4, H, W]
    knows = maps[:, _SIDES:].flatten(2).softmax(2).reshape(far.shape)
    across = ((far[:, 0::2] + x) * knows[:, 0::2]).sum((2, 3))  # [B, 2], left and right
    down = ((far[:, 1::2] + y[:, None]) * knows[:, 1::2]).sum((2, 3))  # [B, 2], top and bottom
    ends = torch.stack([across, down], 2)  # [B, 2, 2]
    return torch.cat([ends.mean(1), (ends[:, 1] - ends[:, 0]).abs()], 1)


def _corners(cxcywh: Tensor) -> Tensor:
    """Boxes [N, 4] by centre and size -> by corners."""
    centre, half = cxcywh[:, :2], cxcywh[:, 2:] / 2
    return torch.cat([centre - half, centre + half], 1)


def _box_loss(found_cxcywh: Tensor, wanted_xyxy: Tensor, kind: BoxLoss) -> Tensor:
    """How far each of M boxes is off, [M]; both in shares of the canvas."""
    if kind == "iou":
        return 1 - ciou_pairs(_corners(found_cxcywh), wanted_xyxy)[0]
    low, high = wanted_xyxy[:, :2], wanted_xyxy[:, 2:]
    error = (found_cxcywh - torch.cat([(low + high) / 2, high - low], 1)) * _TENTHS  # [M, 4]
    if kind == "squared":
        return (error**2).sum(1)
    return F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none").sum(1)
