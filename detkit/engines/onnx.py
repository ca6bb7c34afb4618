"""The onnxruntime engine: runs an exported network on the CPU, with no PyTorch installed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from detkit.engines import Outputs
from detkit.engines.graph import Port, checked_arrays, checked_outputs, in_batches, joined, refuse, thread_count
from detkit.onnx_header import check_onnx
from detkit.weights import ModelCard, read_card

# onnxruntime's words in NumPy's
_DTYPES = {
    "tensor(uint8)": "uint8",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
}
_FATAL_ONLY = 4  # onnxruntime also raises what it would log


class OnnxEngine:
    """Runs an `.onnx` file: uint8 RGB canvases in; decoded boxes, scores and the points its card names out."""

    name = "onnxruntime"

    def __init__(self, path: Path | str, threads: int | None = None, *, parallel: int = 1) -> None:
        """Load the network and check it against its card.

        Args:
            path: the `.onnx` file, with a model card in its metadata.
            threads: threads within one run; None is one for each physical core this process may use.
            parallel: runs at a time, which share the cores.
        Raises:
            WeightsError: unusable file, or a graph that does not fit its card.
        """
        self.path, self.parallel = Path(path), parallel
        self.card: ModelCard = read_card(self.path)
        self._session, inputs, outputs = open_session(self.path, thread_count(threads, parallel))
        self._names, self._input = checked_outputs(inputs, outputs, self.card, self.path), inputs[0]

    def run(self, batch_rgb: NDArray[np.uint8]) -> Outputs:
        """Run the network; threads may share the engine.

        Args:
            batch_rgb: uint8 [B, H, W, 3] RGB canvases.
        Raises:
            WeightsError: the network fails on them or gives arrays of another shape than its card says.
        """
        return joined([self._run(part, count) for part, count in in_batches(batch_rgb, self._input)])

    def _run(self, batch_rgb: NDArray[np.uint8], count: int) -> Outputs:
        """What it says of the first `count` canvases."""
        try:
            arrays = self._session.run(self._names, {"images": batch_rgb})
        except Exception as error:  # noqa: BLE001  (as above)
            refuse(self.path, f"the network fails on canvases of shape {batch_rgb.shape}", reason(error), error)
        found = {name: array[:count] if array.ndim else array for name, array in zip(self._names, arrays, strict=True)}
        return checked_arrays(found, self.card, self.path)


def open_session(path: Path, threads: int, *, quickly: bool = False) -> tuple[Any, list[Port], list[Port]]:
    """Load an `.onnx` file, whoever made it.

    Args:
        path: the file; what it takes from other files must lie in its own folder.
        threads: within one run; 0 leaves it to onnxruntime.
        quickly: only to see whether the graph is sound; it would run slowly.
    Returns:
        onnxruntime's session, the network's inputs and its outputs.
    Raises:
        WeightsError: unusable file.
    """
    check_onnx(path)
    session_options = _session_options(threads)
    if quickly:
        session_options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            str(path),
            session_options,
            providers=["CPUExecutionProvider"],
            enable_fallback=0,  # it would print on stdout
        )
        return session, _ports(session.get_inputs()), _ports(session.get_outputs())
    except Exception as error:  # noqa: BLE001  (onnxruntime's exceptions have no common class)
        refuse(path, "onnxruntime cannot load it", reason(error), error)


def reason(error: Exception) -> str:
    """What onnxruntime's report says is wrong, without its codes and the file's name, which ours has already."""
    line = (str(error).splitlines() or [""])[0]
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .*? failed: ?)?", "", line)


def _session_options(threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    # Measured on a 13 MB network at 416 px: without the pattern a run takes 36 MB less and as long;
    # without the arena it takes 1.7 times as long.
    options.enable_mem_pattern = False
    options.intra_op_num_threads = threads
    return options


def _ports(nodes: list[Any]) -> list[Port]:
    return [Port(node.name, _DTYPES.get(node.type, node.type), node.shape) for node in nodes]
