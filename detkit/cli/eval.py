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
from detkit.engines import EngineName, weights_suffix
from detkit.errors import DataError, UsageError
from detkit.evaluate.coco import CONF_FLOOR, MAX_DET, CocoResult, Engine, evaluate, results_list
from detkit.evaluate.intervals import Intervals, bootstrap
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
    format_: options.SourceFormat = None,
    weights: options.Weights = None,
    engine: Annotated[
        Engine, typer.Option("--engine", help="Who computes the figures; both give the same.")
    ] = "hotcoco",
    backend: options.Backend = "auto",
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
    The interval is where the figure would lie on other photos of the same kind, by a bootstrap over images.

    A model of points is measured by how far its points lie from the labelled ones, in the labelled boxes: NME, failure
    rates, the cumulative curve (with --json), each point, and the mean shape for comparison.

    Example:  detkit eval street --split val --weights runs/street/best.onnx
    """
    file = find_weights(weights, weights_suffix(backend))
    card = read_card(file)
    dataset = _read(data, split, format_)
    terminal.say(f"{data}: {formats.recognise(data, format_).reason}")
    terminal.say(terminal.describe_dataset(dataset))
    check_class_names(card.class_names, dataset)
    if save_predictions is not None:
        _check_target(save_predictions, dataset)
    where: dict[str, Any] = {"data": str(dataset.source), "split": dataset.split, "format": dataset.format}
    where |= {"weights": str(file)}
    if card.task == "landmarks":
        _eval_points(file, dataset, backend, save_predictions, where if as_json else None)
        return
    predictor = Predictor(file, conf=CONF_FLOOR, max_det=MAX_DET, engine=backend)
    predictions = _predict(predictor, dataset, batch)
    terminal.say(f"boxes by {file.name} on {predictor.engine.name}")
    if save_predictions is not None:
        _write_json(save_predictions, results_list(dataset, predictions))
    result, spread = evaluate(dataset, predictions, engine), bootstrap(dataset, predictions)
    if as_json:
        where |= {"backend": predictor.engine.name, "conf": CONF_FLOOR, "iou": card.thresholds["iou"]}
        terminal.print_json(result.to_dict() | {"intervals": spread.to_dict()} | where)
    else:
        _print_tables(result, spread)


def _eval_points(
    file: Path, dataset: Dataset, backend: EngineName, save_to: Path | None, json_with: dict[str, Any] | None
) -> None:
    """The same for a model of points; tables, or JSON together with `json_with`."""
    from detkit.cli.eval_points import eval_points, print_tables

    result, rows = eval_points(file, dataset, backend)
    if save_to is not None:
        _write_json(save_to, rows)
    if json_with is None:
        print_tables(result)
    else:
        terminal.print_json(result.to_dict() | json_with)


def _read(data: Path, split: str | None, format_: formats.Format | None) -> Dataset:
    """The split asked for; unasked, the only one there is, else val."""
    try:
        return formats.read(data, split, format_)
    except DataError as first:
        if split is not None:
            raise
        try:
            return formats.read(data, "val", format_)
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


def _print_tables(result: CocoResult, spread: Intervals) -> None:
    known = spread.figures()
    headers: tuple[str, ...] = ("figure", "value", "95 % interval", "what it says")
    figures = [
        (name, _number(value), _range(*known.get(name, (-1.0, -1.0))), _MEANINGS[name])
        for name, value in result.figures().items()
    ]
    terminal.print_table(headers, figures, right=headers[1:2])
    print()
    headers = ("class", "AP", "95 % interval", "AP50", "truths", "detections")
    rows = [
        (c.name, _number(c.AP), _range(*own.AP), _number(c.AP50), str(c.truths), str(c.detections))
        for c, own in zip(result.per_class, spread.per_class, strict=True)
    ]
    terminal.print_table(headers, rows, right=("AP", *headers[3:]))
    if spread.resolution >= 0:
        terminal.say(f"this set can tell apart differences of about {spread.resolution:.3f} AP")


def _range(low: float, high: float) -> str:
    return "" if low < 0 else f"{low:.3f} to {high:.3f}"


def _number(value: float) -> str:
    return "-" if value < 0 else f"{value:.3f}"
