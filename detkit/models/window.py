"""Sliding window: a classifier of W x W crops, whose fully connected layers are also convolutions over a whole photo.

No layer pads, so what the network says of a window depends on its pixels alone: run on a photo it gives, in each cell,
exactly the scores of the window under the cell (OverFeat, Sermanet 2014, arXiv:1312.6229).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detkit.detections import Detections
from detkit.errors import UsageError
from detkit.models.network import Network
from detkit.models.valid import VALID_STRIDES, Grid, ValidBackbone


@dataclass(frozen=True, slots=True)
class WindowSettings:
    """Architecture of a window classifier; the window's side is the run's size_px.

    backbone: a name of `backbones.backbone_names()`, without squeeze-and-excitation. pretrained: start it from
    ImageNet weights (None: where there are some for it). stride: pixels from one window to the next, where the
    backbone is cut: 4, 8, 16 or 32. hidden: units of each hidden fully connected layer. hidden_layers: how many.
    dropout: share of the hidden units that are left out in training.
    """

    backbone: str = "efficientnet_lite0"
    pretrained: bool | None = None
    stride: int = 8
    hidden: int = 128
    hidden_layers: int = 1
    dropout: float = 0.2

    def __post_init__(self) -> None:
        if self.stride not in VALID_STRIDES:
            raise ValueError(f"window.stride is {self.stride}; expected {' or '.join(map(str, VALID_STRIDES))}")
        for name in ("hidden", "hidden_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"window.{name} is {getattr(self, name)}; expected at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"window.dropout is {self.dropout}; expected 0 to 1, below 1")


class Raw(NamedTuple):
    """Network output before decoding: logits [B, K + 1, H', W'], one column a window; the last row is background."""

    logits: Tensor


class SlidingWindow(Network):
    """An unpadded backbone and fully connected layers, the first of which spans the whole map of a window."""

    class_layers = ("scores.",)

    def __init__(
        self,
        settings: WindowSettings,
        window_px: int,
        class_names: Sequence[str],
        shapes_wh_px: Sequence[tuple[float, float]],
    ) -> None:
        """Make the network.

        Args:
            window_px: side of the window.
            shapes_wh_px: per class the size of the box that is drawn in a window's middle.
        Raises:
            UsageError: a backbone that cannot slide, or a window it does not fit into.
        """
        super().__init__()
        self.settings, self.window_px, self.class_names = settings, window_px, tuple(class_names)
        self.backbone = ValidBackbone(settings.backbone, settings.stride, pretrained=bool(settings.pretrained))
        self.side = self.backbone.grid.cells(window_px)  # cells of a window's map along each axis
        if self.side < 1:
            least_px = self.backbone.grid.offset_px + self.backbone.grid.field_px
            raise UsageError(
                f"the window is too small for {settings.backbone} cut at stride {settings.stride}",
                found=f"{window_px} px",
                expected=f"{least_px} px or more, or a smaller stride",
            )
        widths = [self.backbone.channels * self.side**2, *[settings.hidden] * settings.hidden_layers]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.scores = nn.Linear(settings.hidden, len(self.class_names) + 1)
        self.dropout = nn.Dropout(settings.dropout)
        self.shapes_wh: Tensor
        self.register_buffer("shapes_wh", torch.tensor(shapes_wh_px, dtype=torch.float32), persistent=False)

    @property
    def grid(self) -> Grid:
        """Which pixels the scores of each cell depend on: the window, less what the strides leave over at its edge."""
        return self.backbone.grid.spanning(self.side)

    def forward(self, images: Tensor) -> Raw:
        """Raw output for uint8 RGB canvases [B, H, W, 3]: one cell for each window that fits, `settings.stride` apart.

        The fully connected layers are run as convolutions; see `classify` for the same as what they are.
        """
        x = self.backbone(images)  # [B, C, h, w]
        side = self.side
        for layer in self.hidden:
            x = self.dropout(F.relu(_as_convolution(layer, x, side)))  # [B, hidden, H', W']
            side = 1
        return Raw(_as_convolution(self.scores, x, side))

    def classify(self, windows: Tensor) -> Tensor:
        """Logits [B, K + 1] of uint8 RGB windows [B, W, W, 3], by the fully connected layers."""
        x = self.backbone(windows).flatten(1)  # [B, C * side * side]
        for layer in self.hidden:
            x = self.dropout(F.relu(layer(x)))
        logits: Tensor = self.scores(x)
        return logits

    def decode(self, raw: Raw) -> tuple[Tensor, Tensor, None]:
        """Boxes [B, N, 4] and scores [B, N, K] of the N = H' * W' windows, row by row.

        A box lies in the middle of its window and has the shape of the class that is likeliest there.
        """
        logits = raw.logits.float()
        scores = logits.softmax(1)[:, :-1].flatten(2).transpose(1, 2)  # [B, N, K]
        rows, columns, half = logits.shape[2], logits.shape[3], self.window_px / 2
        y = torch.arange(rows, device=logits.device, dtype=logits.dtype) * self.settings.stride + half
        x = torch.arange(columns, device=logits.device, dtype=logits.dtype) * self.settings.stride + half
        centre_xy = torch.stack([x.expand(rows, columns), y[:, None].expand(rows, columns)], 2).reshape(-1, 2)  # [N, 2]
        half_wh = self.shapes_wh[scores.argmax(2)] / 2  # [B, N, 2]
        return torch.cat([centre_xy - half_wh, centre_xy + half_wh], 2), scores, None

    def loss(self, raw: Raw, truths: Sequence[Detections]) -> dict[str, Tensor]:
        """The cross-entropy of B windows: each truth holds the one object of its window, or none for background.

        Args:
            raw: output for B canvases of exactly one window.
        """
        background = len(self.class_names)
        labels = [int(truth.labels[0]) if len(truth) else background for truth in truths]
        wanted = torch.tensor(labels, device=raw.logits.device)
        return {"class": F.cross_entropy(raw.logits.float().flatten(1), wanted)}


def _as_convolution(layer: nn.Module, x: Tensor, side: int) -> Tensor:
    """A fully connected layer over each `side` x `side` cells of a map [B, C, H, W]: the same weights, reshaped."""
    assert isinstance(layer, nn.Linear)
    weight = layer.weight.view(layer.out_features, layer.in_features // side**2, side, side)
    return F.conv2d(x, weight, layer.bias)
