"""From a model file to its export: trace, fix the ends, change the precision, put in the suppression, prove, keep."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from detkit.engines import Engine, open_engine
from detkit.errors import MissingExtraError, RunError, UsageError
from detkit.export.ends import lengths, load_graph, with_ends, with_lengths
from detkit.export.half import to_half
from detkit.export.operators import has_float32_weights
from detkit.export.quantise import quantise_int8
from detkit.export.settings import SUFFIX_OF, ExportSettings
from detkit.export.suppress import with_nms
from detkit.files import replacing
from detkit.manifest import is_shipped
from detkit.weights import ModelCard, read_card

Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Made:
    """An export in a temporary folder, not kept yet.

    Args:
        source: the model file it was made from.
        path: the file that names it; OpenVINO's .bin lies beside it.
        card: the one it carries.
        settings: what it was to be.
        ends: the lengths of its input and of each output, by name; a letter may be any.
    """

    source: Path
    path: Path
    card: ModelCard
    settings: ExportSettings
    ends: dict[str, list[str]]

    def open_source(self) -> Engine:
        """The model it was made from, in float32 on the CPU, for the export's size and thresholds."""
        engine: Engine
        if self.source.suffix.lower() == ".safetensors":
            from detkit.engines.torch import TorchEngine
            from detkit.models.checkpoint import load_model

            engine = TorchEngine(*load_model(self.source))
        else:
            engine = open_engine(self.source)
        engine.card = replace(self.card, max_det=engine.card.max_det)
        return engine

    def open(self) -> Engine:
        """The export itself; OpenVINO's computes in float32."""
        if self.settings.to == "torchscript":
            from detkit.export.trace import TorchScriptEngine

            return TorchScriptEngine(self.path)
        return open_engine(self.path)

    def keep(self, target: Path) -> list[Path]:
        """Copy it to where it is to be, whole or not at all.

        Returns:
            The files written, `target` first.
        Raises:
            UsageError: `target` is the source, or has another suffix.
            RunError: it cannot be written.
        """
        check_target(self.source, target, self.settings)
        weights = self.path.with_suffix(".bin")
        with replacing(target) as partial:
            shutil.copyfile(self.path, partial)
            if not weights.exists():
                return [target]
            beside = target.with_suffix(".bin")
            with replacing(beside) as partial_weights:
                shutil.copyfile(weights, partial_weights)
            return [target, beside]


def check_target(source: Path, target: Path, settings: ExportSettings) -> None:
    """Refuse to write over the source, or a file of the wrong kind (UsageError)."""
    suffix = SUFFIX_OF[settings.to]
    if target.suffix.lower() != suffix:
        raise UsageError(f"--to {settings.to} writes a {suffix} file", file=target, expected=target.with_suffix(suffix))
    if target.exists() and target.samefile(source):
        raise UsageError("is the model itself, which is never changed", file=target, expected="another name with -o")
    if is_shipped(target):
        raise UsageError("is a model that comes with detkit", file=target, expected="another name with -o")
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise UsageError("is a folder" if target.is_dir() else "its folder is not there", file=target)


@contextmanager
def make(source: Path, settings: ExportSettings, canvases: Iterable[Image] = ()) -> Iterator[Made]:
    """Make an export in a temporary folder, which goes when the block ends.

    Args:
        source: a .safetensors, or an .onnx with a card.
        settings: what it is to be.
        canvases: for int8, uint8 [H, W, 3] each, of the size of the export.
    Raises:
        WeightsError: the source cannot be used.
        UsageError: the model does not allow these settings.
        MissingExtraError: PyTorch, onnx or OpenVINO is needed and not installed.
        RunError: a step fails.
    """
    card = _new_card(source, settings)
    with tempfile.TemporaryDirectory(prefix="detkit-export-") as folder:
        path = Path(folder) / f"model{SUFFIX_OF[settings.to]}"
        if settings.to == "torchscript":
            _trace(source, card, path, script=True)
            ends = {
                "images": ["B", *(map(str, settings.size_hw) if isinstance(settings.size_hw, tuple) else "HW"), "3"]
            }
        else:
            graph = Path(folder) / "graph.onnx"
            ends, card = _write_graph(source, settings, card, canvases, graph)
            if settings.to == "onnx":
                graph.replace(path)
            else:
                from detkit.export.openvino import write_openvino

                write_openvino(graph, path, card, half=settings.precision == "fp16")
        yield Made(source, path, card, settings, ends)


