"""From a network's arrays to detections on the photo, and the sources and sinks on either side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fake_model import CARD, card_with, write_fake_model

from detkit.engines import Outputs
from detkit.errors import DataError, RunError, UsageError
from detkit.images import Placement, place, read_image, write_image
from detkit.infer.frames import Frame, Item, Unreadable
from detkit.infer.predictor import Predictor
from detkit.infer.selection import Selection, select
from detkit.infer.sinks import PictureFolder, record
from detkit.infer.sources import find_images, read_frames
from detkit.weights import ModelCard

SAME = Placement((100, 100), (100, 100), (1.0, 1.0), (0.0, 0.0))
ALL = Selection(conf=0.1, iou=0.5)
BOXES = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]], np.float32)  # the first two overlap


class FakeEngine:
    """Gives the same arrays whatever the pixels, and remembers the canvases."""

    name = "fake"

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


def test_nothing_found_is_empty_detections() -> None:
    for matrix, boxes in ((np.zeros((3, 2), np.float32), BOXES), (np.zeros((0, 2), np.float32), BOXES[:0])):
        found = select(boxes, matrix, Placement((64, 64), (30, 50), (1.0, 1.0), (0.0, 0.0)), ALL)
        assert len(found) == 0
        assert found.size_hw == (30, 50)
        assert found.scores is not None


def test_scores_at_the_threshold_stay_and_below_it_go() -> None:
    found = select(BOXES, scores([0, 0], [0.25, 0], [0, 0.2499]), SAME, Selection(conf=0.25, iou=0.5))
    assert found.scores.tolist() == [0.25]


def test_a_box_may_win_in_two_classes_and_the_best_comes_first() -> None:
    found = select(BOXES[2:], scores([0.3, 0.8]), SAME, ALL)
    assert found.labels.tolist() == [1, 0]
    np.testing.assert_allclose(found.scores, [0.8, 0.3])
    np.testing.assert_array_equal(found.boxes_xyxy, BOXES[[2, 2]])


def test_overlap_counts_within_a_class_or_across_all() -> None:
    matrix = scores([0.9, 0], [0, 0.8], [0.7, 0])
    assert len(select(BOXES, matrix, SAME, ALL)) == 3
    agnostic = select(BOXES, matrix, SAME, Selection(0.1, 0.5, class_agnostic=True))
    np.testing.assert_array_equal(agnostic.boxes_xyxy, BOXES[[0, 2]])
    assert len(select(BOXES, scores([0.9, 0], [0.8, 0], [0.7, 0]), SAME, ALL)) == 2
    assert len(select(BOXES, scores([0.9, 0], [0.8, 0], [0.7, 0]), SAME, Selection(0.1, 0.95))) == 3


def test_limits_keep_the_best() -> None:
    matrix = scores([0.5, 0], [0, 0.6], [0.7, 0])
    assert select(BOXES, matrix, SAME, Selection(0.1, 0.5, max_det=2)).scores.tolist() == pytest.approx([0.7, 0.6])
    found = select(BOXES, matrix, SAME, Selection(0.1, 0.5, max_candidates=1))
    assert found.scores.tolist() == pytest.approx([0.7])


def test_among_equal_scores_the_candidate_limit_keeps_the_earlier() -> None:
    boxes = np.array([[x, 0, x + 5, 5] for x in range(0, 100, 10)], np.float32)
    matrix = np.full((10, 1), 0.5, np.float32)
    matrix[7] = 0.9
    found = select(boxes, matrix, SAME, Selection(0.1, 0.5, max_candidates=3))
    assert found.boxes_xyxy[:, 0].tolist() == [70, 0, 10]


def test_boxes_go_back_to_the_photo_and_padding_holds_none() -> None:
    """A 40 x 20 photo on a 64 x 64 canvas: scale 1.6, 16 px of padding above and below."""
    _, placement = place(np.zeros((20, 40, 3), np.uint8), (64, 64), "letterbox")
    boxes = np.array([[0, 16, 32, 32], [0, 0, 64, 15], [-50, 0, 640, 640]], np.float32)
    limit = Selection(0.1, 0.5, max_det=2)
    found = select(boxes, scores([0.5], [0.9], [0.7]), placement, limit)
    assert found.size_hw == (20, 40)
    np.testing.assert_allclose(found.boxes_xyxy, [[0, 0, 40, 20], [0, 0, 20, 10]], atol=1e-4)


def test_what_is_not_finite_is_no_detection() -> None:
    boxes = BOXES.copy()
    boxes[0, 2] = np.inf
    found = select(boxes, scores([0.9], [np.nan], [0.8]), SAME, ALL)
    assert found.scores.tolist() == pytest.approx([0.8])


def test_points_follow_their_boxes() -> None:
    points = np.arange(18, dtype=np.float32).reshape(3, 2, 3)
    placement = Placement((64, 64), (100, 100), (2.0, 2.0), (4.0, 0.0))
    found = select(BOXES, scores([0.1], [0.2], [0.9]), placement, Selection(0.5, 0.5), points)
    np.testing.assert_allclose(found.points_xyv, [[[4, 6.5, 14], [5.5, 8, 17]]])


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


# ---- sources -----------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """photos/{1,2,10}.jpg, photos/sub/{1.png,bad.jpg}, and things to pass over."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name in ("10.jpg", "2.jpg", "1.JPG", "sub/1.png", ".hidden/1.jpg", "._2.jpg"):
        write_image(folder / name, np.full((20, 30, 3), 200, np.uint8))
    (folder / "sub" / "bad.jpg").write_bytes((folder / "2.jpg").read_bytes()[:100])
    (folder / "notes.txt").write_text("no photo")
    return folder


