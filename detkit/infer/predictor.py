"""`Predictor`: pictures in, their `Detections` out; what the command line, evaluation and training's validation use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from detkit.detections import Detections
from detkit.engines import Engine, EngineName, open_engine, weights_suffix
from detkit.errors import UsageError
from detkit.images import Image, Placement, decode_image, decode_reduced, place
from detkit.infer.canvas_size import square_canvas
from detkit.infer.frames import Ended, Frame, Item, Unreadable
from detkit.infer.landmarks import LandmarkPredictor
from detkit.infer.pipeline import Event, FrameReader, Stages, run
from detkit.infer.pyramid import Level, Sliding
from detkit.infer.reading import Reading
from detkit.infer.selection import MAX_DET, Selection, Suppression, check_within_graph, class_labels, select
from detkit.infer.sliding import open_windows
from detkit.infer.sources import find_items, read_photo_bytes
from detkit.infer.tiles import Tiling, Window, crops, for_windows, merge
from detkit.thresholds import Thresholds, read_thresholds
from detkit.weights import ModelCard, find_weights

if TYPE_CHECKING:
    from detkit.infer.archive_reader import ArchiveReader

Source = str | Path | Item


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the network sees of one picture: one canvas, one for each window of a tiled picture, or a pyramid."""

    canvases: list[Image]
    placements: list[Placement]
    windows: tuple[Window, ...]
    levels: tuple[Level, ...] = ()


