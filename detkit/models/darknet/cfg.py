"""Darknet's cfg files as layers with their shapes: everything checked and bounded before any memory is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from detkit.models.darknet.keys import ANYWHERE, HARMLESS, ONLY
from detkit.models.darknet.layers import (
    ACTIVATIONS,
    AvgPool,
    Conv,
    Dropout,
    Head,
    Layer,
    MaxPool,
    Reorg,
    Route,
    ScaleChannels,
    Shape,
    Shortcut,
    Upsample,
)
from detkit.models.darknet.sections import Section, read_sections

_SIDE_STEP_PX, _MAX_SIDE_PX = 32, 4096
_MAX_FILTERS, _MAX_SIZE = 1 << 16, 64
_MAX_PARAMETERS = 1 << 28  # 1 GB; the largest published network has 128 million
_MAX_MAP = 1 << 27  # numbers in one layer's output for one photo
_MAX_PRODUCTS = 10**12  # multiplications for one photo; the largest published network needs 4e11


@dataclass(frozen=True, slots=True)
class Cfg:
    """A whole network.

    input_hw: canvas. letterbox: whether its photos keep their aspect ratio. layers: in order, with their `shapes`.
    text: a cfg that says the same, without what concerns training alone.
    """

    input_hw: tuple[int, int]
    letterbox: bool
    layers: tuple[Layer, ...]
    shapes: tuple[Shape, ...]
    text: str

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads, in order."""
        return tuple(layer for layer in self.layers if isinstance(layer, Head))

    @property
    def convs(self) -> tuple[tuple[int, Conv], ...]:
        """The convolutions with their indices, in the order of the weights file."""
        return tuple((index, layer) for index, layer in enumerate(self.layers) if isinstance(layer, Conv))


def parse_cfg(text: str, file: Path | str | None = None) -> Cfg:
    """The network a cfg describes.

    Args:
        text: the cfg. file: where it comes from, for messages.
    Raises:
        WeightsError: anything in it that is not known to leave the network as built here, at its line.
    """
    net, *sections = read_sections(text, file)
    if net.kind not in ("net", "network"):
        net.refuse("is the first section", expected="[net]")
    width, height = (_side(net, key) for key in ("width", "height"))
    net.whole("channels", 3, 3, 3)
    letterbox = net.flag("letter_box")
    texts = [net.close(HARMLESS["net"], {})]
    layers: list[Layer] = []
    shapes = [Shape(3, height, width, Fraction(1))]  # shapes[i + 1] is that of layer i
    for section in sections:
        if section.kind not in _BUILDERS:
            section.refuse("is an unknown section", expected=" or ".join(_BUILDERS))
        if layers and isinstance(layers[-1], Head) and section.kind != "route":
            section.refuse("follows a head, which gives no map", expected="[route]")
        layer, shape = _BUILDERS[section.kind](section, layers, shapes)
        texts.append(section.close(ANYWHERE | HARMLESS.get(section.kind, frozenset()), ONLY))
        layers.append(layer)
        shapes.append(shape)
        if shape.channels * shape.height * shape.width > _MAX_MAP:
            section.refuse("gives too large a map", found=f"{shape.channels} x {shape.height} x {shape.width}")
    _bound(net, layers, shapes)
    cfg = Cfg((height, width), letterbox, tuple(layers), tuple(shapes[1:]), "\n".join(texts) + "\n")
    if not cfg.heads or not isinstance(layers[-1], Head):
        sections[-1].refuse("is the last section", expected="[yolo] or [region]") if sections else net.refuse(
            "is alone"
        )
    if len({head.classes for head in cfg.heads}) > 1:
        net.refuse("has heads for different numbers of classes", found=[head.classes for head in cfg.heads])
    return cfg


def resized(cfg: Cfg, side_px: int, file: Path | str | None = None) -> Cfg:
    """The network on a square canvas.

    Raises:
        WeightsError: its maps do not meet there.
    """
    net, _, _, *rest = cfg.text.split("\n")  # width and height come first
    return parse_cfg("\n".join([net, f"width={side_px}", f"height={side_px}", *rest]), file)


def _side(net: Section, key: str) -> int:
    side = net.whole(key, 0, _SIDE_STEP_PX, _MAX_SIDE_PX)
    if side % _SIDE_STEP_PX:
        net.refuse(key, key=key, found=side, expected=f"a multiple of {_SIDE_STEP_PX}")
    return side


def _bound(net: Section, layers: list[Layer], shapes: list[Shape]) -> None:
    """Refuse a network larger than any real one."""
    convs = [(layer, shape) for layer, shape in zip(layers, shapes[1:], strict=True) if isinstance(layer, Conv)]
    parameters = sum(conv.parameters for conv, _ in convs)
    if parameters > _MAX_PARAMETERS:
        net.refuse("is too large a network", found=f"{parameters:,} weights", expected=f"up to {_MAX_PARAMETERS:,}")
    products = sum(conv.parameters * shape.height * shape.width for conv, shape in convs)
    if products > _MAX_PRODUCTS:
        net.refuse("is too slow a network", found=f"{products:,} products", expected=f"up to {_MAX_PRODUCTS:,}")


