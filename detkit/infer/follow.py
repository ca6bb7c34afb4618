"""Following objects through a whole run: numbers, trails and counts, for each video by itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from detkit.detections import Detections
from detkit.draw import LineMark
from detkit.infer.crossings import XY, CountLine, Counts, Crossing, Crossings, feet_xy
from detkit.infer.frames import Frame
from detkit.infer.track import Clock, Tracker, TrackSettings, conf_floor, load_trackers

_MOST_POSITIONS = 256  # of one trail


class Trails:
    """Where the feet of tracked objects were lately, for `draw`; what is past is forgotten, tracks that ended too."""

    def __init__(self, seconds: float = 1.5, fps: Fraction | float | None = None) -> None:
        """Keep so many seconds; `fps` as for `Tracker`."""
        self._seconds = seconds
        self._clock = Clock(None if fps is None else float(fps))
        self._places: dict[int, deque[tuple[float, XY]]] = {}

    def __len__(self) -> int:
        """How many tracks are remembered."""
        return len(self._places)

    def update(self, detections: Detections, time_s: float | None = None) -> dict[int, list[XY]]:
        """Take the next picture, and give the trails of the tracks in it: x, y of each foot, the oldest first."""
        now_s = self._clock.at(time_s)
        ids = [] if detections.track_ids is None else detections.track_ids.tolist()
        for track_id, (x, y) in zip(ids, feet_xy(detections.boxes_xyxy).tolist(), strict=bool(ids)):
            if track_id > 0:
                self._places.setdefault(track_id, deque(maxlen=_MOST_POSITIONS)).append((now_s, (x, y)))
        for track_id, places in list(self._places.items()):
            while places and places[0][0] < now_s - self._seconds:
                places.popleft()
            if not places:
                del self._places[track_id]
        return {track_id: [xy for _, xy in self._places[track_id]] for track_id in ids if track_id > 0}


@dataclass(frozen=True, slots=True, eq=False)
class Tracked:
    """A frame's detections with their numbers, and what else is known of its video by now.

    Args:
        detections: with `track_ids`; see `Tracker.update`.
        trails: x, y of the feet of each track in this frame lately, for `draw`.
        crossings: who crossed which line in this frame.
        counts: all crossings of its video up to this frame; {} where no lines are counted.
        marks: the lines with their counts, for `draw`.
    """

    detections: Detections
    trails: Mapping[int, Sequence[XY]]
    crossings: tuple[Crossing, ...]
    counts: Counts
    marks: tuple[LineMark, ...]


class Tracking:
    """Tracks and counts a whole run: each video, each stream and each folder of photos by itself.

    Photos of one folder are frames of one film, in the order in which they come.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        conf: float | Sequence[float],
        lines: Sequence[CountLine] = (),
        settings: TrackSettings | None = None,
    ) -> None:
        """Prepare for a run; arguments as for `Tracker` and `Crossings`.

        Raises:
            MissingExtraError: `trackers` is not installed.
        """
        load_trackers()
        self._class_names, self._conf, self._lines, self._settings = class_names, conf, tuple(lines), settings
        self._films: dict[int | Path, tuple[Tracker, Trails, Crossings]] = {}

    @property
    def conf_floor(self) -> float:
        """The predictor's `conf` while tracking."""
        return conf_floor(self._conf, self._settings)

    def follow(self, frame: Frame, detections: Detections) -> Tracked:
        """Take a frame and all its boxes scored `conf_floor` or more; the frames of a video come in their order."""
        tracker, trails, crossings = self._film(frame)
        shown = tracker.update(detections, frame.time_s)
        crossed = crossings.update(shown) if self._lines else ()
        counts = crossings.counts if self._lines else {}
        marks = tuple(crossings.marks(shown.size_hw))
        return Tracked(shown, trails.update(shown, frame.time_s), crossed, counts, marks)

    def end(self, index: int) -> Counts:
        """Forget the video or stream with this index in the run, and give its counts; {} where nothing was counted."""
        film = self._films.pop(index, None)
        return film[2].counts if film and self._lines else {}

    def counts_of_photos(self) -> Counts:
        """The counts of the folder of photos that came last; {} where nothing was counted."""
        films = [film for key, film in self._films.items() if isinstance(key, Path)]
        return films[-1][2].counts if films and self._lines else {}

    def _film(self, frame: Frame) -> tuple[Tracker, Trails, Crossings]:
        key: int | Path = Path(frame.name).parent if frame.video is None else frame.index
        if key not in self._films:
            for old in [old for old in self._films if isinstance(old, Path) and isinstance(key, Path)]:
                del self._films[old]  # folders of photos come one after another
            fps = None if frame.video is None else frame.video.fps / frame.video.every
            tracker = Tracker(self._conf, fps, self._settings)
            self._films[key] = tracker, Trails(fps=fps), Crossings(self._lines, self._class_names)
        return self._films[key]
