"""Which canvases a model can look at besides its own."""

from __future__ import annotations

from detkit.errors import UsageError
from detkit.weights import ModelCard

LARGEST_PX = 4096  # beyond it a network needs more memory than machines have; tiles are the way
STEP_PX = 32  # of the networks here: their coarsest map has one cell for so many pixels
_ANY_SIZE = ("yolo", "darknet", "torchvision")  # tasks whose networks are convolutions from the first layer to the last


def nearest_side(size_px: int) -> int:
    """The side of a canvas nearest to a length; the length itself where it is one."""
    return min(max(STEP_PX, round(size_px / STEP_PX) * STEP_PX), LARGEST_PX)


def check_any_size(card: ModelCard) -> None:
    """Refuse a model that looks at its own size only (UsageError)."""
    if card.task not in _ANY_SIZE:
        height, width = card.input_hw
        own = f"{height} px" if height == width else f"{height}x{width} px"
        raise UsageError(f"a model for {card.task} looks at its own size only", expected=own)


def square_canvas(card: ModelCard, size_px: int) -> tuple[int, int]:
    """Height and width of the canvas for a size asked for.

    Raises:
        UsageError: the model looks at its own size only, or the size is none.
    """
    check_any_size(card)
    near = nearest_side(size_px)
    if near != size_px:
        raise UsageError("size", found=size_px, expected=f"a multiple of {STEP_PX} up to {LARGEST_PX}, such as {near}")
    return size_px, size_px
