"""Tracking: numbers that stay, on hand-made films and on real tracks; nothing printed, nothing fetched."""

from __future__ import annotations

import subprocess
import sys
import types
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from detkit.detections import Detections
from detkit.errors import ExitCode, MissingExtraError
from detkit.infer.crossings import parse_count_lines
from detkit.infer.follow import Tracking, Trails
from detkit.infer.frames import Frame, Item, VideoInfo
from detkit.infer.track import Clock, Tracker, TrackSettings, conf_floor, load_trackers

pytest.importorskip("trackers", reason="trackers comes with the track extra")
SIZE_HW = (200, 300)
FPS = 25


def boxes_at(*objects: tuple[float, float, float] | tuple[float, float, float, int]) -> Detections:
    """30x40 boxes with their top left corners and scores at (x, y, score), or (x, y, score, label)."""
    boxes = [[x, y, x + 30, y + 40] for x, y, *_ in objects]
    labels = [each[3] if len(each) > 3 else 0 for each in objects]
    return Detections(SIZE_HW, boxes, labels, np.array([each[2] for each in objects], np.float32))


def ids(detections: Detections) -> list[int]:
    assert detections.track_ids is not None
    return detections.track_ids.tolist()


@pytest.mark.parametrize("fps", [FPS, None])
def test_nothing_found_is_nothing_tracked(fps: int | None) -> None:
    tracker = Tracker(0.4, fps)
    for scored in (True, False):
        for _ in range(3):
            tracked = tracker.update(Detections.empty(SIZE_HW, scored=scored))
            assert len(tracked) == 0
            assert tracked.track_ids is not None
            assert (tracked.scores is None) != scored


@pytest.mark.parametrize("fps", [Fraction(25), None])
def test_numbers_start_at_the_second_sight_and_stay_whatever_the_order(fps: Fraction | None) -> None:
    tracker, rng = Tracker(0.4, fps), np.random.default_rng(0)
    for frame in range(30):
        film = boxes_at((5 * frame, 10, 0.9), (200 - 4 * frame, 100, 0.8), (120, 150, 0.7))
        order = rng.permutation(3)
        tracked = tracker.update(film[order], None if fps is None else frame / 25)
        np.testing.assert_array_equal(tracked.boxes_xyxy, film.boxes_xyxy[order])
        if frame == 0:
            assert ids(tracked) == [-1, -1, -1]
        elif frame == 1:
            assert ids(tracked) == [1, 2, 3]
            numbers = np.empty(3, np.int64)
            numbers[order] = ids(tracked)
        assert frame == 0 or ids(tracked) == numbers[order].tolist()


def test_low_scores_continue_a_track_and_start_none() -> None:
    tracker = Tracker(0.4, FPS)
    assert tracker.conf_floor == 0.1
    for frame in range(2):
        tracker.update(boxes_at((10, 10, 0.9)), frame / 25)
    for frame in range(2, 12):
        tracked = tracker.update(boxes_at((10, 10, 0.15), (200, 100, 0.39)), frame / 25)
        assert ids(tracked) == [1]  # the other box starts no track and is not shown
        assert tracked.scores is not None
        assert tracked.scores[0] == np.float32(0.15)
    assert ids(tracker.update(boxes_at((10, 10, 0.9), (200, 100, 0.41)), 0.5)) == [1, -1]


def test_each_class_has_its_own_confidence() -> None:
    tracker = Tracker([0.4, 0.8], FPS)
    for frame in range(3):
        tracked = tracker.update(boxes_at((10, 10, 0.5, 0), (200, 100, 0.5, 1), (100, 100, 0.9, 1)), frame / 25)
    assert tracked.labels.tolist() == [0, 1]
    assert ids(tracked) == [1, 2]
    assert conf_floor([0.4, 0.05]) == 0.05
    assert conf_floor(0.3, TrackSettings(low_conf=0.2)) == 0.2


@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize(("gap_s", "number"), [(0.8, 1), (1.5, 2)])
def test_a_lost_object_is_waited_for_in_seconds(every: int, gap_s: float, number: int) -> None:
    tracker, step_s = Tracker(0.4, Fraction(FPS, every)), every / FPS
    times = [0.0, step_s, 2 * step_s]
    for time_s in times:
        tracker.update(boxes_at((10, 10, 0.9)), time_s)
    back_s = times[-1] + gap_s
    tracker.update(boxes_at((10, 10, 0.9)), back_s)
    assert ids(tracker.update(boxes_at((10, 10, 0.9)), back_s + step_s)) == [number]


def test_frames_seconds_apart_are_tracked_too() -> None:
    tracker = Tracker(0.4, Fraction(1, 4))
    seen = [ids(tracker.update(boxes_at((10 + 3 * frame, 10, 0.9)), 4.0 * frame)) for frame in range(6)]
    assert seen == [[-1], *[[1]] * 5]


