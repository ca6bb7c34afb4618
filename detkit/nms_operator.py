"""onnxruntime's NonMaxSuppression operator as a function: a model of this one node, written here byte by byte.

The operator computes an IoU with the float32 operations of torchvision's CPU kernel. It leaves the order of equal
scores open, so it is given ranks, and it swaps corners that are the wrong way round, so its caller sees to those.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST_BOXES = 1 << 24  # float32 tells so many ranks apart
_FATAL_ONLY = 4  # onnxruntime also raises what it would log
_FLOAT, _INT64 = 1, 7  # ONNX's numbers of the types
_OPSET, _IR_VERSION = 11, 6  # those in which the operator last changed; later onnxruntimes read them


def kept_ranks(boxes_xyxy: NDArray[np.float32], ranks: NDArray[np.float32], threshold: np.float32) -> NDArray[np.int64]:
    """Greedy suppression of boxes within rows: a box goes when one kept before it has an IoU above the threshold.

    Args:
        boxes_xyxy: [N, 4], N >= 1, with x1 <= x2 and y1 <= y2; one with a NaN meets no other.
        ranks: [R, N], whole numbers: the highest in a row comes first; 0 and less is no part of the row.
        threshold: 0 to 1.
    Returns:
        Columns of the kept boxes, row after row, each by descending rank.
    """
    feeds = {"boxes": boxes_xyxy[None], "ranks": ranks[None], "threshold": np.asarray(threshold)}
    chosen: NDArray[np.int64] = _session().run(None, feeds)[0]  # [kept, 3]: 0, row, column
    return chosen[:, 2]


@cache
def _session() -> Any:
    import onnxruntime  # here, since most commands suppress nothing and it takes a tenth of a second

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # the operator uses one
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    return onnxruntime.InferenceSession(
        model_bytes(),
        options,
        providers=["CPUExecutionProvider"],
        enable_fallback=0,  # which would print on stdout
    )


def model_bytes() -> bytes:
    """The ONNX file: inputs boxes [1, N, 4], ranks [1, R, N] and threshold; output int64 [kept, 3]."""
    inputs = ("boxes", "ranks", "limit", "threshold", "least")
    node = [(1, name) for name in inputs] + [(2, "chosen"), (4, "NonMaxSuppression")]
    graph = _message(
        (1, _message(*node)),
        (2, "nms"),
        (5, _message((2, _INT64), (8, "limit"), (9, struct.pack("<q", _MOST_BOXES)))),
        (5, _message((2, _FLOAT), (8, "least"), (9, struct.pack("<f", 0)))),
        (11, _port("boxes", _FLOAT, 3)),
        (11, _port("ranks", _FLOAT, 3)),
        (11, _port("threshold", _FLOAT, 0)),
        (12, _port("chosen", _INT64, 2)),
    )
    return _message((1, _IR_VERSION), (7, graph), (8, _message((1, ""), (2, _OPSET))))


def _port(name: str, kind: int, axes: int) -> bytes:
    """A ValueInfoProto: a tensor of any size with so many axes."""
    shape = _message(*[(1, b"")] * axes)
    return _message((1, name), (2, _message((1, _message((1, kind), (2, shape))))))


def _message(*fields: tuple[int, int | str | bytes]) -> bytes:
    """Encode a protobuf message from its field numbers and values."""
    encoded = b""
    for number, value in fields:
        if isinstance(value, int):
            encoded += _varint(number << 3) + _varint(value)
        else:
            payload = value.encode() if isinstance(value, str) else value
            encoded += _varint(number << 3 | 2) + _varint(len(payload)) + payload
    return encoded


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])
