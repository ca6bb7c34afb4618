"""Model files: find one, verify it, and read its card (class names, input size, thresholds, licences)."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from detkit.errors import WeightsError
from detkit.model_header import SUFFIXES, parse_json, read_header_text

CARD_KEY = "detkit"  # the metadata key in .onnx and .safetensors files
CARD_FORMAT_VERSION = 1
FITS = ("letterbox", "stretch")

_MAX_SIDE_PX = 16_384


@dataclass(frozen=True)
class ModelCard:
    """What a model file says of itself; JSON under the metadata key `detkit` in .onnx and .safetensors.

    Args:
        task: "yolo" or "landmarks" (later "localize", "window").
        architecture: how to build the network again, the arguments of `models.build`.
        class_names: names in label order.
        input_hw: canvas height and width in pixels.
        fit: "letterbox" (keep the aspect ratio, pad) or "stretch": how a photo meets the canvas.
        pad_value: grey level of the letterbox's padding, 0-255.
        anchors_wh_px: per pyramid level, A anchors as [width, height] in canvas pixels.
        thresholds: {"conf": score below which a box is dropped, "iou": NMS overlap}.
        class_thresholds: class name -> what takes the place of "conf" for that class; others keep it.
        point_names: names of the P points a model of points gives for each box, in order.
        flip_pairs: pairs of point indices that change places in a mirrored photo.
        point_edges: pairs of point indices to be joined by a line in pictures.
        crop_margin: a model that looks at crops of boxes sees a square window; the room on each side of the box in
            it, as a share of the box's longer side.
        training: data set name and content hash, images and boxes used and left out, epochs, seed, metrics.
        licences: {"code": ..., "weights": ..., "data": ...}.
    """

    task: str
    architecture: dict[str, Any]
    class_names: tuple[str, ...]
    input_hw: tuple[int, int]
    fit: Literal["letterbox", "stretch"] = "letterbox"
    pad_value: int = 114
    anchors_wh_px: tuple[tuple[tuple[float, float], ...], ...] = ()
    thresholds: dict[str, float] = field(default_factory=lambda: {"conf": 0.25, "iou": 0.6})
    class_thresholds: dict[str, float] = field(default_factory=dict)
    point_names: tuple[str, ...] = ()
    flip_pairs: tuple[tuple[int, int], ...] = ()
    point_edges: tuple[tuple[int, int], ...] = ()
    crop_margin: float = 0.0
    training: dict[str, Any] = field(default_factory=dict)
    licences: dict[str, str] = field(default_factory=dict)
    format_version: int = CARD_FORMAT_VERSION

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


@dataclass(frozen=True)
class Shipped:
    """One model file that comes with detkit, as `weights/manifest.toml` lists it.

    Args:
        name: what `--weights` calls it; the .onnx and the .safetensors of one model share it.
        file: file name beside the manifest.
        sha256: of the file, in hexadecimal.
        classes: class names in label order.
        licence: the weights' licence.
        accuracy: measured figures and the split they were measured on: AP, AP50, split.
    """

    name: str
    file: str
    sha256: str
    classes: tuple[str, ...]
    licence: str
    accuracy: dict[str, Any]


def find_weights(name_or_path: str | Path | None = None, suffix: str = ".onnx") -> Path:
    """Find a model file; one that comes with detkit is verified against its sha256.

    Args:
        name_or_path: a file, the name of a shipped model, or None for the default model.
        suffix: which file of a shipped model: ".onnx" to run, ".safetensors" to go on training.
    Raises:
        WeightsError: no such file or model, or a shipped file that is damaged.
    """
    default, models = read_manifest() if name_or_path is None or _is_bare(name_or_path) else ("", ())
    name = default if name_or_path is None else str(name_or_path)
    for model in models:
        if model.name == name and model.file.endswith(suffix):
            return _verified(model)
    files = [model.file for model in models if model.name == name]
    if files:
        raise WeightsError(
            f"the model {name!r} comes with detkit as {', '.join(files)} only", expected=f"a {suffix} file"
        )
    if not name:
        raise WeightsError("no default model is installed; name one with --weights", file=weights_folder())
    path = Path(name)
    try:
        if path.is_file():
            return path
        if path.is_dir():
            raise WeightsError("is a folder, not a model file", file=path, expected=_model_in(path))
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror}", file=path) from error
    raise WeightsError(f"no model {_brief(name)}: no such file{_nearest(path, models)}")


def weights_folder() -> Path:
    """Where the models that come with detkit lie: inside the installed package, else beside it in a source tree."""
    package = Path(__file__).parent
    installed = package / "weights_files"
    return installed if installed.is_dir() else package.parent / "weights"


def read_manifest() -> tuple[str, tuple[Shipped, ...]]:
    """The default model's name and every model file that comes with detkit.

    Raises:
        WeightsError: a manifest that cannot be read; a missing one just lists nothing.
    """
    import tomllib

    path = weights_folder() / "manifest.toml"
    try:
        tree = tomllib.loads(path.read_text("utf-8"))
        models = tuple(Shipped(**entry | {"classes": tuple(entry["classes"])}) for entry in tree.get("weights", []))
        return str(tree["default"]), models
    except FileNotFoundError:
        return "", ()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(f"cannot be used: {error}", file=path) from error


def read_card(path: Path) -> ModelCard:
    """Read a model file's card from its header, without loading the model.

    Args:
        path: an .onnx or .safetensors file.
    Raises:
        WeightsError: missing, empty, damaged, a pickle (which could run code), or without a detkit card.
    """
    text = read_header_text(path, CARD_KEY)
    if text is None:
        raise WeightsError("carries no detkit model card; detkit runs models it exported or imported", file=path)
    return ModelCard.from_json(text, file=path)


def _model_in(folder: Path) -> str:
    """What to give instead of a folder: its best model, where it is a run's."""
    best = folder / "best.onnx"
    return str(best) if best.is_file() else "an .onnx or .safetensors file"