def _conv(section: Section, layers: list[Layer], shapes: list[Shape]) -> tuple[Layer, Shape]:
    before = shapes[-1]
    filters = section.whole("filters", 1, 1, _MAX_FILTERS)
    size, stride = section.whole("size", 1, 1, _MAX_SIZE), section.whole("stride", 1, 1, _MAX_SIZE)
    padding = section.whole("padding", 0, 0, _MAX_SIZE)
    if section.flag("pad"):  # it goes before `padding`
        padding = size // 2
    groups = section.whole("groups", 1, 1, _MAX_FILTERS)
    if before.channels % groups or filters % groups:
        found = f"{groups}, for {before.channels} channels and {filters} filters"
        section.refuse("groups", key="groups", found=found, expected="a divisor of both")
    normal, activation = section.flag("batch_normalize"), section.word("activation", "logistic", ACTIVATIONS)
    layer = Conv(before.channels, filters, size, stride, padding, groups, normal, activation)
    return layer, _windows(section, before, filters, (size, stride, 2 * padding))


def _max_pool(section: Section, layers: list[Layer], shapes: list[Shape]) -> tuple[Layer, Shape]:
    stride = section.whole("stride", 1, 1, _MAX_SIZE)
    size = section.whole("size", stride, 1, _MAX_SIZE)
    padding = section.whole("padding", size - 1, 0, size - 1)
    shape = _windows(section, shapes[-1], shapes[-1].channels, (size, stride, padding))
    return MaxPool(size, stride, padding), shape


