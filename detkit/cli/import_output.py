"""What every `detkit import` does with its result: where it may go, the file, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from detkit.cli import terminal
from detkit.errors import UsageError
from detkit.manifest import is_shipped

if TYPE_CHECKING:
    from detkit.export import Proof
    from detkit.models.network import Network
    from detkit.weights import ModelCard

_SUFFIXES = (".onnx", ".safetensors")


def check_request(output: Path, licence: str) -> None:
    """Refuse an output that cannot be written and a licence that says nothing, before any work (UsageError)."""
    if output.suffix.lower() not in _SUFFIXES:
        raise UsageError("--output", found=output, expected=" or ".join(f"a {suffix} file" for suffix in _SUFFIXES))
    if is_shipped(output):
        raise UsageError("--output is a model that comes with detkit", file=output, expected="another name")
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise UsageError(
            "--output is a folder" if output.is_dir() else "--output: its folder is not there", file=output
        )
    if not licence.strip():
        raise UsageError("--licence", found="an empty text", expected="the licence, or no --licence")


def write_model(network: Network, card: ModelCard, output: Path) -> Proof | None:
    """Write the file; an .onnx is proven to give the network's boxes first.

    Raises:
        RunError: it cannot be written, or does not; nothing is left of it.
    """
    if output.suffix.lower() == ".onnx":
        from detkit.export import export_onnx

        return export_onnx(network, card, output)
    from detkit.models.checkpoint import save_model

    save_model(output, network, card)
    return None


def facts_of(card: ModelCard, output: Path, proof: Proof | None) -> dict[str, Any]:
    """What `--json` says of every imported model."""
    return {
        "file": str(output),
        "classes": card.class_names,
        "input_hw": card.input_hw,
        "fit": card.fit,
        "proof": None if proof is None else {"box_px": proof.box_px, "score": proof.score},
    }


def canvas_of(facts: dict[str, Any]) -> str:
    """How photos meet the network, in words."""
    height, width = facts["input_hw"]
    return f"{width} x {height} px, photos {'stretched' if facts['fit'] == 'stretch' else 'letterboxed'}"


def say_written(facts: dict[str, Any]) -> None:
    """Where the file is, and that it holds or what it is for."""
    file, proof = facts["file"], facts["proof"]
    if proof is None:
        terminal.say(f"{file}: written; to train on: detkit train DATA --weights {file}")
    else:
        same = f"gives the network's boxes to {proof['box_px']:.1g} px and scores to {proof['score']:.1g}"
        terminal.say(f"{file}: written; it {same}")
