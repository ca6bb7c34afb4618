"""Tiny ONNX graphs with the faces of other projects' detectors, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_KINDS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}


def write_tables(
    path: Path,
    outputs: Mapping[str, NDArray[Any]],
    *,
    input_shape: Sequence[int | str] = (1, 3, 32, 32),
    input_type: str = "float32",
    metadata: Mapping[str, str] | None = None,
    known_shapes: bool = True,
) -> Path:
    """A network that says the same of every canvas: `outputs`, each [N, C] or [N], repeated for the batch."""
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node(
            "ReduceMean", ["floats"], ["means"], axes=list(range(len(input_shape) == 4, len(input_shape)))
        ),
        helper.make_node("Reshape", ["means", "as_column"], ["column"]),
        helper.make_node("Mul", ["column", "nothing"], ["nought"]),
        helper.make_node("ReduceMean", ["nought"], ["one_nought"], keepdims=0),
        helper.make_node("Cast", ["one_nought"], ["unknown"], to=TensorProto.INT64),  # hides the shapes
    ]
    tensors = {"as_column": np.array([-1, 1]), "nothing": np.float32(0)}
    ends = []
    batch = input_shape[0] if len(input_shape) == 4 else 1
    for name, table in outputs.items():
        tensors[f"{name}_flat"] = np.asarray(table, np.float32).reshape(1, -1)
        tensors[f"{name}_shape"] = np.array([-1, *table.shape])
        kind = TensorProto.INT64 if table.dtype.kind == "i" else TensorProto.FLOAT
        nodes += [
            helper.make_node("Add", [f"{name}_flat", "nought"], [f"{name}_rows"]),
            helper.make_node("Add", [f"{name}_shape", "unknown"], [f"{name}_lengths"]),
            helper.make_node("Reshape", [f"{name}_rows", f"{name}_lengths"], [f"{name}_floats"]),
            helper.make_node("Cast", [f"{name}_floats"], [name], to=kind),
        ]
        shape = [batch, *table.shape] if known_shapes else [f"{name}_{axis}" for axis in range(table.ndim + 1)]
        ends.append(helper.make_tensor_value_info(name, kind, shape))
    return _write(path, nodes, ends, tensors, input_shape, input_type, metadata)


def write_means(
    path: Path, input_shape: Sequence[int | str], input_type: str = "float32", divide_by: float = 1
) -> Path:
    """A network that finds one box, 0 0 8 4, and scores three classes by the mean of each channel, as it is given."""
    kept = [axis for axis in range(len(input_shape)) if axis == 0 and len(input_shape) == 4]
    channel = len(input_shape) - 3 if input_shape[-3] == 3 else len(input_shape) - 1
    axes = [axis for axis in range(len(input_shape)) if axis not in (*kept, channel)]
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["means"], axes=axes, keepdims=0),
        helper.make_node("Div", ["means", "full"], ["shares"]),
        helper.make_node("Reshape", ["shares", "as_rows"], ["scores"]),
        helper.make_node("Slice", ["scores", "first", "last", "axis"], ["slot"]),
        helper.make_node("Mul", ["slot", "nothing"], ["nought"]),
        helper.make_node("Add", ["nought", "box"], ["boxes"]),
    ]
    tensors: dict[str, Any] = {
        "full": np.float32(divide_by),
        "as_rows": np.array([-1, 1, 3]),
        "first": np.array([0]),
        "last": np.array([1]),
        "axis": np.array([2]),
        "nothing": np.float32(0),
        "box": np.array([[[0, 0, 8, 4]]], np.float32),
    }
    batch = input_shape[0] if len(input_shape) == 4 else 1
    ends = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [batch, 1, 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 1, 3]),
    ]
    return _write(path, nodes, ends, tensors, input_shape, input_type, None)


def _write(
    path: Path,
    nodes: list[Any],
    ends: list[Any],
    tensors: Mapping[str, Any],
    input_shape: Sequence[int | str],
    input_type: str,
    metadata: Mapping[str, str] | None,
) -> Path:
    entry = helper.make_tensor_value_info("images", _KINDS[input_type], list(input_shape))
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "foreign", [entry], ends, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, dict(metadata or {}))
    onnx.save(model, str(path))
    return path
