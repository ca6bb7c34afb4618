"""`detkit eval` for boxes: COCO's figures, and whatever else was asked for, as tables or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detkit.cli import terminal
from detkit.cli.eval import Extras
from detkit.data.dataset import Dataset
from detkit.detections import Detections
from detkit.engines import EngineName
from detkit.errors import UsageError
from detkit.evaluate.coco import COCO_SIZES, CONF_FLOOR, MAX_DET, CocoResult, Engine, evaluate
from detkit.evaluate.intervals import Intervals, bootstrap
from detkit.evaluate.mistakes import BACKGROUND, ConfusionMatrix
from detkit.weights import ModelCard

_LISTED = 10  # photos and labels in a table; --json and --report have more
_MEANINGS = {
    "AP": "mean over IoU 0.50:0.95",
    "AP50": "at IoU 0.50",
    "AP75": "at IoU 0.75",
    "APs": "objects up to 32x32 px",
    "APm": "objects of 32x32 to 96x96 px",
    "APl": "larger objects",
    "AR1": "recall with 1 box per image and class",
    "AR10": "recall with 10",
    "AR100": "recall with 100",
    "ARs": "recall, objects up to 32x32 px",
    "ARm": "recall, objects of 32x32 to 96x96 px",
    "ARl": "recall, larger objects",
}


@dataclass(frozen=True, slots=True)
class Boxes:
    """What is measured: one `Detections` per photo, and where they come from; stored results have no model."""

    found: Sequence[Detections]
    engine: str | None = None
    file: Path | None = None
    card: ModelCard | None = None

    def results(self, dataset: Dataset) -> list[dict[str, Any]]:
        """In COCO's results format."""
        from detkit.evaluate.columns import results_list

        return results_list(dataset, self.found)


def detected(file: Path, card: ModelCard, dataset: Dataset, backend: EngineName, batch: int) -> Boxes:
    """The boxes a model finds on the photos."""
    from detkit.infer.predictor import Predictor

    predictor = Predictor(file, conf=CONF_FLOOR, max_det=MAX_DET, engine=backend)
    found = predictor.predict_files([sample.image_path for sample in dataset], batch=batch)
    boxes = list(terminal.progress(found, total=len(dataset), title="detecting"))
    terminal.say(f"boxes by {file.name} on {predictor.engine.name}")
    return Boxes(boxes, predictor.engine.name, file, card)


def stored(path: Path, dataset: Dataset) -> Boxes:
    """The boxes in a file of results."""
    from detkit.evaluate.results_file import read_results

    results = read_results(path, dataset)
    terminal.say(f"boxes from {path}")
    for note in results.notes:
        terminal.say(note)
    return Boxes(results)


def eval_boxes(
    dataset: Dataset, boxes: Boxes, engine: Engine, extras: Extras, json_with: dict[str, Any] | None
) -> None:
    """Measure, write the files asked for, and print: tables, or JSON together with `json_with`."""
    sizes = COCO_SIZES if extras.sizes is None else extras.sizes
    result = evaluate(dataset, boxes.found, engine, ious=extras.ious, sizes=sizes)
    spread = bootstrap(dataset, boxes.found)
    document = result.to_dict() | {"intervals": spread.to_dict()}
    if json_with is None:
        _print_figures(result, spread, extras)
    for name, more in _more(dataset, boxes.found, engine, extras).items():
        document[name] = more.to_dict()
        if json_with is None:
            terminal.print_table(
                ("figure", "value"), [(k, _number(v)) for k, v in more.figures().items()], right=("value",)
            )
            for rule in more.rules():
                terminal.say(rule)
    document |= _mistakes(dataset, boxes, extras, show=json_with is None)
    if extras.thresholds_to is not None:
        document["thresholds"] = _write_thresholds(dataset, boxes, extras, show=json_with is None)
    if extras.report is not None:
        from detkit.evaluate.report import write_report

        write_report(extras.report, dataset, boxes.found, **_report_settings(dataset, boxes, extras, result, spread))
        terminal.say(f"report: {extras.report}")
    if json_with is not None:
        terminal.print_json(document | json_with)


def _more(dataset: Dataset, found: Sequence[Detections], engine: Engine, extras: Extras) -> dict[str, Any]:
    """Other people's figures."""
    more: dict[str, Any] = {}
    if extras.voc:
        from detkit.evaluate.voc import evaluate_voc

        more["voc"] = evaluate_voc(dataset, found)
    if extras.oks:
        from detkit.evaluate.keypoints import evaluate_keypoints

        more["keypoints"] = evaluate_keypoints(dataset, found, extras.sigmas, engine)
    return more


def _conf(dataset: Dataset, boxes: Boxes, extras: Extras) -> tuple[float, ...]:
    """The confidence of each class at which mistakes are counted."""
    if extras.conf is not None:
        return (extras.conf,) * len(dataset.class_names)
    if boxes.card is not None:
        usual = boxes.card.thresholds["conf"]
        return tuple(boxes.card.class_thresholds.get(name, usual) for name in dataset.class_names)
    from detkit.evaluate.thresholds import choose_thresholds

    return choose_thresholds(dataset, boxes.found, draws=2).for_classes(dataset.class_names, 0.5)


def _mistakes(dataset: Dataset, boxes: Boxes, extras: Extras, *, show: bool) -> dict[str, Any]:
    """What went wrong, printed and plotted where it is asked for."""
    if not (extras.mistakes or extras.plots):
        return {}
    from detkit.evaluate.analysis import Analysis, analyse

    analysis: Analysis = analyse(dataset, boxes.found, conf=_conf(dataset, boxes, extras))
    if extras.plots is not None:
        from detkit.evaluate.plots import write_plots

        written = write_plots(extras.plots, analysis)
        terminal.say(f"{terminal.count(len(written), 'plot')}: {extras.plots}")
    if not extras.mistakes:
        return {}
    if show:
        _print_mistakes(analysis)
    return {"mistakes": analysis.to_dict()}


