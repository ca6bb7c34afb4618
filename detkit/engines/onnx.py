"""The onnxruntime engine: runs an exported network on the CPU, with no PyTorch installed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from detkit.engines import Outputs
from detkit.errors import WeightsError
from detkit.weights import ModelCard, read_card

_FATAL_ONLY = 4  # onnxruntime also raises what it would log


class OnnxEngine:
    """Runs an `.onnx` file: uint8 RGB canvases in; decoded boxes, scores and the points its card names out."""

    name = "onnxruntime"

    def __init__(self, path: Path | str, threads: int | None = None) -> None:
        """Load the network and check it against its card.

        Args:
            path: the `.onnx` file, with a model card in its metadata.
            threads: threads within one run; None is one for each physical core this process may use.
        Raises:
            WeightsError: unusable file, or a graph that does not fit its card.
        """
        self.path = Path(path)
        self.card: ModelCard = read_card(self.path)
        try:
            self._session = onnxruntime.InferenceSession(
                str(self.path),
                _session_options(threads),
                providers=["CPUExecutionProvider"],
                enable_fallback=0,  # it would print on stdout
            )
            self._names = _checked_outputs(self._session, self.card, self.path)
        except WeightsError:
            raise
        except Exception as error:  # noqa: BLE001  (onnxruntime's exceptions have no common class)
            _refuse(self.path, "onnxruntime cannot load it", error)

    def run(self, batch_rgb: NDArray[np.uint8]) -> Outputs:
        """Run the network.

        Args:
            batch_rgb: uint8 [B, H, W, 3] RGB canvases.
        Raises:
            WeightsError: the network fails on them or gives arrays of another shape than its card says.
        """
        try:
            arrays = self._session.run(self._names, {"images": np.ascontiguousarray(batch_rgb)})
        except Exception as error:  # noqa: BLE001  (as above)
            _refuse(self.path, f"the network fails on canvases of shape {batch_rgb.shape}", error)
        outputs = Outputs(*arrays)
        shapes = {name: array.shape for name, array in zip(self._names, arrays, strict=True)}
        rows = outputs.scores.shape[:2]
        if shapes != {name: (*rows, *last) for name, last in _row_shapes(self.card).items()}:
            found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise WeightsError("the network's outputs", file=self.path, found=found, expected=_wanted(self.card))
        return outputs


def _session_options(threads: int | None) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    # Measured on a 13 MB network at 416 px: without the pattern a run takes 36 MB less and as long;
    # without the arena it takes 1.7 times as long.
    options.enable_mem_pattern = False
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    restricted = 0 < usable < (os.cpu_count() or 1)  # a container or taskset: onnxruntime would count every core
    options.intra_op_num_threads = threads or (usable if restricted else 0)
    return options


def _checked_outputs(session: Any, card: ModelCard, path: Path) -> list[str]:
    """The names of the outputs to ask for, once the graph is seen to fit the card."""
    inputs, outputs = session.get_inputs(), {node.name: node for node in session.get_outputs()}
    image = inputs[0] if len(inputs) == 1 else None
    canvas = [None, *card.input_hw, 3]
    if image is None or image.name != "images" or image.type != "tensor(uint8)" or not _fits(image.shape, canvas):
        found = ", ".join(f"{node.name} {node.type} {node.shape}" for node in inputs)
        expected = f"images tensor(uint8) [B, {card.input_hw[0]}, {card.input_hw[1]}, 3]"
        raise WeightsError("the network's input", file=path, found=found, expected=expected)
    wanted = _row_shapes(card)
    for name, last in wanted.items():
        node = outputs.get(name)
        if node is None or node.type != "tensor(float)" or not _fits(node.shape, [None, None, *last]):
            found = ", ".join(f"{node.name} {node.type} {node.shape}" for node in outputs.values())
            raise WeightsError("the network's outputs", file=path, found=found, expected=_wanted(card))
    return list(wanted)


def _row_shapes(card: ModelCard) -> dict[str, tuple[int, ...]]:
    """Output name -> its shape after [B, N]."""
    points = {"points": (len(card.point_names), 3)} if card.point_names else {}
    return {"boxes": (4,), "scores": (len(card.class_names),), **points}


def _fits(shape: list[Any], wanted: list[int | None]) -> bool:
    """Equal lengths, and equal numbers where both say one (a name or None in a graph is any size)."""
    return not shape or (
        len(shape) == len(wanted)
        and all(want is None or not isinstance(have, int) or have == want for have, want in zip(shape, wanted))
    )


def _wanted(card: ModelCard) -> str:
    shapes = [f"{name} [B, N, {', '.join(map(str, last))}]" for name, last in _row_shapes(card).items()]
    return f"float {' and '.join(shapes)}, one for each class name" + (" and point" if card.point_names else "")


def _refuse(path: Path, what: str, error: Exception) -> NoReturn:
    lines = str(error).splitlines() or [type(error).__name__]
    raise WeightsError(f"{what}: {lines[0][:200]}", file=path) from error
