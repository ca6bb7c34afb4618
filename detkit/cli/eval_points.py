"""`detkit eval` of a model of points: how far they lie from the labelled ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detkit.cli import terminal
from detkit.data.dataset import Dataset
from detkit.data.keypoints import check_point_names, labelled_boxes
from detkit.engines import EngineName
from detkit.evaluate.landmarks import LandmarkResult, evaluate_landmarks, points_results, shape_of_card
from detkit.infer.landmarks import LandmarkPredictor

_MEANINGS = {
    "NME": "mean error, over the {}",
    "FR08": "share of boxes with a mean error above 0.08",
    "FR10": "share of boxes with a mean error above 0.10",
    "AUC": "area under the cumulative curve up to 0.10 (1 is best)",
    "baseline_NME": "mean error of the training data's mean shape laid into each box",
    "ratio": "how many times better than that the model is",
}


def eval_points(file: Path, dataset: Dataset, backend: EngineName) -> tuple[LandmarkResult, list[dict[str, Any]]]:
    """The figures of a model file on the labelled boxes of a data set, and its points as COCO's keypoint results.

    Raises:
        DataError: the data has no labelled points.
        WeightsError: the model has other points, or cannot be used.
    """
    labelled_boxes(dataset)  # a set without points is refused before the long work
    predictor = LandmarkPredictor(file, backend)
    check_point_names(predictor.card.point_names, dataset)
    found = predictor.stream_truth(dataset)
    predictions = list(terminal.progress(found, total=len(dataset), title="finding points"))
    terminal.say(f"points by {file.name} on {predictor.engine.name}")
    result = evaluate_landmarks(dataset, predictions, shape_of_card(predictor.card))
    return result, points_results(dataset, predictions)


def print_tables(result: LandmarkResult) -> None:
    """The figures and the error of each point."""
    meanings = _MEANINGS | {"NME": _MEANINGS["NME"].format(result.normaliser)}
    rows = [(name, _number(value), meanings[name]) for name, value in result.figures().items()]
    terminal.print_table(("figure", "value", "what it says"), rows, right=("value",))
    print()
    points = [(point.name, _number(point.error), str(point.count)) for point in result.per_point]
    terminal.print_table(("point", "error", "labelled"), points, right=("error", "labelled"))
    low, high = result.interval
    left_out = f" ({result.left_out} more have no normaliser: an eye is not labelled)" if result.left_out else ""
    terminal.say(f"boxes: {result.boxes}{left_out}; NME within {low:.4f} to {high:.4f} with 95 %")


def _number(value: float) -> str:
    return "-" if value < 0 else f"{value:.4f}"
