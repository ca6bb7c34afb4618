"""`detkit eval`: how good a model is on labelled photos, in COCO's numbers."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from detkit.cli import options, terminal
from detkit.cli.contenders import read_split
from detkit.data import formats
from detkit.data.dataset import Dataset, check_class_names
from detkit.engines import EngineName, weights_suffix
from detkit.errors import UsageError
from detkit.evaluate.coco import CONF_FLOOR, Engine
from detkit.files import replacing
from detkit.weights import find_weights, read_card

_MORE, _WRONG, _FILES = "More figures", "What went wrong", "Files"


Data = Annotated[
    Path,
    typer.Argument(metavar="DATA", help="Data set: a folder, a data.yaml or a COCO JSON file.", show_default=False),
]
Split = Annotated[str | None, typer.Option("--split", help="Which part of the data.  [default: val, or the only one]")]
Predictions = Annotated[
    Path | None,
    typer.Option(
        "--predictions",
        metavar="FILE",
        help="Measure stored results instead of a model: COCO's results JSON, or the JSONL or folder of detect.",
    ),
]
FiguresEngine = Annotated[Engine, typer.Option("--engine", help="Who computes the figures; both give the same.")]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Photos per run of the network.")]
IouThresholds = Annotated[
    str | None,
    typer.Option(
        "--iou-thresholds", metavar="IOUS", help="Also AP and AR at these IoUs: 0.5,0.9.", rich_help_panel=_MORE
    ),
]
Sizes = Annotated[
    str | None,
    typer.Option(
        "--sizes",
        metavar="NAME=FROM-TO,...",
        help="Also AP by these sizes, in px of the side of a square of the object's area: tiny=0-16,rest=16-.",
        rich_help_panel=_MORE,
    ),
]
Voc = Annotated[
    bool, typer.Option("--voc", help="Also PASCAL VOC's mAP, of all points and of 11.", rich_help_panel=_MORE)
]
Oks = Annotated[bool, typer.Option("--oks", help="Also COCO's keypoint AP.", rich_help_panel=_MORE)]
OksSigmas = Annotated[
    str | None,
    typer.Option(
        "--oks-sigmas",
        metavar="SIGMAS",
        help="Spread of each point, or one number for all; implies --oks (default: COCO's, by the points' names).",
        rich_help_panel=_MORE,
    ),
]
Mistakes = Annotated[
    bool,
    typer.Option(
        "--mistakes",
        help="Also what AP is lost to, which classes are confused, the worst photos and doubtful labels.",
        rich_help_panel=_WRONG,
    ),
]
Conf = Annotated[
    float | None,
    typer.Option(
        "--conf",
        metavar="SCORE",
        help="Confidence at which mistakes are counted (default: the model's; for results, each class's best F1).",
        rich_help_panel=_WRONG,
    ),
]
Plots = Annotated[
    Path | None, typer.Option("--plots", metavar="DIR", help="Write every plot as a PNG.", rich_help_panel=_WRONG)
]
Report = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Write it all as one HTML page with the photos, that needs no server.",
        rich_help_panel=_WRONG,
    ),
]
WriteThresholds = Annotated[
    Path | None,
    typer.Option(
        "--write-thresholds",
        metavar="FILE",
        help="Choose a confidence for each class and write them: a .json for detect --thresholds, or a copy of the "
        "model (.onnx, .safetensors) that uses them.",
        rich_help_panel=_FILES,
    ),
]
Precision = Annotated[
    float | None,
    typer.Option(
        "--precision",
        metavar="P",
        help="Choose the lowest confidence with this precision (default: the best F1).",
        rich_help_panel=_FILES,
    ),
]
SavePredictions = Annotated[
    Path | None,
    typer.Option(
        "--save-predictions",
        metavar="FILE",
        help="Write the boxes in COCO's results format (JSON).",
        rich_help_panel=_FILES,
    ),
]


@dataclass(frozen=True, slots=True)
class Extras:
    """What is measured and written besides COCO's figures; see `detkit eval --help`."""

    ious: tuple[float, ...]
    sizes: dict[str, tuple[float, float]] | None
    voc: bool
    oks: bool
    sigmas: tuple[float, ...] | None
    mistakes: bool
    conf: float | None
    precision: float | None
    thresholds_to: Path | None
    plots: Path | None
    report: Path | None

    def targets(self) -> dict[str, Path]:
        """The files to write by the option that asks for them."""
        named = {"--write-thresholds": self.thresholds_to, "--report": self.report}
        return {option: path for option, path in named.items() if path is not None}


