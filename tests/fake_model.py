"""A tiny network for tests: it scores the four quarters of its canvas by how red and how blue they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from detkit.weights import CARD_KEY, ModelCard

CANVAS = 64  # pixels a side
HALF = CANVAS // 2
QUARTERS_XYXY = np.array(
    [[x, y, x + HALF, y + HALF] for y in (0, HALF) for x in (0, HALF)], np.float32
)  # top left, top right, bottom left, bottom right
CARD = ModelCard("yolo", {"name": "fake"}, ("red", "blue"), (CANVAS, CANVAS), thresholds={"conf": 0.5, "iou": 0.6})


def write_fake_model(path: Path, card: ModelCard | None = CARD, **graph: Any) -> Path:
    """Write the network as ONNX with a card in its metadata; `graph` renames or retypes its ends, to break it."""
    model = _model(**graph)
    if card is not None:
        helper.set_model_props(model, {"producer": "tests", CARD_KEY: card.to_json()})
    path.write_bytes(model.SerializeToString())
    return path


def card_with(**changes: Any) -> ModelCard:
    return replace(CARD, **changes)


def _model(images: str = "images", scores: str = "scores", image_type: int = TensorProto.UINT8) -> onnx.ModelProto:
    constants = {
        "quarter_boxes": QUARTERS_XYXY[None],
        "zero": np.float32(0),
        "white": np.float32(255),
        "red_and_blue": np.array([0, 2]),
        "by_channel": np.array([0, 3, 4]),
        "unused": np.zeros(3, np.float32),  # onnxruntime would warn of it
    }
    nodes = [
        helper.make_node("Cast", [images], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["channels_first"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["channels_first"], ["means"], kernel_shape=[HALF] * 2, strides=[HALF] * 2),
        helper.make_node("Reshape", ["means", "by_channel"], ["quarters"]),  # [B, 3, 4]
        helper.make_node("Gather", ["quarters", "red_and_blue"], ["colours"], axis=1),  # [B, 2, 4]
        helper.make_node("Transpose", ["colours"], ["levels"], perm=[0, 2, 1]),  # [B, 4, 2]
        helper.make_node("Div", ["levels", "white"], [scores]),
        helper.make_node("Concat", ["levels", "levels"], ["any"], axis=2),  # [B, 4, 4]
        helper.make_node("Mul", ["any", "zero"], ["zeros"]),
        helper.make_node("Add", ["zeros", "quarter_boxes"], ["boxes"]),
    ]
    ends = [
        helper.make_tensor_value_info(images, image_type, ["B", CANVAS, CANVAS, 3]),
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["B", 4, 4]),
        helper.make_tensor_value_info(scores, TensorProto.FLOAT, ["B", 4, 2]),
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "fake", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
