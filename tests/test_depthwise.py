"""Depthwise convolutions with quick gradients are the same convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from detkit.models.backbones import build_backbone
from detkit.models.depthwise import DepthwiseConv2d, quicken_depthwise

SHAPES = [(kernel, stride) for kernel in (3, 5) for stride in (1, 2)]


def pair(kernel: int, stride: int, *, bias: bool) -> tuple[nn.Conv2d, nn.Conv2d]:
    """A plain depthwise convolution and its quick twin with the same weights."""
    torch.manual_seed(kernel + stride)
    plain = nn.Conv2d(12, 12, kernel, stride, kernel // 2, groups=12, bias=bias)
    net = nn.Sequential(plain)
    quicken_depthwise(net)
    assert type(net[0]) is DepthwiseConv2d
    return plain, net[0]


@pytest.mark.parametrize(("kernel", "stride"), SHAPES)
@pytest.mark.parametrize("bias", [False, True])
def test_gradients_are_those_of_the_plain_convolution(kernel: int, stride: int, bias: bool) -> None:
    plain, quick = pair(kernel, stride, bias=bias)
    x = torch.randn(3, 12, 21, 18)
    exact_in, quick_in = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected = plain(exact_in)  # float32
    with torch.autocast("cpu", torch.bfloat16):
        found = quick(quick_in)
    assert found.dtype is torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.03)
    towards = torch.randn_like(expected)
    by = torch.autograd.grad(expected, [exact_in, *plain.parameters()], towards)
    quick_by = torch.autograd.grad(found, [quick_in, *quick.parameters()], towards.bfloat16())
    for exact, rounded in zip(by, quick_by, strict=True):
        assert rounded.dtype is torch.float32  # as the leaves they belong to
        torch.testing.assert_close(rounded, exact, rtol=0.03, atol=0.03 * float(exact.abs().max()))


def test_without_autocast_and_without_gradients_it_is_the_plain_convolution_to_the_bit() -> None:
    plain, quick = pair(5, 2, bias=True)
    x = torch.randn(2, 12, 16, 16)
    assert torch.equal(plain(x), quick(x))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(plain(x), quick(x))


def test_a_frozen_input_asks_for_the_weight_alone() -> None:
    _, quick = pair(3, 1, bias=False)
    with torch.autocast("cpu", torch.bfloat16):
        quick(torch.randn(1, 12, 8, 8)).sum().backward()
    assert quick.weight.grad is not None


def test_the_default_backbone_has_no_plain_depthwise_convolution_left() -> None:
    kinds = {type(m) for m in build_backbone("efficientnet_lite0").modules() if getattr(m, "groups", 1) > 1}
    assert kinds == {DepthwiseConv2d}


def test_other_convolutions_stay() -> None:
    net = nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, groups=2))
    quicken_depthwise(net)
    assert {type(m) for m in net} == {nn.Conv2d}
