"""`Network`: the one face of every model, so that one loop trains, one function exports and one engine runs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from detkit.detections import Detections


class Network(nn.Module):
    """What a task's file defines: a network, its decoding and its loss."""

    backbone: Any  # its `stages` learn more slowly, or not at all, where they have learnt before
    class_layers: tuple[str, ...] = ()  # starts of the names of tensors that say nothing of other classes or points

    def forward(self, images: Tensor) -> Any:
        """Raw output, a tuple of the task's own, for uint8 RGB canvases [B, H, W, 3]."""
        raise NotImplementedError

    def decode(self, raw: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        """Boxes [B, N, 4] xyxy in canvas pixels, scores [B, N, K] in 0-1, points [B, N, P, 3] or None."""
        raise NotImplementedError

    def loss(self, raw: Any, truths: Sequence[Detections]) -> dict[str, Tensor]:
        """Weighted loss parts of B labelled canvases; their sum is what is minimised."""
        raise NotImplementedError


@runtime_checkable
class NetworkSettings(Protocol):
    """What the settings of every network have; they are a frozen dataclass with settings of their own."""

    @property
    def backbone(self) -> str:
        """A name of `backbones.backbone_names()`."""
        ...

    @property
    def pretrained(self) -> bool | None:
        """Whether the backbone starts from ImageNet weights; None: where there are some for it."""
        ...
