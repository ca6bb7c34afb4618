"""`detkit eval` of a model of points: how far they lie from the labelled ones, and COCO's keypoint figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from detkit.cli import terminal
from detkit.cli.eval_options import Extras
from detkit.cli.eval_tables import print_oks
from detkit.data.dataset import Dataset
from detkit.data.keypoints import check_point_names, labelled_boxes
from detkit.detections import Detections
from detkit.engines import EngineName
from detkit.errors import UsageError
from detkit.evaluate.coco_engines import Engine
from detkit.evaluate.keypoints import KeypointResult, evaluate_keypoints, known_sigmas
from detkit.evaluate.landmarks import LandmarkResult, evaluate_landmarks, points_results, shape_of_card
from detkit.files import replacing
from detkit.infer.landmarks import LandmarkPredictor
from detkit.weights import ModelCard

_MEANINGS = {
    "NME": "mean error, over the {}",
    "FR08": "share of boxes with a mean error above 0.08",
    "FR10": "share of boxes with a mean error above 0.10",
    "AUC": "area under the cumulative curve up to 0.10 (1 is best)",
    "baseline_NME": "mean error of the training data's mean shape laid into each box",
    "ratio": "how many times better than that the model is",
}

_BATCH = "--batch does nothing here: a model of points takes the boxes of many photos at a time"


def check_points_options(extras: Extras, card: ModelCard, batch: int) -> None:
    """Refuse an option that a model of points has nothing for, before any long work (UsageError)."""
    given = dict.fromkeys(extras.for_boxes(), True)
    given |= {"--conf": extras.conf is not None, "--precision": extras.precision is not None, "--batch": batch != 1}
    for option, is_given in given.items():
        if is_given:
            raise UsageError(f"{option} measures boxes; this is a model of points" if option != "--batch" else _BATCH)
    count = len(card.point_names)
    if extras.sigmas is not None and len(extras.sigmas) not in (1, count):
        raise UsageError("--oks-sigmas", found=f"{len(extras.sigmas)} numbers", expected=f"{count}, or one for all")


def eval_points(
    file: Path,
    dataset: Dataset,
    backend: EngineName,
    engine: Engine,
    extras: Extras,
    json_with: dict[str, Any] | None,
) -> None:
    """Measure a model's points on the labelled boxes, write the files asked for, and print tables or JSON.

    COCO's keypoint figures join in when they are asked for, or when the spreads of the points are known.

    Raises:
        DataError: the data has no labelled points.
        WeightsError: the model has other points, or cannot be used.
        UsageError: --oks, and the spreads are not known.
    """
    labelled_boxes(dataset)  # a set without points is refused before the long work
    predictor = LandmarkPredictor(file, backend)
    check_point_names(predictor.card.point_names, dataset)
    sigmas = _sigmas(dataset, extras)
    found = predictor.stream_truth(dataset)
    predictions = list(terminal.progress(found, total=len(dataset), title="finding points"))
    terminal.say(f"points by {file.name} on {predictor.engine.name}")
    result = evaluate_landmarks(dataset, predictions, shape_of_card(predictor.card))
    keypoints = None if sigmas is None else evaluate_keypoints(dataset, predictions, sigmas, engine)
    written = _write(dataset, predictions, extras, result)
    if json_with is None:
        print_tables(result, keypoints)
    else:
        own = {} if keypoints is None else {"keypoints": keypoints.to_dict()}
        terminal.print_json(result.to_dict() | own | {"backend": predictor.engine.name} | json_with)
    for line in written:
        terminal.say(line)


def _sigmas(dataset: Dataset, extras: Extras) -> ArrayLike | None:
    """The spreads of the points; None where they are neither known nor asked for."""
    if extras.sigmas is not None:
        return extras.sigmas
    try:
        return known_sigmas(dataset)
    except UsageError:
        if extras.oks:
            raise
        return None


def _write(dataset: Dataset, predictions: Sequence[Detections], extras: Extras, result: LandmarkResult) -> list[str]:
    """The files asked for; gives a line on each."""
    said = []
    if extras.save_to is not None:
        with replacing(extras.save_to) as partial:
            partial.write_text(json.dumps(points_results(dataset, predictions)), encoding="utf-8")
        said.append(f"points: {extras.save_to}")
    if extras.plots is not None:
        from detkit.evaluate.landmark_plots import write_landmark_plots

        count = len(write_landmark_plots(extras.plots, result, dataset, predictions))
        said.append(f"{terminal.count(count, 'plot')}: {extras.plots}")
    return said


def print_tables(result: LandmarkResult, keypoints: KeypointResult | None = None) -> None:
    """The figures, the error of each point and COCO's keypoint figures."""
    meanings = _MEANINGS | {"NME": _MEANINGS["NME"].format(result.normaliser)}
    rows = [(name, _number(value), meanings[name]) for name, value in result.figures().items()]
    terminal.print_table(("figure", "value", "what it says"), rows, right=("value",))
    print()
    points = [(point.name, _number(point.error), str(point.count)) for point in result.per_point]
    terminal.print_table(("point", "error", "labelled"), points, right=("error", "labelled"))
    if keypoints is not None:
        print_oks(keypoints)
        for rule in keypoints.rules():
            terminal.say(rule)
        terminal.say(
            "The boxes are the labelled ones: of a detector's, store them by detkit detect --landmarks --jsonl."
        )
    low, high = result.interval
    left_out = f" ({result.left_out} more have no normaliser: an eye is not labelled)" if result.left_out else ""
    interval = f"; NME within {low:.4f} to {high:.4f} with 95 %" if low >= 0 else ""
    terminal.say(f"boxes: {result.boxes}{left_out}{interval}")


def _number(value: float) -> str:
    return "-" if value < 0 else f"{value:.4f}"
