"""int8 for an ONNX graph: static, per channel, calibrated on photos; what decodes boxes stays in float32.

onnxruntime's quantiser finds the ranges (the smallest and largest value each tensor takes on the photos). The weights
are rounded here, each rounding error made good by the weights that follow it (Frantar 2022, "GPTQ"): on the default
model that halves what int8 changes, because a depthwise filter of nine weights cannot bear nine errors that add up.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from detkit.errors import DataError, DetkitError, RunError, WeightsError
from detkit.export.ends import load_graph
from detkit.export.operators import WEIGHTED, constants, without_unused
from detkit.export.rounding import Moments, rounded
from detkit.files import replacing
from detkit.weights import CARD_KEY, ModelCard, read_card

Image = NDArray[np.uint8]

CALIBRATION_PHOTOS = 64  # 8 to 300 photos and three draws of 64 differ by chance only
_ROUNDING_PHOTOS = 8  # of them, those the weights are rounded by; 16 take 17 s of a core more for a tenth less error

# SiLU, mish and softmax are not here: in int8 they cost accuracy and are no faster (12.9 against 11.9 ms in OpenVINO).
_IN_INT8 = (
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Clip", "Relu", "LeakyRelu"),
    *("Concat", "Resize", "MaxPool", "AveragePool", "GlobalAveragePool"),
    *("Transpose", "Reshape", "Slice", "Split", "Squeeze", "Unsqueeze"),
)


@dataclass(frozen=True, slots=True)
class Quantised:
    """What was done.

    Args:
        photos: how many it was calibrated on.
        layers, kept: layers with weights that are in int8 now, and those that stay in float32.
        card: the model's, whose `training` says "quantised": its other figures are those of the float32 model.
    """

    photos: int
    layers: int
    kept: int
    card: ModelCard


def quantise_int8(source: Path, target: Path, canvases: Iterable[Image], card: ModelCard | None = None) -> Quantised:
    """Write an int8 copy of an exported network; ends, sizes and card stay.

    Every layer that only decoding follows stays in float32, and so does decoding. Weights are int8, symmetric, with a
    scale for each output channel; what flows between layers is uint8. Processors without VNNI may saturate.

    Args:
        source: an `.onnx` file with float32 weights.
        target: the file to write.
        canvases: what the model sees of typical photos, uint8 [H, W, 3], of the card's size; some dozens.
        card: of the source, where the file has none.
    Raises:
        DataError: no canvases, or of another kind.
        WeightsError: the source cannot be used.
        RunError: the quantiser fails, or `target` cannot be written.
    """
    card = card or read_card(source)
    kept = [_checked(canvas, card) for canvas in canvases]
    if not kept:
        raise DataError("no photos to calibrate by", found=0, expected=f"some dozens, such as {CALIBRATION_PHOTOS}")
    _check_source(load_graph(source), source)
    try:
        with tempfile.TemporaryDirectory(prefix="detkit-int8-") as folder:
            model, layers, floats = _quantised(source, Path(folder), kept)
    except DetkitError:
        raise
    except Exception as error:  # onnxruntime's exceptions and its quantiser's have no common class
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise RunError(f"cannot be quantised: {reason[:200]}", file=source) from error
    note = {"precision": "int8", "photos": len(kept)}
    card = replace(card, training={**card.training, "quantised": note})
    helper.set_model_props(model, {CARD_KEY: card.to_json()})
    with replacing(target) as partial:
        onnx.save(model, partial)
    return Quantised(len(kept), layers, floats, card)


def _checked(canvas: Image, card: ModelCard) -> Image:
    wanted = (*card.input_hw, 3)
    if canvas.dtype != np.uint8 or canvas.shape != wanted:
        found = f"{canvas.dtype} {list(canvas.shape)}"
        raise DataError(
            "a canvas to calibrate by", found=found, expected=f"uint8 {list(wanted)}, as the model card says"
        )
    return canvas


def _check_source(model: ModelProto, path: Path) -> None:
    kinds = {node.op_type for node in model.graph.node}
    if "QuantizeLinear" in kinds:
        raise WeightsError("is quantised already", file=path, expected="a model with float32 weights")
    if any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer):
        raise WeightsError("has float16 weights", file=path, expected="a model with float32 weights")
    if "Conv" not in kinds:
        raise WeightsError("has no convolutions to quantise", file=path)


def _quantised(source: Path, folder: Path, canvases: Sequence[Image]) -> tuple[ModelProto, int, int]:
    """The int8 graph, and how many layers with weights are in int8 and in float32."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    ready, raw = folder / "ready.onnx", folder / "raw.onnx"
    quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)  # folds batch norms, padding and constants
    model = load_graph(ready)
    pixels = _centre_pixels(model)
    model = without_unused(model)
    onnx.save(model, ready)
    heads, decoding = _ends(model)
    layers = [node for node in model.graph.node if node.op_type in WEIGHTED and node.name not in heads]
    quantize_static(
        str(ready),
        str(raw),
        _Reader(model, canvases),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(_IN_INT8),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=[*heads, *decoding],
        extra_options={"TensorQuantOverrides": {pixels.name: [pixels.range]}} if pixels else {},
    )
    result = load_graph(raw)
    if pixels:
        _read_pixels(result, pixels)
    _round_weights(result, model, [node for node in layers if node.op_type == "Conv"], canvases)
    _tidy(result)
    return without_unused(result), len(layers), len(heads)


