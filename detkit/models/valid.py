"""A backbone without its padding: every cell is computed from pixels alone, so the grid may lie anywhere on a photo.

Its cells are exactly those of the padded network that no padding has touched: what it learnt there holds here too.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from timm.layers.drop import DropPath
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from detkit.errors import UsageError
from detkit.models.backbones import STRIDES, Backbone, backbone_names, build_backbone

VALID_STRIDES = (STRIDES[0] // 2, *STRIDES)  # of the grids a backbone can be cut at: one for each of its stages
SQUEEZING = ("mobilenet_v3_large", "efficientnet_b0")  # at stride 8 a layer of these looks at the whole picture

_SLIDING = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.Hardsigmoid, nn.SiLU, nn.Hardswish, nn.GELU)
_CELL_BY_CELL = (_BatchNorm, nn.Identity, nn.Dropout, DropPath, *_ACTIVATIONS)
_MERGING = (operator.add, operator.iadd, torch.add, torch.cat)


@dataclass(frozen=True, slots=True)
class Grid:
    """Which pixels the cells of a map see, along either axis: cell i those from offset_px + i * stride_px on.

    stride_px: from one cell to the next. field_px: how many a cell sees. offset_px: where the first cell's begin.
    """

    stride_px: int
    field_px: int
    offset_px: int

    def cells(self, side_px: int) -> int:
        """How many cells an image of that side has; 0 where not even one fits."""
        return max(0, (side_px - self.offset_px - self.field_px) // self.stride_px + 1)

    def spanning(self, count: int) -> Grid:
        """The grid of a layer that looks at `count` neighbouring cells of this one at a time."""
        return replace(self, field_px=self.field_px + (count - 1) * self.stride_px)


class ValidBackbone(nn.Module):
    """The first stages of a backbone, unpadded: uint8 RGB [B, H, W, 3] in, one map [B, C, H', W'] out.

    Attributes:
        grid: which pixels its cells see, found by following the layers.
        channels: C.
    """

    mean_rgb: Tensor
    std_rgb: Tensor

    def __init__(self, name: str, stride: int, *, pretrained: bool = False) -> None:
        """Build a backbone and take its padding away.

        Args:
            name: one of `backbones.backbone_names()`. stride: one of VALID_STRIDES, where it is cut.
            pretrained: start from ImageNet weights.
        Raises:
            UsageError: no such backbone or stride, or one of its layers looks at the whole picture.
        """
        super().__init__()
        if stride not in VALID_STRIDES:
            raise UsageError("stride of a window model", found=stride, expected=" or ".join(map(str, VALID_STRIDES)))
        padded = build_backbone(name, pretrained=pretrained)
        depth = VALID_STRIDES.index(stride) + 1
        graph = _Tracer().trace(_Chain(padded, depth))
        field = _unpad(graph, dict(_Chain(padded, depth).named_modules()), name)
        self.layers = fx.GraphModule(_Chain(padded, depth), graph)
        self.grid = Grid(field.jump, field.size, field.origin + field.first * field.jump)
        self.register_buffer("mean_rgb", padded.mean_rgb, persistent=False)
        self.register_buffer("std_rgb", padded.std_rgb, persistent=False)
        with torch.no_grad():
            least_px = self.grid.offset_px + self.grid.field_px
            self.channels = int(self.eval()(torch.zeros(1, least_px, least_px, 3, dtype=torch.uint8)).shape[1])
        self.train()

    @property
    def stages(self) -> list[nn.Module]:
        """Its layers in groups, one for each halving from stride 4 on."""
        stages: nn.Module = self.layers.get_submodule("stages")
        return list(stages.children())

    def forward(self, images: Tensor) -> Tensor:
        """The map of canvases of any size from the least on; see `grid`."""
        x = images.permute(0, 3, 1, 2).float()  # [B, 3, H, W], channels-last in memory
        found: Tensor = self.layers((x - self.mean_rgb) / self.std_rgb)
        return found


class _Chain(nn.Module):
    """The first `depth` stages of a backbone, one after the other."""

    def __init__(self, backbone: Backbone, depth: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(backbone.stages[:depth])

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        return x


class _Tracer(fx.Tracer):
    """Stops at every convolution and norm, also at classes of them that are not PyTorch's own."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _SLIDING + _CELL_BY_CELL) or super().is_leaf_module(m, module_qualified_name)


class _Field(NamedTuple):
    """One axis of a map: cell i of the padded network sees pixels from origin + i * jump on, `size` of them.

    The unpadded map has the padded network's cells from `first` on, none of which sees a pixel before 0.
    """

    jump: int
    origin: int
    size: int
    first: int


