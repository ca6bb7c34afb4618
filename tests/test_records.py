"""Records: what each kind holds, that the published schema describes them, and that they can be read again."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator, ValidationError
from sink_items import CLASSES, POINTS, found, frame_of, header, nothing, photo, record_of, video

from detkit.detections import Detections
from detkit.errors import DataError
from detkit.infer.frames import Ended, Unreadable
from detkit.infer.records import SCHEMA_FILE, detections_of, ended_record, error_record, json_line, record

SCHEMA = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
CHECK = Draft202012Validator(SCHEMA)
A, CLIP = photo("a.jpg"), video("clip.mp4")


def test_a_photos_record_is_plain_rounded_values() -> None:
    boxes = np.array([[0.12349, 0, 10, 10.5], [1e3 / 3, 5, 400, 6]], np.float32)
    detections = Detections((600, 800), boxes, [1, 0], np.array([1 / 3, 0.25], np.float32))
    assert record(frame_of(A, size_hw=(600, 800)), detections, CLASSES) == {
        "version": 2,
        "kind": "photo",
        "name": "in/a.jpg",
        "width": 800,
        "height": 600,
        "detections": [
            {"label": 1, "class": "blau & grün", "score": 0.333333, "box_xyxy": [0.123, 0.0, 10.0, 10.5]},
            {"label": 0, "class": "red", "score": 0.25, "box_xyxy": [333.333, 5.0, 400.0, 6.0]},
        ],
    }


def test_a_frame_says_when_it_is() -> None:
    values = record_of(frame_of(CLIP, number=8), nothing())
    assert {key: values[key] for key in ("kind", "name", "frame", "time_s", "detections")} == {
        "kind": "frame",
        "name": "in/clip.mp4",
        "frame": 8,
        "time_s": 0.32,
        "detections": [],
    }


def test_points_and_tracks_are_there_where_a_box_has_them() -> None:
    points = np.zeros((2, 2, 3), np.float32)
    points[0] = [[1.0004, 2, 0.75], [3, np.nan, 1]]
    detections = found(points_xyv=points, track_ids=[-1, 7])
    first, second = record_of(frame_of(A), detections, POINTS)["detections"]
    assert first["points"] == {"nose": [1.0, 2.0, 0.75], "tail": [0.0, 0.0, 0.0]}
    assert "track_id" not in first
    assert second["track_id"] == 7
    assert "points" not in second


def test_what_is_not_finite_is_no_detection() -> None:
    boxes = np.array([[0, 0, np.inf, 5], [0, 0, 4, 5], [np.nan, 0, 4, 5]], np.float32)
    values = record_of(frame_of(A), Detections((30, 50), boxes, [0, 1, 0], np.full(3, 0.5, np.float32)))
    assert [one["box_xyxy"] for one in values["detections"]] == [[0, 0, 4, 5]]


def every_kind() -> dict[str, dict]:
    points = np.ones((2, 2, 3), np.float32)
    return {
        "run": header(),
        "run without a file": header() | {"model": header()["model"] | {"file": None, "sha256": None}},
        "photo": record_of(frame_of(A), found(points_xyv=points, track_ids=[3, 4]), POINTS),
        "photo, empty": record_of(frame_of(A), nothing()) | {"picture": "out/a.jpg"},
        "labels": record_of(frame_of(A), Detections((30, 50), [[0, 0, 1, 1]], [0])),
        "frame": record_of(frame_of(CLIP, number=0), found()),
        "video": ended_record(Ended(CLIP.name, 0, CLIP, 12, "damaged", dropped=4), 0.48, {"door": {"in": 2, "out": 0}}),
        "stream": ended_record(Ended(CLIP.name, 0, CLIP, 0)),
        "error": error_record(Unreadable(A.name, 0, DataError("is empty", file=A.name), A)),
    }


@pytest.mark.parametrize("kind", every_kind())
def test_the_schema_describes_every_kind(kind: str) -> None:
    Draft202012Validator.check_schema(SCHEMA)
    values = json.loads(json_line(every_kind()[kind]))
    CHECK.validate(values)
    assert values == every_kind()[kind]
    for key in set(values) - {"picture", "counts", "dropped"}:
        with pytest.raises(ValidationError):
            CHECK.validate({name: value for name, value in values.items() if name != key})
    for wrong in ({"more": 1}, {"version": 1}, {"kind": "film"}, {"name": 3}):
        with pytest.raises(ValidationError):
            CHECK.validate(values | wrong)


def test_a_record_gives_its_detections_again() -> None:
    points = np.zeros((2, 2, 3), np.float32)
    points[1] = [[1, 2, 0.5], [3, 4, 1]]
    full = found(points_xyv=points, track_ids=[-1, 7])
    assert detections_of(json.loads(json_line(record_of(frame_of(A), full, POINTS))), POINTS) == full
    assert detections_of(record_of(frame_of(A), found())) == found()
    assert detections_of(record_of(frame_of(A), nothing())) == nothing()
    empty = detections_of(record_of(frame_of(A), nothing()), POINTS)
    assert empty.points_xyv.shape == (0, 2, 3)
    labels = Detections((30, 50), [[0, 0, 1, 1]], [0])
    assert detections_of(record_of(frame_of(A), labels)) == labels


def test_any_file_name_becomes_utf_8_and_comes_back() -> None:
    for name in ("Ärger 写真.jpg", 'a"b\\c\n.jpg', os.fsdecode(b"caf\xe9.jpg"), "\u2028"):
        line = json_line(error_record(Unreadable(name, 0, DataError("is empty", file=name), photo("x", name=name))))
        assert line.count(b"\n") == 1
        assert json.loads(line.decode("utf-8"))["name"] == name
    assert "写真".encode() in json_line(error_record(Unreadable("写真", 0, DataError("x"), A)))


def test_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        header(conf=math.nan)
    with pytest.raises(ValueError, match="JSON"):
        json_line({"x": math.inf})


def test_the_schema_lies_in_the_package() -> None:
    assert SCHEMA_FILE == Path(record.__code__.co_filename).with_name("record.schema.json")
