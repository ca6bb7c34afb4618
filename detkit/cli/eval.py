"""`detkit eval`: how good a model is on labelled photos, in COCO's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detkit.cli import eval_options as own
from detkit.cli import options, sliding_options, terminal
from detkit.cli.contenders import read_split
from detkit.cli.eval_options import COPIES, Extras, numbers, sizes_of
from detkit.data import formats
from detkit.data.dataset import Dataset, check_class_names
from detkit.errors import UsageError
from detkit.weights import ModelCard, read_card


def eval_(
    data: own.Data,
    split: own.Split = None,
    format_: options.SourceFormat = None,
    weights: options.Weights = None,
    adapter: options.Adapter = None,
    names: options.Names = None,
    predictions: own.Predictions = None,
    engine: own.FiguresEngine = "hotcoco",
    backend: options.Backend = "auto",
    batch: own.Batch = 1,
    mode: sliding_options.Mode = None,
    stride: sliding_options.Stride = None,
    scale_step: sliding_options.ScaleStep = None,
    smallest: sliding_options.Smallest = None,
    iou_thresholds: own.IouThresholds = None,
    sizes: own.Sizes = None,
    voc: own.Voc = False,
    oks: own.Oks = False,
    oks_sigmas: own.OksSigmas = None,
    mistakes: own.Mistakes = False,
    plots: own.Plots = None,
    report: own.Report = None,
    conf: own.Conf = None,
    write_thresholds: own.WriteThresholds = None,
    precision: own.Precision = None,
    save_predictions: own.SavePredictions = None,
    as_json: options.Json = False,
) -> None:
    """Say how good a model is on labelled photos, in COCO's numbers.

    Prints COCO's 12 figures (0 to 1) and AP for each class, by COCO's rules: at most 100 boxes per image and class, and
    a detection on a crowd box counts neither way. A figure with nothing to measure is "-" in the table and -1 in JSON.
    The interval is where the figure would lie on other photos of the same kind, by a bootstrap over the photos.

    A model of points is measured by how far its points lie from the labelled ones, in the labelled boxes: NME, failure
    rates, each point, and the mean shape for comparison; the cumulative curve as a picture with --plots, in numbers
    with --json; COCO's keypoint figures where the spreads of the points are known or given.

    A localizer is measured on the photos with one object or none: is there one, which, and where, each beside what the
    mean box of its training photos reaches.

    Example:  detkit eval street --weights runs/street/best.onnx --mistakes --report street.html
    """
    extras = Extras(
        ious=numbers("--iou-thresholds", iou_thresholds, most=1),
        sizes=sizes_of(sizes),
        voc=voc,
        oks=oks or oks_sigmas is not None,
        sigmas=numbers("--oks-sigmas", oks_sigmas) or None,
        mistakes=mistakes,
        conf=conf,
        precision=precision,
        plots=plots,
        report=report,
        thresholds_to=write_thresholds,
        save_to=save_predictions,
    )
    sliding = sliding_options.asked(mode, stride, scale_step, smallest)
    if predictions is not None:
        given: dict[str, Any] = {
            "--weights": weights,
            "--adapter": adapter,
            "--names": names,
            "--save-predictions": save_predictions,
        }
        given |= {"--mode, --stride, --scale-step or --smallest": sliding}
        _refuse_model_options(given | {"--backend": backend != "auto", "--batch": batch != 1})
    file, foreign = (None, None) if predictions is not None else own.model(weights, adapter, names, backend)
    card = None if file is None else read_card(file) if foreign is None else foreign.card
    _check_extras(extras, file, card, engine)
    if card is not None:
        sliding_options.check(sliding, card.task, batch)
    if card is not None and card.task == "landmarks":
        from detkit.cli.eval_points import check_points_options

        check_points_options(extras, card, batch)
    dataset = _read(data, split, format_, need_photos=predictions is None)
    _check_files(extras, [dataset.source, *(path for path in (file, predictions) if path is not None)])
    where = {"data": str(dataset.source), "split": dataset.split, "format": dataset.format}
    if file is None or card is None:
        from detkit.cli.eval_boxes import eval_boxes, stored

        assert predictions is not None
        where |= {"predictions": str(predictions)}
        eval_boxes(dataset, stored(predictions, dataset), engine, extras, where if as_json else None)
        return
    check_class_names(card.class_names, dataset)
    where |= {"weights": str(file)}
    if card.task == "landmarks":
        from detkit.cli.eval_points import eval_points

        eval_points(file, dataset, backend, engine, extras, where if as_json else None)
        return
    if card.task == "localize":
        from detkit.cli.eval_localize import eval_localize

        eval_localize(file, dataset, backend, batch, extras.save_to, where if as_json else None)
        return
    from detkit.cli.eval_boxes import detected, eval_boxes

    boxes = detected(file, card, dataset, backend, batch, foreign, sliding)
    eval_boxes(dataset, boxes, engine, extras, where if as_json else None)


def _refuse_model_options(given: dict[str, Any]) -> None:
    for option, value in given.items():
        if value:
            raise UsageError(f"{option} is for a model; --predictions has its boxes already")


def _check_extras(extras: Extras, file: Path | None, card: ModelCard | None, engine: own.FiguresEngine) -> None:
    """Refuse what this model, or stored boxes, cannot give, and what needs an extra that is not installed."""
    target = extras.thresholds_to
    if card is not None and card.task == "localize":
        from detkit.cli.eval_localize import check_localize_options

        check_localize_options(extras, engine)
    if card is not None and card.task != "landmarks" and extras.oks:
        raise UsageError("--oks measures points, and this model finds boxes", expected="--predictions with points")
    if target is not None and target.suffix.lower() in COPIES and (file is None or target.suffix != file.suffix):
        what = "stored boxes have no model to copy" if file is None else f"the model is a {file.suffix} file"
        expected = "a .json file" if file is None else f"a .json or {file.suffix} file"
        raise UsageError(f"--write-thresholds: {what}", file=target, expected=expected)
    if target is not None and target.suffix.lower() in COPIES and card is not None and card.task == "foreign":
        what = "a network of another project has no model card to change"
        raise UsageError(f"--write-thresholds: {what}", file=target, expected="a .json file")
    if extras.plots is not None:
        from detkit.evaluate.plots import check_matplotlib

        check_matplotlib()
    if extras.report is not None:
        from detkit.evaluate.report import check_jinja2

        check_jinja2()


def _read(data: Path, split: str | None, format_: formats.Format | None, *, need_photos: bool) -> Dataset:
    """The labelled photos, described on stderr; stored boxes need no photos on disk."""
    found = formats.recognise(data, format_)
    dataset = read_split(data, split, format_, need_photos=need_photos)
    terminal.say(f"{data}: {found.reason}")
    terminal.say(terminal.describe_dataset(dataset))
    return dataset


def _check_files(extras: Extras, inputs: list[Path]) -> None:
    """Refuse before the long work what could not be written after it."""
    targets = extras.files()
    for option, target in targets.items():
        if not target.absolute().parent.is_dir():
            raise UsageError(f"{option}: no such folder", file=target.parent)
        if target.is_dir() or (target.exists() and any(path.exists() and target.samefile(path) for path in inputs)):
            raise UsageError(f"{option} would overwrite what is measured", file=target, expected="another file")
    if len({target.resolve() for target in targets.values()}) < len(targets):
        raise UsageError(f"{' and '.join(targets)} name one file", expected="a file for each")
    folder = extras.plots
    if folder is not None and (folder.exists() or not folder.absolute().parent.is_dir()) and not folder.is_dir():
        raise UsageError("--plots is no folder, and none can be made there", file=folder, expected="a folder")
