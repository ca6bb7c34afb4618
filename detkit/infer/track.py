"""Tracking: one object has one number in all frames of a video. ByteTrack, by the PyPI package `trackers`."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detkit.detections import Detections
from detkit.errors import MissingExtraError
from detkit.opencv import load_cv2

UNTRACKED = -1  # the track id of a box that has no number (yet)
_PHOTOS_FPS = 30.0  # photos have no times: each is one frame of a film at this rate


@dataclass(frozen=True, slots=True)
class TrackSettings:
    """How objects are followed.

    Args:
        low_conf: boxes scored from here up to the confidence asked for may continue a track; they never start one.
        start_frames: a track gets its number when it was found in so many frames in a row.
        keep_s: so long a track that is not found is waited for (three frames at least).
        min_iou: a box continues a track when it overlaps the place where it is expected by so much.
    """

    low_conf: float = 0.1
    start_frames: int = 2
    keep_s: float = 1.0
    min_iou: float = 0.1

    def __post_init__(self) -> None:
        ranges = {"low_conf": (0, 1), "start_frames": (1, 100), "keep_s": (0, 60), "min_iou": (0, 1)}
        for name, (lowest, highest) in ranges.items():
            if not lowest <= getattr(self, name) <= highest:
                raise ValueError(f"{name} is {getattr(self, name)}, expected {lowest} to {highest}")


class Tracker:
    """Follows the objects of one video, or of one folder of photos that are a film's frames.

    Each class is tracked by itself: a track never changes its class. Numbers start at 1 and have no gaps; tracks
    get them as they are confirmed (within a frame, in the order of the boxes), and none is given twice.
    """

    def __init__(
        self,
        conf: float | Sequence[float],
        fps: Fraction | float | None = None,
        settings: TrackSettings | None = None,
    ) -> None:
        """Start with no tracks.

        Args:
            conf: boxes scored from here on are shown and start tracks; a sequence holds one for each label.
            fps: frames per second as they are given to `update` (of each second frame: half the video's); None for
                pictures without times, each of which is one step.
            settings: None takes the defaults.
        Raises:
            MissingExtraError: `trackers` is not installed.
        """
        if fps is not None and not (math.isfinite(fps) and fps > 0):
            raise ValueError(f"fps is {fps}, expected more than 0")
        self._conf = conf
        self._settings = settings or TrackSettings()
        self._fps = None if fps is None else float(fps)
        self._clock = Clock(self._fps)
        self._trackers_package, self._boxes_package = load_trackers()
        self._by_label: dict[int, Any] = {}
        self._numbers: dict[tuple[int, int], int] = {}  # label and the package's id -> ours
        self._last_number = 0
        self._size_hw: tuple[int, int] | None = None

    @property
    def conf_floor(self) -> float:
        """The confidence down to which `update` wants to see boxes: the predictor's `conf` while tracking."""
        return conf_floor(self._conf, self._settings)

    def update(self, detections: Detections, time_s: float | None = None) -> Detections:
        """Number the boxes of the next picture.

        Args:
            detections: all boxes scored `conf_floor` or more. A truth without scores counts as certain.
            time_s: of the picture; None, or a time that does not go on, is one frame after the last.
        Returns:
            Those scored `conf` or more and those that continue a numbered track, in the same order, with `track_ids`:
            1 and up, or -1 (`UNTRACKED`) for a box without a number: found for the first time, or only once.
            Where the pictures' size changes all tracks end; numbers go on.
        """
        if detections.size_hw != self._size_hw:
            self._size_hw = detections.size_hw
            self._by_label.clear()
            self._numbers.clear()
        now_s = self._clock.at(time_s)
        track_ids = np.full(len(detections), UNTRACKED, np.int64)
        for label in sorted({*self._by_label, *detections.labels.tolist()}):
            rows = np.flatnonzero(detections.labels == label)
            track_ids[rows] = self._follow(label, detections, rows, now_s if self._fps else None)
        for row in np.flatnonzero(track_ids >= 0).tolist():
            track_ids[row] = self._number(int(detections.labels[row]), int(track_ids[row]))
        self._forget()
        shown = (track_ids > 0) | self._confident(detections)
        return replace(detections, track_ids=track_ids)[shown]

    def _confident(self, detections: Detections) -> NDArray[np.bool_]:
        if detections.scores is None:
            return np.ones(len(detections), np.bool_)
        conf = np.asarray(self._conf, np.float32)
        return detections.scores >= (conf[detections.labels] if conf.ndim else conf)

    def _follow(self, label: int, detections: Detections, rows: NDArray[np.intp], time_s: float | None) -> Any:
        """The package's ids, int [len(rows)], of the boxes of one class; -1 for those that have none."""
        if label not in self._by_label:
            self._by_label[label] = self._new_tracker(label)
        scores = np.ones(len(rows), np.float32) if detections.scores is None else detections.scores[rows]
        boxes = self._boxes_package.Detections(
            detections.boxes_xyxy[rows], confidence=scores, data={"row": np.arange(len(rows))}
        )
        found = self._by_label[label].update(boxes, timestamp=time_s)
        ids = np.full(len(rows), UNTRACKED, np.int64)
        if len(found):  # in an order of its own
            ids[found.data["row"]] = found.tracker_id
        return ids

    def _new_tracker(self, label: int) -> Any:
        """A tracker for one class: boxes from `conf` on are ByteTrack's high ones, and each may start a track."""
        conf = self._conf if isinstance(self._conf, int | float) else self._conf[label]
        fps, settings = self._fps or _PHOTOS_FPS, self._settings
        keep_s = max(settings.keep_s, 3 / fps)
        return self._trackers_package.ByteTrackTracker(
            lost_track_buffer=math.ceil(round(30 * keep_s, 6)),  # in thirtieths of a second, whatever the rate
            frame_rate=fps,
            track_activation_threshold=conf,
            high_conf_det_threshold=conf,
            minimum_consecutive_frames=settings.start_frames,
            minimum_iou_threshold=settings.min_iou,
        )

    def _number(self, label: int, package_id: int) -> int:
        if (label, package_id) not in self._numbers:
            self._last_number += 1
            self._numbers[label, package_id] = self._last_number
        return self._numbers[label, package_id]

    def _forget(self) -> None:
        """Drop the numbers of tracks that ended, so that memory stays flat."""
        alive = {(label, each.tracker_id) for label, of_class in self._by_label.items() for each in of_class.tracks}
        self._numbers = {key: number for key, number in self._numbers.items() if key in alive}


def conf_floor(conf: float | Sequence[float], settings: TrackSettings | None = None) -> float:
    """The predictor's `conf` while tracking, where boxes from `conf` on (a number, or one for each label) are shown."""
    lowest = conf if isinstance(conf, int | float) else min(conf)
    return float(min(lowest, (settings or TrackSettings()).low_conf))


class Clock:
    """Turns the times of frames into seconds that always go on."""

    def __init__(self, fps: float | None) -> None:
        self._step_s = 1 / (fps or _PHOTOS_FPS)
        self._last_time_s: float | None = None
        self._now_s = 0.0

    def at(self, time_s: float | None) -> float:
        """The clock's seconds at a frame of this time; None, NaN and a time that does not go on are one frame on."""
        if time_s is not None and not math.isfinite(time_s):
            time_s = None
        step_s = 0.0 if time_s is None or self._last_time_s is None else time_s - self._last_time_s
        self._last_time_s = time_s
        self._now_s += step_s if step_s > 0 else self._step_s
        return self._now_s


def load_trackers() -> tuple[Any, Any]:
    """The modules trackers and supervision (whose boxes it takes). Neither reports home when it is imported.

    Raises:
        MissingExtraError: they are not installed, or too old to know times.
    """
    load_cv2()  # silent from here on
    needs = 'tracking needs the package trackers: pip install "detkit-cv[track]"'
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import supervision
            import trackers
    except ImportError as error:
        raise MissingExtraError(needs, found=str(error).splitlines()[0]) from error
    if "timestamp" not in inspect.signature(trackers.ByteTrackTracker.update).parameters:
        raise MissingExtraError(needs, found="an older version", expected="trackers 2.6 or newer")
    return trackers, supervision
