"""A Darknet model's files as a network with its card."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from detkit.errors import UsageError, WeightsError
from detkit.models.darknet.blocks import HeadConv
from detkit.models.darknet.cfg import parse_cfg, resized
from detkit.models.darknet.files import DarknetFiles, DarknetModel, Floats, read_darknet
from detkit.models.darknet.network import Darknet, DarknetSettings
from detkit.models.darknet.sections import read_cfg_text
from detkit.weights import ModelCard

_THRESHOLDS = {"conf": 0.25, "iou": 0.45}  # those of Darknet's own detector
_PAD_VALUE = 128  # Darknet's letterbox is filled with 0.5


def import_darknet(
    files: DarknetFiles, fit: Literal["letterbox", "stretch"] | None = None, licence: str = "unspecified"
) -> tuple[Darknet, ModelCard]:
    """A Darknet model as a network in evaluation mode, with its card.

    Args:
        files: the model's files.
        fit: how photos meet the canvas; None is as the network was trained, "stretch" unless its cfg says letter_box=1.
        licence: of the weights, for the card.
    Raises:
        WeightsError: a file that cannot be read, that holds something unknown, or that does not fit the others.
    """
    return build_darknet(read_darknet(files), fit, licence)


def build_darknet(
    read: DarknetModel, fit: Literal["letterbox", "stretch"] | None = None, licence: str = "unspecified"
) -> tuple[Darknet, ModelCard]:
    """The second half of `import_darknet`: the network and the card of files that are read.

    Raises:
        WeightsError: weights that are no numbers, or a variance below 0.
    """
    cfg, files = read.cfg, read.files
    model = Darknet(DarknetSettings(cfg=cfg.text), read.class_names).eval()
    _fill(model, read.numbers, files.weights)
    card = ModelCard(
        task="darknet",
        architecture={"cfg": cfg.text},
        class_names=read.class_names,
        input_hw=cfg.input_hw,
        fit=fit or ("letterbox" if cfg.letterbox else "stretch"),
        pad_value=_PAD_VALUE,
        anchors_wh_px=tuple(head.anchors_wh_px for head in cfg.heads),
        thresholds=_THRESHOLDS,
        training={
            "imported_from": "darknet",
            "cfg": files.cfg.name,
            "weights": files.weights.name,
            "numbers_sha256": hashlib.sha256(read.numbers.tobytes()).hexdigest(),
            "photos_seen": read.photos_seen,
        },
        licences={"code": "Apache-2.0", "weights": licence, "data": "unspecified"},
    )
    return model, card


def cfg_for_training(text_or_path: str, sides_px: Sequence[int]) -> str:
    """What a network of random weights is built from: a cfg's text, for the last of the canvases it will see.

    Args:
        text_or_path: a cfg's text, or the name of the file that holds it.
        sides_px: of every canvas, each a multiple of 32.
    Raises:
        UsageError: neither is given.
        WeightsError: the file cannot be read, or the cfg not be built, or not for a canvas.
    """
    if not text_or_path:
        expected = "--model darknet:FILE.cfg, or --weights with an imported model"
        raise UsageError("no Darknet network to train", expected=expected)
    is_text = "\n" in text_or_path
    name = "the cfg" if is_text else text_or_path
    cfg = parse_cfg(text_or_path if is_text else read_cfg_text(Path(text_or_path)), name)
    for side_px in sides_px:
        cfg = resized(cfg, side_px, f"{name} at {side_px} px")
    return cfg.text


def _fill(model: Darknet, data: Floats, path: Path) -> None:
    """Copy a file's numbers into the network: per convolution bias, scale, mean and variance, then its weights."""
    numbers = _Numbers(data, path)
    with torch.no_grad():
        for index, conv in model.cfg.convs:
            layer = model.conv_layer(index)
            if isinstance(layer, HeadConv):
                _fill_head(
                    layer, numbers.take(index, conv.filters), numbers.take(index, conv.parameters - conv.filters)
                )
                continue
            plain, norm = layer[0], layer[1]
            assert isinstance(plain, nn.Conv2d)
            vectors = [numbers.take(index, conv.filters) for _ in range(4 if conv.batch_normalize else 1)]
            if isinstance(norm, nn.BatchNorm2d):
                assert norm.running_mean is not None
                assert norm.running_var is not None
                if (vectors[3] < 0).any():
                    raise WeightsError(
                        f"layer {index} has a negative variance", file=path, found=float(vectors[3].min())
                    )
                for target, values in zip(
                    (norm.bias, norm.weight, norm.running_mean, norm.running_var), vectors, strict=True
                ):
                    target.copy_(values)
            else:
                assert plain.bias is not None
                plain.bias.copy_(vectors[0])
            plain.weight.copy_(numbers.take(index, plain.weight.numel()).view_as(plain.weight))


def _fill_head(layer: HeadConv, bias: Tensor, weight: Tensor) -> None:
    """Share the rows of [A, 5 + K] maps out to the boxes' and the classes' convolution."""
    assert layer.to_box.bias is not None
    assert layer.to_class.bias is not None
    bias = bias.view(layer.anchor_count, -1)  # [A, 5 + K]
    weight = weight.view(*bias.shape, *layer.to_box.weight.shape[1:])  # [A, 5 + K, C, S, S]
    layer.to_box.bias.copy_(bias[:, :5].flatten())
    layer.to_class.bias.copy_(bias[:, 5:].flatten())
    layer.to_box.weight.copy_(weight[:, :5].flatten(0, 1))
    layer.to_class.weight.copy_(weight[:, 5:].flatten(0, 1))


class _Numbers:
    """The numbers of a weights file, handed out in order."""

    def __init__(self, data: Floats, path: Path) -> None:
        self._data, self._path, self._at = torch.from_numpy(data), path, 0

    def take(self, index: int, count: int) -> Tensor:
        """The next ones, for layer `index`."""
        taken = self._data[self._at : self._at + count]
        self._at += count
        if not bool(taken.isfinite().all()):
            raise WeightsError(f"layer {index} holds something that is no number", file=self._path)
        return taken
