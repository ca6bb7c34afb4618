"""Fixtures shared by the tests."""

from __future__ import annotations

import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # tests that run side by side share the cores: one thread each, also in PyTorch
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from detkit.weights import CARD_KEY, ModelCard

REPO = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def repo() -> Path:
    """The repository's root."""
    return REPO


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data sets, which lie beside the repository and are not part of it; without them the test is skipped."""
    folder = REPO.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the repository (real data sets that may not be shipped)")
    return folder


@pytest.fixture(scope="session")
def colour_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real .onnx model of three classes, red, green and blue, on 32x32 canvases.

    It finds one box, the whole canvas, and scores each class by the mean of that channel.
    """
    onnx = pytest.importorskip("onnx", reason="onnx comes with the train extra")
    helper, kind = onnx.helper, onnx.TensorProto
    whole = helper.make_tensor("whole", kind.FLOAT, (1, 1, 4), (0, 0, 32, 32))
    ones = helper.make_tensor("ones", kind.INT64, (3,), (-1, 1, 3))
    full = helper.make_tensor("full", kind.FLOAT, (), (255,))
    zero = helper.make_tensor("zero", kind.FLOAT, (), (0,))
    first = helper.make_tensor("first", kind.INT64, (1,), (0,))
    last = helper.make_tensor("last", kind.INT64, (1,), (1,))
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=kind.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("Div", ["means", "full"], ["shares"]),
        helper.make_node("Reshape", ["shares", "ones"], ["scores"]),
        helper.make_node("Slice", ["scores", "first", "last", "axis"], ["slot"]),
        helper.make_node("Mul", ["slot", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "whole"], ["boxes"]),
    ]
    axis = helper.make_tensor("axis", kind.INT64, (1,), (2,))
    inputs = [helper.make_tensor_value_info("images", kind.UINT8, ("B", 32, 32, 3))]
    outputs = [
        helper.make_tensor_value_info("boxes", kind.FLOAT, ("B", 1, 4)),
        helper.make_tensor_value_info("scores", kind.FLOAT, ("B", 1, 3)),
    ]
    graph = helper.make_graph(nodes, "colours", inputs, outputs, [whole, ones, full, zero, first, last, axis])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    card = ModelCard("yolo", {"name": "colours"}, ("red", "green", "blue"), (32, 32), fit="stretch")
    entry = model.metadata_props.add()
    entry.key, entry.value = CARD_KEY, card.to_json()
    path = tmp_path_factory.mktemp("model") / "colours.onnx"
    onnx.save(model, str(path))
    return path
