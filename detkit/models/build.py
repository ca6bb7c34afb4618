"""From a model card to its network, one row of a table per task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from detkit.errors import WeightsError
from detkit.models.backbones import STRIDES
from detkit.models.darknet.network import Darknet, DarknetSettings
from detkit.models.external import TorchvisionSettings, make_external
from detkit.models.landmarks import Landmarks, LandmarkSettings
from detkit.models.localize import Localizer, LocalizeSettings
from detkit.models.network import Network, NetworkSettings
from detkit.models.window import SlidingWindow, WindowSettings
from detkit.models.yolo import Yolo, YoloSettings
from detkit.weights import ModelCard

S = TypeVar("S", bound=NetworkSettings)


class Family(NamedTuple):
    """The networks of one task: their settings, which of those a card carries, and how one is made."""

    settings: Callable[[], NetworkSettings]
    architecture: tuple[str, ...]
    make: Callable[[ModelCard, Any], Network]


def architecture(settings: NetworkSettings) -> dict[str, object]:
    """The part of the settings a card must carry to build the network again."""
    return {key: getattr(settings, key) for key in _family_of(settings).architecture}


def with_architecture(settings: S, card: ModelCard) -> S:
    """The settings with the card's architecture in place of their own.

    Raises:
        WeightsError: the card is of another task, or names a setting this version does not know.
    """
    family = _family_of(settings)
    if FAMILIES.get(card.task) is not family:
        wanted = next(task for task, of_task in FAMILIES.items() if of_task is family)
        raise WeightsError("another task in the model card", found=repr(card.task), expected=repr(wanted))
    unknown = set(card.architecture) - set(family.architecture)
    if unknown:
        raise WeightsError("unknown architecture setting in the model card", found=", ".join(sorted(unknown)))
    for key, value in card.architecture.items():
        wanted_type = type(getattr(family.settings(), key))
        if type(value) is not wanted_type or (wanted_type is int and value < 1):
            found, expected = f"{key} = {value!r:.80}", "a name" if wanted_type is str else "a whole number above 0"
            raise WeightsError("architecture setting in the model card", found=found, expected=expected)
    try:
        return replace(settings, **card.architecture)  # type: ignore[type-var]  # they are dataclasses
    except ValueError as error:
        raise WeightsError(f"architecture in the model card: {error}") from error


def build(card: ModelCard, settings: NetworkSettings | None = None) -> Network:
    """The network a card describes, with random weights (or ImageNet ones where `settings.pretrained` asks).

    Args:
        card: task, architecture, class names, anchors, point names.
        settings: loss weights and start for training; the card's architecture goes before theirs.
    Raises:
        WeightsError: the card names a task or an architecture this version does not know.
    """
    if card.task not in FAMILIES:
        expected = " or ".join(map(repr, FAMILIES))
        raise WeightsError("unknown task in the model card", found=repr(card.task), expected=expected)
    family = FAMILIES[card.task]
    return family.make(card, with_architecture(settings or family.settings(), card))


def _family_of(settings: NetworkSettings) -> Family:
    return next(family for family in FAMILIES.values() if family.settings is type(settings))


def _make_yolo(card: ModelCard, chosen: YoloSettings) -> Yolo:
    counts = [len(level) for level in card.anchors_wh_px]
    if counts != [chosen.anchors_per_scale] * len(STRIDES):
        expected = f"{chosen.anchors_per_scale} at each of {len(STRIDES)} strides"
        raise WeightsError("anchors in the model card", found=f"{counts} of them", expected=expected)
    return Yolo(chosen, card.class_names, card.anchors_wh_px)


def _make_darknet(card: ModelCard, chosen: DarknetSettings) -> Darknet:
    model = Darknet(chosen, card.class_names)
    anchors = tuple(head.anchors_wh_px for head in model.cfg.heads)
    if card.anchors_wh_px != anchors:
        raise WeightsError(
            "anchors in the model card", found=card.anchors_wh_px, expected=f"{anchors}, those of the cfg"
        )
    return model


def _make_landmarks(card: ModelCard, chosen: LandmarkSettings) -> Landmarks:
    if not card.point_names:
        raise WeightsError("points in the model card", found="none", expected="a name for each")
    return Landmarks(chosen, card.class_names, card.point_names)


def _make_localizer(card: ModelCard, chosen: LocalizeSettings) -> Localizer:
    return Localizer(chosen, card.class_names)


def _make_window(card: ModelCard, chosen: WindowSettings) -> SlidingWindow:
    height, width = card.input_hw
    counts = [len(level) for level in card.anchors_wh_px]
    if height != width or counts != [len(card.class_names)]:
        found, expected = f"{width} x {height} px, {counts} boxes", "a square window and a box for each class"
        raise WeightsError("the window in the model card", found=found, expected=expected)
    return SlidingWindow(chosen, width, card.class_names, card.anchors_wh_px[0])


FAMILIES: dict[str, Family] = {  # ModelCard.task -> its networks
    "yolo": Family(YoloSettings, ("backbone", "width", "anchors_per_scale"), _make_yolo),
    "darknet": Family(DarknetSettings, ("cfg",), _make_darknet),
    "landmarks": Family(LandmarkSettings, ("backbone", "width"), _make_landmarks),
    "torchvision": Family(TorchvisionSettings, ("name", "layout"), make_external),
    "localize": Family(LocalizeSettings, ("backbone", "width", "hidden"), _make_localizer),
    "window": Family(WindowSettings, ("backbone", "stride", "hidden", "hidden_layers"), _make_window),
}
