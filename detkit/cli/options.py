"""Options several commands share, declared once: use them as annotations, `weights: Weights = None`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        "-w",
        metavar="FILE|NAME",
        help="Model: an .onnx, .xml or .safetensors file, or a shipped model's name.",
    ),
]
Adapter = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        metavar="NAME|FILE",
        help="Run an .onnx of another project: yolox, yolox-decoded, yolov5, yolov8 (to 12), end2end, boxes-scores, or "
        "a .toml file; again as KEY=VALUE for a single setting.",
    ),
]
Names = Annotated[
    str | None,
    typer.Option(
        "--names",
        metavar="FILE|coco",
        help="The class names for --adapter: a file, one a line, a data.yaml, or COCO's 80 (default: the file's own).",
    ),
]
Landmarks = Annotated[
    str | None,
    typer.Option("--landmarks", metavar="FILE|NAME", help="A model of points, run on each box of a class it knows."),
]
Size = Annotated[
    int | None,
    typer.Option(
        "--size", metavar="PX", help="Side of the network's canvas (default: the model's).", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout instead of a table.")]
Conf = Annotated[
    float | None,
    typer.Option("--conf", metavar="SCORE", help="Drop boxes scored below this (default: the model's)."),
]
Iou = Annotated[
    float | None,
    typer.Option(
        "--iou",
        metavar="OVERLAP",
        help="Of two boxes of a class that overlap more than this, keep the better (default: the model's).",
    ),
]
Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA", help="Data set: a folder, a data.yaml, a COCO JSON or CSV file.", show_default=False
    ),
]
Format = Literal["coco", "yolo", "voc", "csv"]  # the formats of `detkit.data.formats`, without importing NumPy
SourceFormat = Annotated[
    Format | None, typer.Option("--format", help="What to take the data for (default: detkit finds out).")
]
OnlySplit = Annotated[str | None, typer.Option("--split", metavar="NAME", help="Only this part of the data.")]
# The names of `detkit.engines.EngineName`, without importing NumPy.
BackendName = Literal["auto", "onnxruntime", "openvino", "openvino-bf16", "torch"]
Backend = Annotated[BackendName, typer.Option("--backend", help="What runs the network; auto: onnxruntime.")]
BackendForMany = Annotated[
    BackendName,
    typer.Option(
        "--backend",
        "--engine",
        help="What runs the network; auto: onnxruntime, and from 100 photos on openvino-bf16, where it is installed "
        "and the processor has bf16.",
    ),
]
