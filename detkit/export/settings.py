"""What an export is to be, and which of it a model allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from detkit.errors import UsageError
from detkit.infer.canvas_size import LARGEST_PX, STEP_PX, check_any_size, nearest_side
from detkit.infer.selection import MAX_DET, Selection
from detkit.weights import ModelCard

Kind = Literal["onnx", "openvino", "torchscript"]
Precision = Literal["fp32", "fp16", "int8"]
SUFFIX_OF: dict[Kind, str] = {"onnx": ".onnx", "openvino": ".xml", "torchscript": ".torchscript"}

_ONE_BOX = ("landmarks", "localize")  # tasks whose boxes never overlap each other
_LARGEST_BATCH = 1024


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """What the export is to be.

    Args:
        to: the kind of file.
        nms: put non-max suppression into the graph, by the card's thresholds or these `conf` and `iou`, for at most
            `max_det` boxes (None: 100).
        size_hw: the canvas it takes; "dynamic": any; None: as the source, which is any for a .safetensors.
        batch: how many canvases it takes at a time; likewise.
        precision: "fp16" stores halves; "int8" needs canvases to calibrate by.
    """

    to: Kind = "onnx"
    nms: bool = False
    conf: float | None = None
    iou: float | None = None
    max_det: int | None = None
    size_hw: tuple[int, int] | Literal["dynamic"] | None = None
    batch: int | Literal["dynamic"] | None = None
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if not self.nms and (self.conf, self.iou, self.max_det) != (None, None, None):
            raise ValueError("--conf, --iou and --max-det are for --nms")
        if self.conf is not None and not 0 < self.conf <= 1:
            raise ValueError(f"--conf is {self.conf:g}; expected above 0, up to 1")
        if self.iou is not None and not 0 < self.iou <= 1:
            raise ValueError(f"--iou is {self.iou:g}; expected above 0, up to 1")
        if self.max_det is not None and not 1 <= self.max_det <= Selection(0, 0).max_candidates:
            raise ValueError(f"--max-det is {self.max_det}; expected 1 to {Selection(0, 0).max_candidates}")
        if isinstance(self.batch, int) and not 1 <= self.batch <= _LARGEST_BATCH:
            raise ValueError(f"--batch is {self.batch}; expected 1 to {_LARGEST_BATCH}, or dynamic")
        for side in self.size_hw if isinstance(self.size_hw, tuple) else ():
            if side != nearest_side(side):
                raise ValueError(
                    f"--size: {side} is no multiple of {STEP_PX} up to {LARGEST_PX}; try {nearest_side(side)}"
                )
        if self.to == "torchscript":
            self._check_torchscript()

    def _check_torchscript(self) -> None:
        if self.nms:
            raise ValueError("--nms is for onnx and openvino; a TorchScript file gives every box")
        if self.precision == "fp16":
            raise ValueError("--half is for onnx and openvino; a TorchScript module is halved by who runs it, on a GPU")
        if self.precision == "int8":
            raise ValueError("--int8 is for onnx and openvino")
        if self.batch is not None:
            raise ValueError("--batch is for onnx and openvino; a TorchScript file takes any number of canvases")

    def selection(self, card: ModelCard) -> Selection:
        """What the suppression inside is to do."""
        return Selection(
            card.thresholds["conf"] if self.conf is None else self.conf,
            card.thresholds["iou"] if self.iou is None else self.iou,
            max_det=MAX_DET if self.max_det is None else self.max_det,
            class_conf=None if self.conf is not None else card.class_conf(),
        )

    def check_model(self, card: ModelCard) -> None:
        """Refuse what a model does not allow (UsageError)."""
        if self.nms and card.max_det:
            raise UsageError("--nms: the model has non-max suppression inside already")
        if self.nms and card.task in _ONE_BOX:
            raise UsageError(f"--nms: a model for {card.task} gives one box; there is nothing to suppress")
        if card.task == "window" and (self.nms or self.size_hw is not None):
            option = "--nms" if self.nms else "--size"
            raise UsageError(f"{option}: a window model looks at each photo in several sizes, which are put together")
        selection = self.selection(card)
        for option, least in (("--conf", min(selection.thresholds(len(card.class_names)))), ("--iou", selection.iou)):
            if self.nms and least <= 0:
                raise UsageError(f"--nms needs thresholds above 0, and the model's is 0; give {option}")
        if self.size_hw not in (None, card.input_hw):
            check_any_size(card)
