"""`detkit weights info`: a model's card as a document, and as lines people read; a card may hold anything."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from detkit.errors import WeightsError
from detkit.files import sha256_of
from detkit.manifest import ModelFile, find_weights, read_manifest
from detkit.model_header import SUFFIXES
from detkit.weights import ModelCard, read_card

_MB = 1_000_000
_LONGEST_TEXT = 60
_SHOWN_FIRST = ("data", "images", "boxes", "left_out_images", "left_out_boxes", "epochs", "seed", "minutes")
_TOLD_ELSEWHERE = ("metrics", "intervals", "val", "val_images", "data_sha256")


def document(name_or_path: str) -> dict[str, Any]:
    """Everything known of a model: its files, its card and, where it has a name, its entry in the list of models.

    Raises:
        WeightsError: no such model, damaged, or a file without a card.
    """
    _, models = read_manifest()
    own = [model for model in models if model.name == name_or_path]
    paths = [model.verified() for model in own if model.path is not None]
    paths = paths or ([find_weights(name_or_path)] if not own else [])
    carded = [path for path in paths if path.suffix.lower() in SUFFIXES or not own]
    card = read_card(carded[0]) if carded else None
    return {
        "name": own[0].name if own else None,
        "files": [{"file": str(p), "bytes": p.stat().st_size, "sha256": _digest(p)} for p in paths],
        "card": None if card is None else json.loads(card.to_json()),
        "listed": _listed(own),
    }


def rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The document as lines: what it says, and the value."""
    if found["name"]:
        yield "name", found["name"]
    for file in found["files"]:
        yield "file", f"{file['file']} ({file['bytes'] / _MB:.1f} MB)"
        yield "sha256", file["sha256"]
    listed = found["listed"]
    if found["card"] is None:
        yield "task", listed["task"]
        yield "classes", _names(listed["classes"])
        yield "accuracy", _plain(listed["accuracy"])
        yield "licence", listed["licence"]
        yield "from", listed["url"]
        if not found["files"]:
            yield "here", f"not yet: detkit weights pull {found['name']}"
        return
    yield from _card_rows(ModelCard.from_json(json.dumps(found["card"])))


def _card_rows(card: ModelCard) -> Iterator[tuple[str, str]]:
    height, width = card.input_hw
    yield "task", card.task
    yield "network", _plain({key: _shortened(value) for key, value in card.architecture.items()})
    yield "classes", _names(card.class_names)
    if card.point_names:
        yield "points", _names(card.point_names)
    pad = "" if card.fit == "stretch" else f", padded with grey {card.pad_value}"
    yield "input", f"{width}x{height} px, {card.fit}{pad}"
    own = "".join(f", {name} {value:g}" for name, value in card.class_thresholds.items())
    yield "thresholds", f"conf {card.thresholds['conf']:g}, iou {card.thresholds['iou']:g}{own}"
    if card.anchors_wh_px:
        yield "anchors", "; ".join(" ".join(f"{w:g}x{h:g}" for w, h in level) for level in card.anchors_wh_px)
    yield from _training_rows(card.training)
    for what, licence in card.licences.items():
        yield f"licence of the {what}", licence


def _training_rows(training: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What it learnt from, and how good it was on what it was measured on."""
    known = {key: value for key, value in training.items() if key not in _TOLD_ELSEWHERE}
    known = {key: known[key] for key in (*_SHOWN_FIRST, *known) if key in known}
    if known:
        yield "trained on", ", ".join(f"{key.replace('_', ' ')} {_plain(value)}" for key, value in known.items())
    if "data_sha256" in training:
        yield "data's sha256", _plain(training["data_sha256"])
    metrics, intervals = training.get("metrics"), training.get("intervals")
    if not isinstance(metrics, dict):
        return
    photos = f", {_plain(training['val_images'])} photos" if "val_images" in training else ""
    yield "measured on", f"{_plain(training.get('val', 'its val split'))}{photos}"
    for name, value in metrics.items():
        span = intervals.get(name) if isinstance(intervals, dict) else None
        within = f" (95 %: {_plain(span[0])} to {_plain(span[1])})" if isinstance(span, list) and len(span) == 2 else ""
        yield name, f"{_plain(value)}{within}"


def _listed(own: list[ModelFile]) -> dict[str, Any] | None:
    if not own:
        return None
    first = own[0]
    about = {"classes": list(first.classes), "accuracy": first.accuracy, "licence": first.licence, "task": first.task}
    return about | {"url": first.url or None}


def _digest(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror}", file=path) from error


def _shortened(value: Any) -> Any:
    """A network that is described by a whole file's text is told by the text's length."""
    return f"of {len(value):,} characters" if isinstance(value, str) and len(value) > _LONGEST_TEXT else value


def _names(names: Any) -> str:
    return f"{len(names)}: {', '.join(str(name) for name in names)}"


def _plain(value: Any) -> str:
    """Any value of a card as a short text."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return " ".join(_plain(inner) for inner in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
