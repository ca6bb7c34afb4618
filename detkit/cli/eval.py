"""`detkit eval`: how good a model is on labelled photos, in COCO's numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from detkit.cli import options, terminal
from detkit.data import formats
from detkit.data.dataset import Dataset, check_class_names
from detkit.detections import Detections
from detkit.errors import DataError, UsageError
from detkit.evaluate.coco import CONF_FLOOR, MAX_DET, CocoResult, Engine, evaluate, results_list
from detkit.files import replacing
from detkit.infer.predictor import Predictor
from detkit.weights import find_weights, read_card

_MEANINGS = {
    "AP": "mean over IoU 0.50:0.95",
    "AP50": "at IoU 0.50",
    "AP75": "at IoU 0.75",
    "APs": "objects up to 32x32 px",
    "APm": "objects of 32x32 to 96x96 px",
    "APl": "larger objects",
    "AR1": "recall with 1 box per image and class",
    "AR10": "recall with 10",
    "AR100": "recall with 100",
    "ARs": "recall, objects up to 32x32 px",
    "ARm": "recall, objects of 32x32 to 96x96 px",
    "ARl": "recall, larger objects",
}


def eval_(
    data: Annotated[
        Path,
        typer.Argument(metavar="DATA", help="Data set: a folder, a data.yaml or a COCO JSON file.", show_default=False),
    ],
    split: Annotated[
        str | None, typer.Option("--split", help="Which part of the data.  [default: val, or the only one]")
    ] = None,
    weights: options.Weights = None,
    engine: Annotated[
        Engine, typer.Option("--engine", help="Who computes the figures; both give the same.")
    ] = "hotcoco",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Photos per run of the network.")] = 1,
    save_predictions: Annotated[
        Path | None,
        typer.Option("--save-predictions", metavar="FILE", help="Write the boxes in COCO's results format (JSON)."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Say how good a model is on labelled photos, in COCO's numbers.

    Prints COCO's 12 figures (0 to 1) and AP for each class, by COCO's rules: at most 100 boxes per image, and a
    detection on a crowd box counts neither way. A figure with nothing to measure is "-" in the table and -1 in JSON.

    Example:  detkit eval street --split val --weights runs/street/best.onnx
    """
    file = find_weights(weights)
    card = read_card(file)
    dataset = _read(data, split)
    terminal.say(terminal.describe_dataset(dataset))
    check_class_names(card.class_names, dataset)
    if save_predictions is not None:
        _check_target(save_predictions, dataset)
    predictions = _predict(Predictor(file, conf=CONF_FLOOR, max_det=MAX_DET), dataset, batch)
    if save_predictions is not None:
        _write_json(save_predictions, results_list(dataset, predictions))
    result = evaluate(dataset, predictions, engine)
    if as_json:
        where = {"data": str(dataset.source), "split": dataset.split, "format": dataset.format, "weights": str(file)}
        terminal.print_json(result.to_dict() | where | {"conf": CONF_FLOOR, "iou": card.thresholds["iou"]})
    else:
        _print_tables(result)


def _read(data: Path, split: str | None) -> Dataset:
    """The split asked for; unasked, the only one there is, else val."""
    try:
        return formats.read(data, split)
    except DataError as first:
        if split is not None:
            raise
        try:
            return formats.read(data, "val")
        except DataError:
            raise first from None  # it names the splits there are, or what is wrong with the only one


def _predict(predictor: Predictor, dataset: Dataset, batch: int) -> list[Detections]:
    found = predictor.predict_files([sample.image_path for sample in dataset], batch=batch)
    return list(terminal.progress(found, total=len(dataset), title="detecting"))


def _check_target(target: Path, dataset: Dataset) -> None:
    """Refuse before the long work what could not be written after it."""
    if not target.absolute().parent.is_dir():
        raise UsageError("--save-predictions: no such folder", file=target.parent)
    if target.is_dir() or (target.exists() and dataset.source.exists() and target.samefile(dataset.source)):
        raise UsageError("--save-predictions would overwrite the data", file=target, expected="a new file")


def _write_json(target: Path, document: Any) -> None:
    with replacing(target) as partial:
        partial.write_text(json.dumps(document), encoding="utf-8")


def _print_tables(result: CocoResult) -> None:
    figures = [(name, _number(value), _MEANINGS[name]) for name, value in result.figures().items()]
    terminal.print_table(("figure", "value", "what it says"), figures, right=("value",))
    print()
    rows = [(c.name, _number(c.AP), _number(c.AP50), str(c.truths), str(c.detections)) for c in result.per_class]
    headers = ("class", "AP", "AP50", "truths", "detections")
    terminal.print_table(headers, rows, right=headers[1:])


def _number(value: float) -> str:
    return "-" if value < 0 else f"{value:.3f}"
