"""The layers of a Darknet network, as facts: what they compute is in `darknet.py`."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

ACTIVATIONS = ("linear", "leaky", "relu", "relu6", "mish", "swish", "logistic")


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution, its batch norm where it has one, and its activation."""

    channels_in: int
    filters: int
    size: int
    stride: int
    padding: int
    groups: int
    batch_normalize: bool
    activation: str

    @property
    def parameters(self) -> int:
        """Numbers the weights file holds for it."""
        per_filter = self.channels_in // self.groups * self.size**2
        return self.filters * (per_filter + (4 if self.batch_normalize else 1))


@dataclass(frozen=True, slots=True)
class MaxPool:
    """The largest of each window; of `padding` half, rounded down, lies to the left and above, the rest beyond."""

    size: int
    stride: int
    padding: int


@dataclass(frozen=True, slots=True)
class Route:
    """Outputs of earlier layers one behind the other; of each only part `group_id` of `groups` equal ones."""

    layers: tuple[int, ...]
    groups: int
    group_id: int


@dataclass(frozen=True, slots=True)
class Shortcut:
    """The output before plus those of earlier layers."""

    layers: tuple[int, ...]
    activation: str


@dataclass(frozen=True, slots=True)
class ScaleChannels:
    """An earlier layer's output, each channel times the output before, which is one number a channel."""

    layers: tuple[int, ...]
    activation: str


@dataclass(frozen=True, slots=True)
class Upsample:
    """Every cell `stride` times along each side."""

    stride: int


@dataclass(frozen=True, slots=True)
class Reorg:
    """Blocks of stride x stride cells become channels, in Darknet's own order."""

    stride: int


@dataclass(frozen=True, slots=True)
class AvgPool:
    """The mean of each channel."""


@dataclass(frozen=True, slots=True)
class Dropout:
    """Nothing, once a network has learnt."""


@dataclass(frozen=True, slots=True)
class Head:
    """Reads boxes from the convolution before it, which gives [tx, ty, tw, th, objectness, K classes] per anchor.

    anchors_wh_px: in canvas pixels. scale_xy: how far a centre may go, in cells, about its own cell's middle.
    squared: sides are (2 sigmoid)^2 anchors, not exp. softmax: of the classes exactly one is there.
    """

    anchors_wh_px: tuple[tuple[float, float], ...]
    stride_px: int
    classes: int
    scale_xy: float = 1.0
    squared: bool = False
    softmax: bool = False


Layer = Conv | MaxPool | Route | Shortcut | ScaleChannels | Upsample | Reorg | AvgPool | Dropout | Head


class Shape(NamedTuple):
    """A layer's output for one photo, and how many canvas pixels one of its cells has along a side."""

    channels: int
    height: int
    width: int
    stride_px: Fraction
