"""`detkit import darknet`: a Darknet model as an ordinary one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from detkit.cli import options, terminal
from detkit.cli.import_output import canvas_of, check_request, facts_of, say_written, write_model
from detkit.cli.train import need_torch

if TYPE_CHECKING:
    from detkit.export import Proof
    from detkit.models.darknet.network import Darknet
    from detkit.weights import ModelCard


def darknet(
    cfg: Annotated[Path, typer.Argument(metavar="CFG", help="The network: a .cfg file.", show_default=False)],
    weights: Annotated[Path, typer.Argument(metavar="WEIGHTS", help="Its .weights file.", show_default=False)],
    names: Annotated[
        Path, typer.Option("--names", metavar="FILE", help="Class names, one a line.", show_default=False)
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The .onnx (to run) or .safetensors (to train on) to write."
        ),
    ],
    fit: Annotated[
        Literal["stretch", "letterbox"] | None,
        typer.Option("--fit", help="How photos meet the canvas (default: as trained: stretch, or what the cfg says)."),
    ] = None,
    licence: Annotated[
        str, typer.Option("--licence", metavar="TEXT", help="Licence of the weights, for the model card.")
    ] = "unspecified",
    as_json: options.Json = False,
) -> None:
    """Turn a Darknet model into an ordinary one: to detect with, evaluate, export, or train on for other classes.

    Reads what Darknet, and OpenCV before version 5, read: yolo and region heads, all layers of the published
    networks up to YOLOv4. What the reader does not know is refused, never guessed. An .onnx is proven to give the
    network's boxes before it is kept.

    Example:  detkit import darknet yolov3-tiny.cfg yolov3-tiny.weights --names coco.names -o yolov3-tiny.onnx
    """
    check_request(output, licence)
    from detkit.models.darknet.files import DarknetFiles, read_darknet

    read = read_darknet(DarknetFiles(cfg, weights, names))  # what is wrong with a file is said at once
    need_torch("importing")
    from detkit.models.darknet.weights import build_darknet

    model, card = build_darknet(read, fit, licence)
    proof = write_model(model, card, output)
    facts = _facts(model, card, output, proof)
    _say(facts)
    if as_json:
        terminal.print_json(facts)
    else:
        rows = [(str(head["stride_px"]), _sizes(head["anchors_wh_px"])) for head in facts["heads"]]
        terminal.print_table(("stride", "anchors"), rows, right=("stride",))


def _facts(model: Darknet, card: ModelCard, output: Path, proof: Proof | None) -> dict[str, Any]:
    heads = [{"stride_px": head.stride_px, "anchors_wh_px": head.anchors_wh_px} for head in model.cfg.heads]
    return facts_of(card, output, proof) | {
        "cfg": card.training["cfg"],
        "layers": len(model.cfg.layers),
        "weights": sum(conv.parameters for _, conv in model.cfg.convs),
        "photos_seen": card.training["photos_seen"],
        "heads": heads,
    }


def _say(facts: dict[str, Any]) -> None:
    """What was read, and that it holds."""
    counts = f"{facts['layers']} layers, {facts['weights']:,} weights, {len(facts['classes'])} classes"
    terminal.say(f"{facts['cfg']}: {counts}, {canvas_of(facts)}")
    say_written(facts)


def _sizes(anchors_wh_px: Any) -> str:
    return " ".join(f"{width:g}x{height:g}" for width, height in anchors_wh_px)