def _new_card(source: Path, settings: ExportSettings) -> ModelCard:
    card = read_card(source)
    if source.suffix.lower() not in (".safetensors", ".onnx"):
        raise UsageError("cannot be exported again", file=source, expected="a .safetensors or .onnx file")
    settings.check_model(card)
    if isinstance(settings.size_hw, tuple):
        card = replace(card, input_hw=settings.size_hw)
    if not settings.nms:
        return card
    selection = settings.selection(card)
    own = card.class_thresholds if settings.conf is None else {}
    thresholds = {"conf": selection.conf, "iou": selection.iou}
    return replace(card, thresholds=thresholds, class_thresholds=own, max_det=selection.max_det)


def _write_graph(
    source: Path, settings: ExportSettings, card: ModelCard, canvases: Iterable[Image], target: Path
) -> tuple[dict[str, list[str]], ModelCard]:
    """Write the ONNX file, or what OpenVINO's is made from; gives the lengths of its ends, and its card."""
    traced = source
    if source.suffix.lower() == ".safetensors":
        traced = target.with_name("traced.onnx")
        _trace(source, card, traced)
    model = with_ends(load_graph(traced), settings.size_hw, settings.batch)
    if settings.precision != "fp32" and not has_float32_weights(model):
        raise UsageError("has been halved or quantised already", file=source, expected="a model in float32")
    if settings.precision == "fp16" and settings.to == "onnx":
        model = to_half(model)
    elif settings.precision == "int8":
        plain, quantised = target.with_name("plain.onnx"), target.with_name("int8.onnx")
        onnx.save(model, plain)
        card = quantise_int8(plain, quantised, canvases, card).card
        model = load_graph(quantised)
    if settings.nms:
        model = with_nms(model, settings.selection(card), len(card.class_names), len(card.point_names))
    model = with_lengths(model, card, _shapes(model, card))
    onnx.save(model, target)
    return lengths(model), card


def _trace(source: Path, card: ModelCard, target: Path, *, script: bool = False) -> None:
    """Follow the network of a .safetensors file into an ONNX file or a TorchScript module."""
    if source.suffix.lower() != ".safetensors":
        raise UsageError("--to torchscript needs the .safetensors; an .onnx holds no PyTorch network", file=source)
    try:
        import torch  # noqa: F401
    except ImportError as error:
        needs = f'a .safetensors is read with PyTorch ({error.name} is missing): pip install "detkit-cv[train]"'
        raise MissingExtraError(f"{needs}, or give the .onnx", file=source) from error
    from detkit.export.trace import trace_onnx, trace_torchscript
    from detkit.models.checkpoint import load_model

    model, _ = load_model(source)
    try:
        (trace_torchscript if script else trace_onnx)(model, card, target)
    except (RuntimeError, ValueError, TypeError) as error:  # what the tracer does not know
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise RunError(f"this network cannot be exported: {reason.strip()[:200]}", file=source) from error


def _shapes(model: Any, card: ModelCard) -> dict[str, tuple[int, ...]]:
    """The shape of each output for one run at the card's size."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
        batch = session.get_inputs()[0].shape[0]
        canvases = np.zeros((batch if isinstance(batch, int) else 1, *card.input_hw, 3), np.uint8)
        names = [port.name for port in session.get_outputs()]
        found = session.run(names, {"images": canvases})
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunError(f"the exported network does not run: {reason[:200]}") from error
    return {name: array.shape for name, array in zip(names, found, strict=True)}
