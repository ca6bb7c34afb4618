"""`detkit import torchvision`: the weights of one of torchvision's detectors as an ordinary model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detkit.cli import options, terminal
from detkit.cli.import_output import canvas_of, check_request, facts_of, say_written, write_model
from detkit.cli.train import need_torch
from detkit.errors import UsageError

if TYPE_CHECKING:
    from detkit.export import Proof
    from detkit.weights import ModelCard

_MOST_NAMES_BYTES = 1 << 20


def torchvision(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The .pth file: a state dict.", show_default=False)],
    model: Annotated[
        str,
        typer.Option("--model", metavar="NAME", help="Which detector, such as fcos_resnet50_fpn.", show_default=False),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The .onnx (to run) or .safetensors (to train on) to write."
        ),
    ],
    names: Annotated[
        Path | None, typer.Option("--names", metavar="FILE", help="Class names, one a line (default: COCO's).")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option("--size", min=32, metavar="PX", help="Side of the canvas (default: about as it was trained)."),
    ] = None,
    licence: Annotated[
        str, typer.Option("--licence", metavar="TEXT", help="Licence of the weights, for the model card.")
    ] = "unspecified",
    as_json: options.Json = False,
) -> None:
    """Turn weights of torchvision's detectors into an ordinary model: to detect with, evaluate, export, or train on.

    The file is one that torchvision published, or one of your own; nothing in it is run. Published COCO weights keep
    their 91 outputs, of which the 80 that are classes are used. An .onnx is proven to give the network's boxes before
    it is kept.

    Example:  detkit import torchvision ssdlite.pth --model ssdlite320_mobilenet_v3_large -o ssdlite.onnx
    """
    check_request(output, licence)
    from detkit.models.pickle_scan import check_torch_file

    check_torch_file(file)  # a bad one is refused at once, before PyTorch is loaded
    need_torch("importing")
    from detkit.models.external_weights import import_torchvision

    network, card = import_torchvision(file, model, None if names is None else _read_names(names), size, licence)
    proof = write_model(network, card, output)
    weights = sum(parameter.numel() for parameter in network.parameters())
    facts = _facts(card, output, proof) | {"weights": weights}
    _say(facts)
    if as_json:
        terminal.print_json(facts)


def _read_names(path: Path) -> list[str]:
    """One class name a line; empty lines are left out."""
    try:
        with path.open("rb") as stream:
            lines = stream.read(_MOST_NAMES_BYTES).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--names cannot be read: {error}", file=path) from error
    return [line.strip() for line in lines if line.strip()]


def _facts(card: ModelCard, output: Path, proof: Proof | None) -> dict[str, Any]:
    return facts_of(card, output, proof) | {
        "model": card.architecture["name"],
        "points": len(card.point_names),
    }


def _say(facts: dict[str, Any]) -> None:
    """What was read, and that it holds."""
    points = f", {facts['points']} points" if facts["points"] else ""
    terminal.say(
        f"{facts['model']}: {facts['weights']:,} weights, {len(facts['classes'])} classes{points}, {canvas_of(facts)}"
    )
    say_written(facts)
