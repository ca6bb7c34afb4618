"""What the layers of a Darknet network compute."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detkit.models.darknet.layers import AvgPool, Conv, Layer, MaxPool, Reorg, Route, ScaleChannels, Shortcut, Upsample

_LEAK = 0.1
_NORM_EPS = 1e-6
_PRIOR = 0.01  # objectness and class scores at the start
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "leaky": lambda: nn.LeakyReLU(_LEAK),
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "mish": nn.Mish,
    "swish": nn.SiLU,
    "logistic": nn.Sigmoid,
}


class ConvLayer(nn.Sequential):
    """A convolution, its batch norm where it has one, and its activation."""

    def __init__(self, conv: Conv) -> None:
        window = (conv.size, conv.stride, conv.padding)
        plain = nn.Conv2d(conv.channels_in, conv.filters, *window, groups=conv.groups, bias=not conv.batch_normalize)
        norm = [nn.BatchNorm2d(conv.filters, eps=_NORM_EPS)] if conv.batch_normalize else []
        super().__init__(plain, *norm, _ACTIVATIONS[conv.activation]())


class HeadConv(nn.Module):
    """The convolution before a head, [B, C, H, W] to [B, A, H, W, 5 + K]: boxes and objectness apart from classes."""

    def __init__(self, conv: Conv, anchor_count: int, class_count: int) -> None:
        super().__init__()
        self.anchor_count, self.class_count = anchor_count, class_count
        window = (conv.size, conv.stride, conv.padding)
        self.to_box = nn.Conv2d(conv.channels_in, anchor_count * 5, *window)
        self.to_class = nn.Conv2d(conv.channels_in, anchor_count * class_count, *window)
        prior = -math.log((1 - _PRIOR) / _PRIOR)
        nn.init.constant_(self.to_class.bias, prior)  # type: ignore[arg-type]
        nn.init.zeros_(self.to_box.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self.to_box.bias.view(anchor_count, 5)[:, 4] = prior  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        box, classes = self.to_box(x), self.to_class(x)
        batch, _, height, width = box.shape
        box = box.view(batch, self.anchor_count, 5, height, width)
        classes = classes.view(batch, self.anchor_count, self.class_count, height, width)
        return torch.cat([box, classes], 2).permute(0, 1, 3, 4, 2)


def plain_layer(layer: Layer, x: Tensor, named: Sequence[Tensor]) -> Tensor:
    """The output of a layer without weights.

    Args:
        layer: what to compute. x: the output before it. named: those of the earlier layers it names.
    """
    match layer:
        case MaxPool():
            return _max_pool(x, layer)
        case Route():
            parts = [part.chunk(layer.groups, 1)[layer.group_id] if layer.groups > 1 else part for part in named]
            return torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        case Shortcut():
            total = x
            for part in named:
                total = total + part
            return activated(total, layer.activation)
        case ScaleChannels():
            return activated(named[0] * x, layer.activation)
        case Upsample():
            return F.interpolate(x, scale_factor=float(layer.stride), mode="nearest")
        case Reorg():
            return _reorg(x, layer.stride)
        case AvgPool():
            return x.mean((2, 3), keepdim=True)
    return x  # a dropout


def activated(x: Tensor, activation: str) -> Tensor:
    """An activation by Darknet's name for it."""
    found: Tensor = _ACTIVATIONS[activation]()(x)
    return found


def _max_pool(x: Tensor, layer: MaxPool) -> Tensor:
    """Half of the padding, rounded down, lies to the left and above; padding never is the largest."""
    size, stride, padding = layer.size, layer.stride, layer.padding
    if size == stride == 2 and padding == 1:  # one more row and column, only where the side is odd
        return F.max_pool2d(x, size, stride, ceil_mode=True)
    if padding % 2:
        x = F.pad(x, (padding // 2, padding // 2 + 1) * 2, value=-torch.inf)
        return F.max_pool2d(x, size, stride)
    return F.max_pool2d(x, size, stride, padding // 2)


def _reorg(x: Tensor, stride: int) -> Tensor:
    """Darknet reads the C maps as C / s^2 maps of s times the side before it makes blocks channels."""
    batch, channels, height, width = x.shape
    blocks = x.reshape(batch, channels // stride**2, height, stride, width, stride)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(batch, channels * stride**2, height // stride, width // stride)
