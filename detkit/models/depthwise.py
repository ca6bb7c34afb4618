"""Depthwise convolutions whose gradients are quick in bfloat16 on a CPU.

oneDNN has fast bfloat16 kernels for the forward pass, but not for two gradients: by the input where the stride is 2
(50 times slower than in float32) and by a 5x5 weight (3 to 4 times). A third is wrong: that by the weight where the map
is smaller than the stride, a single cell, is read from memory nobody wrote to and may be NaN (PyTorch 2.15). These are
computed in float32 here; the rest stays as it is. With EfficientNet-Lite0 a whole training step becomes nearly twice as
fast (`make bench`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_SLOW_KERNEL = 5


class _QuickGradients(torch.autograd.Function):
    """A bfloat16 depthwise convolution; each gradient in the type that is faster for its shape."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        by_input = by_weight = None
        if ctx.needs_input_grad[0]:
            wide = max(ctx.stride) > 1
            by_input = _gradient(ctx, grad, x, weight, wide=wide, which=0)
        if ctx.needs_input_grad[1]:
            wide = max(weight.shape[2:]) >= _SLOW_KERNEL or min(x.shape[2:]) < max(ctx.stride)
            by_weight = _gradient(ctx, grad, x, weight, wide=wide, which=1)
        return by_input, by_weight, None, None


def _gradient(ctx: Any, grad: Tensor, x: Tensor, weight: Tensor, *, wide: bool, which: int) -> Tensor:
    """The gradient by the input (`which` 0) or the weight (1), in float32 where `wide`, as `x`'s type."""
    given = tuple(t.float() if wide else t for t in (grad, x, weight))
    mask = [which == 0, which == 1, False]
    found = torch.ops.aten.convolution_backward(
        *given, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), len(weight), mask
    )
    return found[which].to(x.dtype)


class DepthwiseConv2d(nn.Conv2d):
    """`nn.Conv2d` with one filter per channel: the same parameters and the same output."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, H', W']."""
        learning = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        if not (learning and x.device.type == "cpu" and _bf16_autocast()):
            return super().forward(x)
        narrow = x.bfloat16(), self.weight.bfloat16()
        out = _QuickGradients.apply(*narrow, self.stride, self.padding)
        return out if self.bias is None else out + self.bias.bfloat16()[:, None, None]


def _bf16_autocast() -> bool:
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16


def quicken_depthwise(net: nn.Module) -> None:
    """Replace the depthwise convolutions of a network by `DepthwiseConv2d`, weights and names kept, in place."""
    for name, child in net.named_children():
        if type(child) is nn.Conv2d and _is_plain_depthwise(child):
            shape = child.in_channels, child.out_channels, child.kernel_size, child.stride, child.padding
            quick = DepthwiseConv2d(*shape, groups=child.groups, bias=child.bias is not None)  # type: ignore[arg-type]
            quick.weight, quick.bias = child.weight, child.bias
            setattr(net, name, quick)
        else:
            quicken_depthwise(child)


def _is_plain_depthwise(conv: nn.Conv2d) -> bool:
    one_each = conv.groups == conv.in_channels == conv.out_channels > 1
    return one_each and conv.dilation == (1, 1) and not isinstance(conv.padding, str)
