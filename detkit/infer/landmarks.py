"""`LandmarkPredictor`: points on the boxes of a photo; the second stage behind a detector, and what eval measures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import tee
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detkit.data.dataset import Sample
from detkit.detections import Detections
from detkit.engines import Engine, EngineName, open_engine, weights_suffix
from detkit.errors import UsageError, WeightsError
from detkit.images import read_image
from detkit.infer.crops import Image, cut, inverse, move_points, to_canvas_matrix, windows_cxcys
from detkit.weights import find_weights

_BATCH = 32  # windows per run of the network


class LandmarkPredictor:
    """Finds the points of each box, one model for all: `LandmarkPredictor("face-landmarks").points(photo, boxes)`."""

    def __init__(self, weights: str | Path | Engine, engine: EngineName = "auto") -> None:
        """Load a model of points.

        Args:
            weights: a model file, the name of a shipped model, or a loaded engine.
            engine: what runs a model that is not loaded yet; see `open_engine`.
        Raises:
            WeightsError, MissingExtraError: the model cannot be used, or gives no points.
        """
        if isinstance(weights, str | Path):
            self.path: Path | None = find_weights(weights, weights_suffix(engine))
            self.engine = open_engine(self.path, engine)
        else:
            self.path, self.engine = None, weights
        self.card = self.engine.card
        height, width = self.card.input_hw
        if self.card.task != "landmarks" or height != width:
            found = f"task {self.card.task!r}, canvas {width}x{height}"
            raise WeightsError("is no model of points", file=self.path, found=found, expected="'landmarks', square")

    def points(self, image_rgb: Image, boxes_xyxy: ArrayLike) -> NDArray[np.float32]:
        """Points of each box.

        Args:
            image_rgb: the photo, uint8 [H, W, 3].
            boxes_xyxy: [N, 4] in its pixels; N may be 0.
        Returns:
            float32 [N, P, 3]: x, y in the photo's pixels and the probability that the point is visible.
        """
        return next(self.stream([(image_rgb, boxes_xyxy)]))

    def stream(self, photos: Iterable[tuple[Image, ArrayLike]]) -> Iterator[NDArray[np.float32]]:
        """`points` of each of many photos, in order; windows of several photos share a run of the network."""
        side = self.card.input_hw[0]
        counts: list[int] = []
        canvases: list[Image] = []
        matrices: list[NDArray[np.float64]] = []
        for image_rgb, boxes_xyxy in photos:
            windows = windows_cxcys(boxes_xyxy, self.card.crop_margin)
            own = [to_canvas_matrix(window, side) for window in windows]
            counts.append(len(own))
            matrices += own
            canvases += [cut(image_rgb, matrix, side, self.card.pad_value) for matrix in own]
            if len(canvases) >= _BATCH:
                yield from self._run(canvases, matrices, counts)
                counts, canvases, matrices = [], [], []
        yield from self._run(canvases, matrices, counts)

    def stream_truth(self, samples: Iterable[Sample]) -> Iterator[Detections]:
        """The labelled boxes of each sample with the points found on them, scored by their mean visibility.

        Raises:
            DataError: a photo cannot be read.
        """
        first, second = tee(samples)
        photos = ((read_image(sample.image_path), sample.truth.boxes_xyxy) for sample in first)
        for points, sample in zip(self.stream(photos), second, strict=True):
            scores = points[..., 2].mean(axis=1)
            yield replace(sample.truth, scores=scores, points_xyv=points, crowd=None)

    def add_points(
        self, images_rgb: Sequence[Image], found: Sequence[Detections], class_names: Sequence[str]
    ) -> list[Detections]:
        """The same detections, photo by photo, with points; a box of a class unknown here gets visibility 0."""
        known = [k for k, name in enumerate(class_names) if name in self.card.class_names]
        rows = [np.flatnonzero(np.isin(detections.labels, known)) for detections in found]
        boxes = [detections.boxes_xyxy[own] for detections, own in zip(found, rows, strict=True)]
        with_points = []
        for detections, own, points in zip(found, rows, self.stream(zip(images_rgb, boxes, strict=True)), strict=True):
            every = np.zeros((len(detections), len(self.card.point_names), 3), np.float32)
            every[own] = points
            with_points.append(replace(detections, points_xyv=every))
        return with_points

    def check_detector(self, class_names: Sequence[str]) -> None:
        """Refuse a detector that finds nothing this model has points for (UsageError)."""
        if not set(class_names) & set(self.card.class_names):
            raise UsageError(
                "the model of points does not fit the detector: they share no class",
                found=f"points of {', '.join(self.card.class_names)}; boxes of {', '.join(class_names[:10])}",
            )

    def _run(
        self, canvases: list[Image], matrices: list[NDArray[np.float64]], counts: list[int]
    ) -> Iterator[NDArray[np.float32]]:
        """The points of the photos gathered, back on each photo."""
        found = [np.zeros((0, len(self.card.point_names), 3), np.float32)]
        for start in range(0, len(canvases), _BATCH):
            rows = slice(start, start + _BATCH)
            on_canvas = self.engine.run(np.stack(canvases[rows])).points_xyv
            assert on_canvas is not None, "the engine was checked against the card"
            found.append(move_points(on_canvas[:, 0], inverse(np.stack(matrices[rows]))))
        yield from np.split(np.concatenate(found), np.cumsum(counts)[:-1]) if counts else []
