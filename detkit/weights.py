"""The card a model file carries (class names, input size, thresholds, licences), and how to read it."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from detkit.errors import WeightsError
from detkit.manifest import find_weights as find_weights  # offered here too: whoever wants a model wants its card
from detkit.manifest import read_manifest as read_manifest
from detkit.manifest import weights_folder as weights_folder
from detkit.model_header import parse_json, read_header_text
from detkit.onnx_header import adapter_of_file

CARD_KEY = "detkit"  # the metadata key in .onnx and .safetensors files
CARD_FORMAT_VERSION = 1
FITS = ("letterbox", "letterbox-corner", "stretch")
DEFAULT_CONF = 0.25  # the score from which on a box counts, where nothing else is known

_MAX_SIDE_PX = 16_384
_MOST_BOXES = 100_000


@dataclass(frozen=True)
class ModelCard:
    """What a model file says of itself; JSON under the metadata key `detkit` in .onnx and .safetensors.

    Args:
        task: what it learnt, a key of `models.build.FAMILIES`: "yolo", "landmarks", "localize", "window" ...
        architecture: how to build the network again, the arguments of `models.build`.
        class_names: names in label order.
        input_hw: canvas height and width in pixels.
        fit: how a photo meets the canvas: "letterbox" (keep the aspect ratio, centre, pad), "letterbox-corner" (the
            same, in the top-left corner) or "stretch".
        pad_value: grey level of the letterbox's padding, 0-255.
        anchors_wh_px: per pyramid level, A anchors as [width, height] in canvas pixels.
        thresholds: {"conf": score below which a box is dropped, "iou": NMS overlap}.
        class_thresholds: class name -> what takes the place of "conf" for that class; others keep it.
        point_names: names of the P points a model of points gives for each box, in order.
        flip_pairs: pairs of point indices that change places in a mirrored photo.
        point_edges: pairs of point indices to be joined by a line in pictures.
        crop_margin: a model that looks at crops of boxes sees a square window; the room on each side of the box in
            it, as a share of the box's longer side.
        smallest_px: a window model looks for objects whose longer side is at least this, in pixels of the photo; 0:
            for those that fill its window at the photo's own size.
        max_det: of a file with non-max suppression inside, by `thresholds`: the most boxes it gives for a canvas; 0: it
            gives every box.
        training: data set name and content hash, images and boxes used and left out, epochs, seed, metrics.
        licences: {"code": ..., "weights": ..., "data": ...}.
    """

    task: str
    architecture: dict[str, Any]
    class_names: tuple[str, ...]
    input_hw: tuple[int, int]
    fit: Literal["letterbox", "letterbox-corner", "stretch"] = "letterbox"
    pad_value: int = 114
    anchors_wh_px: tuple[tuple[tuple[float, float], ...], ...] = ()
    thresholds: dict[str, float] = field(default_factory=lambda: {"conf": DEFAULT_CONF, "iou": 0.6})
    class_thresholds: dict[str, float] = field(default_factory=dict)
    point_names: tuple[str, ...] = ()
    flip_pairs: tuple[tuple[int, int], ...] = ()
    point_edges: tuple[tuple[int, int], ...] = ()
    crop_margin: float = 0.0
    smallest_px: float = 0.0
    max_det: int = 0
    training: dict[str, Any] = field(default_factory=dict)
    licences: dict[str, str] = field(default_factory=dict)
    format_version: int = CARD_FORMAT_VERSION

    def class_conf(self) -> tuple[float, ...] | None:
        """A confidence for each class in label order, where some class has one of its own."""
        if not self.class_thresholds:
            return None
        return tuple(self.class_thresholds.get(name, self.thresholds["conf"]) for name in self.class_names)

    def to_json(self) -> str:
        """The card as one JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str, *, file: Path | str | None = None) -> ModelCard:
        """Read a card written by `to_json`, checking every value.

        Args:
            text: the JSON.
            file: where it comes from, for messages.
        Raises:
            WeightsError: not a card: broken JSON, unknown or missing key, a value of the wrong kind.
        """
        values = parse_json(text, file)
        if not isinstance(values, dict):
            raise WeightsError("the model card is not a JSON object", file=file)
        version = values.get("format_version")
        if type(version) is not int or version != CARD_FORMAT_VERSION:
            expected = f"{CARD_FORMAT_VERSION} (a newer detkit may read it)"
            raise WeightsError("model card format version", file=file, found=_brief(version), expected=expected)
        for key in values:
            if key not in _CARD_VALUES:
                near = difflib.get_close_matches(key, _CARD_VALUES, n=1)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                raise WeightsError(f"unknown key {_brief(key)} in the model card{hint}", file=file)
        for card_field in fields(cls):
            needed = card_field.default is MISSING and card_field.default_factory is MISSING
            if needed and card_field.name not in values:
                raise WeightsError(f"the model card has no '{card_field.name}'", file=file)
        card = cls(**{key: _card_value(key, value, file) for key, value in values.items()})
        for key in ("flip_pairs", "point_edges"):
            if any(index >= len(card.point_names) for pair in getattr(card, key) for index in pair):
                found, expected = _brief(values[key]), f"indices below {len(card.point_names)}, the number of points"
                raise WeightsError(f"'{key}' in the model card", file=file, found=found, expected=expected)
        for name in card.class_thresholds:
            if name not in card.class_names:
                expected = "names among 'class_names'"
                raise WeightsError(
                    "'class_thresholds' in the model card", file=file, found=_brief(name), expected=expected
                )
        return card


