"""COCO, CSV, YOLO and VOC files: what is in them, and that detkit, pycocotools and supervision read equal boxes."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sink_items import CLASSES, POINTS, found, frame_of, header, nothing, photo, record_of, video

from detkit.data import coco, csv_table, voc, yolo
from detkit.data.dataset import Dataset
from detkit.detections import Detections
from detkit.images import write_image
from detkit.infer.frames import Item
from detkit.infer.journal import read_records
from detkit.infer.records import Record
from detkit.infer.sinks.coco import write_coco
from detkit.infer.sinks.csv import COLUMNS, write_csv
from detkit.infer.sinks.names import OutputNames
from detkit.infer.sinks.opening import Outputs, open_sinks
from detkit.infer.sinks.voc import VocLabels
from detkit.infer.sinks.yolo import YoloLabels

A, EMPTY, UMLAUT = photo("a.jpg"), photo("empty.png"), photo('Ä 1, "x".jpg')
SIZES = {A: (30, 50), EMPTY: (7, 3), UMLAUT: (1000, 700)}
SLIVER = Detections((30, 50), [[1, 2, 3, 4], [5, 5, 5.0004, 9]], [0, 0], [0.5, 0.5])


def detections_of(item: Item) -> Detections:
    if item is EMPTY:
        return nothing(SIZES[item])
    rng = np.random.default_rng(len(item.name))
    height, width = SIZES[item]
    sides = rng.uniform(2, [width, height], (12, 2))  # VOC's corners of a box within one pixel are swapped
    corners = rng.uniform(0, [width, height] - sides)
    boxes_xyxy = np.hstack([corners, corners + sides])
    return Detections(SIZES[item], boxes_xyxy, rng.integers(0, 2, 12), rng.uniform(0, 1, 12))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """All label files of three photos, and the photos in images/ and JPEGImages/."""
    items = list(SIZES)
    outputs = Outputs(tmp_path, ("coco", "csv", "yolo", "voc"))
    with open_sinks(outputs, items, header()) as sinks:
        for index, item in enumerate(items):
            frame = frame_of(item, index, SIZES[item])
            sinks.write(frame, detections_of(item), record_of(frame, detections_of(item)))
            for folder in ("images", "JPEGImages"):
                (tmp_path / folder).mkdir(exist_ok=True)
                write_image(tmp_path / folder / item.relative, frame.image_rgb)
    return tmp_path


def records(out: Path) -> dict[str, Record]:
    """The records of pictures, by the photo's name."""
    found = (one for one in read_records(out / "detections.jsonl") if "detections" in one)
    return {Path(one["name"]).name: one for one in found}


def check(out: Path, name: str, boxes_xyxy: object, classes: list[str], atol: float = 1e-3) -> None:
    wanted = records(out)[name]["detections"]
    corners = np.array([one["box_xyxy"] for one in wanted]).reshape(-1, 4)
    np.testing.assert_allclose(np.asarray(boxes_xyxy).reshape(-1, 4), corners, rtol=0, atol=atol)
    assert classes == [one["class"] for one in wanted]


def read_back(out: Path, kind: str) -> Dataset:
    if kind == "coco":
        (out / "annotations").mkdir()
        shutil.copy(out / "coco.json", out / "annotations" / "instances_val.json")
        return coco.read(out)
    if kind == "csv":
        return csv_table.read(out / "detections.csv")
    return (yolo if kind == "yolo" else voc).read(out)


@pytest.mark.parametrize("kind", ["coco", "csv", "yolo", "voc"])
def test_detkit_reads_equal_boxes(kind: str, out: Path) -> None:
    dataset = read_back(out, kind)
    assert dataset.class_names == CLASSES
    assert {sample.image_path.name for sample in dataset} == set(records(out))
    for sample in dataset:
        assert sample.truth.size_hw == next(size for item, size in SIZES.items() if item.relative.name == sample.name)
        check(out, sample.name, sample.truth.boxes_xyxy, [CLASSES[k] for k in sample.truth.labels])


def test_pycocotools_reads_equal_boxes_and_scores_itself_perfect(out: Path) -> None:
    from pycocotools.coco import COCO

    truth = COCO(str(out / "coco.json"))
    results = truth.loadRes(str(out / "coco_results.json"))
    for loaded in (truth, results):
        for image in loaded.dataset["images"]:
            rows = loaded.loadAnns(loaded.getAnnIds(imgIds=image["id"]))
            boxes_xywh = np.array([row["bbox"] for row in rows]).reshape(-1, 4)
            classes = [loaded.cats[row["category_id"]]["name"] for row in rows]
            check(
                out, image["file_name"], np.hstack([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]]), classes
            )
            scores = [one["score"] for one in records(out)[image["file_name"]]["detections"]]
            assert [row["score"] for row in rows] == scores


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc"])
def test_supervision_reads_equal_boxes(kind: str, out: Path) -> None:
    reader = pytest.importorskip("supervision").DetectionDataset
    dataset = {
        "coco": lambda: reader.from_coco(str(out / "images"), str(out / "coco.json")),
        "yolo": lambda: reader.from_yolo(str(out / "images"), str(out / "labels"), str(out / "data.yaml")),
        "voc": lambda: reader.from_pascal_voc(str(out / "JPEGImages"), str(out / "Annotations")),
    }[kind]()
    assert len(dataset.annotations) == len(SIZES)
    for path, boxes in dataset.annotations.items():
        check(out, Path(path).name, boxes.xyxy, [dataset.classes[k] for k in boxes.class_id])


