"""Suppression inside the graph: the boxes that detkit.nms leaves, for any boxes, ties and limits, in both runtimes."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx", reason="onnx comes with the train extra")
import onnxruntime  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402

from detkit.export.suppress import with_nms  # noqa: E402
from detkit.infer.selection import Selection  # noqa: E402
from detkit.nms import nms  # noqa: E402

POINTS = 2
needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs the openvino extra")


def boxes_and_scores(class_count: int) -> Any:
    """A graph that hands on its boxes, scores and points."""
    ends = {"boxes": [4], "scores": [class_count], "points": [POINTS, 3]}
    inputs = [helper.make_tensor_value_info(f"{n}_in", TensorProto.FLOAT, ["B", "N", *s]) for n, s in ends.items()]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["B", "N", *s]) for n, s in ends.items()]
    nodes = [helper.make_node("Identity", [f"{name}_in"], [name]) for name in ends]
    graph = helper.make_graph(nodes, "hand on", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@cache
def graph_bytes(selection: Selection, class_count: int) -> bytes:
    model = with_nms(boxes_and_scores(class_count), selection, class_count, POINTS)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


@cache
def session(selection: Selection, class_count: int) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(graph_bytes(selection, class_count), providers=["CPUExecutionProvider"])


def expected(boxes: np.ndarray, scores: np.ndarray, points: np.ndarray, selection: Selection) -> tuple[Any, Any]:
    """Rows of x1, y1, x2, y2, score, label and their points, by detkit.nms."""
    rows, labels = np.nonzero(scores >= selection.thresholds(scores.shape[1]))
    own = scores[rows, labels]
    best = np.sort(np.argsort(-own, kind="stable")[: selection.max_candidates])
    rows, labels, own = rows[best], labels[best], own[best]
    kept = nms(boxes[rows], own, labels, selection.iou)[: selection.max_det]
    table = np.column_stack([boxes[rows[kept]], own[kept], labels[kept]]).astype(np.float32)
    return table.reshape(-1, 6), points[rows[kept]]


def check(found: list[np.ndarray], given: list[np.ndarray], selection: Selection) -> None:
    detections, count, points = found
    assert detections.shape == (len(given[0]), selection.max_det, 6)
    assert count.dtype == np.int64
    for b, (boxes, scores, own_points) in enumerate(zip(*given, strict=True)):
        table, its_points = expected(boxes, scores, own_points, selection)
        assert count[b] == len(table)
        np.testing.assert_array_equal(detections[b, : len(table)], table)
        np.testing.assert_array_equal(points[b, : len(table)], its_points)
        assert not detections[b, len(table) :].any()
        assert not points[b, len(table) :].any()


def some(seed: int, canvases: int, rows: int, classes: int, levels: int) -> list[np.ndarray]:
    """Crowded boxes with few different scores, so that many are equal."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(-8, 40, (canvases, rows, 2))
    boxes = np.concatenate([corners, corners + rng.integers(1, 24, (canvases, rows, 2))], 2).astype(np.float32)
    scores = (rng.integers(0, levels + 1, (canvases, rows, classes)) / levels).astype(np.float32)
    return [boxes, scores, rng.normal(size=(canvases, rows, POINTS, 3)).astype(np.float32)]


SELECTIONS = (
    Selection(0.3, 0.5, max_det=100),
    Selection(0.5, 0.25, max_det=3),
    Selection(0.05, 1.0, max_det=20, max_candidates=30),
    Selection(0.9, 0.1, max_det=1),
)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 40), st.sampled_from([1, 3]), st.integers(1, 6),
    st.sampled_from(SELECTIONS),
)  # fmt: skip
def test_the_graph_keeps_what_nms_keeps(
    seed: int, canvases: int, rows: int, classes: int, levels: int, selection: Selection
) -> None:
    given_arrays = some(seed, canvases, rows, classes, levels)
    feeds = dict(zip(("boxes_in", "scores_in", "points_in"), given_arrays, strict=True))
    check(session(selection, classes).run(["detections", "count", "points"], feeds), given_arrays, selection)


def test_each_class_has_its_threshold_and_none_is_reached_by_zero() -> None:
    selection = Selection(0.5, 0.5, max_det=4, class_conf=(0.2, 0.8))
    boxes = np.array([[[0, 0, 4, 4], [50, 50, 60, 60]]], np.float32)
    scores = np.array([[[0.3, 0.7], [0.0, 0.9]]], np.float32)
    points = np.zeros((1, 2, POINTS, 3), np.float32)
    feeds = {"boxes_in": boxes, "scores_in": scores, "points_in": points}
    detections, count = session(selection, 2).run(["detections", "count"], feeds)
    assert count.tolist() == [2]
    np.testing.assert_array_equal(detections[0, :2], np.float32([[50, 50, 60, 60, 0.9, 1], [0, 0, 4, 4, 0.3, 0]]))


def test_nothing_found_is_zeros() -> None:
    given_arrays = some(0, 2, 5, 3, 2)
    given_arrays[1] = given_arrays[1] * 0
    feeds = dict(zip(("boxes_in", "scores_in", "points_in"), given_arrays, strict=True))
    detections, count = session(SELECTIONS[0], 3).run(["detections", "count"], feeds)
    assert count.tolist() == [0, 0]
    assert not detections.any()


@needs_openvino
@pytest.mark.parametrize("selection", [replace(one, iou=one.iou - 0.003, max_candidates=3000) for one in SELECTIONS])
def test_openvino_keeps_the_same(selection: Selection, tmp_path: Any) -> None:
    """Of an IoU that is the threshold to the last bit OpenVINO drops the box, hence thresholds that none here has; and
    where equal scores are at the limit of candidates, it may take others."""
    from detkit.engines.openvino import load_openvino

    (tmp_path / "m.onnx").write_bytes(graph_bytes(selection, 3))
    openvino = load_openvino()
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(tmp_path / "m.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for seed in range(5):
        given_arrays = some(seed, 2, 30, 3, 4)
        results = compiled(dict(zip(("boxes_in", "scores_in", "points_in"), given_arrays, strict=True)))
        check([results[name] for name in ("detections", "count", "points")], given_arrays, selection)
