"""From a network's arrays to detections on the photo."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from fake_model import CARD, card_with, write_fake_model
from small_videos import make_video

from detkit.engines import Outputs
from detkit.errors import DataError, UsageError
from detkit.images import write_image
from detkit.infer.frames import Ended, Unreadable
from detkit.infer.predictor import Predictor
from detkit.infer.reading import Reading
from detkit.infer.selection import Selection
from detkit.infer.tiles import Tiling
from detkit.thresholds import ClassThreshold, Thresholds, write_thresholds
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


# ---------------------------------------------------------------- settings


NONE = np.zeros((9, 9, 3), np.uint8)


def test_another_confidence_shares_the_model_and_leaves_the_first_as_it_is() -> None:
    engine = FakeEngine(BOXES, scores([0.55, 0], [0, 0], [0, 0.1]))
    first = Predictor(engine, thresholds=Thresholds({"red": ClassThreshold(0.6), "blue": ClassThreshold(0.6)}))
    other = first.with_conf(0.05)
    assert (len(first.predict(NONE)), len(other.predict(NONE)), len(first.predict(NONE))) == (0, 2, 0)
    assert other.engine is first.engine
    assert other.selection.class_conf is None


def test_each_class_has_its_threshold(tmp_path: Path) -> None:
    engine = FakeEngine(BOXES, scores([0.55, 0], [0, 0], [0, 0.2]))
    chosen = Thresholds({"red": ClassThreshold(0.6), "blue": ClassThreshold(0.15)})
    write_thresholds(tmp_path / "t.json", chosen)
    for given in (chosen, tmp_path / "t.json"):
        assert Predictor(engine, thresholds=given).predict(NONE).labels.tolist() == [1]
    assert Predictor(engine, thresholds=chosen, conf=0.5).predict(NONE).labels.tolist() == [0]  # conf goes before them
    undecided = Thresholds({"red": ClassThreshold(None), "blue": ClassThreshold(0.3)})
    assert Predictor(engine, thresholds=undecided).selection.class_conf == (0.5, 0.3)  # the card's, where none is known
    with pytest.raises(DataError, match="of another model"):
        Predictor(engine, thresholds=Thresholds({"cat": ClassThreshold(0.5)}))


def test_a_card_may_have_a_threshold_for_each_class() -> None:
    engine = FakeEngine(BOXES, scores([0.55, 0], [0, 0], [0, 0.2]), card_with(class_thresholds={"blue": 0.1}))
    assert Predictor(engine).selection.class_conf == (0.5, 0.1)
    assert Predictor(engine).predict(NONE).labels.tolist() == [0, 1]
    assert Predictor(engine, conf=0.5).predict(NONE).labels.tolist() == [0]


def test_only_classes_asked_for_are_looked_for() -> None:
    engine = FakeEngine(BOXES, scores([0.9, 0.8], [0, 0], [0, 0.7]))
    assert Predictor(engine, classes=["blue"]).predict(NONE).labels.tolist() == [1, 1]
    with pytest.raises(UsageError, match="no class 'bleu'"):
        Predictor(engine, classes=["bleu"])


@pytest.mark.parametrize("size_px", [32, 96])
def test_the_canvas_has_the_size_asked_for(size_px: int) -> None:
    engine = FakeEngine(BOXES, scores([0.9, 0], [0, 0], [0, 0]))
    predictor = Predictor(engine, size_px=size_px)
    predictor.predict(np.zeros((50, 100, 3), np.uint8))
    assert engine.batches[0].shape == (1, size_px, size_px, 3)
    assert predictor.canvas_hw == (size_px, size_px)


@pytest.mark.parametrize(("size_px", "near"), [(100, 96), (0, 32), (-64, 32), (1 << 20, 4096)])
def test_a_size_the_network_cannot_take_is_refused(size_px: int, near: int) -> None:
    with pytest.raises(UsageError, match=f"such as {near}$"):
        Predictor(FakeEngine(BOXES, scores([1, 1])), size_px=size_px)
    with pytest.raises(UsageError, match="looks at its own size only; expected 64 px"):
        Predictor(FakeEngine(BOXES, scores([1, 1]), card_with(task="landmarks")), size_px=64)


# ---------------------------------------------------------------- tiles


def test_tiles_find_what_is_too_small_in_the_whole_and_say_where_it_is(tmp_path: Path) -> None:
    photo = np.zeros((256, 512, 3), np.uint8)
    photo[128:160, 384:416, 0] = 255  # a quarter of a tile, and next to nothing of the whole
    whole = Predictor(write_fake_model(tmp_path / "m.onnx", card_with(fit="stretch")), conf=0.9)
    tiled = Predictor(whole.engine, conf=0.9, tiling=Tiling(64, 0))
    assert len(whole.predict(photo)) == 0
    found = tiled.predict(photo)
    assert found.size_hw == (256, 512)
    np.testing.assert_allclose(found.boxes_xyxy, [[384, 128, 416, 160]])
    assert tiled.predict(photo[:60, :60]) == whole.predict(photo[:60, :60])  # no larger than a tile
    assert tiled.predict_batch([photo, photo[:60, :60], photo]) == [found, whole.predict(photo[:60, :60]), found]


@pytest.mark.parametrize("batch", [1, 4])
def test_tiles_of_files_go_through_the_network_in_batches(batch: int, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.full((64, 128, 3), 200, np.uint8))
    engine = FakeEngine(BOXES, scores([0.9, 0], [0, 0], [0, 0]))
    predictor = Predictor(engine, tiling=Tiling(64, 0))
    list(predictor.predict_files([tmp_path / "a.png"], batch=batch))
    assert [len(canvases) for canvases in engine.batches] == ([1, 1, 1] if batch == 1 else [4])  # whole and two tiles


# ---------------------------------------------------------------- batches


class CountingEngine(FakeEngine):
    """Rounds as real networks do: its scores depend a little on how many pictures it is given."""

    def run(self, batch_rgb: np.ndarray) -> Outputs:
        found = super().run(batch_rgb)
        return Outputs(found.boxes_xyxy, found.scores - np.float32(len(batch_rgb) / 1000), None)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 9])
def test_boxes_do_not_depend_on_how_many_photos_come_with_a_photo(count: int, tmp_path: Path) -> None:
    for number in range(count):
        write_image(tmp_path / f"{number}.png", np.full((20, 30, 3), 40 * number % 256, np.uint8))
    if count > 1:
        (tmp_path / "1.png").write_bytes(b"")  # nor on one that cannot be read
    engine = CountingEngine(BOXES, scores([0.9, 0], [0, 0], [0, 0]), card_with(fit="stretch"))
    met: list[Unreadable] = []
    stream = Predictor(engine).stream(tmp_path, Reading(batch=4), on_unreadable=met.append)
    found = [detections for _, detections in stream]
    assert {len(canvases) for canvases in engine.batches} == {4}
    assert [float(one.scores[0]) for one in found] == [pytest.approx(0.896)] * max(1, count - 1)
    assert [item.index for item in met] == [1][: count - 1]


# ---------------------------------------------------------------- streaming


def test_a_stream_over_photos_and_videos_is_in_order(tmp_path: Path) -> None:
    write_image(tmp_path / "1.png", np.zeros((20, 30, 3), np.uint8))
    make_video(tmp_path / "2.mp4", 6)
    write_image(tmp_path / "3.png", np.zeros((20, 30, 3), np.uint8))
    ends: list[Ended] = []
    predictor = Predictor(write_fake_model(tmp_path / "m.onnx"))
    reading = Reading(batch=2, every=2, start_s=0.04)
    events = list(predictor.stream([tmp_path], reading, on_ended=ends.append))
    assert [(frame.index, frame.number) for frame, _ in events] == [(0, None), (1, 1), (1, 3), (1, 5), (2, None)]
    assert [(end.index, end.frames, end.warning) for end in ends] == [(1, 3, None)]
    assert all(frame.image_rgb.shape[:2] == found.size_hw for frame, found in events)


def test_of_a_large_jpeg_the_boxes_are_the_same_whether_its_picture_is_wanted(tmp_path: Path) -> None:
    photo = np.zeros((600, 800, 3), np.uint8)
    photo[:, :400, 0] = 255
    write_image(tmp_path / "a.jpg", photo)
    predictor = Predictor(write_fake_model(tmp_path / "m.onnx", card_with(fit="stretch")))
    [(frame, whole)] = predictor.stream(tmp_path / "a.jpg")
    [(small, part)] = predictor.stream(tmp_path / "a.jpg", Reading(whole_pictures=False))
    assert whole == part
    assert whole.size_hw == (600, 800) == frame.image_rgb.shape[:2]
    assert small.image_rgb.shape[:2] < (600, 800)  # read at a part of its size


def test_leaving_a_stream_early_ends_its_threads(tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4", 60)
    before = threading.active_count()
    stream = Predictor(write_fake_model(tmp_path / "m.onnx")).stream(tmp_path / "a.mp4")
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
