"""`detkit import`: models of other programs, made detkit's; one sub-command per kind of model below."""

from __future__ import annotations

import inspect

import typer

from detkit.cli import paragraphs
from detkit.cli.import_darknet import darknet
from detkit.cli.import_torchvision import torchvision

app = typer.Typer(add_completion=False, no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})


@app.callback()
def import_() -> None:
    """Turn other programs' models into detkit's.

    Try it:  detkit import darknet yolov3-tiny.cfg yolov3-tiny.weights --names coco.names -o yolov3-tiny.onnx
    """


app.command("darknet")(darknet)
app.command("torchvision")(torchvision)
for _command in app.registered_commands:
    _command.help = paragraphs(inspect.getdoc(_command.callback) or "")