def _unpad(graph: fx.Graph, modules: dict[str, nn.Module], name: str) -> _Field:
    """Take the padding out of a traced network, in place; gives what its result sees."""
    fields: dict[fx.Node, _Field] = {}
    result: fx.Node | None = None
    for node in list(graph.nodes):
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if node.op == "placeholder":
            fields[node] = _Field(1, 0, 1, 0)
        elif node.op == "output":
            result = node.all_input_nodes[0]
        elif isinstance(module, nn.ZeroPad2d):
            source = node.all_input_nodes[0]
            fields[source] = _shifted(fields[source], module, name)
            node.replace_all_uses_with(source)
            graph.erase_node(node)
        elif isinstance(module, _SLIDING):
            fields[node] = _slide(graph, node, module, fields, name)
        elif isinstance(module, _CELL_BY_CELL) or node.target is F.relu:
            fields[node] = fields[node.all_input_nodes[0]]
        elif node.target in _MERGING:
            fields[node] = _merge(graph, node, fields)
        else:
            raise _cannot_slide(name)
    assert result is not None, "a traced network has an output"
    return fields[result]


def _shifted(field: _Field, padding: nn.ZeroPad2d, name: str) -> _Field:
    """What a map sees when its cells are counted as if it were padded: the padding's own cells come first."""
    left, right, top, bottom = padding.padding
    if left != top or right != bottom:
        raise _cannot_slide(name)
    return field._replace(origin=field.origin - top * field.jump, first=field.first + top)


def _slide(graph: fx.Graph, node: fx.Node, module: nn.Module, fields: dict[fx.Node, _Field], name: str) -> _Field:
    """Unpad a convolution or pooling; what it gives starts at the first cell of its own that needs no padding."""
    kernel, stride, padding, dilation = (
        _one_number(getattr(module, key, 1), name) for key in ("kernel_size", "stride", "padding", "dilation")
    )
    source = node.all_input_nodes[0]
    field = fields[source]
    first = -(-(field.first + padding) // stride)
    unseen = first * stride - padding - field.first  # cells before the first one that is looked at
    if unseen:
        with graph.inserting_before(node):
            node.replace_input_with(source, graph.call_function(_without_first, (source, unseen)))
    module.padding = 0 if isinstance(module, nn.MaxPool2d | nn.AvgPool2d) else (0, 0)  # type: ignore[assignment]
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        module.ceil_mode = False
    reach = dilation * (kernel - 1) * field.jump
    return _Field(field.jump * stride, field.origin - padding * field.jump, field.size + reach, first)


def _merge(graph: fx.Graph, node: fx.Node, fields: dict[fx.Node, _Field]) -> _Field:
    """Cut the branches of a sum or concatenation to the cells they all have."""
    sources = node.all_input_nodes
    first = max(fields[source].first for source in sources)
    shortest = max(sources, key=lambda source: fields[source].origin + fields[source].size)  # ends before the others
    with graph.inserting_before(node):
        if fields[shortest].first < first:
            shortest_cut = graph.call_function(_without_first, (shortest, first - fields[shortest].first))
        else:
            shortest_cut = shortest
        for source in sources:
            if source is not shortest:
                skipped = first - fields[source].first
                node.replace_input_with(source, graph.call_function(_cut_like, (source, shortest_cut, skipped)))
    if shortest_cut is not shortest:
        node.replace_input_with(shortest, shortest_cut)
    origin = min(fields[source].origin for source in sources)
    end = fields[shortest].origin + fields[shortest].size
    return _Field(fields[shortest].jump, origin, end - origin, first)


def _without_first(x: Tensor, count: int) -> Tensor:
    """A map without its first rows and columns."""
    return x[:, :, count:, count:]


def _cut_like(x: Tensor, other: Tensor, skipped: int) -> Tensor:
    """The part of a map that has as many rows and columns as another, without its first ones."""
    return x[:, :, skipped : skipped + other.shape[2], skipped : skipped + other.shape[3]]


def _one_number(value: object, name: str) -> int:
    """A layer's setting that must be the same along both axes."""
    numbers = set(value) if isinstance(value, tuple) else {value}
    if len(numbers) != 1 or not isinstance(number := numbers.pop(), int):
        raise _cannot_slide(name)
    return number


def _cannot_slide(name: str) -> UsageError:
    others = ", ".join(known for known in backbone_names() if known not in SQUEEZING)
    why = "one of its layers (squeeze-and-excitation) looks at the whole picture, not at a window of it"
    return UsageError(f"backbone {name!r} cannot slide: {why}", expected=others)
