"""`detkit explain ladder`: a window model slid over a photo and run as a convolution, compared and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detkit.cli import options, sliding_options, terminal
from detkit.cli.explain_options import Out, Photo, picture_file
from detkit.errors import WeightsError

if TYPE_CHECKING:
    from detkit.infer.explain_ladder import LadderExplanation
    from detkit.infer.pyramid import Level
    from detkit.weights import ModelCard

DEFAULT_WEIGHTS = "face-window"
_LISTED = 20  # objects in the table
_MANY = 20_000  # windows that take a minute or more

Weights = Annotated[
    str,
    typer.Option("--weights", "-w", metavar="FILE|NAME", help="A window model: a file, or the name of a shipped one."),
]

ScaleStep = Annotated[
    float, typer.Option("--scale-step", metavar="FACTOR", help="From one scale of the photo to the next.")
]
Smallest = Annotated[
    float | None,
    typer.Option(
        "--smallest",
        metavar="PX",
        help="Longer side of the smallest objects to look for (default: those that fill a window at the photo's size).",
        show_default=False,
    ),
]


def ladder(
    photo: Photo,
    weights: Weights = DEFAULT_WEIGHTS,
    conf: options.Conf = None,
    iou: options.Iou = None,
    stride: sliding_options.Stride = None,
    scale_step: ScaleStep = 1.5,
    smallest: Smallest = None,
    backend: options.Backend = "auto",
    out: Out = None,
    as_json: options.Json = False,
) -> None:
    """Show that sliding a window over a photo and one convolution give the same scores, and what each costs.

    Runs a window model (detkit train --task window) on every window of every scale, then once on each scale, and prints
    the largest difference of a score, how often the network ran, both times and their ratio. Writes one picture: the
    windows, the map of scores as heat over the photo, and the boxes after non-max suppression. The scales are fewer
    than those of detkit detect, since window by window takes its time.

    Try it:  detkit explain ladder photo.jpg
    """
    from detkit.engines import open_engine, weights_suffix
    from detkit.images import read_image, write_image
    from detkit.infer.explain_ladder import EQUAL_UP_TO, climb, explain_ladder
    from detkit.infer.explain_ladder_picture import draw_ladder
    from detkit.infer.predictor import Predictor
    from detkit.infer.pyramid import Sliding
    from detkit.infer.sliding import WindowDetector
    from detkit.weights import find_weights, read_card

    file = find_weights(weights, weights_suffix(backend))
    card = read_card(file)
    _check_window_model(card, file)
    image_rgb = read_image(photo)
    target = picture_file(out, photo, "ladder")
    smallest_px = card.input_hw[0] / (1 + 2 * card.crop_margin) if smallest is None else smallest
    sliding = Sliding(stride_px=stride, scale_step=scale_step, smallest_px=smallest_px)
    engine = open_engine(file, backend)
    detector = WindowDetector(engine, sliding)
    detector.check_photo((image_rgb.shape[0], image_rgb.shape[1]), str(photo))
    selection = Predictor(engine, conf=conf, iou=iou).selection
    levels = detector.levels(image_rgb)
    _warn_of_many(levels)
    rungs = list(terminal.progress(climb(engine, levels), total=len(levels), title="climbing"))
    explained = explain_ladder(rungs, selection, engine.card.class_names)
    write_image(target, draw_ladder(explained, image_rgb))
    if as_json:
        head = {"source": str(photo), "weights": str(file), "backend": engine.name, "picture": str(target)}
        terminal.print_json(head | explained.to_dict())
    else:
        _print_tables(explained)
    if explained.max_score_difference >= EQUAL_UP_TO:
        terminal.warn(f"the scores differ by more than {EQUAL_UP_TO:g}: {engine.name} rounds, or the model is damaged")
    terminal.say(f"by {file.name} on {engine.name}; picture: {target}")


def _check_window_model(card: ModelCard, file: Path) -> None:
    """Refuse a model that does not slide, by name (WeightsError)."""
    if card.task != "window":
        found, expected = f"a model for {card.task!r}", "one trained with --task window"
        raise WeightsError("is no window model", file=file, found=found, expected=expected)


def _warn_of_many(levels: Sequence[Level]) -> None:
    windows = sum(rows * columns for rows, columns in (level.grid_hw for level in levels))
    if windows > _MANY:
        terminal.warn(f"{windows:,} windows take minutes one by one; a larger --smallest or --scale-step makes fewer")


def _print_tables(explained: LadderExplanation) -> None:
    """The comparison, then the scales, then what was found."""
    evaluations, seconds = explained.evaluations, explained.seconds
    more = evaluations["window"] / evaluations["conv"]
    rows = [
        ("runs of the network", f"{evaluations['window']:,}", f"{evaluations['conv']:,}", f"{more:.0f} times fewer"),
        ("seconds", f"{seconds['window']:.3f}", f"{seconds['conv']:.3f}", f"{explained.speedup:.1f} times as fast"),
        ("objects", str(len(explained.window_detections)), str(len(explained.detections)), _alike(explained)),
    ]
    terminal.print_table(("", "window by window", "convolution", ""), rows, right=("window by window", "convolution"))
    print()
    document = explained.to_dict()
    heads = ("scale", "canvas", "windows", "best score", "difference")
    terminal.print_table(heads, [_rung(rung) for rung in document["levels"]], right=heads)
    if document["detections"]:
        print()
        own = ("class", "score", "x1", "y1", "x2", "y2")
        terminal.print_table(own, [_object(found) for found in document["detections"][:_LISTED]], right=own[1:])
        if len(document["detections"]) > _LISTED:
            terminal.say(f"{len(document['detections']) - _LISTED} more objects: see --json")
    terminal.say(f"largest difference of a score: {explained.max_score_difference:.1e}")


def _object(found: dict[str, Any]) -> list[str]:
    """A detection, as cells of a table."""
    return [found["class"], f"{found['score']:.2f}", *(f"{side:.0f}" for side in found["box"])]


def _rung(rung: dict[str, Any]) -> list[str]:
    """A scale, as cells of a table."""
    grid, canvas = f"{rung['columns']} x {rung['rows']}", "x".join(map(str, rung["canvas"]))
    return [f"{rung['scale']:.3f}", canvas, grid, f"{rung['best_score']:.3f}", f"{rung['score_difference']:.1e}"]


def _alike(explained: LadderExplanation) -> str:
    return "the same" if explained.same_detections else "not the same"
