"""`detkit detect`: any pictures in; annotated pictures, label files, a table or JSON out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from detkit.cli import options, sliding_options
from detkit.errors import UsageError

DEFAULT_OUT = Path("runs/detect")

_BOXES, _VIDEO, _OUTPUT, _RUNS = "Which boxes", "Video", "Output", "Long runs"

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="Images, videos, folders, 'glob*.jpg', lists (.txt), zip and tar archives, cameras (cam0), URLs, "
        "or - for paths or an image on standard input.",
        show_default=False,
    ),
]
MaxDet = Annotated[
    int | None,
    typer.Option("--max-det", metavar="N", help="At most N boxes a picture (default: 100).", rich_help_panel=_BOXES),
]
Classes = Annotated[
    str | None,
    typer.Option("--classes", metavar="NAMES", help="Only these classes: person,car.", rich_help_panel=_BOXES),
]
Thresholds = Annotated[
    Path | None,
    typer.Option(
        "--thresholds",
        metavar="FILE",
        help="A confidence for each class, as detkit eval --write-thresholds writes them.",
        rich_help_panel=_BOXES,
    ),
]
Nms = Annotated[
    Literal["class", "agnostic", "soft"],
    typer.Option(
        "--nms",
        help="What overlapping boxes do: the better one of a class suppresses the others; or of any class (agnostic); "
        "or it lowers their scores (soft).",
        rich_help_panel=_BOXES,
    ),
]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Pictures that go through the network together.")]
Tile = Annotated[
    int | None,
    typer.Option(
        "--tile",
        metavar="PX",
        help="Look at large pictures in tiles of this side too: for small objects.",
        rich_help_panel=_BOXES,
    ),
]
Overlap = Annotated[
    float | None,
    typer.Option(
        "--overlap",
        metavar="SHARE",
        help="What neighbouring tiles share of their side (default: 0.2).",
        rich_help_panel=_BOXES,
    ),
]
Every = Annotated[int, typer.Option("--every", min=1, help="Look at each how many-th frame.", rich_help_panel=_VIDEO)]
Start = Annotated[
    str | None, typer.Option("--start", metavar="TIME", help="From here on: 90, 1:30.", rich_help_panel=_VIDEO)
]
End = Annotated[str | None, typer.Option("--end", metavar="TIME", help="Up to here.", rich_help_panel=_VIDEO)]
Track = Annotated[
    bool,
    typer.Option(
        "--track",
        help="Number the objects through a video (ByteTrack); boxes below --conf that continue a track are shown too.",
        rich_help_panel=_VIDEO,
    ),
]
Count = Annotated[
    list[str] | None,
    typer.Option(
        "--count",
        metavar="LINE",
        help="Count what crosses a line, [NAME=]X1,Y1,X2,Y2 in pixels or percent (door=0%,70%,100%,70%); may be "
        "repeated; implies --track.",
        rich_help_panel=_VIDEO,
    ),
]
To = Annotated[
    str | None,
    typer.Option(
        "--to",
        metavar="KINDS",
        help="What to write into the folder: pictures, videos, coco, csv, yolo, voc, crops (default: pictures,videos).",
        rich_help_panel=_OUTPUT,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="DIR", help=f"The folder (default: {DEFAULT_OUT}).", rich_help_panel=_OUTPUT),
]
CropMargin = Annotated[
    float,
    typer.Option(
        "--crop-margin",
        metavar="SHARE",
        min=0,
        max=10,
        help="Room around crops, as a share of the box.",
        rich_help_panel=_OUTPUT,
    ),
]
YoloScores = Annotated[
    bool, typer.Option("--yolo-scores", help="End each YOLO line with the score.", rich_help_panel=_OUTPUT)
]
NoPictures = Annotated[
    bool, typer.Option("--no-pictures", help="Write nothing but the table.", rich_help_panel=_OUTPUT)
]
Jsonl = Annotated[
    str | None,
    typer.Option(
        "--jsonl",
        metavar="FILE",
        help="Write a line of JSON for each picture as soon as it is known; - is standard output.",
        rich_help_panel=_OUTPUT,
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON document at the end; write files only with --out or --to.",
        rich_help_panel=_OUTPUT,
    ),
]
Show = Annotated[
    bool, typer.Option("--show", help="Show the annotated pictures in a window; q ends.", rich_help_panel=_OUTPUT)
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Stop at the first picture that cannot be read.", rich_help_panel=_RUNS)
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run that was broken off.", rich_help_panel=_RUNS)]
Shard = Annotated[
    str | None,
    typer.Option(
        "--shard", metavar="I/N", help="Only the I-th of N equal parts of the pictures.", rich_help_panel=_RUNS
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Run on a Ray cluster (local: one on this machine; auto, HOST:PORT) and write records into --out.",
        rich_help_panel=_RUNS,
    ),
]
RayFormat = Annotated[
    Literal["jsonl", "parquet"] | None,
    typer.Option(
        "--ray-format", help="What --ray writes: one file of records, or a folder of Parquet.", rich_help_panel=_RUNS
    ),
]


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks for; see `detkit detect --help`."""

    sources: list[str]
    weights: str | None
    conf: float | None
    iou: float | None
    max_det: int | None
    classes: str | None
    thresholds: Path | None
    nms: Literal["class", "agnostic", "soft"]
    size: int | None
    batch: int
    tile: int | None
    overlap: float | None
    landmarks: str | None
    backend: options.BackendName
    every: int
    start_s: float | None
    end_s: float | None
    track: bool
    lines: tuple[str, ...]
    folder: Path | None
    to: tuple[str, ...]
    crop_margin: float
    yolo_scores: bool
    jsonl: str | None
    json: bool
    show: bool
    strict: bool
    resume: bool
    shard: tuple[int, int]
    adapter: tuple[str, ...] = ()
    names: str | None = None
    sliding: dict[str, Any] = field(default_factory=dict)


