"""Results as plain values for JSON: one versioned record for a photo, a frame, the end of a video, or an error.

`record.schema.json` beside this file describes every kind. A record on a line of its own is a line of JSONL.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detkit import __version__
from detkit.detections import Detections
from detkit.infer.frames import Ended, Frame, Unreadable

RECORDS_VERSION = 2
SCHEMA_FILE = Path(__file__).with_name("record.schema.json")
Record = dict[str, Any]


def run_record(
    *,
    file: str | None,
    sha256: str | None,
    engine: str,
    class_names: Sequence[str],
    point_names: Sequence[str] = (),
    settings: Mapping[str, Any],
) -> Record:
    """What a run was made with: the first line of a JSONL file.

    Args:
        file, sha256: the model file's name and digest; None for a model without a file.
        engine: what ran it.
        settings: every setting that changes results, as JSON values.
    """
    names = {"class_names": list(class_names), "point_names": list(point_names)}
    model = {"file": file, "sha256": sha256, "engine": engine, **names}
    own = json.loads(json.dumps(dict(settings), allow_nan=False))  # as it will be read again: no tuples
    return {"version": RECORDS_VERSION, "kind": "run", "detkit": __version__, "model": model, "settings": own}


def record(frame: Frame, detections: Detections, class_names: Sequence[str], point_names: Sequence[str] = ()) -> Record:
    """One picture's detections: boxes and points in pixels to 1/1000, scores and seconds to 1e-6.

    Points go by name, each [x, y, probability that it is visible]; a box without points has no "points", and one
    that is not tracked no "track_id". What is not finite is no detection.
    """
    height, width = detections.size_hw
    kind = "photo" if frame.number is None else "frame"
    values: Record = {"version": RECORDS_VERSION, "kind": kind, "name": frame.name}
    if frame.number is not None:
        values |= {"frame": frame.number, "time_s": None if frame.time_s is None else round(float(frame.time_s), 6)}
    finite = np.isfinite(detections.boxes_xyxy).all(axis=1)
    rows = [_row(detections, row, class_names, point_names) for row in np.flatnonzero(finite).tolist()]
    return values | {"width": width, "height": height, "detections": rows}


def _row(detections: Detections, row: int, class_names: Sequence[str], point_names: Sequence[str]) -> Record:
    label = int(detections.labels[row])
    values: Record = {
        "label": label,
        "class": class_names[label],
        "score": None if detections.scores is None else round(float(detections.scores[row]), 6),
        "box_xyxy": [round(value, 3) for value in detections.boxes_xyxy[row].tolist()],
    }
    if detections.points_xyv is not None and detections.points_xyv[row, :, 2].any():
        names = point_names or [str(k) for k in range(detections.points_xyv.shape[1])]
        points = zip(names, detections.points_xyv[row].tolist(), strict=True)
        values["points"] = {name: _point(point) for name, point in points}
    if detections.track_ids is not None and detections.track_ids[row] >= 0:
        values["track_id"] = int(detections.track_ids[row])
    return values


def _point(point_xyv: Sequence[float]) -> list[float]:
    """A point that is not finite is one that was not found."""
    return [round(value, 3) for value in point_xyv] if all(map(math.isfinite, point_xyv)) else [0.0, 0.0, 0.0]


def error_record(item: Unreadable) -> Record:
    """What stands in the place of an item that could not be read."""
    return {"version": RECORDS_VERSION, "kind": "error", "name": item.name, "error": str(item.error)}


def ended_record(ended: Ended, duration_s: float | None = None, counts: Mapping[str, Any] | None = None) -> Record:
    """The end of a video or stream.

    Args:
        duration_s: how long it is; None where nobody knows.
        counts: crossings of a line, where they were counted.
    """
    values: Record = {"version": RECORDS_VERSION, "kind": "video", "name": ended.name, "frames": ended.frames}
    values |= {"duration_s": None if duration_s is None else round(float(duration_s), 6), "warning": ended.warning}
    values |= {"dropped": ended.dropped} if ended.dropped else {}
    return values if counts is None else values | {"counts": dict(counts)}


def detections_of(picture: Record, point_names: Sequence[str] = ()) -> Detections:
    """The detections a "photo" or "frame" record holds; `point_names` (of the "run" record) puts points in order."""
    rows = picture["detections"]
    boxes_xyxy = np.array([row["box_xyxy"] for row in rows], np.float32).reshape(-1, 4)
    labels = np.array([row["label"] for row in rows], np.int64)
    scores = points_xyv = track_ids = None
    if all(row["score"] is not None for row in rows):
        scores = np.array([row["score"] for row in rows], np.float32)
    if point_names:
        missing = {name: [0.0, 0.0, 0.0] for name in point_names}
        values = [[row.get("points", missing)[name] for name in point_names] for row in rows]
        points_xyv = np.array(values, np.float32).reshape(len(rows), len(point_names), 3)
    if rows and any("track_id" in row for row in rows):
        track_ids = np.array([row.get("track_id", -1) for row in rows], np.int64)
    return Detections((picture["height"], picture["width"]), boxes_xyxy, labels, scores, points_xyv, track_ids)


def json_line(values: Record) -> bytes:
    """One line of JSONL: UTF-8; bytes of a file name that are none stand as \\udcXX, as Python reads them again."""
    return json_bytes(values) + b"\n"


def json_bytes(value: Any) -> bytes:
    """JSON in UTF-8, whatever is in file names; ValueError for numbers that are not finite."""
    return json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8", "backslashreplace")
