"""The ends of an ONNX graph: how many canvases of which size it takes, the lengths of what it gives, and its card."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import onnx
from onnx import ModelProto, helper

from detkit.errors import UsageError, WeightsError
from detkit.weights import CARD_KEY, ModelCard

_AXES = ("B", "H", "W")


def load_graph(path: Path) -> ModelProto:
    """The graph of an `.onnx` file.

    Raises:
        WeightsError: it cannot be read.
    """
    try:
        return onnx.load(path)
    except Exception as error:
        raise WeightsError(f"is no ONNX file, or a damaged one: {str(error)[:100]}", file=path) from error


def with_ends(
    model: ModelProto, size_hw: tuple[int, int] | Literal["dynamic"] | None, batch: int | Literal["dynamic"] | None
) -> ModelProto:
    """A copy whose input "images" [B, H, W, 3] takes so many canvases of this size; None leaves an axis as it is.

    Raises:
        UsageError: the graph was made for one size or number, which cannot be changed in it.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    axes = copy.graph.input[0].type.tensor_type.shape.dim
    height, width = size_hw if isinstance(size_hw, tuple) else (size_hw, size_hw)
    for axis, name, wanted in zip(axes, _AXES, (batch, height, width), strict=False):
        if wanted is None or wanted == axis.dim_value:
            continue
        if axis.dim_value:
            option = "--batch" if name == "B" else "--size"
            what = f"{option}: this .onnx was made for {name} = {axis.dim_value}"
            raise UsageError(f"{what}; export the .safetensors instead", found=wanted)
        if wanted != "dynamic":
            axis.dim_value = int(wanted)
    del copy.graph.value_info[:]  # said with the lengths of before
    return copy


def with_lengths(model: ModelProto, card: ModelCard, shapes: dict[str, tuple[int, ...]]) -> ModelProto:
    """A copy with its card, whose outputs say how long they are where the input leaves no choice.

    Args:
        shapes: of each output, for one run at the card's size.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    batch, height, width = (axis.dim_value for axis in copy.graph.input[0].type.tensor_type.shape.dim[:3])
    for port in copy.graph.output:
        axes: Any = port.type.tensor_type.shape.dim
        for index, (axis, length) in enumerate(zip(axes, shapes[port.name], strict=True)):
            if index == 0 and not batch:
                axis.dim_param = _AXES[0]
            elif index == 1 and not (height and width) and not card.max_det:
                axis.dim_param = "N"
            else:
                axis.dim_value = length
    helper.set_model_props(copy, {CARD_KEY: card.to_json()})
    copy.producer_name, copy.doc_string = "detkit", ""
    return copy


def lengths(model: ModelProto) -> dict[str, list[str]]:
    """The lengths of the input and of each output, by name; a letter may be any."""
    ports = [*model.graph.input, *model.graph.output]
    return {p.name: [str(a.dim_value or a.dim_param or "any") for a in p.type.tensor_type.shape.dim] for p in ports}