def eval_(
    data: Data,
    split: Split = None,
    format_: options.SourceFormat = None,
    weights: options.Weights = None,
    predictions: Predictions = None,
    engine: FiguresEngine = "hotcoco",
    backend: options.Backend = "auto",
    batch: Batch = 1,
    iou_thresholds: IouThresholds = None,
    sizes: Sizes = None,
    voc: Voc = False,
    oks: Oks = False,
    oks_sigmas: OksSigmas = None,
    mistakes: Mistakes = False,
    conf: Conf = None,
    plots: Plots = None,
    report: Report = None,
    write_thresholds: WriteThresholds = None,
    precision: Precision = None,
    save_predictions: SavePredictions = None,
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
    extras = Extras(
        ious=_numbers("--iou-thresholds", iou_thresholds),
        sizes=_sizes(sizes),
        voc=voc,
        oks=oks or oks_sigmas is not None,
        sigmas=_numbers("--oks-sigmas", oks_sigmas) or None,
        mistakes=mistakes,
        conf=conf,
        precision=precision,
        thresholds_to=write_thresholds,
        plots=plots,
        report=report,
    )
    if predictions is not None and (weights is not None or save_predictions is not None):
        raise UsageError("--predictions goes with neither --weights nor --save-predictions")
    if precision is not None and write_thresholds is None:
        raise UsageError("--precision goes with --write-thresholds")
    file = None if predictions is not None else find_weights(weights, weights_suffix(backend))
    card = None if file is None else read_card(file)
    dataset = _read(data, split, format_, need_photos=predictions is None or report is not None)
    for option, target in (extras.targets() | _named("--save-predictions", save_predictions)).items():
        _check_target(option, target, dataset, file)
    if card is not None:
        check_class_names(card.class_names, dataset)
    where: dict[str, Any] = {"data": str(dataset.source), "split": dataset.split, "format": dataset.format}
    where |= {"predictions": str(predictions)} if file is None else {"weights": str(file)}
    if file is not None and card is not None and card.task == "landmarks":
        _refuse_box_extras(extras)
        _eval_points(file, dataset, backend, save_predictions, where if as_json else None)
        return
    from detkit.cli.eval_boxes import detected, eval_boxes, stored

    if file is None or card is None:
        assert predictions is not None
        boxes = stored(predictions, dataset)
    else:
        boxes = detected(file, card, dataset, backend, batch)
        where |= {"backend": boxes.engine, "conf": CONF_FLOOR, "iou": card.thresholds["iou"]}
    if save_predictions is not None:
        _write_json(save_predictions, boxes.results(dataset))
    eval_boxes(dataset, boxes, engine, extras, where if as_json else None)


def _named(option: str, path: Path | None) -> dict[str, Path]:
    return {} if path is None else {option: path}


def _numbers(option: str, text: str | None) -> tuple[float, ...]:
    """The numbers of "0.5,0.9"."""
    try:
        values = tuple(float(part) for part in text.split(",")) if text is not None else ()
    except ValueError:
        values = (math.nan,)
    if any(not math.isfinite(value) for value in values):
        raise UsageError(option, found=repr(text), expected="numbers with commas between them, such as 0.5,0.9")
    return values


def _sizes(text: str | None) -> dict[str, tuple[float, float]] | None:
    """The ranges of "tiny=0-16,rest=16-"."""
    if text is None:
        return None
    ranges: dict[str, tuple[float, float]] = {}
    for part in text.split(","):
        name, equals, span = part.partition("=")
        low, dash, high = span.partition("-")
        try:
            ranges[name.strip()] = float(low), float(high) if high.strip() else math.inf
        except ValueError:
            equals = ""
        if not (equals and dash and name.strip()):
            expected = "NAME=FROM-TO with commas between them, such as tiny=0-16,rest=16-"
            raise UsageError("--sizes", found=repr(part), expected=expected)
    return ranges


def _read(data: Path, split: str | None, format_: formats.Format | None, *, need_photos: bool) -> Dataset:
    """The labelled photos, described on stderr; stored results need no photos on disk."""
    found = formats.recognise(data, format_)
    dataset = read_split(data, split, format_, need_photos=need_photos)
    terminal.say(f"{data}: {found.reason}")
    terminal.say(terminal.describe_dataset(dataset))
    return dataset


def _check_target(option: str, target: Path, dataset: Dataset, model: Path | None) -> None:
    """Refuse before the long work what could not be written after it."""
    if not target.absolute().parent.is_dir():
        raise UsageError(f"{option}: no such folder", file=target.parent)
    inputs = [path for path in (dataset.source, model) if path is not None and path.exists()]
    if target.is_dir() or (target.exists() and any(target.samefile(path) for path in inputs)):
        raise UsageError(f"{option} would overwrite the data or the model", file=target, expected="a new file")


def _refuse_box_extras(extras: Extras) -> None:
    """Options that need boxes, for a model of points."""
    asked = {
        "--iou-thresholds": extras.ious,
        "--sizes": extras.sizes,
        "--voc": extras.voc,
        "--oks": extras.oks,
        "--mistakes": extras.mistakes,
        "--plots": extras.plots,
        "--report": extras.report,
        "--write-thresholds": extras.thresholds_to,
    }
    for option, value in asked.items():
        if value:
            raise UsageError(f"{option} measures boxes; this is a model of points")


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


def _write_json(target: Path, document: Any) -> None:
    with replacing(target) as partial:
        partial.write_text(json.dumps(document), encoding="utf-8")
