"""Weights to and from `.safetensors`, with the model card in the file's metadata; never a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
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
        check_shapes(card, path)
        model = build(card)
    except (UsageError, WeightsError) as error:  # here it is the file, not the user, that names an unknown backbone
        raise WeightsError(error.message, file=path, found=error.found, expected=error.expected) from error
    load_state(model, path)
    return model.eval(), card


def check_shapes(card: ModelCard, path: Path) -> None:
    """Compare a file's tensors with those of its card's network before memory is taken for it: a card may claim any.

    Raises:
        WeightsError: names or shapes differ; the first difference is named.
    """
    try:
        with torch.device("meta"):  # tensors without memory
            own = {name: tuple(tensor.shape) for name, tensor in build(card).state_dict().items()}
    except NotImplementedError:  # a network that computes something while it is built; those have one size
        return
    except RuntimeError as error:
        raise WeightsError("the card's network is larger than any", file=path, found=str(error)[:80]) from error
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if not name.startswith(TRAINING_PREFIX)]  # noqa: SIM118
            _compare(own, {name: tuple(file.get_slice(name).get_shape()) for name in names}, path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"cannot be read: {error}", file=path, expected="a .safetensors file") from error


def load_state(model: nn.Module, path: Path, *, left_out: tuple[str, ...] = ()) -> None:
    """Copy a file's tensors into a network; those whose names start with `left_out` stay as they are.

    Raises:
        WeightsError: names or shapes differ; the first difference is named.
    """
    tensors, _ = load_tensors(path)
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(TRAINING_PREFIX)}
    own = model.state_dict()
    tensors = {name: own.get(name, t) if name.startswith(left_out) else t for name, t in tensors.items()}
    wanted, found = ({name: tuple(t.shape) for name, t in every.items()} for every in (own, tensors))
    _compare(wanted, found, path)
    model.load_state_dict(tensors)


def _compare(own: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """WeightsError where the shapes of a network's tensors and those of a file's differ."""
    for name in sorted(own.keys() ^ found.keys()):
        problem = "lacks the tensor" if name in own else "holds an unknown tensor"
        raise WeightsError(f"{problem} {name[:80]}", file=path, expected="the tensors its card's architecture needs")
    for name, shape in found.items():
        if shape != own[name]:
            raise WeightsError(f"tensor {name} has another shape", file=path, found=shape, expected=own[name])