class Predictor:
    """Finds objects with one model.

    `for frame, detections in Predictor("model.onnx").stream("photos"): ...`
    """

    def __init__(
        self,
        weights: str | Path | Engine | None = None,
        *,
        conf: float | None = None,
        iou: float | None = None,
        max_det: int | None = None,
        nms: Suppression = "class",
        classes: Sequence[str] | None = None,
        thresholds: Path | Thresholds | None = None,
        size_px: int | None = None,
        tiling: Tiling | None = None,
        engine: EngineName = "auto",
        photos: int = 1,
        landmarks: str | Path | Engine | None = None,
        sliding: Sliding | None = None,
    ) -> None:
        """Load a model.

        Args:
            weights: a model file, the name of a shipped model, a loaded engine, or None for the default model.
            conf, iou: thresholds; None takes the model card's.
            max_det, nms: see `Selection`, which holds the defaults; that of `max_det` is 1 for a localizer.
            classes: names of the classes to look for; None for all.
            thresholds: a confidence for each class, or the file that holds them; `conf` goes before them.
            size_px: side of the square canvas photos are laid on; None for the model card's.
            tiling: look at large pictures in tiles too.
            engine, photos: what runs a model that is not loaded yet, and for how many; see `open_engine`.
            landmarks: a model of points, which is run on each box found of a class it knows.
            sliding: how a window model looks at photos.
        Raises:
            WeightsError, MissingExtraError: a model cannot be used.
            DataError: thresholds that cannot be read, or not for these classes.
            UsageError: a setting out of its range, an unknown class, or models that share no class.
        """
        if weights is None or isinstance(weights, str | Path):
            self.path: Path | None = find_weights(weights, weights_suffix(engine))
            self.engine = open_engine(self.path, engine, photos=photos)
        else:
            self.path, self.engine = None, weights
        self.card = self.engine.card
        self.canvas_hw = self.card.input_hw if size_px is None else square_canvas(self.card, size_px)
        self.tiling = tiling
        self.windows = open_windows(self.engine, sliding, tiled=tiling is not None)
        if max_det is None and self.card.task == "localize":
            max_det = 1  # its classes are alternatives for one box
        if max_det is None and self.card.max_det:
            max_det = min(MAX_DET, self.card.max_det)
        limits = {} if max_det is None else {"max_det": max_det}
        self.selection = Selection(
            self.card.thresholds["conf"] if conf is None else conf,
            self.card.thresholds["iou"] if iou is None else iou,
            nms=nms,
            classes=None if classes is None else class_labels(classes, self.class_names),
            class_conf=_class_conf(self.card, conf, thresholds),
            **limits,
        )
        check_within_graph(self.selection, self.card, self.path)
        self.landmarks = None if landmarks is None else LandmarkPredictor(landmarks, engine)
        _check_points(self.card, self.landmarks, tiling)
        _check_localizer(self.card, tiled=tiling is not None, iou=iou, nms=nms)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in label order."""
        return self.card.class_names

    @property
    def points_card(self) -> ModelCard:
        """The card that names the points of a detection and their edges: the second model's where there is one."""
        return self.card if self.landmarks is None else self.landmarks.card

    def with_conf(self, conf: float) -> Predictor:
        """The same, model and all, with another confidence for every class."""
        other = copy(self)
        other.selection = replace(self.selection, conf=conf, class_conf=None)
        return other

    def predict(self, image_rgb: Image) -> Detections:
        """Detections on one photo, uint8 [H, W, 3] RGB, best first, in the photo's pixels."""
        return self.predict_batch([image_rgb])[0]

    def predict_batch(self, images_rgb: Sequence[Image]) -> list[Detections]:
        """Detections on each of several photos of any sizes, run through the network together."""
        if not images_rgb:
            return []
        seen = [self._prepare(image_rgb, (image_rgb.shape[0], image_rgb.shape[1])) for image_rgb in images_rgb]
        return self._detect(seen, images_rgb)

    def predict_files(self, paths: Sequence[Path], *, batch: int = 1) -> Iterator[Detections]:
        """Detections on each of many image files, in order, `batch` of them at a time through the network.

        Raises:
            DataError: a file cannot be read.
        """
        items = [Item(str(path), Path(path.name), path=path) for path in paths]
        for event in self.events(list(enumerate(items)), Reading(batch=batch, whole_pictures=False)):
            if isinstance(event, Unreadable):
                raise event.error
            if isinstance(event, tuple):
                yield event[1]

    def stream(
        self,
        source: Source | Iterable[Source],
        reading: Reading | None = None,
        *,
        on_unreadable: Callable[[Unreadable], None] | None = None,
        on_ended: Callable[[Ended], None] | None = None,
    ) -> Iterator[tuple[Frame, Detections]]:
        """Each picture of photos, folders, archives, videos and streams with its detections, as soon as they are known.

        Reading and the network go on in threads while you look at a result; they end with the loop over it.

        Args:
            source: one or more of whatever `detkit detect` takes, or what `find_items` found.
            reading: how to read them.
            on_unreadable: called for an item that cannot be read, then the rest goes on; None raises its DataError.
            on_ended: called when a video or stream is through.
        """
        for event in self.events(list(enumerate(find_items(source))), reading or Reading()):
            if isinstance(event, tuple):
                yield event
            elif isinstance(event, Ended):
                if on_ended is not None:
                    on_ended(event)
            elif on_unreadable is None:
                raise event.error
            else:
                on_unreadable(event)

    def events(
        self, items: Sequence[tuple[int, Item]], reading: Reading, leave: threading.Event | None = None
    ) -> Generator[Event]:
        """As `stream`, for items with their positions in the whole run, errors and ends in their places.

        Args:
            leave: ends live streams where they are, once it is set.
        """

        def open_video(item: Item, index: int) -> FrameReader:
            from detkit.infer.video import VideoReader

            return VideoReader(item, index, every=reading.every, start_s=reading.start_s, end_s=reading.end_s)

        archives = _archive_reader([item for _, item in items])
        stages = Stages(
            read_photo=lambda item: self._read_photo(read_photo_bytes(item, archives), item, reading.whole_pictures),
            open_video=open_video,
            prepare=self._prepare,
            detect=lambda seen, pictures: self._detect(seen, pictures, reading.batch),
            batch=reading.batch,
            parallel=self.engine.parallel,
        )
        try:
            yield from run(items, stages, leave)
        finally:
            if archives is not None:
                archives.close()

    def _read_photo(self, data: bytes, item: Item, whole: bool) -> tuple[Image, tuple[int, int], Image]:
        """Pixels for the network, the photo's full height and width, and the picture to hand on.

        The network's pixels do not depend on what else is wanted, so boxes do not either.
        """
        if self.tiling is not None or self.landmarks is not None or self.windows is not None:  # they look at details
            image_rgb = decode_image(data, item.name)
            full_hw = image_rgb.shape[0], image_rgb.shape[1]
            if self.windows is not None:
                self.windows.check_photo(full_hw, item.name)
            return image_rgb, full_hw, image_rgb
        reduced_rgb, full_hw = decode_reduced(data, item.name, self.canvas_hw, self.card.fit)
        is_full = not whole or reduced_rgb.shape[:2] == full_hw
        return reduced_rgb, full_hw, reduced_rgb if is_full else decode_image(data, item.name)

    def _prepare(self, pixels_rgb: Image, full_hw: tuple[int, int]) -> _Seen:
        """Lay a picture, or each of its windows, on canvases."""
        if self.windows is not None:
            return _Seen([], [], (), tuple(self.windows.levels(pixels_rgb)))
        card = self.card
        if self.tiling is None:
            canvas, at = place(pixels_rgb, self.canvas_hw, card.fit, card.pad_value, image_hw=full_hw)
            return _Seen([canvas], [at], ())
        windows = self.tiling.windows(full_hw)
        placed = [place(part, self.canvas_hw, card.fit, card.pad_value) for part in crops(pixels_rgb, windows)]
        return _Seen([canvas for canvas, _ in placed], [at for _, at in placed], windows)

    def _detect(self, seen: Sequence[_Seen], pictures: Sequence[Image], batch: int = 1) -> list[Detections]:
        """Run the network on what it sees of some pictures and choose each one's detections."""
        if self.windows is not None:
            found = [self.windows.detections(one.levels, self.selection) for one in seen]
            return found if self.landmarks is None else self.landmarks.add_points(pictures, found, self.class_names)
        placements = [at for one in seen for at in one.placements]
        selection = self.selection if self.tiling is None else for_windows(self.selection)
        selected = self._select([canvas for one in seen for canvas in one.canvases], placements, selection, batch)
        found = []
        for one in seen:
            own, selected = selected[: len(one.placements)], selected[len(one.placements) :]
            found.append(merge(own, one.windows, self.selection) if one.windows else own[0])
        return found if self.landmarks is None else self.landmarks.add_points(pictures, found, self.class_names)

    def _select(
        self, canvases: Sequence[Image], placements: Sequence[Placement], selection: Selection, batch: int
    ) -> list[Detections]:
        """Detections on each canvas; each run of the network has `batch` canvases or all there are.

        A last run that is short is filled up with black: rounding depends on how many there are, so a picture's
        boxes would depend on its neighbours.
        """
        found: list[Detections] = []
        step = len(canvases) if batch == 1 and self.tiling is None else batch
        for start in range(0, len(canvases), step):
            part = canvases[start][None] if step == 1 else np.stack(canvases[start : start + step])
            missing = step - len(part)
            if missing:
                part = np.concatenate([part, np.zeros((missing, *part.shape[1:]), np.uint8)])
            outputs = self.engine.run(part)
            points: Sequence[NDArray[np.float32] | None] = [None] * step
            if outputs.points_xyv is not None:
                points = list(outputs.points_xyv)
            rows = zip(placements[start : start + step], outputs.boxes_xyxy, outputs.scores, points, strict=False)
            found += [select(boxes, scores, at, selection, own) for at, boxes, scores, own in rows]
        return found