# ---- what is in the files ----------------------------------------------------------------------------------------


def written(folder: Path, lines: list[Record], items: list[Item], kind: object) -> None:
    def every() -> Iterator[Record]:
        return iter(lines)

    kind(folder, every, OutputNames(items))


def test_coco_counts_images_boxes_and_classes_from_1(tmp_path: Path) -> None:
    lines = [header(), record_of(frame_of(EMPTY), nothing()), {"kind": "error", "name": "x", "error": "y"}]
    lines.append(record_of(frame_of(A, 2), found()))
    written(tmp_path, lines, [EMPTY, A], write_coco)
    document = json.loads((tmp_path / "coco.json").read_text("utf-8"))
    assert document["images"] == [
        {"id": 1, "file_name": "empty.png", "width": 50, "height": 30},
        {"id": 2, "file_name": "a.jpg", "width": 50, "height": 30},
    ]
    assert document["categories"] == [{"id": 1, "name": "red"}, {"id": 2, "name": "blau & grün"}]
    first = {"image_id": 2, "category_id": 1, "bbox": [1.5, 2.0, 10.25, 20.0], "score": 0.9}
    assert document["annotations"][0] == {"id": 1, **first, "area": 205.0, "iscrowd": 0}
    assert json.loads((tmp_path / "coco_results.json").read_text("utf-8"))[0] == first
    assert [row["id"] for row in document["annotations"]] == [1, 2]


def test_coco_carries_points(tmp_path: Path) -> None:
    points = np.zeros((2, 2, 3), np.float32)
    points[0] = [[1, 2, 0.9], [3, 4, 0.5]]
    lines = [header(), record_of(frame_of(A), found(points_xyv=points), POINTS)]
    lines[0]["model"]["point_names"] = list(POINTS)
    write_coco(tmp_path, lambda: iter(lines), OutputNames([A]), [(0, 1)])
    document = json.loads((tmp_path / "coco.json").read_text("utf-8"))
    assert document["categories"][0] == {"id": 1, "name": "red", "keypoints": list(POINTS), "skeleton": [[1, 2]]}
    assert [row["keypoints"] for row in document["annotations"]] == [[1, 2, 2, 3, 4, 1], [0] * 6]
    assert [row["num_keypoints"] for row in document["annotations"]] == [2, 0]


def test_frames_are_named_and_numbered(tmp_path: Path) -> None:
    clip = video("sub/clip.mp4")
    frames = [frame_of(clip, 0, number=number) for number in (0, 5)]
    lines = [header(), *(record_of(frame, found(track_ids=[-1, 3])) for frame in frames)]
    written(tmp_path, lines, [clip], write_coco)
    written(tmp_path, lines, [clip], write_csv)
    names = [image["file_name"] for image in json.loads((tmp_path / "coco.json").read_text("utf-8"))["images"]]
    assert names == ["sub/clip_000000.jpg", "sub/clip_000005.jpg"]
    rows = list(csv.DictReader((tmp_path / "detections.csv").read_text("utf-8").splitlines()))
    assert [(row["image"], row["frame"], row["time_s"], row["track_id"]) for row in rows] == [
        ("sub/clip.mp4", "0", "0.0", ""),
        ("sub/clip.mp4", "0", "0.0", "3"),
        ("sub/clip.mp4", "5", "0.2", ""),
        ("sub/clip.mp4", "5", "0.2", "3"),
    ]
    for sink in (YoloLabels(tmp_path, OutputNames([clip]), CLASSES), VocLabels(tmp_path, OutputNames([clip]), CLASSES)):
        for frame, line in zip(frames, lines[1:], strict=True):
            sink.write(frame, found(), line)
    assert sorted(file.name for file in (tmp_path / "labels/sub").iterdir()) == ["clip_000000.txt", "clip_000005.txt"]
    assert "<filename>clip_000005.jpg</filename>" in (tmp_path / "Annotations/sub/clip_000005.xml").read_text()