def test_a_track_never_changes_its_class() -> None:
    tracker = Tracker(0.4, FPS)
    numbers: dict[int, set[int]] = {0: set(), 1: set()}
    for frame in range(40):
        label = frame // 5 % 2
        numbers[label] |= {*ids(tracker.update(boxes_at((10, 10, 0.9, label)), frame / 25))} - {-1}
    assert numbers == {0: {1}, 1: {2}}


@pytest.mark.filterwarnings("error")
def test_times_that_stand_still_go_back_or_are_unknown_do_no_harm(capfd: pytest.CaptureFixture[str]) -> None:
    tracker = Tracker(0.4, FPS)
    times = [0.0, 0.04, 0.04, 0.02, float("nan"), None, 9.0, 9.04, 3.0, 3.04]
    seen = [ids(tracker.update(boxes_at((10, 10, 0.9)), time_s)) for time_s in times]
    assert seen == [[-1], *[[1]] * 9]
    assert capfd.readouterr() == ("", "")


def test_the_clock_goes_on() -> None:
    clock = Clock(10)
    times = [5.0, 5.25, 5.25, 4.0, 4.5, None, 7.0, 7.5]
    assert [round(clock.at(time_s), 6) for time_s in times] == [0.1, 0.35, 0.45, 0.55, 1.05, 1.15, 1.25, 1.75]


def test_another_picture_size_ends_the_tracks_and_numbers_go_on() -> None:
    tracker = Tracker(0.4, FPS)
    for _ in range(2):
        first = tracker.update(boxes_at((10, 10, 0.9)))
    small = boxes_at((10, 10, 0.9))
    other = Detections((400, 600), small.boxes_xyxy, small.labels, small.scores)
    assert ids(first) == [1]
    assert [ids(tracker.update(other)) for _ in range(2)] == [[-1], [2]]


def test_truths_and_other_columns_go_along() -> None:
    points = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    truth = Detections(SIZE_HW, [[10, 10, 40, 50], [100, 10, 140, 50]], [0, 2], None, points, None, [True, False])
    tracker = Tracker(0.4, FPS)
    for _ in range(2):
        tracked = tracker.update(truth)
    assert tracked == Detections(SIZE_HW, truth.boxes_xyxy, [0, 2], None, points, [1, 2], [True, False])
    assert truth.track_ids is None


