"""The options of `detkit eval`, and what they ask for besides COCO's figures, checked before any long work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detkit.engines import EngineName, weights_suffix
from detkit.errors import UsageError
from detkit.evaluate.coco_engines import Engine
from detkit.manifest import find_weights

if TYPE_CHECKING:
    from detkit.engines.foreign import ForeignEngine

_MORE, _WRONG, _FILES = "More figures", "What went wrong", "Thresholds and files"
COPIES = (".onnx", ".safetensors")  # targets of --write-thresholds that are copies of the model

Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA", help="Data set: a folder, a data.yaml, a COCO JSON or CSV file.", show_default=False
    ),
]
Split = Annotated[
    str | None, typer.Option("--split", metavar="NAME", help="Which part of the data.  [default: val, or the only one]")
]
Predictions = Annotated[
    Path | None,
    typer.Option(
        "--predictions",
        metavar="FILE",
        help="Measure stored boxes instead of a model: COCO's results (JSON), or the folder or JSONL that detkit "
        "detect --conf 0.001 wrote. The photos need not be there.",
    ),
]
FiguresEngine = Annotated[Engine, typer.Option("--engine", help="Who computes the figures; both give the same.")]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Photos per run of the network.")]
IouThresholds = Annotated[
    str | None,
    typer.Option(
        "--iou-thresholds", metavar="IOUS", help="AP and AR at these IoUs too: 0.5,0.9.", rich_help_panel=_MORE
    ),
]
Sizes = Annotated[
    str | None,
    typer.Option(
        "--sizes",
        metavar="NAME=FROM-TO,...",
        help="AP and AR by sizes of your own, the square root of an object's area in px: tiny=0-16,rest=16-.",
        rich_help_panel=_MORE,
    ),
]
Voc = Annotated[
    bool, typer.Option("--voc", help="PASCAL VOC's mAP too, of all points and of 11.", rich_help_panel=_MORE)
]
Oks = Annotated[
    bool,
    typer.Option(
        "--oks", help="COCO's keypoint figures too: of --predictions, or of a model of points.", rich_help_panel=_MORE
    ),
]
OksSigmas = Annotated[
    str | None,
    typer.Option(
        "--oks-sigmas",
        metavar="SIGMAS",
        help="Spread of each point, or one number for all; implies --oks (default: those in the labels, else COCO's, "
        "by the points' names).",
        rich_help_panel=_MORE,
    ),
]
Mistakes = Annotated[
    bool,
    typer.Option(
        "--mistakes",
        help="What AP50 is lost to, which classes are confused, the worst photos, and labels that may be wrong.",
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
        help="Write all of it as one HTML page, with the photos in it.",
        rich_help_panel=_WRONG,
    ),
]
Conf = Annotated[
    float | None,
    typer.Option(
        "--conf",
        metavar="SCORE",
        help="Confidence from which on boxes count as shown in these (default: the model's; of stored boxes, each "
        "class's best by F1).",
        rich_help_panel=_WRONG,
    ),
]
WriteThresholds = Annotated[
    Path | None,
    typer.Option(
        "--write-thresholds",
        metavar="FILE",
        help="Choose a confidence for each class, and write them: a .json for detkit detect --thresholds, or a copy "
        "of the model that uses them.",
        rich_help_panel=_FILES,
    ),
]
Precision = Annotated[
    float | None,
    typer.Option(
        "--precision",
        metavar="SHARE",
        help="Choose the lowest confidence from which on this share of the boxes is right (default: the best F1).",
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
    """What is measured and written besides COCO's figures; see `detkit eval --help`.

    Raises:
        UsageError: a value out of its range, or an option that would do nothing.
    """

    ious: tuple[float, ...]
    sizes: dict[str, tuple[float, float]] | None
    voc: bool
    oks: bool
    sigmas: tuple[float, ...] | None
    mistakes: bool
    conf: float | None
    precision: float | None
    plots: Path | None
    report: Path | None
    thresholds_to: Path | None
    save_to: Path | None

    def __post_init__(self) -> None:
        if self.conf is not None and not 0 <= self.conf <= 1:
            raise UsageError("--conf", found=self.conf, expected="0 to 1")
        if self.conf is not None and not (self.mistakes or self.plots or self.report):
            raise UsageError("--conf goes with --mistakes, --plots or --report; the figures take all boxes")
        if self.precision is not None and not 0 < self.precision <= 1:
            raise UsageError("--precision", found=self.precision, expected="above 0 and up to 1")
        if self.precision is not None and not (self.thresholds_to or self.report):
            raise UsageError("--precision goes with --write-thresholds or --report")
        if self.thresholds_to is not None and self.thresholds_to.suffix.lower() not in (".json", *COPIES):
            raise UsageError("--write-thresholds", found=str(self.thresholds_to), expected="a .json or .onnx file")

    def files(self) -> dict[str, Path]:
        """The files to write, by the option that asks for them."""
        named = {
            "--write-thresholds": self.thresholds_to,
            "--report": self.report,
            "--save-predictions": self.save_to,
        }
        return {option: path for option, path in named.items() if path is not None}

    def for_boxes(self) -> list[str]:
        """The options given that are about boxes, and nothing for a model of points."""
        given = {
            "--iou-thresholds": self.ious,
            "--sizes": self.sizes,
            "--voc": self.voc,
            "--mistakes": self.mistakes,
            "--report": self.report,
            "--write-thresholds": self.thresholds_to,
        }
        return [option for option, value in given.items() if value]


def model(
    weights: str | None, adapter: Sequence[str] | None, names: str | None, backend: EngineName
) -> tuple[Path, ForeignEngine | None]:
    """The model's file; where it is of another project, it is loaded already."""
    if adapter:
        from detkit.cli.foreign import open_foreign

        engine = open_foreign(weights, adapter, names, backend)
        return engine.path, engine
    if names is not None:
        raise UsageError("--names is for a network of another project; give --adapter too")
    return find_weights(weights, weights_suffix(backend)), None


def numbers(option: str, text: str | None, *, most: float = math.inf) -> tuple[float, ...]:
    """The numbers of "0.5,0.9", each above 0 and up to `most`."""
    try:
        values = tuple(float(part) for part in text.split(",")) if text is not None else ()
    except ValueError:
        values = (math.nan,)
    if not all(math.isfinite(value) and 0 < value <= most for value in values):
        limit = f" and up to {most:g}" if math.isfinite(most) else ""
        raise UsageError(option, found=repr(text), expected=f"numbers above 0{limit}, commas between: 0.5,0.9")
    return values


def sizes_of(text: str | None) -> dict[str, tuple[float, float]] | None:
    """The ranges of "tiny=0-16,rest=16-"."""
    if text is None:
        return None
    ranges: dict[str, tuple[float, float]] = {}
    for part in text.split(","):
        name, _, span = (word.strip() for word in part.partition("="))
        low, dash, high = span.partition("-")
        try:
            ends = float(low), float(high) if high.strip() else math.inf
        except ValueError:
            ends = (math.nan, math.nan)
        if not (dash and name and 0 <= ends[0] < ends[1]) or name in ranges:
            expected = "NAME=FROM-TO, FROM below TO, each name once, commas between: tiny=0-16,rest=16-"
            raise UsageError("--sizes", found=repr(part), expected=expected)
        ranges[name] = ends
    return ranges