def _ends(model: ModelProto) -> tuple[list[str], list[str]]:
    """Names of the last layers with weights before the outputs, and of the nodes after them."""
    producers = {name: node for node in model.graph.node for name in node.output}
    heads, decoding, seen = [], [], set()
    waiting = [port.name for port in model.graph.output]
    while waiting:
        node = producers.get(waiting.pop())
        if node is None or node.name in seen or node.op_type == "Shape":  # how long a map is says nothing of its values
            continue
        seen.add(node.name)
        if node.op_type in WEIGHTED:
            heads.append(node.name)
        else:
            decoding.append(node.name)
            waiting += node.input
    return heads, decoding


class _Reader:
    """Hands the quantiser one canvas after the other, as often as the graph wants it at a time."""

    def __init__(self, model: ModelProto, canvases: Sequence[Image]) -> None:
        self._feeds = (_feed(model, canvas) for canvas in canvases)

    def get_next(self) -> dict[str, Image] | None:
        return next(self._feeds, None)

    __next__ = get_next

    def __iter__(self) -> _Reader:
        return self


def _feed(model: ModelProto, canvas: Image) -> dict[str, Image]:
    port = model.graph.input[0]
    return {port.name: np.repeat(canvas[None], port.type.tensor_type.shape.dim[0].dim_value or 1, axis=0)}


@dataclass(frozen=True, slots=True)
class _Pixels:
    """The first layer's input: (pixel - zero_point) * scale, which uint8 pixels give without a loss."""

    name: str
    nodes: tuple[str, str, str]  # Cast, Sub, Div
    zero_point: int
    scale: float

    @property
    def range(self) -> dict[str, NDArray[np.float32]]:
        """The override that makes the quantiser find this scale and zero point."""
        low, high = -self.zero_point * self.scale, (255 - self.zero_point) * self.scale
        return {"rmin": np.float32(low), "rmax": np.float32(high)}  # type: ignore[dict-item]


def _centre_pixels(model: ModelProto) -> _Pixels | None:
    """Where all channels are normalised alike: let a whole number be zero, and the first layer's bias make up for it.

    Only padding notices, by half a grey level at most. Other normalisations stay as they are, in float32.
    """
    held, readers = constants(model), _readers(model)
    for cast in model.graph.node:
        chain = [cast]
        while len(chain) < 4 and len(follow := readers.get(chain[-1].output[0], [])) == 1:
            chain.append(follow[0])
        if [node.op_type for node in chain] != ["Cast", "Sub", "Div", "Conv"]:
            continue
        _, minus, over, first = chain
        mean, deviation = held.get(minus.input[1]), held.get(over.input[1])
        if mean is None or deviation is None or len(first.input) < 3 or np.ptp(mean) or np.ptp(deviation):
            return None
        zero, scale = round(float(mean.flat[0])), 1 / float(deviation.flat[0])
        if not 0 <= zero <= 255:
            return None
        bias = held[first.input[2]] + (zero - mean.flat[0]) * scale * held[first.input[1]].sum((1, 2, 3))
        _replace(model, first, 2, bias.astype(np.float32))
        _replace(model, minus, 1, np.full_like(mean, zero))
        return _Pixels(over.output[0], (cast.name, minus.name, over.name), zero, scale)
    return None


def _read_pixels(model: ModelProto, pixels: _Pixels) -> None:
    """The pixels are the quantised input already: take out what made them floats and back."""
    readers = _readers(model)
    [quantise] = readers[pixels.name]
    nodes = {node.name: node for node in model.graph.node}
    cast, minus, over = (nodes[name] for name in pixels.nodes)
    for node in readers[quantise.output[0]]:
        node.input[0] = cast.input[0]
    for node in (quantise, over, minus, cast):
        model.graph.node.remove(node)


def _round_weights(
    model: ModelProto, floats: ModelProto, layers: Sequence[NodeProto], canvases: Sequence[Image]
) -> None:
    """Put better rounded weights in the place of the quantiser's, by the same scales."""
    held, scales = constants(floats), constants(model)
    quantised = {node.name: node for node in model.graph.node}
    producers = {name: node for node in model.graph.node for name in node.output}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    every = {layer.name: Moments(layer, held[layer.input[1]]) for layer in layers if layer.input[1] in held}
    for values in _inputs(floats, layers, canvases[:: max(1, len(canvases) // _ROUNDING_PHOTOS)]):
        for layer in layers:
            if layer.name in every:
                every[layer.name].add(values[layer.input[0]])
    for name, moments in every.items():
        unpack = producers.get(quantised[name].input[1])
        if unpack is not None and unpack.op_type == "DequantizeLinear":
            weights = rounded(moments, scales[unpack.input[1]])
            tensors[unpack.input[0]].CopyFrom(numpy_helper.from_array(weights, unpack.input[0]))


def _inputs(model: ModelProto, layers: Sequence[NodeProto], canvases: Sequence[Image]) -> Iterable[dict[str, Any]]:
    """For each canvas, what the layers read: name -> [B, C, H, W]."""
    names = list(dict.fromkeys(layer.input[0] for layer in layers))
    told = ModelProto()
    told.CopyFrom(model)
    del told.graph.output[:]
    told.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(told.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for canvas in canvases:
        yield dict(zip(names, session.run(names, _feed(model, canvas)), strict=True))


def _readers(model: ModelProto) -> dict[str, list[NodeProto]]:
    """Tensor name -> the nodes that read it."""
    found: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def _replace(model: ModelProto, node: NodeProto, index: int, value: NDArray[np.float32]) -> None:
    """Give a node another constant; the old one may serve others."""
    name = f"{node.name}_{index}_int8"
    model.graph.initializer.append(numpy_helper.from_array(value, name))
    node.input[index] = name


def _tidy(model: ModelProto) -> None:
    """Drop the quantiser's own notes and the operator sets that no node needs."""
    used = {node.domain for node in model.graph.node} | {""}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:], model.graph.value_info[:], model.metadata_props[:]
    model.opset_import.extend(kept)
