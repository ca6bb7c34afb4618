"""`Predictor`: a photo in, its `Detections` out; what the command line, evaluation and training's validation use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detkit.detections import Detections
from detkit.engines import Engine, EngineName, open_engine, weights_suffix
from detkit.images import place, read_image
from detkit.infer.frames import Frame, Item, Unreadable
from detkit.infer.landmarks import LandmarkPredictor
from detkit.infer.selection import Selection, select
from detkit.infer.sources import find_images, read_frames
from detkit.weights import ModelCard, find_weights


class Predictor:
    """Finds objects in photos with one model.

    `for frame, detections in Predictor("model.onnx").stream("photos"): ...`
    """

    def __init__(
        self,
        weights: str | Path | Engine | None = None,
        *,
        conf: float | None = None,
        iou: float | None = None,
        max_det: int | None = None,
        class_agnostic: bool = False,
        engine: EngineName = "auto",
        photos: int = 1,
        landmarks: str | Path | Engine | None = None,
    ) -> None:
        """Load a model.

        Args:
            weights: a model file, the name of a shipped model, a loaded engine, or None for the default model.
            conf, iou: thresholds; None takes the model card's.
            max_det, class_agnostic: see `Selection`, which holds the defaults.
            engine, photos: what runs a model that is not loaded yet, and for how many; see `open_engine`.
            landmarks: a model of points, which is run on each box found of a class it knows.
        Raises:
            WeightsError, MissingExtraError: a model cannot be used.
            UsageError: a setting out of its range, or models that share no class.
        """
        if weights is None or isinstance(weights, str | Path):
            self.path: Path | None = find_weights(weights, weights_suffix(engine))
            self.engine = open_engine(self.path, engine, photos=photos)
        else:
            self.path, self.engine = None, weights
        self.card = self.engine.card
        limits = {} if max_det is None else {"max_det": max_det}
        self.selection = Selection(
            self.card.thresholds["conf"] if conf is None else conf,
            self.card.thresholds["iou"] if iou is None else iou,
            class_agnostic=class_agnostic,
            **limits,
        )
        self.landmarks = None if landmarks is None else LandmarkPredictor(landmarks, engine)
        if self.landmarks is not None:
            self.landmarks.check_detector(self.class_names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in label order."""
        return self.card.class_names

    @property
    def points_card(self) -> ModelCard:
        """The card that names the points of a detection and their edges: the second model's where there is one."""
        return self.card if self.landmarks is None else self.landmarks.card

    def predict(self, image_rgb: NDArray[np.uint8]) -> Detections:
        """Detections on one photo, uint8 [H, W, 3] RGB, best first, in the photo's pixels."""
        return self.predict_batch([image_rgb])[0]

    def predict_batch(self, images_rgb: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """Detections on each of several photos of any sizes, run through the network together."""
        if not images_rgb:
            return []
        card = self.card
        placed = [place(image_rgb, card.input_hw, card.fit, card.pad_value) for image_rgb in images_rgb]
        outputs = self.engine.run(np.stack([canvas for canvas, _ in placed]))
        points = outputs.points_xyv if outputs.points_xyv is not None else [None] * len(placed)
        rows = zip(outputs.boxes_xyxy, outputs.scores, points, placed, strict=True)
        found = [select(boxes, scores, at, self.selection, row_points) for boxes, scores, row_points, (_, at) in rows]
        return found if self.landmarks is None else self.landmarks.add_points(images_rgb, found, self.class_names)

    def predict_files(self, paths: Sequence[Path], *, batch: int = 1) -> Iterator[Detections]:
        """Detections on each of many image files, in order, `batch` of them at a time through the network.

        Raises:
            DataError: a file cannot be read.
        """
        for start in range(0, len(paths), batch):
            yield from self.predict_batch([read_image(path) for path in paths[start : start + batch]])

    def stream(
        self,
        source: str | Path | Iterable[str | Path | Item],
        on_unreadable: Callable[[Unreadable], None] | None = None,
    ) -> Iterator[tuple[Frame, Detections]]:
        """Each picture of image files, folders or glob patterns with its detections, as soon as they are known.

        Args:
            source: one or more of them, or what `find_images` found.
            on_unreadable: called for an item that cannot be read, then the rest goes on; None raises its DataError.
        """
        for frame in read_frames(find_images(source)):
            if isinstance(frame, Frame):
                yield frame, self.predict(frame.image_rgb)
            elif on_unreadable is None:
                raise frame.error
            else:
                on_unreadable(frame)
