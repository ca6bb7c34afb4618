"""From a network's arrays to detections on the photo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fake_model import CARD, card_with, write_fake_model

from detkit.engines import Outputs
from detkit.errors import DataError, UsageError
from detkit.images import write_image
from detkit.infer.frames import Unreadable
from detkit.infer.predictor import Predictor
from detkit.infer.selection import Selection
from detkit.weights import ModelCard

BOXES = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]], np.float32)  # the first two overlap


class FakeEngine:
    """Gives the same arrays whatever the pixels, and remembers the canvases."""

    name, parallel = "fake", 1

    def __init__(self, boxes: np.ndarray, scores: np.ndarray, card: ModelCard = CARD, points: object = None) -> None:
        self.boxes, self.scores, self.card, self.points = boxes, scores, card, points
        self.batches: list[np.ndarray] = []

    def run(self, batch_rgb: np.ndarray) -> Outputs:
        self.batches.append(batch_rgb)
        repeat = (len(batch_rgb), 1, 1)
        points = None if self.points is None else np.tile(self.points, (*repeat, 1))
        return Outputs(np.tile(self.boxes, repeat), np.tile(self.scores, repeat), points)


def scores(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


@pytest.mark.parametrize("wrong", [{"conf": -0.1}, {"conf": float("nan")}, {"iou": 1.1}, {"max_det": 0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Predictor(FakeEngine(BOXES, scores([1, 1])), **wrong)


def test_the_card_gives_the_thresholds_and_the_caller_overrides_them() -> None:
    engine = FakeEngine(BOXES, scores([0.55, 0], [0, 0], [0, 0.1]))
    assert Predictor(engine).selection == Selection(0.5, 0.6, max_det=100)
    assert len(Predictor(engine).predict(np.zeros((9, 9, 3), np.uint8))) == 1
    assert len(Predictor(engine, conf=0.0).predict(np.zeros((9, 9, 3), np.uint8))) == 4
    assert Predictor(engine, conf=0.1, iou=0.2, max_det=7).selection == Selection(0.1, 0.2, 7)


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
def test_a_batch_gives_what_single_photos_give(fit: str, tmp_path: Path) -> None:
    predictor = Predictor(write_fake_model(tmp_path / "m.onnx", card_with(fit=fit)), conf=0.3)
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((64, 64), (30, 90), (200, 10), (1, 1))]
    assert predictor.predict_batch(photos) == [predictor.predict(photo) for photo in photos]
    assert [found.size_hw for found in predictor.predict_batch(photos)] == [photo.shape[:2] for photo in photos]
    assert predictor.predict_batch([]) == []


def test_red_is_red_and_left_is_left(tmp_path: Path) -> None:
    photo = np.zeros((40, 80, 3), np.uint8)
    photo[:, :40, 0] = 255  # the left half is red
    photo[:, 40:, 2] = 255
    found = Predictor(write_fake_model(tmp_path / "m.onnx", card_with(fit="stretch"))).predict(photo)
    by_class = {label: found.boxes_xyxy[found.labels == label] for label in (0, 1)}
    np.testing.assert_allclose(by_class[0], [[0, 0, 40, 20], [0, 20, 40, 40]])
    np.testing.assert_allclose(by_class[1], [[40, 0, 80, 20], [40, 20, 80, 40]])


def test_points_reach_the_detections() -> None:
    engine = FakeEngine(BOXES, scores([0.9, 0], [0, 0], [0, 0.8]), points=np.ones((3, 5, 3), np.float32))
    assert Predictor(engine).predict(np.zeros((64, 64, 3), np.uint8)).points_xyv.shape == (2, 5, 3)


def test_an_unreadable_image_is_reported_in_its_place(tmp_path: Path) -> None:
    for name in ("1.png", "2.jpg", "3.jpg"):
        write_image(tmp_path / name, np.full((20, 30, 3), 200, np.uint8))
    (tmp_path / "2.jpg").write_bytes((tmp_path / "3.jpg").read_bytes()[:100])
    predictor = Predictor(FakeEngine(BOXES, scores([0.9, 0], [0, 0], [0, 0])))
    met: list[Unreadable] = []
    assert [frame.index for frame, _ in predictor.stream(tmp_path, on_unreadable=met.append)] == [0, 2]
    assert [item.index for item in met] == [1]
    with pytest.raises(DataError, match=r"2\.jpg"):
        list(predictor.stream(tmp_path))
