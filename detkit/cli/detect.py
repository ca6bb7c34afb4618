"""`detkit detect`: photos in; annotated pictures and a table or JSON out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detkit.cli import options, terminal
from detkit.errors import DataError, UsageError

if TYPE_CHECKING:
    from detkit.infer.frames import Item, Unreadable
    from detkit.infer.predictor import Predictor
    from detkit.infer.sinks import PictureFolder

DEFAULT_OUT = Path("runs/detect")

Photos = Annotated[
    list[str], typer.Argument(metavar="PHOTOS", help="Image files, folders (with all they hold) or 'glob*.jpg'.")
]
MaxDet = Annotated[int | None, typer.Option("--max-det", metavar="N", help="At most N boxes a photo (default: 100).")]
Landmarks = Annotated[
    str | None,
    typer.Option("--landmarks", metavar="FILE|NAME", help="A model of points, run on each box of a class it knows."),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="DIR", help=f"Folder for annotated pictures (default: {DEFAULT_OUT})."),
]
NoPictures = Annotated[bool, typer.Option("--no-pictures", help="Write no annotated pictures.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout; write pictures only with --out.")
]


def detect(
    photos: Photos,
    weights: options.Weights = None,
    conf: options.Conf = None,
    iou: options.Iou = None,
    max_det: MaxDet = None,
    landmarks: Landmarks = None,
    backend: options.BackendForMany = "auto",
    out: Out = None,
    no_pictures: NoPictures = False,
    json: Json = False,
) -> None:
    """Find objects in photos.

    Writes a copy of every photo with its objects framed and prints what was found as a table, or with --json as one
    JSON document. Photos that cannot be read are named, the others go on, and the exit code is 3.
    With --landmarks each box gets its points; a model of points given as --weights looks at each photo as a whole.

    Try it:  detkit detect photo.jpg --out pictures
    """
    if no_pictures and out is not None:
        raise UsageError("--no-pictures and --out contradict each other")
    from detkit.infer.predictor import Predictor
    from detkit.infer.sinks import PictureFolder
    from detkit.infer.sources import find_images

    folder = None if no_pictures or (json and out is None) else out or DEFAULT_OUT
    items = find_images(photos, leave_out=folder)
    predictor = Predictor(
        weights, conf=conf, iou=iou, max_det=max_det, engine=backend, photos=len(items), landmarks=landmarks
    )
    edges = predictor.points_card.point_edges
    pictures = None if folder is None else PictureFolder(folder, predictor.class_names, items, edges)
    start_s = time.perf_counter()
    records, unreadable = _run(predictor, items, pictures)
    took_s = time.perf_counter() - start_s
    if json:
        terminal.print_json(_document(predictor, records))
    if unreadable and len(items) == 1:
        raise unreadable[0].error
    if not json:
        _print_table(records)
    _say_summary(predictor, records, took_s, folder)
    if unreadable:
        raise DataError(f"{len(unreadable)} of {len(items)} photos could not be read")


def _run(
    predictor: Predictor, items: tuple[Item, ...], pictures: PictureFolder | None
) -> tuple[list[dict[str, Any]], list[Unreadable]]:
    """A record for every photo, in order, and the photos that could not be read."""
    from detkit.infer.sinks import error_record, record

    records: list[dict[str, Any]] = []
    unreadable: list[Unreadable] = []

    def on_unreadable(item: Unreadable) -> None:
        records.append(error_record(item))
        unreadable.append(item)
        if len(items) > 1:
            terminal.warn(str(item.error))

    for item in terminal.progress(items, total=len(items), title="detecting"):
        for frame, detections in predictor.stream([item], on_unreadable):
            records.append(record(frame, detections, predictor.class_names, predictor.points_card.point_names))
            if pictures is not None:
                records[-1]["picture"] = str(pictures.write(frame, detections))
    return records, unreadable


def _document(predictor: Predictor, records: list[dict[str, Any]]) -> dict[str, Any]:
    from detkit.infer.sinks import RECORDS_VERSION

    used = predictor.selection
    model = {
        "file": None if predictor.path is None else predictor.path.name,
        "engine": predictor.engine.name,
        "class_names": list(predictor.class_names),
        "conf": used.conf,
        "iou": used.iou,
        "max_det": used.max_det,
    }
    if predictor.landmarks is not None and predictor.landmarks.path is not None:
        model["landmarks"] = predictor.landmarks.path.name
    return {"version": RECORDS_VERSION, "model": model, "images": records}


def _print_table(records: list[dict[str, Any]]) -> None:
    rows: list[list[str]] = []
    for photo in records:
        found = photo.get("detections", [])
        for one in found:
            box = [f"{value:.0f}" for value in one["box_xyxy"]]
            rows.append([photo["name"], one["class"], f"{one['score']:.2f}", *box])
        if not found:
            rows.append([photo["name"], "(unreadable)" if "error" in photo else "(nothing)", "", "", "", "", ""])
    headers = ["photo", "class", "score", "x1", "y1", "x2", "y2"]
    terminal.print_table(headers, rows, right=headers[2:])


def _say_summary(predictor: Predictor, records: list[dict[str, Any]], took_s: float, folder: Path | None) -> None:
    read = [photo for photo in records if "detections" in photo]
    objects = sum(len(photo["detections"]) for photo in read)
    each = f", {1000 * took_s / len(read):.0f} ms a photo" if read else ""
    model = "model" if predictor.path is None else predictor.path.name
    terminal.say(
        f"{terminal.count(objects, 'object')} in {terminal.count(len(read), 'photo')}{each}, by {model} on "
        f"{predictor.engine.name}"
    )
    if folder is not None and read:
        terminal.say(f"annotated pictures: {folder}")
