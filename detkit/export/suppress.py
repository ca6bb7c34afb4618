"""Non-max suppression inside an ONNX graph: what `infer.selection.select` does, in operators every runtime knows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from detkit.export.operators import renamed, without_unused
from detkit.infer.selection import Selection
from detkit.nms import float32_floor

_OWN = "suppress/"  # before the names of all that is added
_EVERY_POINT = f"{_OWN}points"
_MOST_BOXES = 1 << 24  # float32 tells so many ranks apart


def with_nms(model: ModelProto, selection: Selection, class_count: int, point_count: int = 0) -> ModelProto:
    """The same network with "detections" and "count" in the place of its boxes and scores.

    "detections" is float32 [B, max_det, 6], best first: x1, y1, x2, y2 in canvas pixels, score, label; "count" int64
    [B] says how many of its rows are meant, and the rest are zeros. "points" become [B, max_det, P, 3] in the same way.

    Args:
        model: a graph with "boxes" [B, N, 4], "scores" [B, N, K] and, where P > 0, "points" [B, N, P, 3].
        selection: thresholds above 0 and limits; of `nms` only "class".
        class_count, point_count: K and P.
    """
    add = _Nodes()
    found = _candidates(add, selection, class_count)
    kept = _kept(add, found, selection.iou, class_count)
    best = _best(add, add.one("Where", kept, found.ranks, add.float(0)), selection.max_det)
    labels = add.one("Cast", found.labels, to=TensorProto.FLOAT)
    table = add.one("Concat", found.boxes, _column(add, found.scores), _column(add, labels), axis=2)  # [B, C, 6]
    _choose(add, table, kept, best, selection.max_det, axes=3, name="detections")
    total = add.one("ReduceSum", add.one("Cast", kept, to=TensorProto.INT64), add.whole([1]), keepdims=0)
    add("Min", total, add.whole(selection.max_det), name="count")
    ends: dict[str, tuple[int, list[int]]] = {
        "detections": (TensorProto.FLOAT, [selection.max_det, 6]),
        "count": (TensorProto.INT64, []),
    }
    if point_count:
        points = _at(add, _EVERY_POINT, found.rows)  # [B, C, P, 3]
        _choose(add, points, kept, best, selection.max_det, axes=4, name="points")
        ends["points"] = (TensorProto.FLOAT, [selection.max_det, point_count, 3])
    return _with_ends(renamed(model, {"points": _EVERY_POINT}), add, ends)


def _with_ends(model: ModelProto, add: _Nodes, ends: dict[str, tuple[int, list[int]]]) -> ModelProto:
    """The graph with what was added, and only these outputs: name -> type and lengths after B."""
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    first = batch.dim_value or batch.dim_param
    del model.graph.output[:]
    for name, (kind, lengths) in ends.items():
        model.graph.output.append(helper.make_tensor_value_info(name, kind, [first, *lengths]))
    model.graph.node.extend(add.nodes)
    model.graph.initializer.extend(add.constants)
    return without_unused(model)


class _Nodes:
    """Nodes and constants to be added to a graph; a call gives the names of its new tensors."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def __call__(self, kind: str, *inputs: str, outputs: int = 1, name: str = "", **attributes: Any) -> list[str]:
        number = len(self.nodes)
        names = [name] if name else [f"{_OWN}{kind}_{number}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=f"{_OWN}{kind}_{number}", **attributes))
        return names

    def one(self, kind: str, *inputs: str, **attributes: Any) -> str:
        return self(kind, *inputs, **attributes)[0]

    def float(self, value: ArrayLike) -> str:
        return self._constant(value, np.float32)

    def whole(self, value: ArrayLike) -> str:
        return self._constant(value, np.int64)

    def _constant(self, value: ArrayLike, dtype: DTypeLike) -> str:
        name = f"{_OWN}constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name


class _Candidates(NamedTuple):
    """Names of the best C (box, class) pairs of each canvas, by falling score, equal ones as they come; [B, C] each.

    boxes: [B, C, 4]. rows: of the boxes among all. ranks: C and less, float; 0 for a pair that does not count.
    """

    boxes: str
    scores: str
    labels: str
    rows: str
    ranks: str


def _candidates(add: _Nodes, selection: Selection, class_count: int) -> _Candidates:
    limits = add.float(selection.thresholds(class_count))
    counting = add.one("Where", add.one("GreaterOrEqual", "scores", limits), "scores", add.float(0))
    flat = add.one("Flatten", counting, axis=1)  # [B, N * K]
    pairs = add.one("Gather", add.one("Shape", flat), add.whole([1]), axis=0)
    most = add.one("Min", pairs, add.whole([selection.max_candidates]))  # [C]
    best, places = add("TopK", flat, most, outputs=2, axis=1)
    order = _order(add, best, places, most, selection.max_candidates)
    scores, at = _reordered(add, best, order), _reordered(add, places, order)
    rows = add.one("Div", at, add.whole(class_count))
    labels = add.one("Sub", at, add.one("Mul", rows, add.whole(class_count)))
    falling = add.float(np.arange(selection.max_candidates, 0, -1))
    ranks = add.one("Slice", falling, add.whole([0]), most)
    ranks = add.one("Where", add.one("Greater", scores, add.float(0)), ranks, add.float(0))
    return _Candidates(_at(add, "boxes", rows), scores, labels, rows, ranks)


def _order(add: _Nodes, scores: str, at: str, most: str, limit: int) -> str:
    """The order [B, C] that puts equal scores as they come, which ONNX promises of TopK and not every runtime keeps.

    Runs of equal scores are counted; then the key, run times `limit` plus position by index, has no ties.
    """
    first, last, along, end = add.whole([0]), add.whole([-1]), add.whole([1]), add.whole([_MOST_BOXES])
    before, after = add.one("Slice", scores, first, last, along), add.one("Slice", scores, along, end, along)
    is_lower = add.one("Cast", add.one("Greater", before, after), to=TensorProto.FLOAT)
    runs = add.one("CumSum", add.one("Pad", is_lower, add.whole([0, 1, 0, 0])), add.whole(1))  # [B, C]
    _, by_index = add("TopK", at, most, outputs=2, axis=1, largest=0)
    positions = add.one("Slice", add.float(np.arange(limit)), first, most)  # [C]
    key = add.one("Add", add.one("Mul", _reordered(add, runs, by_index), add.float(limit)), positions)
    _, by_key = add("TopK", key, most, outputs=2, axis=1, largest=0)
    return _reordered(add, by_index, by_key)


def _reordered(add: _Nodes, name: str, order: str) -> str:
    return add.one("GatherElements", name, order, axis=1)


def _kept(add: _Nodes, found: _Candidates, iou: float, class_count: int) -> str:
    """Which candidates the better ones of their class leave, bool [B, C].

    The operator leaves the order of equal scores open, so it is given ranks.
    """
    of_class = add.one("Equal", _middle(add, found.labels), add.whole(np.arange(class_count)[:, None]))  # [B, K, C]
    ranks = add.one("Where", of_class, _middle(add, found.ranks), add.float(0))
    every, overlap, least = add.whole([_MOST_BOXES]), add.float([float32_floor(min(iou, 1.0))]), add.float([0.5])
    chosen = add.one("NonMaxSuppression", found.boxes, ranks, every, overlap, least)  # [M, 3]: canvas, class, C
    places = add.one("Gather", chosen, add.whole([0, 2]), axis=1)  # [M, 2]
    ones = add.one("Expand", add.float(1), add.one("Gather", add.one("Shape", places), add.whole([0]), axis=0))
    marks = add.one("ScatterND", add.one("Mul", found.ranks, add.float(0)), places, ones)
    return add.one("Greater", marks, add.float(0.5))


def _best(add: _Nodes, ranks: str, max_det: int) -> str:
    """Places of the best candidates, [B, max_det, 1], in a list that goes on with `max_det` empty rows."""
    padded = add.one("Pad", ranks, add.whole([0, 0, 0, max_det]))
    _, places = add("TopK", padded, add.whole([max_det]), outputs=2, axis=1)
    return _column(add, places)


def _choose(add: _Nodes, values: str, kept: str, best: str, max_det: int, *, axes: int, name: str) -> None:
    """As a tensor of this name the `best` of the values [B, C, ...] that are kept, zeros beyond."""
    mask = add.one("Unsqueeze", kept, add.whole(list(range(2, axes))))
    shown = add.one("Where", mask, values, add.float(0))
    pads = [0] * axes + [0, max_det] + [0] * (axes - 2)
    add("GatherND", add.one("Pad", shown, add.whole(pads)), best, name=name, batch_dims=1)


def _at(add: _Nodes, values: str, rows: str) -> str:
    """The rows [B, C] of values [B, N, ...]."""
    return add.one("GatherND", values, _column(add, rows), batch_dims=1)


def _column(add: _Nodes, name: str) -> str:
    return add.one("Unsqueeze", name, add.whole([2]))


def _middle(add: _Nodes, name: str) -> str:
    return add.one("Unsqueeze", name, add.whole([1]))
