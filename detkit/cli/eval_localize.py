"""`detkit eval` of a localizer: is there an object, which, and where; beside what a guesser reaches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from detkit.cli import terminal
from detkit.cli.eval_options import Extras
from detkit.data.dataset import Dataset
from detkit.engines import EngineName
from detkit.errors import UsageError
from detkit.evaluate.coco_engines import Engine
from detkit.evaluate.columns import results_list
from detkit.evaluate.localization import LocalizationResult, baseline_of_card, evaluate_localization, one_or_none
from detkit.files import replacing
from detkit.infer.predictor import Predictor

_MEANINGS = {
    "quality": "mean over all photos: IoU where the object was found and named right, 1 for an empty one left alone",
    "pc_accuracy": "share of photos of which it is right that there is an object, or none",
    "misses": "share of photos with an object in which none was found",
    "false_alarms": "share of empty photos in which one was found",
    "class_accuracy": "share of photos with an object whose class is right",
    "mean_IoU": "mean IoU of the box on photos with an object, whatever its class",
    "LOC": "share of photos with an object: class right and IoU at least 0.5",
    "centre_error": "mean distance of the centres, over the photo's diagonal",
}


def check_localize_options(extras: Extras, engine: Engine) -> None:
    """Refuse an option that a localizer has nothing for, before any long work (UsageError)."""
    if engine != "hotcoco":
        raise UsageError("--engine computes COCO's figures; a localizer has its own", found=engine, expected="none")
    given = [*extras.for_boxes(), *(["--plots"] if extras.plots is not None else [])]
    if given:
        raise UsageError(f"{given[0]} is about many boxes a photo; this is a localizer, of one object or none")


def eval_localize(
    file: Path,
    dataset: Dataset,
    backend: EngineName,
    batch: int,
    save_to: Path | None,
    json_with: dict[str, Any] | None,
) -> None:
    """Measure a localizer on the photos with one object or none, and print tables or JSON.

    Args:
        save_to: where its boxes go as COCO's results, or None. json_with: what joins the JSON; None prints tables.
    Raises:
        DataError: no photo has exactly one object.
        WeightsError: the model cannot be used.
    """
    usable = one_or_none(dataset)
    predictor = Predictor(file, conf=0.0, engine=backend)
    found = predictor.predict_files([sample.image_path for sample in usable], batch=batch)
    boxes = list(terminal.progress(found, total=len(usable), title="localizing"))
    terminal.say(f"boxes by {file.name} on {predictor.engine.name}")
    card = predictor.card
    result = evaluate_localization(dataset, boxes, card.thresholds["conf"], baseline_of_card(card))
    if save_to is not None:
        with replacing(save_to) as partial:
            partial.write_text(json.dumps(results_list(usable, boxes)), encoding="utf-8")
    if json_with is None:
        print_tables(result)
    else:
        terminal.print_json(result.to_dict() | {"backend": predictor.engine.name} | json_with)


def print_tables(result: LocalizationResult) -> None:
    """The figures beside those of the mean box, and the classes."""
    guessed = {} if result.baseline is None else result.baseline.to_dict()
    rows = []
    for name, value in result.figures.to_dict().items():
        low, high = result.intervals[name]
        interval = "-" if low < 0 else f"{low:.3f} - {high:.3f}"
        rows.append((name, _number(value), interval, _number(guessed.get(name, -1.0)), _MEANINGS[name]))
    right = ("value", "95 % interval", "mean box")
    terminal.print_table(("figure", "value", "95 % interval", "mean box", "what it says"), rows, right=right)
    print()
    classes = [
        (each.name, str(each.photos), _number(each.class_accuracy), _number(each.mean_IoU), _number(each.LOC))
        for each in result.per_class
    ]
    headers = ("class", "photos", "class_accuracy", "mean_IoU", "LOC")
    terminal.print_table(headers, classes, right=headers[1:])
    left_out = f"; {terminal.count(result.left_out, 'photo')} with more than one left out" if result.left_out else ""
    terminal.say(
        f"photos: {result.objects} with one object, {result.photos - result.objects} with none{left_out}; "
        f"an object counts as found from a score of {result.conf:g} on"
    )
    if result.ratio > 0:
        terminal.say(f"mean IoU is {result.ratio:.2f} times that of the mean box of the training photos")


def _number(value: float) -> str:
    return "-" if value < 0 else f"{value:.3f}"