def read_card(path: Path) -> ModelCard:
    """Read a model file's card from its header, without loading the model.

    Args:
        path: an .onnx, .safetensors or .xml file.
    Raises:
        WeightsError: missing, empty, damaged, a pickle (which could run code), or without a detkit card.
    """
    text = read_header_text(path, CARD_KEY)
    if text is None:
        raise WeightsError(f"carries no detkit model card{_without_card(path)}", file=path)
    return ModelCard.from_json(text, file=path)


def _without_card(path: Path) -> str:
    """What to do with a model file of another project."""
    adapter = adapter_of_file(path)
    if adapter is None:
        return "; detkit runs models it exported or imported, and other projects' .onnx detectors with --adapter"
    return f"; its outputs look like a detector of another project: --adapter {adapter} --names FILE"


def _brief(value: object) -> str:
    try:
        text = repr(value)
    except RecursionError:
        text = type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def _card_value(key: str, value: Any, file: Path | str | None) -> Any:
    convert, expected = _CARD_VALUES[key]
    try:
        return convert(value)
    except (ValueError, TypeError, OverflowError):
        raise WeightsError(f"'{key}' in the model card", file=file, found=_brief(value), expected=expected) from None


def _need(fits: bool) -> None:
    if not fits:
        raise ValueError


def _text(value: Any) -> str:
    _need(isinstance(value, str) and bool(value.strip()))
    value.encode("utf-8")  # half a surrogate pair cannot be printed or written
    return str(value)


def _whole(value: Any, low: int, high: int) -> int:
    _need(type(value) is int and low <= value <= high)
    return int(value)


def _number(value: Any, high: float = math.inf) -> float:
    _need(type(value) in (int, float) and math.isfinite(value) and 0 <= value <= high)
    return float(value)


def _listed(value: Any, convert: Callable[[Any], Any]) -> tuple[Any, ...]:
    _need(isinstance(value, (list, tuple)))
    return tuple(convert(item) for item in value)


def _names(value: Any, at_least: int) -> tuple[str, ...]:
    names = _listed(value, _text)
    _need(at_least <= len(names) == len(set(names)))
    return names


def _index_pairs(value: Any) -> tuple[tuple[int, int], ...]:
    return _listed(value, lambda pair: _pair(pair, lambda index: _whole(index, 0, _MAX_SIDE_PX)))


def _pair(value: Any, convert: Callable[[Any], Any]) -> tuple[Any, Any]:
    first, second = _listed(value, convert)
    return first, second


def _table(value: Any) -> dict[str, Any]:
    _need(isinstance(value, dict))
    return dict(value)


def _one_of(value: Any, choices: tuple[str, ...]) -> str:
    _need(value in choices)
    return str(value)


def _thresholds(value: Any) -> dict[str, float]:
    numbers = {key: _number(number, high=1) for key, number in _table(value).items()}
    _need(set(numbers) == {"conf", "iou"})
    return numbers


_CARD_VALUES: dict[str, tuple[Callable[[Any], Any], str]] = {  # key -> (check and convert, what it should be)
    "task": (_text, "a text"),
    "architecture": (_table, "an object"),
    "class_names": (lambda v: _names(v, 1), "a list of different names"),
    "input_hw": (lambda v: _pair(v, lambda side: _whole(side, 1, _MAX_SIDE_PX)), "[height, width] in pixels"),
    "fit": (lambda v: _one_of(v, FITS), " or ".join(FITS)),
    "pad_value": (lambda v: _whole(v, 0, 255), "a whole number, 0-255"),
    "anchors_wh_px": (
        lambda v: _listed(v, lambda level: _listed(level, lambda anchor: _pair(anchor, _number))),
        "lists of [width, height]",
    ),
    "point_names": (lambda v: _names(v, 0), "a list of different names"),
    "flip_pairs": (_index_pairs, "pairs of point indices"),
    "point_edges": (_index_pairs, "pairs of point indices"),
    "crop_margin": (lambda v: _number(v, 10), "a number, 0-10"),
    "smallest_px": (lambda v: _number(v, _MAX_SIDE_PX), f"a number of pixels, 0-{_MAX_SIDE_PX}"),
    "max_det": (lambda v: _whole(v, 0, _MOST_BOXES), f"a whole number, 0-{_MOST_BOXES}"),
    "thresholds": (_thresholds, '{"conf": 0-1, "iou": 0-1}'),
    "class_thresholds": (
        lambda v: {_text(key): _number(number, high=1) for key, number in _table(v).items()},
        "an object of class names and 0-1",
    ),
    "training": (_table, "an object"),
    "licences": (lambda v: {key: _text(text) for key, text in _table(v).items()}, "an object of texts"),
    "format_version": (lambda v: _whole(v, CARD_FORMAT_VERSION, CARD_FORMAT_VERSION), str(CARD_FORMAT_VERSION)),
}