def names(found: tuple, folder: Path) -> list[str]:
    return [Path(item.name).relative_to(folder).as_posix() for item in found]


def test_a_folder_gives_its_images_in_natural_order(photos: Path) -> None:
    found = find_images(photos)
    assert names(found, photos) == ["1.JPG", "2.jpg", "10.jpg", "sub/1.png", "sub/bad.jpg"]
    assert [item.relative.as_posix() for item in found] == names(found, photos)


def test_several_sources_keep_their_order_and_no_file_comes_twice(photos: Path) -> None:
    sources = [photos / "10.jpg", str(photos / "*.jpg"), photos, photos / "sub" / ".." / "2.jpg"]
    found = find_images(sources)
    assert names(found, photos) == ["10.jpg", "2.jpg", "1.JPG", "sub/1.png", "sub/bad.jpg"]
    assert find_images(found) == found
    assert [item.relative.as_posix() for item in find_images(str(photos / "**" / "*.png"))] == ["1.png"]


def test_links_are_followed_once(photos: Path) -> None:
    (photos / "sub" / "up").symlink_to(photos)
    (photos / "twin").symlink_to(photos / "sub")
    assert len(find_images(photos)) == 5


def test_the_folder_for_results_is_left_out(photos: Path) -> None:
    assert names(find_images(photos, leave_out=photos / "sub"), photos) == ["1.JPG", "2.jpg", "10.jpg"]
    assert len(find_images(photos, leave_out=photos)) == 5


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        ("missing.jpg", DataError, "no such file"),
        ("missing*.jpg", DataError, "no file matches"),
        ("empty", DataError, "no images in this folder"),
        ("videos", DataError, "1 videos"),
        ("videos/a.MP4", UsageError, "reads photos only"),
        ("x" * 300, DataError, "cannot be read"),
        ("dangling.jpg", DataError, "no such file"),
    ],
)
def test_sources_without_images_are_refused(source: str, error: type, said: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.MP4").write_bytes(b"\0")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with pytest.raises(error, match=said):
        find_images(tmp_path / source)


def test_an_unreadable_image_is_reported_in_its_place(photos: Path) -> None:
    frames = list(read_frames(find_images([photos / "sub", photos / "2.jpg"])))
    assert [type(frame) for frame in frames] == [Frame, Unreadable, Frame]
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert "bad.jpg" in str(frames[1].error)
    predictor = Predictor(FakeEngine(BOXES, scores([0.9, 0], [0, 0], [0, 0])))
    met: list[Unreadable] = []
    assert [frame.index for frame, _ in predictor.stream([photos / "sub", photos / "2.jpg"], met.append)] == [0, 2]
    assert [item.index for item in met] == [1]
    with pytest.raises(DataError, match=r"bad\.jpg"):
        list(predictor.stream(photos))


# ---- sinks -------------------------------------------------------------------------------------------------------


def detections_on(frame: Frame) -> object:
    return Predictor(FakeEngine(BOXES, scores([0.9, 0], [0, 0], [0, 0.8]))).predict(frame.image_rgb)


def test_pictures_keep_their_names_and_inputs_stay(photos: Path, tmp_path: Path) -> None:
    (photos / "sub" / "bad.jpg").unlink()
    write_image(tmp_path / "2.JPG", np.zeros((9, 9, 3), np.uint8))
    items = find_images([photos, tmp_path / "2.JPG"])
    before = {item.path: item.path.read_bytes() for item in items}
    sink = PictureFolder(tmp_path / "out", ("red", "blue"), items)
    written = [sink.write(frame, detections_on(frame)) for frame in read_frames(items)]
    relative = [path.relative_to(tmp_path / "out").as_posix() for path in written]
    assert relative == ["1.JPG", "2.jpg", "10.jpg", "sub/1.png", "2-2.JPG"]
    assert {item.path: item.path.read_bytes() for item in items} == before
    assert not np.array_equal(read_image(written[1]), read_image(items[1].path))  # something was drawn
    assert sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file()) == sorted(
        path.name for path in written
    )


def test_a_kind_of_file_we_cannot_write_becomes_a_jpg(tmp_path: Path) -> None:
    write_image(tmp_path / "a.ppm", np.zeros((9, 9, 3), np.uint8))
    items = find_images(tmp_path / "a.ppm")
    frame = next(iter(read_frames(items)))
    assert PictureFolder(tmp_path / "out", ("red", "blue"), items).write(frame, detections_on(frame)).name == "a.jpg"


@pytest.mark.parametrize("folder", ["photos", "photos/sub/.."])
def test_a_picture_never_replaces_a_photo(folder: str, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="another --out"):
        PictureFolder(tmp_path / folder, ("red", "blue"), find_images(photos))


def test_a_folder_that_cannot_be_written_is_a_run_error(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    items = find_images(photos / "2.jpg")
    frame = next(iter(read_frames(items)))
    with pytest.raises(RunError):
        PictureFolder(tmp_path / "out", ("red", "blue"), items).write(frame, detections_on(frame))


def test_a_record_is_plain_rounded_values() -> None:
    frame = Frame(np.zeros((64, 64, 3), np.uint8), 0, None, "a.jpg", Item("a.jpg", Path("a.jpg")))
    assert record(frame, detections_on(frame), ("red", "blue")) == {
        "name": "a.jpg",
        "width": 64,
        "height": 64,
        "detections": [
            {"label": 0, "class": "red", "score": 0.9, "box_xyxy": [0.0, 0.0, 10.0, 10.0]},
            {"label": 1, "class": "blue", "score": 0.8, "box_xyxy": [50.0, 50.0, 60.0, 60.0]},
        ],
    }
