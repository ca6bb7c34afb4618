"""Detectors of other projects: pixels as they want them, boxes as they mean them, by hand-computed values."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from detkit.engines.adapters import PRESETS, Adapter, Tables, decode, grid_cells, pixels, read_adapter
from detkit.errors import UsageError

CANVAS_HW = (32, 64)  # 4 x 8, 2 x 4 and 1 x 2 cells
SPLIT = Adapter("boxes-scores", "xyxy", "px")


def table(rows: list[list[float]]) -> np.ndarray:
    return np.array([rows], np.float32)


def test_a_grid_is_decoded_cell_by_cell() -> None:
    assert grid_cells(CANVAS_HW) == 32 + 8 + 2
    raw = np.zeros((1, 42, 7), np.float32)
    raw[0, 9] = [0.5, 0.25, math.log(2), math.log(3), 0.5, 0.5, 1]  # stride 8, row 1, column 1
    raw[0, 32 + 7] = [0, 0, 0, 0, 1, 0.25, 0.75]  # stride 16, row 1, column 3
    raw[0, 41] = [-1, 0.5, math.log(2), 0, 0.5, 0, 1]  # stride 32, row 0, column 1
    found = decode(Tables(raw), read_adapter(["yolox"]), CANVAS_HW, 2)
    assert found.boxes_xyxy.shape == (1, 42, 4)
    assert found.boxes_xyxy[0, 9] == pytest.approx([12 - 8, 10 - 12, 12 + 8, 10 + 12])
    assert found.boxes_xyxy[0, 39] == pytest.approx([48 - 8, 16 - 8, 48 + 8, 16 + 8])
    assert found.boxes_xyxy[0, 41] == pytest.approx([0 - 32, 16 - 16, 0 + 32, 16 + 16])
    assert found.scores[0, [9, 39, 41]].tolist() == [[0.25, 0.5], [0.25, 0.75], [0, 0.5]]


@pytest.mark.parametrize("preset", ["yolov5", "yolox-decoded"])
def test_objectness_multiplies_class_scores(preset: str) -> None:
    rows = table([[10, 20, 4, 8, 0.5, 0.5, 1], [0, 0, 2, 2, 1, 0, 0.25], [5, 5, 1, 1, 0, 1, 1]])
    found = decode(Tables(rows), read_adapter([preset]), CANVAS_HW, 2)
    assert found.boxes_xyxy[0].tolist() == [[8, 16, 12, 24], [-1, -1, 1, 1], [4.5, 4.5, 5.5, 5.5]]
    assert found.scores[0].tolist() == [[0.25, 0.5], [0, 0.25], [0, 0]]


def test_classes_come_before_boxes_in_yolov8() -> None:
    columns = table([[10, 0], [20, 0], [4, 2], [8, 2], [0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])  # [1, 4+3, 2]
    found = decode(Tables(columns), read_adapter(["yolov8"]), CANVAS_HW, 3)
    assert found.boxes_xyxy[0].tolist() == [[8, 16, 12, 24], [-1, -1, 1, 1]]
    assert found.scores[0] == pytest.approx(np.array([[0.1, 0.3, 0.5], [0.2, 0.4, 0.6]]))


def test_finished_rows_keep_one_class_each() -> None:
    rows = table([[1, 2, 3, 4, 0.5, 2], [5, 6, 7, 8, 0.25, 0], [0, 0, 0, 0, 0, -1]])  # the last is filling
    found = decode(Tables(rows), read_adapter(["end2end"]), CANVAS_HW, 3)
    assert found.boxes_xyxy[0, :2].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert found.scores[0].tolist() == [[0, 0, 0.5], [0.25, 0, 0], [0, 0, 0]]
    assert read_adapter(["end2end"]).iou == 1  # nothing is suppressed twice


@pytest.mark.parametrize(
    ("box_format", "box_unit", "row"),
    [
        ("xyxy", "px", [16, 8, 48, 16]),
        ("xywh", "px", [16, 8, 32, 8]),
        ("cxcywh", "px", [32, 12, 32, 8]),
        ("xyxy", "share", [0.25, 0.25, 0.75, 0.5]),
        ("cxcywh", "share", [0.5, 0.375, 0.5, 0.25]),
    ],
)
def test_boxes_are_what_the_adapter_says(box_format: str, box_unit: str, row: list[float]) -> None:
    adapter = Adapter("boxes-scores", box_format, box_unit)  # type: ignore[arg-type]
    found = decode(Tables(table([row]), table([[0.5]])), adapter, CANVAS_HW, 1)
    assert found.boxes_xyxy[0, 0].tolist() == [16, 8, 48, 16]


@pytest.mark.parametrize(
    ("settings", "row", "expected"),
    [
        (["activation=sigmoid"], [0.0, math.log(3)], [0.5, 0.75]),
        (["activation=softmax"], [0.0, math.log(3)], [0.25, 0.75]),
        (["activation=softmax", "background=last"], [0.0, math.log(2), math.log(5)], [0.125, 0.25]),
        (["activation=softmax", "background=first"], [math.log(5), 0.0, math.log(2)], [0.125, 0.25]),
        (["background=last"], [0.1, 0.2, 0.7], [0.1, 0.2]),
    ],
)
def test_scores_are_what_the_adapter_says(settings: list[str], row: list[float], expected: list[float]) -> None:
    adapter = read_adapter(["boxes-scores", "box_format=xyxy", "box_unit=px", *settings])
    found = decode(Tables(table([[0, 0, 1, 1]]), table([row])), adapter, CANVAS_HW, 2)
    assert found.scores[0, 0] == pytest.approx(expected)


@pytest.mark.parametrize(("background", "first"), [("none", 0), ("first", 1)])
def test_scores_may_come_with_labels(background: str, first: int) -> None:
    adapter = Adapter("boxes-scores", "xyxy", "px", background=background)  # type: ignore[arg-type]
    arrays = Tables(table([[0, 0, 1, 1]] * 2), np.array([[0.5, 0.25]]), np.array([[1, 0]]) + first)
    assert decode(arrays, adapter, CANVAS_HW, 2).scores[0].tolist() == [[0, 0.5], [0.25, 0]]


@pytest.mark.parametrize(
    ("adapter", "arrays"),
    [
        (SPLIT, Tables(np.zeros((2, 0, 4)), np.zeros((2, 0, 3)))),
        (SPLIT, Tables(np.zeros((2, 0, 4)), np.zeros((2, 0)), np.zeros((2, 0), np.int64))),
        (read_adapter(["end2end"]), Tables(np.zeros((2, 0, 6)))),
        (read_adapter(["yolov8"]), Tables(np.zeros((2, 7, 0)))),
        (read_adapter(["yolov5"]), Tables(np.zeros((2, 0, 8)))),
    ],
)
def test_nothing_found_is_ordinary(adapter: Adapter, arrays: Tables) -> None:
    found = decode(arrays, adapter, CANVAS_HW, 3)
    assert found.boxes_xyxy.shape == (2, 0, 4)
    assert found.scores.shape == (2, 0, 3)
    assert found.boxes_xyxy.dtype == found.scores.dtype == np.float32


@pytest.mark.parametrize(
    ("adapter", "arrays", "said"),
    [
        (SPLIT, Tables(table([[0, 0, 1, 1]]), table([[0.5, 2.5]])), r"scores from 0 to 2\.5, expected 0 to 1"),
        (SPLIT, Tables(table([[0, 0, 1, 1]]), table([[-3, 0.5]])), "activation=sigmoid"),
        (SPLIT, Tables(table([[0, 0, 1, 1]]), table([[0.5]])), "scores of 1 classes, expected 2"),
        (SPLIT, Tables(table([[0, 0, 1, 1]]), np.array([[0.5]]), np.array([[2]])), "labels 2 to 2, expected 0 to 1"),
        (read_adapter(["end2end"]), Tables(table([[0, 0, 1, 1, 0.5, -1]])), "labels -1 to -1"),
        (read_adapter(["end2end"]), Tables(table([[0, 0, 1, 1, 0.5, math.nan]])), "labels nan"),
        (read_adapter(["yolov8"]), Tables(table([[1.0]] * 8)), "scores of 4 classes, expected 2"),
        (read_adapter(["yolov5"]), Tables(table([[1.0] * 6])), "scores of 1 classes, expected 2"),
    ],
)
def test_what_does_not_fit_is_said(adapter: Adapter, arrays: Tables, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        decode(arrays, adapter, CANVAS_HW, 2)


def test_nan_is_no_score_and_an_infinite_box_no_crash() -> None:
    rows = table([[0, 0, 100, 100, math.nan, 0.5, 0.5], *[[0, 0, 1000, 0, 1, 1, 1]] * 41])
    found = decode(Tables(rows), read_adapter(["yolox"]), CANVAS_HW, 2)
    assert not np.isfinite(found.boxes_xyxy[0, 1]).all()


def test_pixels_are_given_as_asked() -> None:
    batch = np.zeros((2, 2, 3, 3), np.uint8)
    batch[0, 1, 2] = [51, 102, 255]
    plain = pixels(batch, SPLIT, "float32", channels_first=True)
    assert plain.shape == (2, 3, 2, 3)
    assert plain.dtype == np.float32
    assert plain[0, :, 1, 2] == pytest.approx([0.2, 0.4, 1])
    assert pixels(batch, SPLIT, "uint8", channels_first=False)[0, 1, 2].tolist() == [51, 102, 255]
    bgr = pixels(batch, read_adapter(["yolox"]), "float16", channels_first=True)
    assert bgr.dtype == np.float16
    assert bgr[0, :, 1, 2].tolist() == [255, 102, 51]
    own = Adapter("boxes-scores", "xyxy", "px", channels="bgr", mean=(1, 0.4, 0), std=(1, 2, 0.5))
    assert pixels(batch, own, "float32", channels_first=True)[0, :, 1, 2] == pytest.approx([0, 0, 0.4], abs=1e-6)


def test_every_preset_is_an_adapter_and_single_settings_change_it() -> None:
    for name in PRESETS:
        if name != "boxes-scores":
            assert read_adapter([name]) == read_adapter([name, "pad_value=114"])
    changed = read_adapter(["yolov8", "fit=stretch", "mean=0.5,0.25,0", "size_px=640"])
    assert (changed.fit, changed.mean, changed.size_px) == ("stretch", (0.5, 0.25, 0), 640)


def test_an_adapter_may_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "ssd.toml"
    file.write_text('layout = "boxes-scores"\nbox_format = "xyxy"\nbox_unit = "share"\nmean = [0.5, 0.5, 0.5]\n')
    assert read_adapter([str(file), "fit=stretch"]) == Adapter(
        "boxes-scores", "xyxy", "share", mean=(0.5, 0.5, 0.5), fit="stretch"
    )
    file.write_text('layout = "boxes-scores"\nbox_fromat = "xyxy"\n')
    with pytest.raises(UsageError, match=r"ssd\.toml:2: unknown setting 'box_fromat'; did you mean 'box_format'\?"):
        read_adapter([str(file)])


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["yolo"], "--adapter; found 'yolo'; expected yolox, yolox-decoded, yolov5"),
        (["boxes-scores"], "--adapter boxes-scores needs more: add --adapter box_format=...; expected one of xyxy"),
        (["boxes-scores", "box_format=xyxy"], "add --adapter box_unit=...; expected one of px, share"),
        (["yolov8", "fitt=stretch"], "--adapter fitt=stretch: unknown setting 'fitt'; did you mean 'fit'"),
        (["yolov8", "stretch"], "--adapter stretch: no '='"),
        (["yolov8", "fit=crop"], "--adapter fit; found 'crop'"),
        (["yolov8", "activation=sigmoid"], "activation is 'sigmoid', expected none, but for the layout boxes-scores"),
        (["yolox", "box_unit=share"], "box_unit is 'share', expected px for the layout grid"),
        (["yolov8", "divide_by=0"], "divide_by is 0.0, expected above 0"),
        (["yolov8", "std=1,0,1"], "std is"),
        (["yolov8", "size_px=9999"], "size_px is 9999, expected 1 to 4096"),
        (["yolov8", "conf=2"], "conf is 2.0, expected 0 to 1"),
        (["absent.toml"], "absent.toml: cannot read the settings"),
    ],
)
def test_a_wrong_adapter_is_one_line(texts: list[str], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_adapter(texts)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
