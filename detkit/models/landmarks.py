"""Landmarks: P points of one object on its crop, each an expectation over a heat map (integral regression, Sun 2018).

Each cell says how likely it knows the point, and where the point lies relative to the cell's centre; the answer is the
mean of what the cells say, weighted by the softmax of the first. So the loss reaches every cell, no target heat map is
drawn, and a point between two cells costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detkit.detections import Detections
from detkit.models.backbones import STRIDES, build_backbone
from detkit.models.neck import ConvBlock, MixBlock
from detkit.models.network import Network

_CHANNELS = 4  # heat, x offset, y offset, visibility
_WING_WIDTH, _WING_CURVE = 10.0, 2.0  # w and epsilon of the wing loss, in hundredths of the canvas side


@dataclass(frozen=True, slots=True)
class LandmarkSettings:
    """Architecture and loss of a model of points.

    backbone: a name of `backbones.backbone_names()`. pretrained: start it from ImageNet weights (None: where there are
    some for it). width: channels of the map the points are read from.
    loss: "wing" (Feng 2018, arXiv:1711.06753) weighs small errors more than "smooth_l1".
    point_gain, visibility_gain: weights of the two loss parts.
    """

    backbone: str = "efficientnet_lite0"
    pretrained: bool | None = None
    width: int = 128
    loss: Literal["wing", "smooth_l1"] = "wing"
    point_gain: float = 1.0
    visibility_gain: float = 0.1

    def __post_init__(self) -> None:
        if self.width < 2:
            raise ValueError(f"model.width is {self.width}; expected at least 2")
        if self.loss not in ("wing", "smooth_l1"):
            raise ValueError(f"model.loss is {self.loss!r}; expected 'wing' or 'smooth_l1'")


class Raw(NamedTuple):
    """Network output before decoding: [B, P, 4, H, W], as heat, x and y offsets in cells, and visibility."""

    maps: Tensor


class Landmarks(Network):
    """Backbone, top-down path and one head that gives four maps a point at stride 8."""

    stride = STRIDES[0]
    class_layers = ("heads.1.",)  # say nothing of other points

    def __init__(self, settings: LandmarkSettings, class_names: Sequence[str], point_names: Sequence[str]) -> None:
        super().__init__()
        self.settings, self.class_names, self.point_names = settings, tuple(class_names), tuple(point_names)
        self.backbone = build_backbone(settings.backbone, pretrained=bool(settings.pretrained))
        self.neck = _TopDown(self.backbone.channels, settings.width)
        self.heads = nn.Sequential(
            ConvBlock(settings.width, settings.width), nn.Conv2d(settings.width, _CHANNELS * len(self.point_names), 1)
        )

    def forward(self, images: Tensor) -> Raw:
        """Raw output for uint8 RGB canvases [B, H, W, 3]; H and W are multiples of 32."""
        maps = self.heads(self.neck(self.backbone(images)))  # [B, 4P, H/8, W/8]
        batch, _, rows, columns = maps.shape
        return Raw(maps.view(batch, len(self.point_names), _CHANNELS, rows, columns))

    def decode(self, raw: Raw) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes [B, 1, 4], the canvas; scores [B, 1, 1], the mean visibility; points [B, 1, P, 3] in canvas pixels.

        The third column of the points is the probability that the point is visible.
        """
        points_xy, visibility = _read(raw.maps.float(), self.stride)
        visibility = visibility.sigmoid()  # [B, P]
        rows, columns = raw.maps.shape[3], raw.maps.shape[4]  # a slice of a shape would be fixed in the export
        zero = visibility[:, 0] * 0  # [B], a number for each canvas also in the exported graph
        whole = torch.stack([zero, zero, zero + columns * self.stride, zero + rows * self.stride], 1)
        points = torch.cat([points_xy, visibility[..., None]], 2)  # [B, P, 3]
        return whole[:, None], visibility.mean(1)[:, None, None], points[:, None]

    def loss(self, raw: Raw, truths: Sequence[Detections]) -> dict[str, Tensor]:
        """Weighted loss parts "points" and "visibility"; their sum is what is minimised.

        Args:
            raw: output for B canvases.
            truths: B labelled canvases of one box each; a point with visibility 0 takes no part, 1 is hidden.
        """
        wanted = _stack_points(truths).to(raw.maps.device)  # [B, P, 3]
        points_xy, visibility = _read(raw.maps.float(), self.stride)
        labelled = wanted[..., 2] > 0  # [B, P]
        hundredths = 100 / (raw.maps.shape[-1] * self.stride)
        error = torch.where(labelled[..., None], points_xy - wanted[..., :2], 0.0) * hundredths
        each = _wing(error) if self.settings.loss == "wing" else F.smooth_l1_loss(error, error * 0, reduction="none")
        seen = F.binary_cross_entropy_with_logits(visibility, (wanted[..., 2] > 1).float(), reduction="none")
        count = labelled.sum().clamp(min=1)
        return {
            "points": self.settings.point_gain * each.sum() / count,
            "visibility": self.settings.visibility_gain * (seen * labelled).sum() / count,
        }


class _TopDown(nn.Module):
    """Mixes the coarse maps into the finest: three maps of any width in, one of `width` channels at stride 8 out."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(ConvBlock(c, width, 1) for c in channels)
        self.mix = nn.ModuleList(MixBlock(2 * width, width) for _ in channels[:-1])

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        mixed: Tensor = self.lateral[-1](maps[-1])
        for lateral, mix, finer in zip(self.lateral[-2::-1], self.mix[::-1], maps[-2::-1], strict=True):
            wider = F.interpolate(mixed, scale_factor=2.0, mode="nearest")
            mixed = mix(torch.cat([lateral(finer), wider], 1))
        return mixed


def _read(maps: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Points [B, P, 2] in canvas pixels and visibility logits [B, P] of raw maps [B, P, 4, H, W]."""
    rows, columns = maps.shape[3], maps.shape[4]
    x = torch.arange(columns, device=maps.device, dtype=maps.dtype) + 0.5  # [W]
    y = torch.arange(rows, device=maps.device, dtype=maps.dtype) + 0.5
    heat = maps[:, :, 0].flatten(2).softmax(2).reshape(maps[:, :, 0].shape)  # [B, P, H, W]
    says_x, says_y = maps[:, :, 1] + x, maps[:, :, 2] + y[:, None]
    mean_xy = torch.stack([(heat * says_x).sum((2, 3)), (heat * says_y).sum((2, 3))], 2)
    return mean_xy * stride, (heat * maps[:, :, 3]).sum((2, 3))


def _wing(error: Tensor) -> Tensor:
    """Wing loss of each error (Feng 2018): logarithmic near 0, linear beyond `_WING_WIDTH`, and continuous."""
    size = error.abs()
    gap = _WING_WIDTH - _WING_WIDTH * math.log1p(_WING_WIDTH / _WING_CURVE)
    return torch.where(size < _WING_WIDTH, _WING_WIDTH * (size / _WING_CURVE).log1p(), size - gap)


def _stack_points(truths: Sequence[Detections]) -> Tensor:
    """The points of B canvases [B, P, 3]."""
    rows = []
    for truth in truths:
        assert truth.points_xyv is not None, "a landmark truth has points"
        rows.append(truth.points_xyv)
    return torch.from_numpy(np.concatenate(rows))
