"""Feature pyramid: mixes the backbone's maps top-down and bottom-up (PAN, Liu 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvBlock(nn.Sequential):
    """Convolution, batch norm, SiLU; the output has the input's size divided by `stride`."""

    def __init__(self, width_in: int, width_out: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(width_in, width_out, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(width_out, eps=1e-3, momentum=0.03),
            nn.SiLU(inplace=True),
        )


class MixBlock(nn.Module):
    """Cross-stage block (CSP, Wang 2019): half the channels pass a residual 3x3 pair, half go straight through."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        half = width_out // 2
        self.straight = ConvBlock(width_in, half, 1)
        self.deep = ConvBlock(width_in, half, 1)
        self.body = nn.Sequential(ConvBlock(half, half), ConvBlock(half, half))
        self.join = ConvBlock(2 * half, width_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H, W]."""
        deep = self.deep(x)
        return self.join(torch.cat([self.straight(x), deep + self.body(deep)], 1))


class Pyramid(nn.Module):
    """Three maps of any width in, three maps of `width` channels out, at the same strides."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(ConvBlock(c, width, 1) for c in channels)
        self.down_mix = nn.ModuleList(MixBlock(2 * width, width) for _ in channels[:-1])
        self.shrink = nn.ModuleList(ConvBlock(width, width, 3, 2) for _ in channels[:-1])
        self.up_mix = nn.ModuleList(MixBlock(2 * width, width) for _ in channels[:-1])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps from fine to coarse, the same order out."""
        mixed = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for i in range(len(mixed) - 2, -1, -1):  # coarse context flows down to the fine maps
            wider = F.interpolate(mixed[i + 1], scale_factor=2.0, mode="nearest")
            mixed[i] = self.down_mix[i](torch.cat([mixed[i], wider], 1))
        for i in range(len(mixed) - 1):  # fine detail flows back up
            smaller = self.shrink[i](mixed[i])
            mixed[i + 1] = self.up_mix[i](torch.cat([mixed[i + 1], smaller], 1))
        return mixed
