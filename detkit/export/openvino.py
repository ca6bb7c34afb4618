"""OpenVINO's own format: the network as `.xml`, its weights as `.bin` beside it, the card among its runtime values."""

from __future__ import annotations

from pathlib import Path

from detkit.engines.openvino import load_openvino
from detkit.errors import RunError
from detkit.weights import CARD_KEY, ModelCard


def write_openvino(source_onnx: Path, target: Path, card: ModelCard, *, half: bool) -> None:
    """Write `target`, an .xml, and its .bin from an ONNX file.

    Args:
        half: store the weights in float16; they are computed with in float32, or in what the processor is told.
    Raises:
        MissingExtraError: OpenVINO is not installed.
        RunError: it cannot convert the graph.
    """
    openvino = load_openvino()
    try:
        # By name: `convert_model` would write where the file came from into the network.
        frontend = openvino.frontend.FrontEndManager().load_by_framework("onnx")
        model = frontend.convert(frontend.load(str(source_onnx)))
        if model.has_rt_info("framework"):  # a second card: what it takes over from ONNX's metadata
            del model.rt_info["framework"]
        model.set_rt_info(card.to_json(), [CARD_KEY])
        openvino.save_model(model, str(target), compress_to_fp16=half)
    except Exception as error:
        reason = next((line for line in str(error).splitlines()[::-1] if line.strip()), type(error).__name__)
        raise RunError(f"OpenVINO cannot convert the network: {reason.strip()[:200]}") from error