def detect(
    sources: Sources,
    weights: options.Weights = None,
    adapter: options.Adapter = None,
    names: options.Names = None,
    landmarks: options.Landmarks = None,
    backend: options.BackendForMany = "auto",
    size: options.Size = None,
    batch: Batch = 1,
    conf: options.Conf = None,
    iou: options.Iou = None,
    classes: Classes = None,
    thresholds: Thresholds = None,
    max_det: MaxDet = None,
    nms: Nms = "class",
    tile: Tile = None,
    overlap: Overlap = None,
    mode: sliding_options.Mode = None,
    stride: sliding_options.Stride = None,
    scale_step: sliding_options.ScaleStep = None,
    smallest: sliding_options.Smallest = None,
    every: Every = 1,
    start: Start = None,
    end: End = None,
    track: Track = False,
    count: Count = None,
    out: Out = None,
    to: To = None,
    crop_margin: CropMargin = 0.0,
    yolo_scores: YoloScores = False,
    no_pictures: NoPictures = False,
    jsonl: Jsonl = None,
    json: Json = False,
    show: Show = False,
    strict: Strict = False,
    resume: Resume = False,
    shard: Shard = None,
    ray: Ray = None,
    ray_format: RayFormat = None,
) -> None:
    """Find objects in photos and videos.

    Writes a copy of every photo and video with its objects framed and prints what was found as a table; --to, --jsonl
    and --json give label files and records instead or besides. What cannot be read is named in its place, the rest
    goes on, and the exit code is 3. A run that was broken off goes on with --resume.

    Try it:  detkit detect photo.jpg --out pictures
    """
    if no_pictures and (out is not None or to is not None):
        raise UsageError("--no-pictures and --out or --to contradict each other")
    if json and jsonl == "-":
        raise UsageError("--json and --jsonl - both write to standard output")
    if ray_format is not None and ray is None:
        raise UsageError("--ray-format says what --ray writes, which is not given")
    quiet = json or jsonl is not None or show or no_pictures
    request = Request(
        sources=sources,
        weights=weights,
        conf=conf,
        iou=iou,
        max_det=max_det,
        classes=classes,
        thresholds=thresholds,
        nms=nms,
        size=size,
        batch=batch,
        tile=tile,
        overlap=overlap,
        landmarks=landmarks,
        backend=backend,
        every=every,
        start_s=_seconds(start, "--start"),
        end_s=_seconds(end, "--end"),
        track=track or bool(count),
        lines=tuple(count or ()),
        folder=None if quiet and out is None and to is None and ray is None else out or DEFAULT_OUT,
        to=() if ray is not None and to is None else _kinds(to),
        crop_margin=crop_margin,
        yolo_scores=yolo_scores,
        jsonl=jsonl,
        json=json,
        show=show,
        strict=strict,
        resume=resume,
        shard=_shard(shard),
        adapter=tuple(adapter or ()),
        names=names,
        sliding=sliding_options.asked(mode, stride, scale_step, smallest),
    )
    if resume and request.folder is None and (jsonl is None or jsonl == "-"):
        raise UsageError("--resume goes on with an --out folder or a --jsonl file")
    if ray is not None:
        from detkit.cli.detect_ray import detect_on_ray

        detect_on_ray(request, ray, ray_format or "jsonl")
        return
    from detkit.cli.detect_run import run_request

    run_request(request)


def _kinds(text: str | None) -> tuple[str, ...]:
    """The kinds of output in a --to."""
    if text is None:
        return ("pictures", "videos")
    from detkit.infer.sinks.opening import KINDS

    asked = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [kind for kind in asked if kind not in KINDS]
    if unknown or not asked:
        raise UsageError("--to", found=repr(unknown[0] if unknown else text), expected=f"some of {','.join(KINDS)}")
    return asked


def _seconds(text: str | None, option: str) -> float | None:
    """Seconds of "90", "90.5", "1:30" or "1:02:03"."""
    if text is None:
        return None
    parts = text.split(":")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    clock = all(part.isdecimal() and float(part) < 60 for part in parts[1:-1]) and (
        len(parts) == 1 or values[-1:] < [60]
    )
    if not 1 <= len(values) <= 3 or not all(0 <= value < float("inf") for value in values) or not clock:
        raise UsageError(option, found=repr(text), expected="seconds (90), minutes and seconds (1:30) or 1:02:03")
    return sum(value * 60**power for power, value in enumerate(reversed(values)))


def _shard(text: str | None) -> tuple[int, int]:
    """I and N of "I/N", counted from 1."""
    if text is None:
        return 1, 1
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UsageError("--shard", found=repr(text), expected="I/N with I from 1 to N, such as 2/8")
    return int(number), int(count)
