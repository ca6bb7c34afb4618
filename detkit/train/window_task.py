"""The task "window" in training: windows of photos in, classes out, judged by COCO's AP50 of the sliding detector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detkit.boxes import xyxy_to_cxcywh
from detkit.data.dataset import Dataset, Sample
from detkit.detections import Detections
from detkit.engines import Engine
from detkit.errors import WeightsError
from detkit.evaluate.coco import CONF_FLOOR, MAX_DET, evaluate
from detkit.evaluate.intervals import bootstrap
from detkit.files import replacing
from detkit.images import Image
from detkit.infer.predictor import Predictor
from detkit.infer.pyramid import Sliding
from detkit.infer.sliding import WindowDetector
from detkit.nms import nms
from detkit.train.distributed import Team
from detkit.train.loader import CanvasMaker, PhotoCache
from detkit.train.settings import TrainSettings
from detkit.train.task import Task
from detkit.train.window_crops import WindowCrops, learnable_objects, mean_shapes, overlap_with, smallest_px
from detkit.weights import ModelCard

_CONF, _IOU = 0.9, 0.3  # objects are far rarer among all windows of a photo than among those of the training
_MINING = Sliding(scale_step=1.5)  # coarser than in use: a third of the time, and enough to learn from
_MINING_STREAM = 4  # sets the draw of the photos apart from others of the same seed
_HARD_SCORE = 0.05  # a window of background with this score or more is hard
_HARD_IOU = 0.5  # of hard windows that overlap more, the worst one does
_HARD_PER_PHOTO = 30


class Windowing(Task):
    """Objects in windows, judged by COCO's AP50: a box is as exact as the grid and the scales, so AP says little."""

    figure = "AP50"

    def card_fields(self, train: Dataset, settings: TrainSettings) -> dict[str, Any]:
        """The room around an object, the box that is drawn for each class, and the thresholds."""
        margin, window_px = settings.examples.margin, settings.size_px
        return {
            "crop_margin": margin,
            "smallest_px": smallest_px(train, margin, window_px),
            "anchors_wh_px": (mean_shapes(train, margin, window_px),),
            "thresholds": {"conf": _CONF, "iou": _IOU},
            "training": {"objects": len(learnable_objects(train, margin, window_px))},
        }

    def canvases(self, photos: PhotoCache, settings: TrainSettings, card: ModelCard) -> WindowCrops:
        """Windows on objects and of background."""
        return WindowCrops(photos.at_full_size(), settings.examples, settings.size_px, card.pad_value)

    def order(self, canvases: CanvasMaker, train: Dataset, settings: TrainSettings, epoch: int) -> NDArray[np.int64]:
        """Every object as often as the settings say, and the background beside them."""
        assert isinstance(canvases, WindowCrops)
        return canvases.order(settings.seed, epoch)

    def before_epoch(
        self,
        canvases: CanvasMaker,
        engine: Callable[[], Engine],
        progress: float,
        run: Path,
        team: Team,
        *,
        begun: bool,
    ) -> None:
        """Bring the hard negatives up to the round of mining that `progress` asks for.

        Each round is kept in the run folder. A run that goes on in the middle of an epoch reads them there; one that
        goes on between two epochs may mine again, with the weights that it was saved with, and finds the same.

        Raises:
            WeightsError: the file of a round is missing.
        """
        assert isinstance(canvases, WindowCrops)
        rounds = canvases.settings.mining_rounds
        due = min(rounds, int(progress * (rounds + 1) + 1e-9))
        if canvases.mining_round == due:
            return
        file = _file_of(run, due)
        resumed = canvases.mining_round is None and due > 0 and team.from_leader(file.is_file())
        if due > 0 and not resumed:
            if begun:
                raise WeightsError("the hard negatives of this run are missing, so it cannot go on", file=file)
            photos = np.random.default_rng((_MINING_STREAM, due)).permutation(len(canvases.photos))
            photos = photos[: canvases.settings.mining_photos]
            detector = WindowDetector(engine(), _MINING)
            part = [hard_negatives(canvases, detector, int(photos[i])) for i in team.share_out(len(photos))]
            mined = np.concatenate(team.gathered(part, len(photos)))
            if team.leads:
                with replacing(file) as partial, partial.open("wb") as stream:
                    np.save(stream, mined)
        earlier = [_file_of(run, number) for number in range(1, due + 1)]
        kept = [np.load(path) for path in earlier if path.is_file()] if team.leads else []
        canvases.hard = team.from_leader(np.concatenate([np.zeros((0, 4)), *kept]))
        canvases.mining_round = due

    def predict(self, engine: Engine, samples: Sequence[Sample]) -> list[Detections]:
        """Boxes down to COCO's lowest scores; none on a photo too small for the window."""
        predictor = Predictor(engine, conf=CONF_FLOOR, max_det=MAX_DET)
        return _predicted(predictor, samples)

    def show(self, engine: Engine, samples: Sequence[Sample]) -> list[Detections]:
        """Boxes above the card's threshold."""
        return _predicted(Predictor(engine), samples)

    def figures(self, val: Dataset, predictions: Sequence[Detections]) -> dict[str, float]:
        """COCO's 12 figures."""
        return evaluate(val, list(predictions)).figures()

    def intervals(self, val: Dataset, predictions: Sequence[Detections]) -> dict[str, list[float]]:
        """Of AP, AP50 and AP75."""
        return bootstrap(val, list(predictions)).figures()


def hard_negatives(canvases: WindowCrops, detector: WindowDetector, photo: int) -> NDArray[np.float64]:
    """Windows of a training photo that the network takes for an object and that show none.

    Returns:
        [N, 4]: the photo's index, and centre x, centre y and side in its pixels; the worst first.
    """
    image_rgb, _ = canvases.photos[photo]
    truth = canvases.photos.dataset.samples[photo].truth
    windows_xyxy, scores = _all_windows(detector, image_rgb)
    cxcywh = np.asarray(xyxy_to_cxcywh(windows_xyxy), np.float64)
    cxcys = np.column_stack([cxcywh[:, :2], cxcywh[:, 2:].mean(axis=1)])
    margin, limit = canvases.settings.margin, canvases.settings.negative_iou
    wrong = np.flatnonzero(overlap_with(cxcys, truth, margin) < limit)
    kept = wrong[nms(windows_xyxy[wrong], scores[wrong], None, _HARD_IOU)[:_HARD_PER_PHOTO]]
    return np.column_stack([np.full(len(kept), float(photo)), cxcys[kept]])


def _all_windows(detector: WindowDetector, image_rgb: Image) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Windows [N, 4] of a photo and the best score of each [N], of those with a score worth a look."""
    if not detector.scales((image_rgb.shape[0], image_rgb.shape[1])):
        return np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    found = detector.scores(detector.levels(image_rgb))
    scores = np.concatenate([one.scores.max(axis=2).ravel() for one in found])
    windows = np.concatenate([one.windows_xyxy.reshape(-1, 4) for one in found])
    wrong = scores >= _HARD_SCORE
    return windows[wrong], scores[wrong]


def _predicted(predictor: Predictor, samples: Sequence[Sample]) -> list[Detections]:
    assert predictor.windows is not None, "a window model"
    large = [bool(predictor.windows.scales(sample.truth.size_hw)) for sample in samples]
    found = predictor.predict_files([s.image_path for s, fits in zip(samples, large, strict=True) if fits])
    return [next(found) if fits else Detections.empty(s.truth.size_hw) for s, fits in zip(samples, large, strict=True)]


def _file_of(run: Path, mining_round: int) -> Path:
    return run / f"hard-negatives-{mining_round}.npy"
