"""The OpenVINO engine: the exported network that onnxruntime runs, or OpenVINO's own; in bfloat16 twice as fast."""

from __future__ import annotations

import functools
import queue
import sys
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detkit.engines import Outputs
from detkit.engines.graph import (
    Port,
    checked_arrays,
    checked_outputs,
    fits,
    in_batches,
    joined,
    refuse,
    thread_count,
)
from detkit.engines.onnx import open_session
from detkit.errors import MissingExtraError, UsageError, WeightsError
from detkit.weights import ModelCard, read_card

Precision = Literal["auto", "fp32", "bf16"]
_Requests = queue.SimpleQueue[Any]

_KEPT_SHAPES = 4  # compiled networks kept; each holds its own copy of the weights
_DTYPES = {"u8": "uint8", "f32": "float32", "i64": "int64"}  # OpenVINO's words in NumPy's
_NOISE = ("Check ", "Exception ", "FrontEnd API failed", "Loading input model", "Model wasn't fully", "Summary:")


class OpenVinoEngine:
    """Runs an `.onnx` or `.xml` file on the CPU, compiled anew for every shape of batch: fixed shapes run faster."""

    def __init__(
        self, path: Path | str, *, precision: Precision = "auto", threads: int | None = None, parallel: int = 1
    ) -> None:
        """Load the network and check it against its card.

        Args:
            path: the `.onnx` file, or the `.xml` with its `.bin` beside it, with a model card in its metadata.
            precision: "fp32" gives onnxruntime's numbers; "bf16" is faster and moves boxes by half a pixel, some by
                more; "auto" is bf16 where the processor computes in it.
            threads: threads within one run; None is one for each physical core this process may use.
            parallel: runs at a time, which share the cores.
        Raises:
            MissingExtraError: OpenVINO is not installed.
            UsageError: bf16 on a processor without it.
            WeightsError: unusable file, or a graph that does not fit its card.
        """
        self.path, self.parallel = Path(path), parallel
        self.card: ModelCard = read_card(self.path)
        openvino = load_openvino()
        if self.path.suffix.lower() == ".onnx":  # OpenVINO ends the process where an operator lacks an input
            open_session(self.path, threads=1, quickly=True)
        self._core = openvino.Core()
        self.precision = _supported(precision, self._core)
        self.name = "openvino" if self.precision == "fp32" else "openvino-bf16"
        self._settings = _settings(self.precision, thread_count(threads, parallel), parallel)
        try:
            # By name, not core.read_model: that one asks every other front end too when this one refuses a file.
            framework = "ir" if self.path.suffix.lower() == ".xml" else "onnx"
            frontend = openvino.frontend.FrontEndManager().load_by_framework(framework)
            self._model = frontend.convert(frontend.load(str(self.path)))
            inputs, outputs = _ports(self._model.inputs), _ports(self._model.outputs)
        except Exception as error:  # noqa: BLE001  (OpenVINO's exceptions have no common class)
            refuse(self.path, "OpenVINO cannot load it", _reason(error), error)
        self._names, self._input = checked_outputs(inputs, outputs, self.card, self.path), inputs[0]
        self._free: OrderedDict[tuple[int, ...], _Requests] = OrderedDict()  # (B, H, W) -> compiled, latest used last
        self._filled_up: set[tuple[int, ...]] = set()
        self._lock = threading.Lock()  # for the two above

    def run(self, batch_rgb: NDArray[np.uint8]) -> Outputs:
        """Run the network; threads may share the engine.

        Args:
            batch_rgb: uint8 [B, H, W, 3] RGB canvases.
        Raises:
            WeightsError: the network fails on them or gives arrays of another shape than its card says.
        """
        return joined([self._run(part, count) for part, count in in_batches(batch_rgb, self._input)])

    def _run(self, batch: NDArray[np.uint8], count: int) -> Outputs:
        """What it says of the first `count` canvases."""
        failed = f"the network fails on canvases of shape {batch.shape}"
        if not fits(self._input, Port("images", str(batch.dtype), batch.shape)):  # OpenVINO would try
            raise WeightsError(failed, file=self.path, expected=self._input)
        try:
            with self._lock:
                slots = self._slots(batch.shape[:3])
                requests = self._compiled((slots, *batch.shape[1:3]))
            if slots > len(batch):
                batch = np.concatenate([batch, np.zeros((slots - len(batch), *batch.shape[1:]), np.uint8)])
            request = requests.get()  # waits while others use them all
            try:
                results = request.infer({"images": batch}, share_inputs=True)
                arrays = {name: results[name] for name in self._names}
            finally:
                requests.put(request)
        except Exception as error:  # noqa: BLE001  (as above)
            refuse(self.path, failed, _reason(error), error)
        found = {name: array[:count] if array.ndim else array for name, array in arrays.items()}
        return checked_arrays(found, self.card, self.path)

    def _slots(self, shape: tuple[int, ...]) -> int:
        """How many canvases to run.

        A smaller batch than was compiled fills the larger one up with black the first time it comes: the last batch of
        a run need not wait for a compilation, which costs as much as dozens of canvases.
        """
        larger = [slots for slots, *size_hw in self._free if slots > shape[0] and size_hw == [*shape[1:]]]
        if not larger or shape in self._free or shape in self._filled_up:
            return shape[0]
        self._filled_up.add(shape)
        return min(larger)

    def _compiled(self, shape: tuple[int, ...]) -> _Requests:
        """The network compiled for this B, H, W: as many requests as may run at a time."""
        if shape not in self._free:
            model = self._model.clone()
            model.reshape({"images": [*shape, 3]})
            while len(self._free) >= _KEPT_SHAPES:
                self._free.popitem(last=False)
            compiled = self._core.compile_model(model, "CPU", self._settings)
            self._free[shape] = queue.SimpleQueue()
            for _ in range(self.parallel):
                self._free[shape].put(compiled.create_infer_request())
        self._free.move_to_end(shape)
        return self._free[shape]


