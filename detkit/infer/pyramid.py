"""The scales at which a window slides over a photo: one canvas a level, all windows of it on one grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from detkit.errors import DataError, UsageError
from detkit.images import Image, Placement, stretch
from detkit.weights import ModelCard

Mode = Literal["conv", "window"]

OVERHANG = 0.25  # share of its side by which a window may leave the photo on each side: objects are cut off there
_LARGEST_SCALE = 8.0  # beyond it a photo holds nothing more, and canvases no longer fit into memory


@dataclass(frozen=True, slots=True)
class Sliding:
    """How a window model looks at a photo.

    Args:
        mode: "conv" runs the network once for each level, "window" once for each window; the scores are equal.
        stride_px: pixels of a level from one window to the next; None for the network's own. The mode "conv" knows
            only multiples of that.
        scale_step: from one level to the next, objects look smaller by this factor.
        smallest_px: longer side of the smallest objects to look for, in pixels of the photo; None for the model
            card's, and where that has none for those that fill the window at the photo's own size.
    """

    mode: Mode = "conv"
    stride_px: int | None = None
    scale_step: float = 1.2
    smallest_px: float | None = None

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise UsageError("mode of a window model", found=self.mode, expected=" or ".join(get_args(Mode)))
        if self.stride_px is not None and self.stride_px < 1:
            raise UsageError("stride of a window model", found=self.stride_px, expected="1 px or more")
        if not 1.01 <= self.scale_step <= 4:
            raise UsageError("scale step of a window model", found=self.scale_step, expected="1.01 to 4")
        if self.smallest_px is not None and not 0 < self.smallest_px < math.inf:
            raise UsageError("smallest object of a window model", found=self.smallest_px, expected="above 0 px")

    def step_px(self, card: ModelCard) -> int:
        """Pixels from one window to the next on a level.

        Raises:
            UsageError: the network cannot be run convolutionally at this stride.
        """
        own_px = network_stride(card)
        if self.stride_px is None:
            return own_px
        if self.mode == "conv" and self.stride_px % own_px:
            expected = f"a multiple of {own_px} px, the network's; window by window, any would do"
            raise UsageError("stride in the mode 'conv'", found=f"{self.stride_px} px", expected=expected)
        return self.stride_px


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """A photo at one scale, padded so that windows reach over its borders.

    Args:
        canvas: uint8 [H, W, 3]; its sides are the window's plus a whole number of steps.
        placement: where the photo lies on it.
        window_px, step_px: side of a window, and pixels from one to the next.
    """

    canvas: Image
    placement: Placement
    window_px: int
    step_px: int

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Rows and columns of windows."""
        height, width = self.canvas.shape[:2]
        return (height - self.window_px) // self.step_px + 1, (width - self.window_px) // self.step_px + 1

    @property
    def scale(self) -> float:
        """Pixels of the level for each pixel of the photo, along its longer side."""
        longer = int(np.argmax(self.placement.image_hw))
        return self.placement.scale_xy[1 - longer]


def network_stride(card: ModelCard) -> int:
    """Pixels between the windows of neighbouring cells, as the card of a window model says."""
    stride = card.architecture.get("stride")
    assert isinstance(stride, int), "see `sliding.check_window_card`"
    return stride


def level_scales(image_hw: tuple[int, int], card: ModelCard, sliding: Sliding) -> list[float]:
    """Pixels of each level for each pixel of a photo, largest first; none for a photo that is too small.

    The first level shows the smallest objects as large as the network learnt them; the last is the smallest on which a
    window leaves the photo by no more than it may.
    """
    window_px = card.input_hw[0]
    smallest_px = sliding.smallest_px or card.smallest_px
    largest = min(_LARGEST_SCALE, window_px / (1 + 2 * card.crop_margin) / smallest_px) if smallest_px else 1.0
    least = _least_side_px(window_px) / min(image_hw)
    if largest < least:
        return []
    count = math.floor(math.log(largest / least) / math.log(sliding.scale_step) + 1e-9) + 1
    return [largest / sliding.scale_step**number for number in range(count)]


def checked_scales(
    image_hw: tuple[int, int], card: ModelCard, sliding: Sliding, name: str | None = None
) -> list[float]:
    """As `level_scales`, but DataError, which names the photo, where there are none."""
    scales = level_scales(image_hw, card, sliding)
    if not scales:
        height, width = image_hw
        window_px = card.input_hw[0]
        least = f"at least {_least_side_px(window_px)} px on each side, for the window of {window_px} px"
        if sliding.smallest_px is not None:
            least += ", or a lower size of the smallest object"
        raise DataError("is too small for the window model", file=name, found=f"{width} x {height} px", expected=least)
    return scales


def pyramid(image_rgb: Image, card: ModelCard, sliding: Sliding | None = None) -> list[Level]:
    """The levels of a photo, the largest first.

    Args:
        image_rgb: uint8 [H, W, 3].
        card: of a window model.
        sliding: scales and stride; the mode makes no difference.
    Raises:
        DataError: the photo is too small for the window.
        UsageError: a stride the network cannot be run at.
    """
    sliding = sliding or Sliding()
    scales = checked_scales((image_rgb.shape[0], image_rgb.shape[1]), card, sliding)
    step_px = sliding.step_px(card)
    return [_level(image_rgb, scale, card.input_hw[0], step_px, card.pad_value) for scale in scales]


def _least_side_px(window_px: int) -> int:
    """The shortest side over which a window can lie with no more than its overhang on each side."""
    return max(1, math.ceil(window_px * (1 - 2 * OVERHANG)))


def _level(image_rgb: Image, scale: float, window_px: int, step_px: int, pad_value: int) -> Level:
    """A photo at one scale, on a canvas that a whole number of steps fits."""
    image_hw = image_rgb.shape[0], image_rgb.shape[1]
    shown_hw = max(1, round(image_hw[0] * scale)), max(1, round(image_hw[1] * scale))
    margin = round(OVERHANG * window_px)
    steps = [max(0, math.ceil((side + 2 * margin - window_px) / step_px)) for side in shown_hw]
    canvas_hw = window_px + steps[0] * step_px, window_px + steps[1] * step_px
    canvas = np.full((*canvas_hw, 3), pad_value, np.uint8)
    canvas[margin : margin + shown_hw[0], margin : margin + shown_hw[1]] = stretch(image_rgb, shown_hw)[0]
    scale_xy = shown_hw[1] / image_hw[1], shown_hw[0] / image_hw[0]
    return Level(canvas, Placement(canvas_hw, image_hw, scale_xy, (float(margin), float(margin))), window_px, step_px)
