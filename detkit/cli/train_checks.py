"""Refuses options of `detkit train` that the run would not follow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detkit.errors import UsageError, WeightsError
from detkit.weights import find_weights

if TYPE_CHECKING:
    from detkit.train.settings import TrainSettings

_OF_POINT_CANVASES = tuple(
    f"augment.{name}" for name in ("zoom", "flip", "hue_deg", "saturation", "brightness", "contrast")
)
_CANVASES = {"landmarks": "crop", "localize": "localize_canvas", "window": "examples"}  # of other tasks: augment


def find_start(weights: str) -> Path:
    """The model to start from, a .safetensors.

    Raises:
        WeightsError: no such model, or an .onnx, which holds no network that goes on learning.
    """
    file = find_weights(weights, ".safetensors")
    if file.suffix.lower() in (".onnx", ".xml"):
        beside = file.with_suffix(".safetensors")
        expected = beside if beside.is_file() else "the .safetensors that was written with it"
        raise WeightsError("a model to train on is a .safetensors", file=file, expected=expected)
    return file


def check_asked(overrides: Sequence[str], settings: TrainSettings) -> None:
    """Refuse what was asked for and does nothing in a run with these settings.

    Args:
        overrides: `key=value`, of options and --set.
        settings: resolved: the task and network are those of the model to start from, where there is one.
    Raises:
        UsageError: another task or backbone than the model's, or a setting of another task.
    """
    from detkit.train.settings import TABLES

    given = {key.strip(): value.strip() for key, _, value in (text.partition("=") for text in overrides)}
    task, backbone = given.get("task", settings.task), given.get(f"{TABLES[given.get('task', 'yolo')]}.backbone")
    if task != settings.task:
        raise UsageError("--task contradicts the model to start from", found=task, expected=settings.task)
    if settings.start is not None and backbone not in (None, settings.network.backbone):
        brings = "a model to start from brings its own network; leave --backbone out"
        raise UsageError(brings, found=backbone, expected=settings.network.backbone)
    if task == "torchvision" and settings.torchvision.name.startswith("keypoint"):
        for key in given:
            if key.startswith("augment.") and key not in _OF_POINT_CANVASES:
                raise UsageError(f"{key} does nothing for a detector of points", expected=", ".join(_OF_POINT_CANVASES))
    own = {TABLES[task], _CANVASES.get(task, "augment")}
    others = ({*TABLES.values(), *_CANVASES.values(), "augment"}) - own
    for key in given:
        if key.partition(".")[0] in others:
            tables = " and ".join(f"[{name}]" for name in sorted(own))
            raise UsageError(f"{key} does nothing with --task {task}", expected=f"settings of {tables}, or common ones")
