"""Engines run a network; each gives the same `Outputs` for the same pixels (DESIGN: one face for every model)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from detkit.errors import MissingExtraError, UsageError, WeightsError
from detkit.model_header import SUFFIXES
from detkit.weights import ModelCard, read_card

EngineName = Literal["auto", "onnxruntime", "openvino", "openvino-bf16", "torch"]

# Seconds of whole `detkit detect` processes (2 cores, 416 px) for 1, 8, 20, 50 and 100 photos: onnxruntime 0.7, 0.9,
# 1.0, 1.55, 2.5; OpenVINO with bf16, which compiles first, 1.35, 1.25, 1.35, 1.8, 2.25: it is ahead from 75 or so
# on. At 320 px a photo saves half as much: 1.2 and 1.75 for 50 and 100 photos against 1.65 and 1.9.
MANY_PHOTOS = 100

# From here on several photos go through the network at once, each on threads of its own: more photos a second, because
# nobody waits for the slowest part of a layer, while the first photo takes longer. Seconds of the processor that whole
# processes take (onnxruntime, 2 cores, 416 px) for 1, 4, 8, 20 and 200 photos: one at a time 0.8, 1.05, 1.2, 2.0, 9.9;
# two at a time 0.75, 0.9, 0.95, 1.4, 7.1. By the clock both take as long up to 8 photos, and 1.3 and 1.0 s for 20. With
# fewer than the slots below, a machine of many cores would leave some of them idle.
SEVERAL_PHOTOS = 8
_MOST_PARALLEL = 8  # each run at a time takes memory for its own intermediate results

_KINDS: dict[str, tuple[str, ...]] = {  # engine -> the suffixes it runs
    "auto": SUFFIXES,
    "onnxruntime": (".onnx",),
    "openvino": (".onnx", ".xml"),
    "openvino-bf16": (".onnx", ".xml"),
    "torch": (".safetensors",),
}


class Outputs(NamedTuple):
    """What a network says of a batch of canvases, decoded, before non-max suppression.

    boxes_xyxy: float32 [B, N, 4] in canvas pixels. scores: float32 [B, N, K] in 0-1.
    points_xyv: float32 [B, N, P, 3] in canvas pixels, or None.
    """

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    points_xyv: NDArray[np.float32] | None = None


class Engine(Protocol):
    """A loaded network."""

    name: str
    card: ModelCard
    parallel: int  # runs at a time that pay; threads may share the engine

    def run(self, batch_rgb: NDArray[np.uint8]) -> Outputs:
        """Run the network on uint8 [B, H, W, 3] RGB canvases."""
        ...


def open_engine(path: Path, engine: EngineName = "auto", *, photos: int = 1) -> Engine:
    """Load a model file into the engine asked for.

    "auto" runs a `.safetensors` in PyTorch, an `.xml` in OpenVINO and an `.onnx` in onnxruntime; these two from
    `MANY_PHOTOS` on in OpenVINO with bf16, which is faster and starts more slowly, where it is installed and the
    processor computes in bf16.

    Args:
        path: the model file.
        engine: one of `EngineName`; each gives the same numbers on every processor, but for rounding.
        photos: how many are going to be run, as far as that is known: many are run several at a time.
    Raises:
        WeightsError: a file that cannot be used.
        UsageError: an unknown engine, or one that does not run this kind of file or not on this processor.
        MissingExtraError: the engine is not installed.
    """
    card = read_card(path)  # an unusable file is said to be one, whatever is installed
    kind = path.suffix.lower()
    if engine not in _KINDS:
        raise UsageError("no such engine", found=repr(engine), expected=" or ".join(_KINDS))
    if kind not in _KINDS[engine]:
        raise UsageError(f"{engine} does not run this file", file=path, expected=f"a model in {_KINDS[engine][0]}")
    if kind == ".safetensors":
        return _torch_engine(path)
    parallel = runs_at_a_time(photos)
    many = photos >= MANY_PHOTOS and card.task != "window"  # its levels are of ever new sizes, each to be compiled
    quick = _quick_engine(path, parallel) if engine == "auto" and many else None
    if quick is not None:
        return quick
    if engine.startswith("openvino") or kind == ".xml":
        from detkit.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(path, precision="bf16" if engine == "openvino-bf16" else "fp32", parallel=parallel)
    return _onnx_engine(path, parallel)


def weights_suffix(engine: EngineName) -> str:
    """Which file of a shipped model an engine runs."""
    return _KINDS.get(engine, SUFFIXES)[0]


def runs_at_a_time(photos: int) -> int:
    """How many photos go through a network at once where so many are going to be run."""
    return min(_MOST_PARALLEL, usable_cores()) if photos >= SEVERAL_PHOTOS else 1


def usable_cores() -> int:
    """Cores this process may use: fewer than the machine's in a container or under taskset."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _onnx_engine(path: Path, parallel: int) -> Engine:
    from detkit.engines.onnx import OnnxEngine

    return OnnxEngine(path, parallel=parallel)


def _quick_engine(path: Path, parallel: int) -> Engine | None:
    """OpenVINO in bf16 where it is installed, this processor has bf16 and the file suits it."""
    from detkit.engines.openvino import OpenVinoEngine

    try:
        return OpenVinoEngine(path, precision="bf16", parallel=parallel)
    except (MissingExtraError, UsageError, WeightsError):
        return None


def _torch_engine(path: Path) -> Engine:
    try:
        from detkit.engines.torch import TorchEngine
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("detkit"):
            raise
        needs = f'a .safetensors model runs in PyTorch ({error.name} is missing): pip install "detkit-cv[train]"'
        raise MissingExtraError(f"{needs}, or give the .onnx", file=path) from error
    return TorchEngine.open(path)
