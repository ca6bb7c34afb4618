"""Weights to and from `.safetensors`, with the model card in the file's metadata; never a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from detkit.errors import UsageError, WeightsError
from detkit.files import replacing
from detkit.models.build import build
from detkit.models.network import Network
from detkit.weights import CARD_KEY, ModelCard, read_card

TRAINING_PREFIX = "train."  # tensors that only training needs (optimiser state); an ordinary model skips them


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a `.safetensors` file whole or not at all; RunError when it cannot be written."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as partial:
        partial.write_bytes(save(contiguous, metadata=dict(metadata)))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a `.safetensors` file.

    Raises:
        WeightsError: the file is missing, truncated or no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"cannot be read: {error}", file=path, expected="a .safetensors file") from error


def save_model(path: Path, model: nn.Module, card: ModelCard) -> None:
    """Write a network and its card."""
    save_tensors(path, model.state_dict(), {CARD_KEY: card.to_json()})


def load_model(path: Path) -> tuple[Network, ModelCard]:
    """The network a `.safetensors` file holds, in evaluation mode, and its card.

    Raises:
        WeightsError: unreadable file, no card, or tensors that do not fit the card's architecture.
    """
    card = read_card(path)
    try:
        model = build(card)
    except UsageError as error:  # here it is the file, not the user, that names an unknown backbone
        raise WeightsError(error.message, file=path, found=error.found, expected=error.expected) from error
    load_state(model, path)
    return model.eval(), card


def load_state(model: nn.Module, path: Path, *, left_out: tuple[str, ...] = ()) -> None:
    """Copy a file's tensors into a network; those whose names start with `left_out` stay as they are.

    Raises:
        WeightsError: names or shapes differ; the first difference is named.
    """
    tensors, _ = load_tensors(path)
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(TRAINING_PREFIX)}
    own = model.state_dict()
    tensors = {name: own.get(name, t) if name.startswith(left_out) else t for name, t in tensors.items()}
    for name in own.keys() ^ tensors.keys():
        problem = "lacks the tensor" if name in own else "holds an unknown tensor"
        raise WeightsError(f"{problem} {name}", file=path, expected="the tensors its card's architecture needs")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise WeightsError(
                f"tensor {name} has another shape",
                file=path,
                found=tuple(tensor.shape),
                expected=tuple(own[name].shape),
            )
    model.load_state_dict(tensors)