def _print_mistakes(analysis: Any) -> None:
    print()
    headers = ("AP50 is lost to", "cost", "all boxes", "shown")
    costs = [*analysis.errors.types, *analysis.errors.totals]
    rows = [(one.kind, _number(one.cost), str(one.count), str(one.shown)) for one in costs]
    terminal.print_table(headers, rows, right=headers[1:])
    print()
    _print_confusion(analysis.confusion)
    print()
    headers = ("worst photos", "error", "objects", "missed", "false alarms")
    rows = [
        (one.name, f"{one.error:.2f}", str(one.truths), str(one.missed), str(one.false_alarms))
        for one in analysis.worst[:_LISTED]
    ]
    terminal.print_table(headers, rows, right=headers[1:])
    print()
    headers = ("doubtful labels", "why", "score", "label", "found")
    rows = [
        (_place(one), one.kind, f"{one.score:.2f}", one.label or "-", one.found or "-")
        for one in analysis.suspects[:_LISTED]
    ]
    terminal.print_table(headers, rows, right=("score",))
    terminal.say(f"expected calibration error {analysis.calibration.total.ece:.3f}")


def _place(suspect: Any) -> str:
    return suspect.name if suspect.row is None else f"{suspect.name} (label {suspect.row})"


def _print_confusion(matrix: ConfusionMatrix) -> None:
    """Rows are truths; only the classes that are mixed up most, where there are many."""
    labels = [*matrix.class_names, BACKGROUND]
    wrong = matrix.counts.sum(0) + matrix.counts.sum(1) - 2 * matrix.counts.diagonal()
    shown = sorted(range(len(matrix.class_names)), key=lambda k: -wrong[k])[:_LISTED]
    order = [*sorted(shown), len(labels) - 1]
    headers = ("truth \\ found as", *(labels[k] for k in order))
    rows = [(labels[i], *(str(matrix.counts[i, j]) for j in order)) for i in order]
    terminal.print_table(headers, rows, right=headers[1:])


def _write_thresholds(dataset: Dataset, boxes: Boxes, extras: Extras, *, show: bool) -> dict[str, Any]:
    """Choose and write them; gives them as plain JSON values."""
    import json
    from dataclasses import replace

    from detkit.evaluate.thresholds import choose_thresholds
    from detkit.thresholds import write_thresholds

    target = extras.thresholds_to
    assert target is not None
    name = None if boxes.file is None else boxes.file.name
    chosen = choose_thresholds(dataset, boxes.found, precision=extras.precision, model=name)
    if target.suffix.lower() in (".onnx", ".safetensors"):
        from detkit.card_writer import with_card

        if boxes.file is None or boxes.card is None:
            raise UsageError("--write-thresholds: stored results have no model to copy", expected="a .json file")
        own = {key: one.conf for key, one in chosen.classes.items() if one.conf is not None}
        with_card(boxes.file, replace(boxes.card, class_thresholds=own), target)
    else:
        write_thresholds(target, chosen)
    if show:
        print()
        headers = ("class", "conf", "95 % interval", "precision", "recall", "F1")
        rows = [
            (key, _optional(one.conf), _span(one.low, one.high), *map(_optional, (one.precision, one.recall, one.f1)))
            for key, one in chosen.classes.items()
        ]
        terminal.print_table(headers, rows, right=("conf", *headers[3:]))
    terminal.say(f"thresholds ({chosen.rule}): {target}")
    document: dict[str, Any] = json.loads(chosen.to_json())
    return document


def _report_settings(
    dataset: Dataset, boxes: Boxes, extras: Extras, result: CocoResult, spread: Intervals
) -> dict[str, Any]:
    return {
        "result": result,
        "intervals": spread,
        "model": None if boxes.file is None else boxes.file.name,
        "engine": boxes.engine,
        "conf": _conf(dataset, boxes, extras),
    }


def _print_figures(result: CocoResult, spread: Intervals, extras: Extras) -> None:
    known = spread.figures()
    headers: tuple[str, ...] = ("figure", "value", "95 % interval", "what it says")
    figures = [
        (name, _number(value), _range(*known.get(name, (-1.0, -1.0))), _MEANINGS[name])
        for name, value in result.figures().items()
    ]
    figures += [(f"AP{100 * one.iou:g}", _number(one.AP), "", f"at IoU {one.iou:g}") for one in result.ious]
    if extras.sizes is not None:
        for size in result.sizes:
            upper = "and more" if size.high_px is None else f"to {size.high_px:g}"
            meaning = f"{size.name}: {size.low_px:g} {upper} px, {terminal.count(size.truths, 'object')}"
            figures.append((f"AP {size.name}", _number(size.AP), "", meaning))
    terminal.print_table(headers, figures, right=headers[1:2])
    print()
    headers = ("class", "AP", "95 % interval", "AP50", "AR100", "truths", "detections")
    rows = [
        (c.name, _number(c.AP), _range(*own.AP), _number(c.AP50), _number(c.AR100), str(c.truths), str(c.detections))
        for c, own in zip(result.per_class, spread.per_class, strict=True)
    ]
    terminal.print_table(headers, rows, right=("AP", *headers[3:]))
    for rule in result.rules():
        terminal.say(rule)
    if spread.resolution >= 0:
        terminal.say(f"this set can tell apart differences of about {spread.resolution:.3f} AP")


def _range(low: float, high: float) -> str:
    return "" if low < 0 else f"{low:.3f} to {high:.3f}"


def _span(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _number(value: float) -> str:
    return "-" if value < 0 else f"{value:.3f}"


def _optional(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
