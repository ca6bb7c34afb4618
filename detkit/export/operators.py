"""ONNX graphs as data: what they hold, what reads what, and their ends."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # operators that hold a network's weights


def constants(model: ModelProto) -> dict[str, NDArray[Any]]:
    """Name -> value of what the graph holds: initializers and Constant nodes."""
    held: dict[str, NDArray[Any]] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            held[node.output[0]] = np.asarray(numpy_helper.to_array(node.attribute[0].t))
    return held


def has_float32_weights(model: ModelProto) -> bool:
    """Whether nothing in it was halved or quantised."""
    is_half = any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)
    return not is_half and all(node.op_type != "QuantizeLinear" for node in model.graph.node)


def without_unused(model: ModelProto) -> ModelProto:
    """A copy without the nodes and initializers that nothing reads."""
    copy = ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    wanted = {port.name for port in graph.output}
    kept = []
    for node in reversed(list(graph.node)):  # nodes come in running order
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    tensors = [tensor for tensor in graph.initializer if tensor.name in wanted]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(tensors)
    return copy


def renamed(model: ModelProto, names: dict[str, str]) -> ModelProto:
    """A copy in which tensors have other names; the graph's own ends keep theirs."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        for ends in (node.input, node.output):
            for index, name in enumerate(ends):
                ends[index] = names.get(name, name)
    return copy