def test_memory_stays_flat() -> None:
    tracker, trails = Tracker(0.4, FPS, TrackSettings(keep_s=0.2)), Trails(fps=FPS)
    for frame in range(600):
        object_, sight = divmod(frame, 3)  # a new object every third frame
        tracked = tracker.update(boxes_at((object_ * 97 % 260, object_ * 61 % 150, 0.9)), frame / FPS)
        trails.update(tracked, frame / FPS)
        assert ids(tracked) == [object_ + 1 if sight else -1]
    assert len(tracker._numbers) < 10
    for frame in range(10_000):
        lasting = Detections(SIZE_HW, [[0, 0, 9, 9]] * 2, [0, 0], track_ids=[1, 1000 + frame // 10])
        drawn = trails.update(lasting, frame / FPS)
    assert len(trails) <= 6
    assert len(drawn[1]) <= 39


def test_trails_are_the_feet_of_the_last_seconds() -> None:
    trails = Trails(seconds=0.5, fps=10)
    for tenth in range(9):
        film = Detections(SIZE_HW, [[10 * tenth, 0, 10 * tenth + 20, 50], [0, 0, 9, 9]], [0, 0], track_ids=[3, -1])
        drawn = trails.update(film, tenth / 10)
    assert drawn == {3: [(10 * tenth + 10, 50) for tenth in range(3, 9)]}
    nobody = Detections.empty(SIZE_HW)
    assert trails.update(nobody, 0.9) == {}
    assert len(trails) == 1  # it may come back
    trails.update(nobody, 3.0)
    assert len(trails) == 0


def of_video(index: int, number: int, *, every: int = 1) -> Frame:
    info = VideoInfo(SIZE_HW, Fraction(FPS), Fraction(1, FPS), every=every)
    item = Item(f"{index}.mp4", Path(f"{index}.mp4"), "video")
    return Frame(np.zeros((*SIZE_HW, 3), np.uint8), index, number / FPS, item.name, item, number, number, info)


def test_videos_side_by_side_are_tracked_each_by_itself() -> None:
    tracking = Tracking(["person"], 0.4, parse_count_lines(["door=0,100,300,100"]))
    assert tracking.conf_floor == 0.1
    for number in range(12):
        down = tracking.follow(of_video(0, number), boxes_at((10, 10 + 8 * number, 0.9)))
        up = tracking.follow(of_video(5, number), boxes_at((90, 140 - 8 * number, 0.9), (200, 100, 0.9)))
    assert ids(down.detections) == [1]
    assert ids(up.detections) == [1, 2]
    assert down.counts == {"door": {"person": {"in": 1, "out": 0}}}
    assert up.counts == {"door": {"person": {"in": 0, "out": 1}}}
    assert set(up.trails) == {1, 2}
    assert up.marks[0].caption == ("door: person in 0, out 1",)
    assert tracking.end(5) == up.counts
    assert tracking.end(5) == {}
    again = tracking.follow(of_video(5, 0), boxes_at((90, 10, 0.9)))
    assert (ids(again.detections), again.counts) == ([-1], {"door": {}})


def test_without_lines_nothing_is_counted() -> None:
    tracking = Tracking(["person"], 0.4)
    tracked = tracking.follow(of_video(0, 0), boxes_at((10, 10, 0.9)))
    assert (tracked.counts, tracked.crossings, tracked.marks, tracking.end(0)) == ({}, (), (), {})


def test_every_nth_frame_is_one_step() -> None:
    tracking = Tracking(["person"], 0.4)
    seen = [
        ids(tracking.follow(of_video(0, 100 * n, every=100), boxes_at((10 + 3 * n, 9, 0.9))).detections)
        for n in range(4)
    ]
    assert seen == [[-1], [1], [1], [1]]  # four seconds apart


def test_photos_of_a_folder_are_one_film() -> None:
    tracking, picture = Tracking(["person"], 0.4), np.zeros((*SIZE_HW, 3), np.uint8)
    seen = []
    for index, name in enumerate(["a/1.jpg", "a/2.jpg", "a/3.jpg", "b/1.jpg", "b/2.jpg"]):
        frame = Frame(picture, index, None, name, Item(name, Path(name)))
        seen += ids(tracking.follow(frame, boxes_at((10 + 5 * index, 10, 0.9))).detections)
    assert seen == [-1, 1, 1, -1, 1]
    assert len(tracking._films) == 1


@pytest.mark.parametrize("fps", [15, None])
@pytest.mark.parametrize(("jitter", "missing", "low"), [(0, 0, 0), (0.05, 0.1, 0.2), (0.1, 0.3, 0.3)])
def test_real_tracks_keep_their_numbers(
    shared_data: Path, jitter: float, missing: float, low: float, fps: int | None
) -> None:
    """679 frames of two objects before a moving camera; boxes shaken, left out and scored low at random."""
    folder = shared_data / "video/mot/FOD-01-gt"
    truth = np.loadtxt(folder / "gt.txt", delimiter=",")
    tracker, rng, numbers = Tracker(0.4, fps), np.random.default_rng(0), set()
    for frame in range(1, 680):
        rows = truth[truth[:, 0] == frame]
        rows = rows[rng.random(len(rows)) >= missing]
        boxes = np.concatenate([rows[:, 2:4], rows[:, 2:4] + rows[:, 4:6]], axis=1)
        boxes += rng.normal(size=boxes.shape) * jitter * np.tile(rows[:, 4:6], 2)
        scores = np.where(rng.random(len(rows)) < low, 0.2, 0.9)
        film = Detections((300, 300), boxes.reshape(-1, 4), np.zeros(len(rows)), scores)
        tracked = tracker.update(film, (frame - 1) / 15)
        for box, number in zip(tracked.boxes_xyxy, ids(tracked), strict=True):
            if number > 0:
                numbers.add((int(rows[np.flatnonzero((film.boxes_xyxy == box).all(axis=1))[0], 1]), number))
    assert len(numbers) == 2  # one number for each object
    assert {number for _, number in numbers} == {1, 2}


@pytest.mark.parametrize(("name", "value"), [("low_conf", 1.5), ("start_frames", 0), ("keep_s", -1), ("min_iou", 2)])
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        TrackSettings(**{name: value})  # type: ignore[arg-type]
    for fps in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="fps"):
            Tracker(0.4, fps)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    for start in (lambda: Tracker(0.4), lambda: Tracking(["person"], 0.4), load_trackers):
        with pytest.raises(MissingExtraError, match=r'pip install "detkit-cv\[track\]"') as caught:
            start()
        assert caught.value.exit_code == ExitCode.MISSING_EXTRA == 5
        assert "\n" not in str(caught.value)


def test_a_package_without_times_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    old = types.ModuleType("trackers")
    old.ByteTrackTracker = type("ByteTrackTracker", (), {"update": lambda self, detections: None})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackers", old)
    with pytest.raises(MissingExtraError, match=r"2\.6 or newer"):
        Tracker(0.4)


def test_tracking_prints_nothing_and_needs_neither_torch_nor_network() -> None:
    program = """
import socket, sys
def refuse(*arguments, **named):
    raise AssertionError("the network was asked")
socket.socket.connect = socket.getaddrinfo = refuse
sys.modules["torch"] = None
from detkit.detections import Detections
from detkit.infer.track import Tracker
assert "trackers" not in sys.modules and "cv2" not in sys.modules
tracker = Tracker(0.4, 25)
for frame in range(3):
    tracked = tracker.update(Detections((90, 90), [[9, 9, 50, 50]], [0], [0.9]), frame / 25)
assert tracked.track_ids.tolist() == [1]
"""
    done = subprocess.run([sys.executable, "-W", "always", "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
