"""From a model card to its network, one branch per task."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar, overload

from detkit.errors import WeightsError
from detkit.models.backbones import STRIDES
from detkit.models.landmarks import Landmarks, LandmarkSettings
from detkit.models.yolo import Yolo, YoloSettings
from detkit.weights import ModelCard

ModelSettings = YoloSettings | LandmarkSettings
Model = Yolo | Landmarks
S = TypeVar("S", YoloSettings, LandmarkSettings)

_TASKS: dict[str, type[ModelSettings]] = {"yolo": YoloSettings, "landmarks": LandmarkSettings}
_ARCHITECTURE: dict[type[ModelSettings], tuple[str, ...]] = {
    YoloSettings: ("backbone", "width", "anchors_per_scale"),
    LandmarkSettings: ("backbone", "width"),
}


def architecture(settings: ModelSettings) -> dict[str, object]:
    """The part of the settings a card must carry to build the network again."""
    return {key: getattr(settings, key) for key in _ARCHITECTURE[type(settings)]}


def with_architecture(settings: S, card: ModelCard) -> S:
    """The settings with the card's architecture in place of their own.

    Raises:
        WeightsError: the card is of another task, or names a setting this version does not know.
    """
    kind = type(settings)
    if _TASKS.get(card.task) is not kind:
        wanted = next(task for task, of_task in _TASKS.items() if of_task is kind)
        raise WeightsError("another task in the model card", found=repr(card.task), expected=repr(wanted))
    unknown = set(card.architecture) - set(_ARCHITECTURE[kind])
    if unknown:
        raise WeightsError("unknown architecture setting in the model card", found=", ".join(sorted(unknown)))
    for key, value in card.architecture.items():
        wanted_type = type(getattr(kind(), key))
        if type(value) is not wanted_type or (wanted_type is int and value < 1):
            found, expected = f"{key} = {value!r:.80}", "a name" if wanted_type is str else "a whole number above 0"
            raise WeightsError("architecture setting in the model card", found=found, expected=expected)
    try:
        return replace(settings, **card.architecture)
    except ValueError as error:
        raise WeightsError(f"architecture in the model card: {error}") from error


@overload
def build(card: ModelCard, settings: YoloSettings) -> Yolo: ...
@overload
def build(card: ModelCard, settings: LandmarkSettings) -> Landmarks: ...
@overload
def build(card: ModelCard, settings: ModelSettings | None = None) -> Model: ...
def build(card: ModelCard, settings: ModelSettings | None = None) -> Model:
    """The network a card describes, with random weights (or ImageNet ones where `settings.pretrained` asks).

    Args:
        card: task, architecture, class names, anchors, point names.
        settings: loss weights and start for training; the card's architecture goes before theirs.
    Raises:
        WeightsError: the card names a task or an architecture this version does not know.
    """
    if card.task not in _TASKS:
        expected = " or ".join(map(repr, _TASKS))
        raise WeightsError("unknown task in the model card", found=repr(card.task), expected=expected)
    chosen = settings or _TASKS[card.task]()
    if isinstance(chosen, YoloSettings):
        return _build_yolo(card, with_architecture(chosen, card))
    if not card.point_names:
        raise WeightsError("points in the model card", found="none", expected="a name for each")
    return Landmarks(with_architecture(chosen, card), card.class_names, card.point_names)


def _build_yolo(card: ModelCard, chosen: YoloSettings) -> Yolo:
    counts = [len(level) for level in card.anchors_wh_px]
    if counts != [chosen.anchors_per_scale] * len(STRIDES):
        expected = f"{chosen.anchors_per_scale} at each of {len(STRIDES)} strides"
        raise WeightsError("anchors in the model card", found=f"{counts} of them", expected=expected)
    return Yolo(chosen, card.class_names, card.anchors_wh_px)
