"""What `detkit detect` does once its options are settled: opens the sources, the model and the outputs, and runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detkit.allocator import keep_freed_blocks
from detkit.cli import terminal
from detkit.cli.detect import Request
from detkit.cli.detect_results import Results
from detkit.cli.sliding_options import check, sliding_of
from detkit.engines import MANY_PHOTOS
from detkit.errors import DataError, UsageError
from detkit.infer.frames import Item
from detkit.infer.job import Job, header_of
from detkit.infer.journal import Journal, read_journal, remove_partial_files
from detkit.infer.predictor import Predictor
from detkit.infer.reading import Reading
from detkit.infer.records import Record
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
    check_options(request)
    keep_freed_blocks()
    items = find_items(request.sources, leave_out=request.folder)
    _check_kinds(request, items)
    reading = reading_of(request)
    predictor, tracking = open_predictor(request, items), None
    if request.track:
        tracking = _tracking(request, predictor)
    header = header_of(predictor, reading, settings_of(request))
    outputs = outputs_of(request)
    journal = _earlier_run(request, outputs, header)
    done = frozenset() if journal is None else journal.done
    number, count = request.shard
    mine = [(index, item) for index, item in enumerate(items) if index % count == number - 1]
    todo = [(index, item) for index, item in mine if item.name not in done]
    if journal is not None:
        rest = "going on with the rest" if todo else "nothing is left to do"
        terminal.say(f"{journal.file}: {len(mine) - len(todo)} of {len(mine)} are done; {rest}")
    job = Job(predictor, tracking, show=_window() if request.show else None, strict=request.strict)
    sinks = open_sinks(
        outputs,
        items,
        header,
        resumed=journal,
        stdout=sys.stdout.buffer if request.jsonl == "-" else None,
        painter=job.paint,
        point_edges=predictor.points_card.point_edges,
    )
    results = Results(len(items), keep_records=request.json)
    if journal is not None:
        results.take_earlier(journal)
    results.run(job, todo, reading, sinks)
    results.print(request, predictor, job.counts_of_photos())
    if results.was_left:
        raise KeyboardInterrupt
    if results.errors:
        if len(items) == 1:
            raise DataError(results.errors[0])
        kinds = "photos" if all(item.kind == "photo" for item in items) else "items"
        raise DataError(f"{len(results.errors)} of {len(mine)} {kinds} could not be read")


def _earlier_run(request: Request, outputs: Outputs, header: Record) -> Journal | None:
    """What --resume goes on with, and a tidy folder to do it in; None where there is nothing."""
    if not request.resume or outputs.journal is None:
        return None
    journal = read_journal(outputs.journal)
    if journal is None:
        terminal.say(f"{outputs.journal}: no earlier run to go on with; starting from the beginning")
        return None
    journal.check_same_run(header)
    if outputs.folder is not None and request.shard[1] == 1:
        remove_partial_files(outputs.folder)
    return journal


def check_options(request: Request) -> None:
    """Refuse an option that would do nothing."""
    if request.overlap is not None and request.tile is None:
        raise UsageError("--overlap is for tiles; give --tile too")
    if request.conf is not None and request.thresholds is not None:
        raise UsageError("--conf and --thresholds contradict each other")
    for option, is_given, kind in (
        ("--crop-margin", request.crop_margin > 0, "crops"),
        ("--yolo-scores", request.yolo_scores, "yolo"),
    ):
        if is_given and (request.folder is None or kind not in request.to):
            raise UsageError(f"{option} is for {kind}; give --to {kind} too")
    if request.names is not None and not request.adapter:
        raise UsageError("--names is for a network of another project; give --adapter too")
    if request.jsonl == "":
        raise UsageError("--jsonl", found="an empty name", expected="a file, or - for standard output")


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
    photos = len(items) if all(item.kind == "photo" for item in items) else MANY_PHOTOS
    settings = predictor_settings(request)
    if not request.adapter:
        predictor = Predictor(request.weights, **settings, photos=photos)
        check(request.sliding, predictor.card.task, request.batch)
        return predictor
    from detkit.cli.foreign import open_foreign

    engine = open_foreign(request.weights, request.adapter, request.names, request.backend, request.size, photos)
    predictor = Predictor(engine, **settings | {"size_px": None}, photos=photos)
    predictor.path = engine.path
    return predictor


def predictor_settings(request: Request) -> dict[str, Any]:
    """The keyword arguments of `Predictor` but for the number of photos."""
    return {
        "conf": request.conf,
        "iou": request.iou,
        "max_det": request.max_det,
        "nms": request.nms,
        "classes": None if request.classes is None else [request.classes],
        "thresholds": request.thresholds,
        "size_px": request.size,
        "tiling": None if request.tile is None else _tiling(request.tile, request.overlap),
        "engine": request.backend,
        "landmarks": request.landmarks,
        "sliding": sliding_of(request.sliding),
    }


def _tiling(side_px: int, overlap: float | None) -> Any:
    from detkit.infer.tiles import Tiling

    return Tiling(side_px) if overlap is None else Tiling(side_px, overlap)


def settings_of(request: Request) -> dict[str, Any]:
    """What else decides which records a run writes."""
    number, count = request.shard
    own = {"track": request.track, "count": list(request.lines), "shard": f"{number}/{count}"}
    own |= {"adapter": list(request.adapter)} if request.adapter else {}
    own |= {"sliding": request.sliding} if request.sliding else {}
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