def _is_bare(name_or_path: str | Path) -> bool:
    """Could be the name of a shipped model: no folder and no suffix of a model file."""
    path = Path(name_or_path)
    return path.name == str(name_or_path) and path.suffix.lower() not in SUFFIXES


def _verified(model: Shipped) -> Path:
    """A shipped model's path, once its bytes are the ones the manifest promises."""
    path = weights_folder() / model.file
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror}; install detkit again", file=path) from error
    if digest != model.sha256:
        found, expected = f"sha256 {digest[:12]}...", f"{model.sha256[:12]}..."
        raise WeightsError("damaged; install detkit again", file=path, found=found, expected=expected)
    return path


def _nearest(path: Path, models: tuple[Shipped, ...]) -> str:
    """A hint: the model names and neighbouring files that look like `path`."""
    try:
        beside = {p.name: str(p) for p in path.parent.iterdir() if p.suffix.lower() in SUFFIXES}
    except OSError:
        beside = {}
    known = {model.name: model.name for model in models} | beside
    near = difflib.get_close_matches(path.name, known, n=2, cutoff=0.5)
    if near:
        return "; did you mean " + " or ".join(known[name] for name in near) + "?"
    names = sorted({model.name for model in models})
    return f"; models that come with detkit: {', '.join(names)}" if names else ""


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
    "thresholds": (_thresholds, '{"conf": 0-1, "iou": 0-1}'),
    "class_thresholds": (
        lambda v: {_text(key): _number(number, high=1) for key, number in _table(v).items()},
        "an object of class names and 0-1",
    ),
    "training": (_table, "an object"),
    "licences": (lambda v: {key: _text(text) for key, text in _table(v).items()}, "an object of texts"),
    "format_version": (lambda v: _whole(v, CARD_FORMAT_VERSION, CARD_FORMAT_VERSION), str(CARD_FORMAT_VERSION)),
}
