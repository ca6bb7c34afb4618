"""`detkit eval` for boxes: COCO's figures, and whatever else was asked for: measured, written, then shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detkit.card_writer import with_card
from detkit.cli import terminal
from detkit.cli.eval_options import COPIES, Extras
from detkit.cli.eval_tables import print_tables
from detkit.cli.sliding_options import sliding_of
from detkit.data.dataset import Dataset
from detkit.detections import Detections
from detkit.engines import Engine as Network
from detkit.engines import EngineName
from detkit.evaluate.analysis import Analysis, analyse
from detkit.evaluate.coco import COCO_SIZES, CONF_FLOOR, MAX_DET, CocoResult, Engine, evaluate
from detkit.evaluate.columns import results_list
from detkit.evaluate.intervals import Intervals, bootstrap
from detkit.evaluate.keypoints import KeypointResult, evaluate_keypoints
from detkit.evaluate.results_file import read_results
from detkit.evaluate.thresholds import IOU, ClassChoice, study_thresholds, to_thresholds
from detkit.evaluate.voc import VocResult, evaluate_voc
from detkit.files import replacing
from detkit.thresholds import Thresholds, write_thresholds
from detkit.weights import ModelCard

_UNCHOSEN = 0.5  # of stored boxes, the confidence of a class that there is nothing to choose by


@dataclass(frozen=True, slots=True)
class Boxes:
    """What is measured: one `Detections` per photo, and where they come from; stored boxes have no model."""

    found: Sequence[Detections]
    name: str
    engine: str = ""
    file: Path | None = None
    card: ModelCard | None = None

    def to_dict(self) -> dict[str, Any]:
        """What found them, as plain JSON values."""
        if self.card is None:
            return {}
        return {"backend": self.engine, "conf": CONF_FLOOR, "iou": self.card.thresholds["iou"]}


@dataclass(frozen=True, slots=True)
class Measured:
    """All that was asked for; None is what was not."""

    result: CocoResult
    intervals: Intervals
    voc: VocResult | None
    keypoints: KeypointResult | None
    choices: Sequence[ClassChoice] | None
    thresholds: Thresholds | None
    analysis: Analysis | None


def detected(
    file: Path,
    card: ModelCard,
    dataset: Dataset,
    backend: EngineName,
    batch: int,
    loaded: Network | None = None,
    sliding: dict[str, Any] | None = None,
) -> Boxes:
    """The boxes a model finds on the photos; `loaded` is the network in that file, where it is loaded already."""
    from detkit.infer.predictor import Predictor

    predictor = Predictor(
        loaded or file, conf=CONF_FLOOR, max_det=MAX_DET, engine=backend, sliding=sliding_of(sliding or {})
    )
    found = predictor.predict_files([sample.image_path for sample in dataset], batch=batch)
    boxes = list(terminal.progress(found, total=len(dataset), title="detecting"))
    terminal.say(f"boxes by {file.name} on {predictor.engine.name}")
    return Boxes(boxes, file.name, predictor.engine.name, file, card)


def stored(path: Path, dataset: Dataset) -> Boxes:
    """The boxes in a file of results, or in a folder that `detkit detect` wrote."""
    results = read_results(path, dataset)
    terminal.say(f"boxes from {path}")
    for note in results.notes:
        terminal.warn(note)
    return Boxes(results, path.name)


def eval_boxes(
    dataset: Dataset, boxes: Boxes, engine: Engine, extras: Extras, json_with: dict[str, Any] | None
) -> None:
    """Measure, write the files asked for, and print: tables, or JSON together with `json_with`."""
    measured = _measure(dataset, boxes, engine, extras)
    written = list(_write(dataset, boxes, extras, measured))
    if json_with is not None:
        terminal.print_json(_document(measured, extras) | boxes.to_dict() | json_with)
    else:
        print_tables(measured, extras)
    for line in written:
        terminal.say(line)


def _measure(dataset: Dataset, boxes: Boxes, engine: Engine, extras: Extras) -> Measured:
    found = boxes.found
    sizes = COCO_SIZES if extras.sizes is None else extras.sizes
    wrong = bool(extras.mistakes or extras.plots or extras.report)
    guess = wrong and extras.conf is None and boxes.card is None  # only the best thresholds can tell what is shown
    choices = thresholds = None
    if extras.thresholds_to is not None or extras.report is not None or guess:
        choices = study_thresholds(dataset, found, precision=extras.precision)
        thresholds = to_thresholds(choices, _rule(extras), IOU, boxes.name, dataset)
    return Measured(
        result=evaluate(dataset, found, engine, ious=extras.ious, sizes=sizes),
        intervals=bootstrap(dataset, found),
        voc=evaluate_voc(dataset, found) if extras.voc else None,
        keypoints=evaluate_keypoints(dataset, found, extras.sigmas, engine) if extras.oks else None,
        choices=choices,
        thresholds=thresholds,
        analysis=analyse(dataset, found, conf=_conf(dataset, boxes, extras, thresholds)) if wrong else None,
    )


def _document(measured: Measured, extras: Extras) -> dict[str, Any]:
    """As plain JSON values: COCO's figures, and a key for each of the options."""
    document = measured.result.to_dict() | {"intervals": measured.intervals.to_dict()}
    analysis = measured.analysis if extras.mistakes else None
    more = {"voc": measured.voc, "keypoints": measured.keypoints, "mistakes": analysis}
    document |= {name: part.to_dict() for name, part in more.items() if part is not None}
    if extras.thresholds_to is not None and measured.thresholds is not None:
        document["thresholds"] = json.loads(measured.thresholds.to_json())
    return document