@functools.cache
def load_openvino() -> Any:
    """The openvino module, imported without its telemetry, which would otherwise report the import to its makers.

    Raises:
        MissingExtraError: OpenVINO is not installed, or cannot be loaded.
    """
    reporter = "openvino_telemetry"
    loaded = sys.modules.get(reporter)
    sys.modules[reporter] = None  # type: ignore[assignment]  # openvino then takes its own silent stand-in
    try:
        import openvino
        import openvino.frontend

        # OpenVINO fills its table of types at the first call; two threads that make it at once wait for each other.
        openvino.Type.u8.to_dtype()
    except ImportError as error:
        needs = 'OpenVINO cannot be imported: pip install "detkit-cv[openvino]"'
        raise MissingExtraError(needs, found=str(error).splitlines()[0]) from error
    finally:
        del sys.modules[reporter]
        if loaded is not None:
            sys.modules[reporter] = loaded
    return openvino


def _supported(precision: Precision, core: Any) -> Literal["fp32", "bf16"]:
    """The precision to compute in on this processor."""
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bf16" and not has_bf16:
        raise UsageError("this processor does not compute in bf16", expected="the precision fp32")
    return "bf16" if has_bf16 and precision != "fp32" else "fp32"


def _settings(precision: str, threads: int, parallel: int) -> dict[str, Any]:
    """What the network is compiled with."""
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",  # a run starts at once, on all threads it may have
        "NUM_STREAMS": parallel,
        "ENABLE_CPU_PINNING": False,  # reading and drawing photos want the cores too
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
    }
    return settings | ({"INFERENCE_NUM_THREADS": threads * parallel} if threads else {})


def _ports(ends: list[Any]) -> list[Port]:
    ports = []
    for end in ends:
        shape = end.get_partial_shape()
        lengths = [] if shape.rank.is_dynamic else [d.get_length() if d.is_static else "any" for d in shape]
        dtype = end.get_element_type().get_type_name()
        ports.append(Port(min(end.get_names(), default=""), _DTYPES.get(dtype, dtype), lengths))
    return ports


def _reason(error: Exception) -> str:
    """The line of OpenVINO's report that says what is wrong, not where in its source code that was noticed."""
    lines = [line.strip("- ") for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(_NOISE)]
    return (telling or lines or [""])[0]