def _class_conf(card: ModelCard, conf: float | None, thresholds: Path | Thresholds | None) -> tuple[float, ...] | None:
    """A confidence for each class, where one is known and none for all was asked for."""
    if conf is not None:
        return None
    file = thresholds if isinstance(thresholds, Path) else None
    chosen = read_thresholds(thresholds) if isinstance(thresholds, Path) else thresholds
    if chosen is not None:
        return chosen.for_classes(card.class_names, card.thresholds["conf"], file=file)
    return card.class_conf()


def _check_points(card: ModelCard, landmarks: LandmarkPredictor | None, tiling: Tiling | None) -> None:
    """Refuse a second model that does not fit the first, and what does nothing where the first finds points itself."""
    if card.task == "landmarks" and (tiling is not None or landmarks is not None):
        what = "a model of points takes the whole photo for one object: tiles and a second model do nothing"
        raise UsageError(what, expected="a detector, and the points as its landmarks")
    if landmarks is not None:
        landmarks.check_detector(card.class_names)


def _check_localizer(card: ModelCard, *, tiled: bool, iou: float | None, nms: Suppression) -> None:
    """Refuse what does nothing, or nothing sensible, with the one box of a localizer (UsageError)."""
    asked = "tiles" if tiled else "an IoU threshold" if iou is not None else f"nms {nms}" if nms != "class" else ""
    if card.task == "localize" and asked:
        raise UsageError("a localizer gives one box for the whole photo", found=asked, expected="none of these")


def _archive_reader(items: Sequence[Item]) -> ArchiveReader | None:
    """Keeps the archives of a run open, where there are any."""
    if all(item.member is None for item in items):
        return None
    from detkit.infer.archive_reader import ArchiveReader

    return ArchiveReader()
