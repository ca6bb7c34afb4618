"""What `detkit detect` does once its options are settled: opens the sources, the model and the outputs, and runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detkit.cli import terminal
from detkit.cli.detect import Request
from detkit.cli.detect_tables import Tables
from detkit.engines import MANY_PHOTOS
from detkit.errors import DataError, UsageError
from detkit.infer.frames import Item
from detkit.infer.job import Job, header_of
from detkit.infer.journal import read_journal, remove_partial_files
from detkit.infer.predictor import Predictor
from detkit.infer.reading import Reading
from detkit.infer.records import RECORDS_VERSION, Record
from detkit.infer.sinks import Sinks
from detkit.infer.sinks.opening import JOURNAL_NAME, Outputs, open_sinks
from detkit.infer.sources import find_items

if TYPE_CHECKING:
    from detkit.images import Image

_DRAWN = {"pictures", "videos", "crops"}  # kinds of output that show pixels


def run_request(request: Request) -> None:
    """Find the objects and write, print and show them.

    Raises:
        DataError: at the end, when something could not be read.
    """
    items = find_items(request.sources, leave_out=request.folder)
    _check_kinds(request, items)
    reading = reading_of(request)
    predictor, tracking = open_predictor(request, items), None
    if request.track:
        tracking = _tracking(request, predictor)
    header = header_of(predictor, reading, settings_of(request))
    outputs = outputs_of(request)
    journal = read_journal(outputs.journal) if request.resume and outputs.journal is not None else None
    if journal is not None:
        journal.check_same_run(header)
    done = frozenset() if journal is None else journal.done
    number, count = request.shard
    mine = [(index, item) for index, item in enumerate(items) if index % count == number - 1]
    todo = [(index, item) for index, item in mine if item.name not in done]
    if journal is not None:
        terminal.say(f"{journal.file}: {len(mine) - len(todo)} of {len(mine)} are done; going on with the rest")
        if outputs.folder is not None and request.shard[1] == 1:
            remove_partial_files(outputs.folder)
    job = Job(predictor, tracking, show=_window() if request.show else None, strict=request.strict)
    sinks = open_sinks(
        outputs,
        items,
        header,
        resumed=journal,
        stdout=sys.stdout.buffer if request.jsonl == "-" else None,
        painter=job.paint,
    )
    start_s = time.perf_counter()
    records, tables = _run(job, todo, reading, sinks, request)
    took_s = time.perf_counter() - start_s
    if request.json:
        terminal.print_json(_document(predictor, records))
    errors = tables.errors + (0 if journal is None else journal.errors)
    if tables.errors and len(items) == 1:
        raise DataError(next(one["error"] for one in records if one["kind"] == "error"))
    if not request.json and request.jsonl != "-":
        tables.print(job.counts_of_photos())
    model = "model" if predictor.path is None else predictor.path.name
    terminal.say(f"{tables.summary(took_s)}, by {model} on {predictor.engine.name}")
    if request.folder is not None:
        terminal.say(f"{' and '.join(request.to)}: {request.folder}")
    if errors:
        kinds = "photos" if all(item.kind == "photo" for item in items) else "items"
        raise DataError(f"{errors} of {len(mine)} {kinds} could not be read")


def _check_kinds(request: Request, items: Sequence[Item]) -> None:
    """Refuse what would give wrong results with such items."""
    if request.resume and any(item.kind == "stream" for item in items):
        raise UsageError("--resume: a live stream cannot be gone on with")
    has_photos = any(item.kind == "photo" for item in items)
    if request.track and has_photos and (request.resume or request.shard[1] > 1):
        other = "--resume" if request.resume else "--shard"
        raise UsageError(f"--track follows objects from photo to photo, which {other} would break")


def reading_of(request: Request) -> Reading:
    """How the sources are read."""
    whole = request.show or (request.folder is not None and bool(_DRAWN & set(request.to)))
    return Reading(request.batch, request.every, request.start_s, request.end_s, whole_pictures=whole)


def open_predictor(request: Request, items: Sequence[Item]) -> Predictor:
    """The model, as it is asked for; `items` are all of the run, so that shards and resumed runs agree."""
    return Predictor(
        request.weights,
        **predictor_settings(request),
        photos=len(items) if all(item.kind == "photo" for item in items) else MANY_PHOTOS,
    )


def predictor_settings(request: Request) -> dict[str, Any]:
    """The keyword arguments of `Predictor` but for the number of photos."""
    from detkit.infer.tiles import Tiling

    return {
        "conf": request.conf,
        "iou": request.iou,
        "max_det": request.max_det,
        "nms": request.nms,
        "classes": None if request.classes is None else [request.classes],
        "thresholds": request.thresholds,
        "size_px": request.size,
        "tiling": None if request.tile is None else Tiling(request.tile, request.overlap),
        "engine": request.backend,
        "landmarks": request.landmarks,
    }


def settings_of(request: Request) -> dict[str, Any]:
    """What else decides which records a run writes."""
    number, count = request.shard
    own = {"track": request.track, "count": list(request.lines), "shard": f"{number}/{count}"}
    return own | {"to": list(request.to), "crop_margin": request.crop_margin, "yolo_scores": request.yolo_scores}


def _tracking(request: Request, predictor: Predictor) -> Any:
    from detkit.infer.crossings import parse_count_lines
    from detkit.infer.follow import Tracking

    chosen = predictor.selection
    lines = parse_count_lines(request.lines)
    return Tracking(predictor.class_names, chosen.class_conf or chosen.conf, lines)


def outputs_of(request: Request) -> Outputs:
    """What the run writes."""
    number, count = request.shard
    return Outputs(
        request.folder,
        request.to if request.folder is not None else (),
        jsonl=None if request.jsonl in (None, "-") else Path(request.jsonl),
        crop_margin=request.crop_margin,
        yolo_scores=request.yolo_scores,
        journal_name=JOURNAL_NAME if count == 1 else f"detections-{number}-of-{count}.jsonl",
    )


def _window() -> Callable[[Image], bool]:
    from detkit.infer.window import PictureWindow

    return PictureWindow().show


def _run(
    job: Job, todo: Sequence[tuple[int, Item]], reading: Reading, sinks: Sinks, request: Request
) -> tuple[list[Record], Tables]:
    """The records that are needed at the end (all for --json, else errors), and the tables."""
    tables, kept = Tables(), []
    films = any(item.kind != "photo" for _, item in todo)
    total = None if films else len(todo)
    for record in terminal.progress(job.run(todo, reading, sinks), total=total, title="detecting"):
        tables.add(record)
        if record["kind"] == "error" and len(todo) > 1:
            terminal.warn(record["error"])
        elif record["kind"] == "video" and record["warning"]:
            terminal.warn(f"{record['name']}: {record['warning']}")
        if request.json or record["kind"] == "error":
            kept.append(record)
    return kept, tables


def _document(predictor: Predictor, records: list[Record]) -> dict[str, Any]:
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
