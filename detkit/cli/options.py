"""Options several commands share, declared once: use them as annotations, `weights: Weights = None`."""

from __future__ import annotations

from typing import Annotated

import typer

Weights = Annotated[
    str | None,
    typer.Option("--weights", "-w", metavar="FILE|NAME", help="Model: an .onnx file, or the name of a shipped model."),
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