def test_csv_has_a_row_for_a_photo_without_objects(tmp_path: Path) -> None:
    lines = [header(), record_of(frame_of(EMPTY), nothing()), record_of(frame_of(UMLAUT), found())]
    written(tmp_path, lines, [EMPTY, UMLAUT], write_csv)
    rows = list(csv.reader((tmp_path / "detections.csv").read_text("utf-8").splitlines()))
    assert rows[:3] == [
        list(COLUMNS),
        ["empty.png", "", "", "50", "30", "", "", "", "", "", "", ""],
        ['Ä 1, "x".jpg', "", "", "50", "30", "red", "0.9", "1.5", "2.0", "11.75", "22.0", ""],
    ]


def test_yolo_and_voc_say_what_they_should(tmp_path: Path) -> None:
    frame, line = frame_of(A), record_of(frame_of(A), found())
    names = OutputNames([A, EMPTY])
    plain, scored = YoloLabels(tmp_path, names, CLASSES), YoloLabels(tmp_path / "s", names, CLASSES, scores=True)
    sinks = [plain, scored, VocLabels(tmp_path, names, CLASSES)]
    for sink in sinks:
        sink.write(frame, found(), line)
        sink.write(frame_of(EMPTY, 1), nothing(), record_of(frame_of(EMPTY), nothing()))
        sink.close()
    assert (tmp_path / "labels/a.txt").read_text() == (
        "0 0.132500000 0.400000000 0.205000000 0.666666667\n1 0.750000000 0.750000000 0.500000000 0.500000000\n"
    )
    assert (tmp_path / "s/labels/a.txt").read_text().splitlines()[0].endswith(" 0.666666667 0.900000")
    assert (tmp_path / "labels/empty.txt").read_bytes() == b""
    assert (tmp_path / "data.yaml").read_text("utf-8") == "names:\n  0: red\n  1: blau & grün\n"
    text = (tmp_path / "Annotations/a.xml").read_text("utf-8")
    assert "<xmin>2.5</xmin><ymin>3</ymin><xmax>11.75</xmax><ymax>22</ymax>" in text
    assert "<name>blau &amp; grün</name>" in text
    assert text.count("<difficult>0</difficult>") == 2
    assert (tmp_path / "classes.txt").read_text("utf-8") == "red\nblau & grün\n"


def test_yolo_carries_points(tmp_path: Path) -> None:
    points = np.zeros((2, 2, 3), np.float32)
    points[0] = [[25, 15, 0.9], [5, 3, 0.2]]
    sink = YoloLabels(tmp_path, OutputNames([A]), CLASSES, POINTS)
    sink.write(frame_of(A), found(), record_of(frame_of(A), found(points_xyv=points), POINTS))
    sink.close()
    (tmp_path / "images").mkdir()
    write_image(tmp_path / "images" / "a.jpg", frame_of(A).image_rgb)
    dataset = yolo.read(tmp_path)
    assert dataset.point_names == POINTS
    expected = [[[25, 15, 2], [5, 3, 1]], [[0, 0, 0], [0, 0, 0]]]
    np.testing.assert_allclose(dataset.samples[0].truth.points_xyv, expected, atol=1e-4)


def test_a_box_without_area_is_none_in_label_files(tmp_path: Path) -> None:
    line = record_of(frame_of(A), SLIVER)
    assert len(line["detections"]) == 2
    written(tmp_path, [header(), line], [A], write_coco)
    written(tmp_path, [header(), line], [A], write_csv)
    YoloLabels(tmp_path, OutputNames([A]), CLASSES).write(frame_of(A), SLIVER, line)
    VocLabels(tmp_path, OutputNames([A]), CLASSES).write(frame_of(A), SLIVER, line)
    assert len(json.loads((tmp_path / "coco_results.json").read_text())) == 1
    assert len((tmp_path / "detections.csv").read_text().splitlines()) == 2
    assert len((tmp_path / "labels/a.txt").read_text().splitlines()) == 1
    assert (tmp_path / "Annotations/a.xml").read_text().count("<object>") == 1


@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9.jpg"), "a\x01\n.jpg", "<&>.jpg"])
def test_any_file_name_goes_into_any_file(name: str, tmp_path: Path) -> None:
    item = photo(name)
    line = record_of(frame_of(item), found())
    written(tmp_path, [header(), line], [item], write_coco)
    written(tmp_path, [header(), line], [item], write_csv)
    VocLabels(tmp_path, OutputNames([item]), CLASSES).write(frame_of(item), found(), line)
    YoloLabels(tmp_path, OutputNames([item]), CLASSES).write(frame_of(item), found(), line)
    assert json.loads((tmp_path / "coco.json").read_bytes().decode("utf-8"))["images"][0]["file_name"] == name
    (tmp_path / "detections.csv").read_text("utf-8")
    xml = next((tmp_path / "Annotations").iterdir())
    assert voc.parse_xml(xml).names == list(CLASSES)