def _rule(extras: Extras) -> str:
    return "F1" if extras.precision is None else f"precision {extras.precision:g}"


def _conf(dataset: Dataset, boxes: Boxes, extras: Extras, chosen: Thresholds | None) -> tuple[float, ...]:
    """The confidence of each class from which on a box counts as shown."""
    names = dataset.class_names
    if extras.conf is not None:
        return (extras.conf,) * len(names)
    if boxes.card is not None:
        usual = boxes.card.thresholds["conf"]
        return tuple(boxes.card.class_thresholds.get(name, usual) for name in names)
    assert chosen is not None
    return chosen.for_classes(names, _UNCHOSEN)


def _write(dataset: Dataset, boxes: Boxes, extras: Extras, measured: Measured) -> list[str]:
    """The files asked for; gives a line on each."""
    said = []
    if extras.save_to is not None:
        with replacing(extras.save_to) as partial:
            partial.write_text(json.dumps(results_list(dataset, boxes.found)), encoding="utf-8")
        said.append(f"boxes: {extras.save_to}")
    if extras.thresholds_to is not None and measured.thresholds is not None:
        _write_thresholds(extras.thresholds_to, boxes, measured.thresholds)
        said.append(f"thresholds by {measured.thresholds.rule}: {extras.thresholds_to}")
    if extras.plots is not None and measured.analysis is not None:
        from detkit.evaluate.plots import write_plots

        said.append(f"{terminal.count(len(write_plots(extras.plots, measured.analysis)), 'plot')}: {extras.plots}")
    if extras.report is not None:
        _write_report(extras.report, dataset, boxes, extras, measured)
        said.append(f"report: {extras.report}")
    return said


def _write_thresholds(target: Path, boxes: Boxes, chosen: Thresholds) -> None:
    """As a file of their own, or in a copy of the model."""
    if target.suffix.lower() not in COPIES:
        write_thresholds(target, chosen)
        return
    assert boxes.file is not None
    assert boxes.card is not None
    own = {name: one.conf for name, one in chosen.classes.items() if one.conf is not None}
    with_card(boxes.file, replace(boxes.card, class_thresholds=own), target)


def _write_report(target: Path, dataset: Dataset, boxes: Boxes, extras: Extras, measured: Measured) -> None:
    from detkit.evaluate.report import write_report

    assert measured.analysis is not None
    write_report(
        target,
        dataset,
        boxes.found,
        result=measured.result,
        intervals=measured.intervals,
        analysis=measured.analysis,
        thresholds=measured.choices,
        rule=_rule(extras),
        conf=measured.analysis.confusion.conf,
        model=boxes.name,
        engine=boxes.engine,
    )
