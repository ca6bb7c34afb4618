"""The task "landmarks" in training: crops of boxes in, points out, judged by the normalised mean error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detkit.data.dataset import Dataset, Sample
from detkit.data.keypoints import labelled_boxes
from detkit.detections import Detections
from detkit.engines import Engine
from detkit.evaluate.landmarks import evaluate_landmarks
from detkit.infer.landmarks import LandmarkPredictor
from detkit.train.crops import BoxCrops, Photos, card_fields, listed_shape
from detkit.train.loader import CanvasMaker
from detkit.train.settings import TrainSettings
from detkit.train.task import Task
from detkit.weights import ModelCard


class Landmarking(Task):
    """Points, judged by their mean error; see `task.Task`."""

    figure = "NME"
    higher_is_better = False

    def usable(self, dataset: Dataset) -> Dataset:
        """Every photo: `canvases` takes the boxes that have points; a split without any is refused."""
        labelled_boxes(dataset)
        return dataset

    def card_fields(self, train: Dataset, settings: TrainSettings) -> dict[str, Any]:
        """The points, the crop, and the mean shape that a model is measured against."""
        return card_fields(train, settings.crop) | {"training": {"mean_shape": listed_shape(train)}}

    def canvases(self, photos: Photos, settings: TrainSettings, card: ModelCard) -> BoxCrops:
        """One crop for each labelled box."""
        return BoxCrops(photos, settings.crop, card.flip_pairs, card.pad_value)

    def order(self, canvases: CanvasMaker, train: Dataset, settings: TrainSettings, epoch: int) -> NDArray[np.int64]:
        """Every box once."""
        return np.random.default_rng((settings.seed, epoch)).permutation(len(canvases))

    def predict(self, engine: Engine, samples: Sequence[Sample]) -> list[Detections]:
        """The labelled boxes with the points found on them."""
        return list(LandmarkPredictor(engine).stream_truth(samples))

    def show(self, engine: Engine, samples: Sequence[Sample]) -> list[Detections]:
        """The same."""
        return self.predict(engine, samples)

    def figures(self, val: Dataset, predictions: Sequence[Detections]) -> dict[str, float]:
        """NME, failure rates and the area under the curve."""
        found = evaluate_landmarks(val, predictions).figures()
        return {name: value for name, value in found.items() if name not in ("baseline_NME", "ratio")}

    def intervals(self, val: Dataset, predictions: Sequence[Detections]) -> dict[str, list[float]]:
        """Of the NME."""
        return {"NME": list(evaluate_landmarks(val, predictions).interval)}