def _windows(section: Section, before: Shape, channels: int, window: tuple[int, int, int]) -> Shape:
    """The shape after a window of (size, stride, padding of both ends) went over a map."""
    size, stride, padding = window
    if min(before.height, before.width) + padding < size:
        section.refuse("has a window larger than the map", found=f"{size} on {before.height} x {before.width}")
    height, width = ((side + padding - size) // stride + 1 for side in (before.height, before.width))
    return Shape(channels, height, width, before.stride_px * stride)


def _earlier(section: Section, key: str, layers: list[Layer]) -> tuple[int, ...]:
    """The layers a section names, by number or counted back from itself."""
    here = len(layers)
    if not section.has(key):
        section.refuse(f"lacks {key}")
    found = []
    for number in section.wholes(key, "", -_MAX_FILTERS, _MAX_FILTERS):
        index = here + number if number < 0 else number
        if not 0 <= index < here:
            section.refuse(
                key, key=key, found=number, expected=f"a layer before this one, 0 to {here - 1} or -{here} to -1"
            )
        if isinstance(layers[index], Head) or (index + 1 < here and isinstance(layers[index + 1], Head)):
            section.refuse(f"{key} names a head, which gives no map, or its convolution", key=key, found=number)
        found.append(index)
    return tuple(found)


def _route(section: Section, layers: list[Layer], shapes: list[Shape]) -> tuple[Layer, Shape]:
    named = _earlier(section, "layers", layers)
    groups = section.whole("groups", 1, 1, _MAX_FILTERS)
    group_id = section.whole("group_id", 0, 0, groups - 1)
    parts = [shapes[index + 1] for index in named]
    if len({part[1:3] for part in parts}) > 1:
        found = ", ".join(f"{part.height} x {part.width}" for part in parts)
        section.refuse("joins maps of different sizes", key="layers", found=found)
    if any(part.channels % groups for part in parts):
        section.refuse("groups", key="groups", found=groups, expected=f"a divisor of {parts[0].channels}")
    channels = sum(part.channels // groups for part in parts)
    return Route(named, groups, group_id), parts[0]._replace(channels=channels)


def _shortcut(section: Section, layers: list[Layer], shapes: list[Shape]) -> tuple[Layer, Shape]:
    named = _earlier(section, "from", layers)
    for index in named:
        if shapes[index + 1][:3] != shapes[-1][:3]:
            found, expected = (" x ".join(map(str, shape[:3])) for shape in (shapes[index + 1], shapes[-1]))
            section.refuse("adds maps of different shapes", key="from", found=found, expected=expected)
    return Shortcut(named, section.word("activation", "linear", ACTIVATIONS)), shapes[-1]


def _scale_channels(section: Section, layers: list[Layer], shapes: list[Shape]) -> tuple[Layer, Shape]:
    named = _earlier(section, "from", layers)
    scaled = shapes[named[0] + 1]
    if len(named) != 1 or shapes[-1][:3] != (scaled.channels, 1, 1):
        found = " x ".join(map(str, shapes[-1][:3]))
        section.refuse("wants one factor a channel before it", found=found, expected=f"{scaled.channels} x 1 x 1")
    return ScaleChannels(named, section.word("activation", "linear", ACTIVATIONS)), scaled


def _upsample(section: Section, layers: list[Layer], shapes: list[Shape]) -> tuple[Layer, Shape]:
    stride, before = section.whole("stride", 2, 1, _MAX_SIZE), shapes[-1]
    shape = Shape(before.channels, before.height * stride, before.width * stride, before.stride_px / stride)
    return Upsample(stride), shape


def _reorg(section: Section, layers: list[Layer], shapes: list[Shape]) -> tuple[Layer, Shape]:
    stride, before = section.whole("stride", 1, 1, _MAX_SIZE), shapes[-1]
    if before.channels % stride**2 or before.height % stride or before.width % stride:
        found = " x ".join(map(str, before[:3]))
        section.refuse("cannot share out its map", found=found, expected=f"sides in {stride}, channels in {stride**2}")
    channels, height, width = before.channels * stride**2, before.height // stride, before.width // stride
    return Reorg(stride), Shape(channels, height, width, before.stride_px * stride)


def _avg_pool(section: Section, layers: list[Layer], shapes: list[Shape]) -> tuple[Layer, Shape]:
    return AvgPool(), shapes[-1]._replace(height=1, width=1)


def _dropout(section: Section, layers: list[Layer], shapes: list[Shape]) -> tuple[Layer, Shape]:
    return Dropout(), shapes[-1]


def _yolo(section: Section, layers: list[Layer], shapes: list[Shape]) -> tuple[Layer, Shape]:
    count = section.whole("num", 1, 1, 100)
    anchors = _anchors(section, count)
    mask = section.wholes("mask", ",".join(map(str, range(count))), 0, count - 1)
    scale, squared = section.number("scale_x_y", 1.0, 1.0, 3.0), section.flag("new_coords")
    classes = section.whole("classes", 20, 1, _MAX_FILTERS)
    head = Head(tuple(anchors[index] for index in mask), _stride(section, shapes), classes, scale, squared)
    return _after_conv(section, head, layers), shapes[-1]


def _region(section: Section, layers: list[Layer], shapes: list[Shape]) -> tuple[Layer, Shape]:
    section.whole("coords", 4, 4, 4)
    if not section.flag("softmax"):
        section.refuse("without softmax=1 is read differently by different programs, so not here")
    stride = _stride(section, shapes)
    in_cells = _anchors(section, section.whole("num", 1, 1, 100))
    anchors = tuple((w * stride, h * stride) for w, h in in_cells)
    return _after_conv(
        section, Head(anchors, stride, section.whole("classes", 20, 1, _MAX_FILTERS), softmax=True), layers
    ), shapes[-1]


def _anchors(section: Section, count: int) -> list[tuple[float, float]]:
    sides = section.numbers("anchors", 0.001, _MAX_SIDE_PX)
    if len(sides) != 2 * count:
        section.refuse(
            "anchors", key="anchors", found=f"{len(sides)} numbers", expected=f"{2 * count}, two for each of num"
        )
    return list(zip(sides[::2], sides[1::2], strict=True))


def _stride(section: Section, shapes: list[Shape]) -> int:
    """Canvas pixels per cell of the map before a head."""
    canvas, cells = shapes[0], shapes[-1]
    stride = cells.stride_px
    if stride.denominator != 1 or any(c * stride != side for c, side in zip(cells[1:3], canvas[1:3], strict=True)):
        found = f"{cells.height} x {cells.width} for {canvas.height} x {canvas.width} px"
        section.refuse("has cells that do not tile the canvas", found=found)
    return int(stride)


def _after_conv(section: Section, head: Head, layers: list[Layer]) -> Head:
    """The head, once the layer before it gives what it reads."""
    conv = layers[-1] if layers else None
    activation = "logistic" if head.squared else "linear"
    if not isinstance(conv, Conv) or conv.batch_normalize or conv.groups > 1 or conv.activation != activation:
        expected = f"a convolution without batch norm and groups, activation={activation}"
        section.refuse("reads the layer before it", found=type(conv).__name__, expected=expected)
    wanted = len(head.anchors_wh_px) * (5 + head.classes)
    if conv.filters != wanted:
        expected = f"{wanted} = {len(head.anchors_wh_px)} anchors x (5 + {head.classes} classes)"
        section.refuse("reads the filters before it", found=conv.filters, expected=expected)
    return head


_Builder = Callable[[Section, list[Layer], list[Shape]], tuple[Layer, Shape]]
_BUILDERS: dict[str, _Builder] = {
    "convolutional": _conv,
    "conv": _conv,
    "maxpool": _max_pool,
    "max": _max_pool,
    "route": _route,
    "shortcut": _shortcut,
    "upsample": _upsample,
    "dropout": _dropout,
    "avgpool": _avg_pool,
    "scale_channels": _scale_channels,
    "reorg": _reorg,
    "yolo": _yolo,
    "region": _region,
}
