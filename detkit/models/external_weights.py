"""The weights of torchvision's detectors out of its .pth files: published ones and a user's own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor

from detkit.coco_names import COCO_NAMES
from detkit.errors import UsageError, WeightsError
from detkit.models.build import build
from detkit.models.external import COCO_OUTPUTS, KINDS, Kind, TorchvisionSettings
from detkit.models.external_face import External
from detkit.models.pickle_scan import check_torch_file
from detkit.weights import DEFAULT_CONF, ModelCard

_POINTS_KEY = "roi_heads.keypoint_predictor.kps_score_lowres.weight"
_PAIRED = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
PERSON_POINTS = ("nose", *(f"{side}_{part}" for part in _PAIRED for side in ("left", "right")))  # COCO's 17
_PERSON_PAIRS = tuple((i, i + 1) for i in range(1, len(PERSON_POINTS), 2))
_PERSON_EDGES = (
    *((0, 1), (0, 2), (1, 3), (2, 4), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (6, 12)),
    *((11, 12), (11, 13), (13, 15), (12, 14), (14, 16)),
)


def import_torchvision(
    path: Path, name: str, names: Sequence[str] | None = None, size_px: int | None = None, licence: str = "unspecified"
) -> tuple[External, ModelCard]:
    """A detector with the weights of a .pth file, in evaluation mode, and its card.

    Args:
        path: what `torch.save` wrote of its state dict, alone or under the key "model".
        name: one of `external.KINDS`.
        names: of its classes, without the background; None where they are COCO's.
        size_px: side of the canvas; None for about what the published weights were trained with.
        licence: of the weights.
    Raises:
        WeightsError: a file that is no state dict of this detector, or would run code.
        UsageError: an unknown detector, or names that do not fit.
    """
    try:
        settings = TorchvisionSettings(name)
    except ValueError as error:
        raise UsageError(str(error).replace("torchvision.name", "--model")) from error
    kind, tensors = KINDS[name], read_state(path)
    outputs = _output_count(tensors, kind, path, name)
    class_names = _class_names(outputs, name, names, path)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    card = ModelCard(
        task="torchvision",
        architecture={"name": name, "layout": "coco91" if names is None and outputs == COCO_OUTPUTS else "plain"},
        class_names=class_names,
        input_hw=(size_px or kind.canvas_px,) * 2,
        fit="stretch" if kind.stretched else "letterbox",
        thresholds={"conf": DEFAULT_CONF, "iou": kind.iou},
        training={"imported_from": "torchvision", "weights": path.name, "weights_sha256": digest},
        licences={"code": "Apache-2.0", "weights": licence, "data": "unspecified"},
        **_points(tensors, path),
    )
    network = build(card, settings)
    assert isinstance(network, External)
    _load(network.detector, tensors, path, zero_eps=kind.zero_eps and is_published(name, digest))
    return network.eval(), card


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pth file by name; nothing in it is run.

    Raises:
        WeightsError: see `pickle_scan.check_torch_file`, or no tensors by name.
    """
    check_torch_file(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails anywhere
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"damaged: {reason[:100]}", file=path) from error
    for key in ("model", "state_dict"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) and isinstance(k, str) for k, v in found.items()):
        raise WeightsError("is no state dict", file=path, expected="tensors by name")
    prefix = "module."  # of a model that was trained by several processes
    return {key.removeprefix(prefix): tensor for key, tensor in found.items()}


def is_published(name: str, sha256: str) -> bool:
    """Whether a file is torchvision's COCO_V1 for a detector; its address ends with the start of its sha256."""
    address: str = torchvision.models.get_model_weights(name)["COCO_V1"].url
    return sha256.startswith(address.rsplit("-", 1)[1].removesuffix(".pth"))


def _output_count(tensors: Mapping[str, Tensor], kind: Kind, path: Path, name: str) -> int:
    """Classes and background, by the length of the layer that tells them apart."""
    if kind.class_key not in tensors:
        raise WeightsError(f"lacks the tensor {kind.class_key}", file=path, expected=f"the state dict of a {name}")
    rows = tensors[kind.class_key].shape[0] if tensors[kind.class_key].ndim else 0
    if rows % kind.anchors or rows < 2 * kind.anchors:
        expected = f"a multiple of {kind.anchors}"
        raise WeightsError(f"tensor {kind.class_key}", file=path, found=f"{rows} rows", expected=expected)
    return rows // kind.anchors


def _class_names(outputs: int, name: str, names: Sequence[str] | None, path: Path) -> tuple[str, ...]:
    if names is not None:
        if len(names) != outputs - 1 or len(set(names)) != len(names):
            found, expected = f"{len(names)} of them", f"{outputs - 1} different ones, without the background"
            raise UsageError(f"the class names do not fit {path.name}", found=found, expected=expected)
        return tuple(names)
    if outputs == COCO_OUTPUTS:
        return COCO_NAMES
    if outputs == 2 and name.startswith("keypoint"):
        return ("person",)
    raise UsageError(f"{path.name} knows {outputs - 1} classes; name them", expected="--names FILE, one a line")


def _points(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """What the card says of the points, where there are some."""
    if _POINTS_KEY not in tensors:
        return {}
    count = tensors[_POINTS_KEY].shape[1] if tensors[_POINTS_KEY].ndim > 1 else 0
    if count != len(PERSON_POINTS):
        raise WeightsError("points of each box", file=path, found=count, expected=f"COCO's {len(PERSON_POINTS)}")
    return {"point_names": PERSON_POINTS, "flip_pairs": _PERSON_PAIRS, "point_edges": _PERSON_EDGES}


def _load(detector: Any, tensors: dict[str, Tensor], path: Path, *, zero_eps: bool) -> None:
    """Copy the tensors; torchvision renames those of its older files itself.

    A file with frozen batch norms has no counts of batches, and torchvision uses its older ones without an epsilon:
    it is taken off the variances, to which the batch norm then adds it.
    """
    own = detector.state_dict()
    for key in own.keys() & tensors.keys():
        if own[key].shape != tensors[key].shape:
            found, expected = tuple(tensors[key].shape), tuple(own[key].shape)
            raise WeightsError(f"tensor {key} has another shape", file=path, found=found, expected=expected)
    state = dict(tensors)
    for name, module in detector.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            count, variance = f"{name}.num_batches_tracked", f"{name}.running_var"
            state.setdefault(count, own[count])
            if zero_eps and variance in state:
                state[variance] = state[variance] - module.eps
    try:
        missing, unknown = detector.load_state_dict(state, strict=False)
    except (RuntimeError, ValueError) as error:
        raise WeightsError(f"does not fit: {str(error).splitlines()[-1].strip()[:150]}", file=path) from error
    for problem, keys in (("lacks the tensor", missing), ("holds an unknown tensor", unknown)):
        if keys:
            raise WeightsError(f"{problem} {sorted(keys)[0]}", file=path, expected="the state dict of the detector")
