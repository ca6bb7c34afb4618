"""A tiny model of points for tests: the left eye is where its canvas is red, the right eye where it is blue."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from detkit.weights import CARD_KEY, ModelCard

CANVAS = 64  # pixels a side
VISIBLE = 0.75  # what it says of every point
CARD = ModelCard(
    "landmarks",
    {"name": "fake"},
    ("red",),
    (CANVAS, CANVAS),
    pad_value=0,
    thresholds={"conf": 0.0, "iou": 1.0},
    point_names=("left_eye", "right_eye"),
    flip_pairs=((0, 1),),
    point_edges=((0, 1),),
    crop_margin=0.25,
    training={"mean_shape": [[0.25, 0.5], [0.75, 0.5]]},
)


def write_landmark_model(path: Path, **changes: Any) -> Path:
    """Write the network as ONNX; `changes` go into its card, to break it."""
    model = _model()
    helper.set_model_props(model, {CARD_KEY: replace(CARD, **changes).to_json()})
    path.write_bytes(model.SerializeToString())
    return path


def _model() -> onnx.ModelProto:
    centres = np.arange(CANVAS, dtype=np.float32) + 0.5
    constants = {
        "x": centres.reshape(1, 1, CANVAS, 1),
        "y": centres.reshape(1, CANVAS, 1, 1),
        "over_pixels": np.array([1, 2]),
        "little": np.float32(1e-6),
        "red_and_blue": np.array([0, 2]),
        "last": np.array([2]),
        "row": np.array([1]),
        "zero": np.float32(0),
        "visible": np.float32(VISIBLE),
        "first": np.array([0]),
        "whole": np.array([[[0, 0, CANVAS, CANVAS]]], np.float32),
        "one_score": np.array([-1, 1, 1]),
    }
    nodes = [helper.make_node("Cast", ["images"], ["light"], to=TensorProto.FLOAT)]
    nodes += [helper.make_node("ReduceSum", ["light", "over_pixels"], ["sum"], keepdims=0)]  # [B, 3]
    nodes += [helper.make_node("Add", ["sum", "little"], ["total"])]
    for axis in "xy":
        nodes += [
            helper.make_node("Mul", ["light", axis], [f"{axis}_light"]),
            helper.make_node("ReduceSum", [f"{axis}_light", "over_pixels"], [f"{axis}_sum"], keepdims=0),
            helper.make_node("Div", [f"{axis}_sum", "total"], [f"{axis}_mean"]),
            helper.make_node("Gather", [f"{axis}_mean", "red_and_blue"], [f"{axis}_two"], axis=1),  # [B, 2]
            helper.make_node("Unsqueeze", [f"{axis}_two", "last"], [f"{axis}_column"]),
        ]
    nodes += [
        helper.make_node("Mul", ["x_column", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "visible"], ["v_column"]),
        helper.make_node("Concat", ["x_column", "y_column", "v_column"], ["xyv"], axis=2),  # [B, 2, 3]
        helper.make_node("Unsqueeze", ["xyv", "row"], ["points"]),
        helper.make_node("Gather", ["v_column", "first"], ["v_first"], axis=1),
        helper.make_node("Reshape", ["v_first", "one_score"], ["scores"]),
        helper.make_node("Mul", ["scores", "zero"], ["none"]),
        helper.make_node("Add", ["none", "whole"], ["boxes"]),
    ]
    ends = [
        helper.make_tensor_value_info("images", TensorProto.UINT8, ["B", CANVAS, CANVAS, 3]),
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["B", 1, 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["B", 1, 1]),
        helper.make_tensor_value_info("points", TensorProto.FLOAT, ["B", 1, 2, 3]),
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "fake_landmarks", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
