"""From a model card to its network."""

from __future__ import annotations

from dataclasses import asdict, replace

from detkit.errors import WeightsError
from detkit.models.backbones import STRIDES
from detkit.models.yolo import Yolo, YoloSettings
from detkit.weights import ModelCard

_NOT_ARCHITECTURE = ("pretrained", "max_shape_ratio", "box_gain", "objectness_gain", "class_gain")


def architecture(settings: YoloSettings) -> dict[str, object]:
    """The part of the settings a card must carry to build the network again."""
    return {key: value for key, value in asdict(settings).items() if key not in _NOT_ARCHITECTURE}


def with_architecture(settings: YoloSettings, card: ModelCard) -> YoloSettings:
    """The settings with the card's architecture in place of their own.

    Raises:
        WeightsError: the card names a task or a setting this version does not know.
    """
    if card.task != "yolo":
        raise WeightsError("unknown task in the model card", found=repr(card.task), expected="'yolo'")
    unknown = set(card.architecture) - set(architecture(settings))
    if unknown:
        raise WeightsError("unknown architecture setting in the model card", found=", ".join(sorted(unknown)))
    for key, value in card.architecture.items():
        wanted = type(getattr(YoloSettings(), key))
        if type(value) is not wanted or (wanted is int and value < 1):
            found, expected = f"{key} = {value!r:.80}", "a name" if wanted is str else "a whole number above 0"
            raise WeightsError("architecture setting in the model card", found=found, expected=expected)
    return replace(settings, **card.architecture)


def build(card: ModelCard, settings: YoloSettings | None = None) -> Yolo:
    """The network a card describes, with random weights (or ImageNet ones where `settings.pretrained` asks).

    Args:
        card: task, architecture, class names, anchors.
        settings: loss weights and start for training; the card's architecture goes before theirs.
    Raises:
        WeightsError: the card names a task or an architecture this version does not know.
    """
    chosen = with_architecture(settings or YoloSettings(), card)
    counts = [len(level) for level in card.anchors_wh_px]
    if counts != [chosen.anchors_per_scale] * len(STRIDES):
        expected = f"{chosen.anchors_per_scale} at each of {len(STRIDES)} strides"
        raise WeightsError("anchors in the model card", found=f"{counts} of them", expected=expected)
    return Yolo(chosen, card.class_names, card.anchors_wh_px)
