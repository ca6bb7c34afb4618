"""Half precision for an ONNX graph: the weighted part computes in float16, what comes before and after in float32.

Coordinates need the rest: at 416 pixels float16 tells apart quarters of a pixel only.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from detkit.export.operators import WEIGHTED, constants, without_unused

_STAYS_FLOAT32 = {"Resize": (1, 2)}  # operator -> the inputs that ONNX wants in float32 whatever the others are
_LARGEST = float(np.finfo(np.float16).max)
_SUFFIX = "_half"


def to_half(model: ModelProto) -> ModelProto:
    """The same network with float16 weights and arithmetic from its first weighted layer to its last.

    Inputs, outputs, preprocessing and decoding stay as they are; weights beyond float16's range are cut to it.
    """
    half = onnx.shape_inference.infer_shapes(model)
    conversion = _Conversion(half)
    nodes = list(half.graph.node)
    inside = _weighted_part(nodes)
    for node, is_inside in zip(nodes, inside, strict=True):
        if is_inside and conversion.reads_floats(node):
            conversion.convert(node)
        else:
            conversion.nodes.append(node)
    converted = conversion.nodes
    del half.graph.node[:], half.graph.value_info[:]
    half.graph.node.extend(converted)
    return without_unused(half)


class _Conversion:
    """The graph's nodes as they come to be: half tensors have names of their own, a Cast leads to and from each."""

    def __init__(self, model: ModelProto) -> None:
        self.graph = model.graph
        self.nodes: list[NodeProto] = []
        self.halves: set[str] = set()  # float32 tensors whose half exists
        self.constants = constants(model)
        ports = [*self.graph.value_info, *self.graph.input, *self.graph.output]
        self.floats = {port.name for port in ports if port.type.tensor_type.elem_type == TensorProto.FLOAT}
        self.floats |= {name for name, value in self.constants.items() if value.dtype == np.float32}

    def reads_floats(self, node: NodeProto) -> bool:
        return any(name in self.floats for name in node.input)

    def convert(self, node: NodeProto) -> None:
        """Let a node read and write halves."""
        for index, name in enumerate(node.input):
            if name in self.floats and index not in _STAYS_FLOAT32.get(node.op_type, ()):
                self._make_half(name)
                node.input[index] = name + _SUFFIX
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
        written = [(index, name) for index, name in enumerate(node.output) if name in self.floats]
        self.nodes.append(node)
        for index, name in written:
            node.output[index] = name + _SUFFIX
            self.halves.add(name)
            self.nodes.append(_cast(name + _SUFFIX, name, TensorProto.FLOAT))  # for those that stay outside

    def _make_half(self, name: str) -> None:
        if name in self.halves:
            return
        self.halves.add(name)
        if name in self.constants:
            value: NDArray[np.float16] = np.clip(self.constants[name], -_LARGEST, _LARGEST).astype(np.float16)
            self.graph.initializer.append(numpy_helper.from_array(value, name + _SUFFIX))
        else:
            self.nodes.append(_cast(name, name + _SUFFIX, TensorProto.FLOAT16))


def _cast(source: str, target: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}_cast", to=kind)


def _weighted_part(nodes: list[NodeProto]) -> list[bool]:
    """Which nodes, in running order, have a weighted layer at or before them and one at or after them."""
    behind: set[str] = set()  # tensors with a weighted layer before them
    before = []
    for node in nodes:
        before.append(node.op_type in WEIGHTED or any(name in behind for name in node.input))
        behind.update(node.output if before[-1] else ())
    ahead: set[str] = set()  # tensors with one after them
    after = []
    for node in reversed(nodes):
        after.append(node.op_type in WEIGHTED or any(name in ahead for name in node.output))
        ahead.update(node.input if after[-1] else ())
    return [first and last for first, last in zip(before, reversed(after), strict=True)]
