"""From what a user asks for to the sinks that write it: the kinds of output and where each goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from detkit.errors import UsageError
from detkit.infer.frames import Item
from detkit.infer.journal import Journal, refuse_foreign
from detkit.infer.records import Record
from detkit.infer.sinks import Export, Sink, Sinks
from detkit.infer.sinks.crops import Crops
from detkit.infer.sinks.jsonl import JsonlFile
from detkit.infer.sinks.names import OutputNames
from detkit.infer.sinks.pictures import Painter, PictureFolder, plain_painter
from detkit.infer.sinks.videos import VideoFolder
from detkit.infer.sinks.workers import Workers

KINDS = ("pictures", "videos", "coco", "csv", "yolo", "voc", "crops")
JOURNAL_NAME = "detections.jsonl"


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a run writes.

    Args:
        folder: where the files of `to` go, and a journal; made when it is missing. None writes no folder.
        to: some of `KINDS`.
        jsonl: a file of its own for the records; without a folder it is the journal.
        journal_name: the file in `folder` that says what is done. Each shard has its own, detections-1-of-4.jsonl,
            and files that hold all results are called after it, coco-1-of-4.json.
        crop_margin: room around a crop on each side, as a share of the box.
        yolo_scores: whether YOLO lines end with a score.
        workers: threads that draw and encode pictures and crops.
    """

    folder: Path | None = None
    to: tuple[str, ...] = ()
    jsonl: Path | None = None
    journal_name: str = JOURNAL_NAME
    crop_margin: float = 0.0
    yolo_scores: bool = False
    workers: int = 2

    def __post_init__(self) -> None:
        if unknown := [kind for kind in self.to if kind not in KINDS]:
            raise ValueError(f"to has {unknown[0]!r}, expected some of {', '.join(KINDS)}")
        if self.to and self.folder is None:
            raise ValueError(f"to is {', '.join(self.to)}, which needs a folder")
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}, expected at least 1")
        if not 0 <= self.crop_margin <= 10:
            raise ValueError(f"crop_margin is {self.crop_margin}, expected 0 to 10")

    @property
    def journal(self) -> Path | None:
        """The file that says what is done: what `read_journal` takes to resume a run."""
        return self.jsonl if self.folder is None else self.folder / self.journal_name


def open_sinks(
    outputs: Outputs,
    items: Sequence[Item],
    header: Record,
    *,
    resumed: Journal | None = None,
    stdout: BinaryIO | None = None,
    painter: Painter | None = None,
    point_edges: Sequence[tuple[int, int]] = (),
) -> Sinks:
    """Open all outputs of a run; nothing is written before it is certain that no input would be replaced.

    Args:
        items: all of the run, those of other shards and those that are done included: they settle the names.
        header: the "run" record.
        resumed: a checked journal to go on with; what it holds is written again to other places of records.
        stdout: a pipe that gets the records too.
        painter: draws pictures, `plain_painter` by default. point_edges: pairs of point indices to join by a line.
    Raises:
        UsageError: an output would replace an input.
        RunError: the folder cannot be written.
    """
    names, workers = OutputNames(items), Workers(outputs.workers)
    painter = painter or plain_painter(header["model"]["class_names"], point_edges)
    pictures, sinks, exports = None, [], []
    if outputs.folder is not None:
        sinks = _label_sinks(outputs, outputs.folder, names, header)
        if "pictures" in outputs.to:
            pictures = PictureFolder(outputs.folder, names, painter, workers, items)
            sinks.append(pictures)
        if "videos" in outputs.to:
            sinks.append(VideoFolder(outputs.folder, names, painter, items))
        if "crops" in outputs.to:
            class_names = header["model"]["class_names"]
            sinks.append(Crops(outputs.folder, names, class_names, workers, outputs.crop_margin))
        exports = _exports(outputs, outputs.folder, names, point_edges)
    lines = _lines(outputs, names, header, resumed, stdout)
    return Sinks(sinks, lines, workers, exports=exports, picture_of=None if pictures is None else pictures.target)


def _label_sinks(outputs: Outputs, folder: Path, names: OutputNames, header: Record) -> list[Sink]:
    class_names, point_names = header["model"]["class_names"], header["model"]["point_names"]
    sinks: list[Sink] = []
    if "yolo" in outputs.to:
        from detkit.infer.sinks.yolo import YoloLabels

        sinks.append(YoloLabels(folder, names, class_names, point_names, scores=outputs.yolo_scores))
    if "voc" in outputs.to:
        from detkit.infer.sinks.voc import VocLabels

        sinks.append(VocLabels(folder, names, class_names))
    return sinks


def _exports(
    outputs: Outputs, folder: Path, names: OutputNames, point_edges: Sequence[tuple[int, int]]
) -> list[Export]:
    suffix = Path(outputs.journal_name).stem.removeprefix(Path(JOURNAL_NAME).stem)
    exports: list[Export] = []
    if "coco" in outputs.to:
        from detkit.infer.sinks.coco import write_coco

        exports.append(partial(write_coco, folder, names=names, point_edges=point_edges, suffix=suffix))
    if "csv" in outputs.to:
        from detkit.infer.sinks.csv import write_csv

        exports.append(partial(write_csv, folder, names=names, suffix=suffix))
    return exports


def _lines(
    outputs: Outputs, names: OutputNames, header: Record, resumed: Journal | None, stdout: BinaryIO | None
) -> list[JsonlFile]:
    """Where records go, the journal first."""
    files = [file for file in dict.fromkeys((outputs.journal, outputs.jsonl)) if file is not None]
    for file in files:
        names.refuse_input(file)
        refuse_foreign(file)
    if len(files) == 2 and files[0].resolve() == files[1].resolve():
        raise UsageError("is the journal of this run; give another file", file=files[1])
    lines = [JsonlFile.resumed(resumed) if resumed and not at else JsonlFile.new(file) for at, file in enumerate(files)]
    lines += [] if stdout is None else [JsonlFile(stdout)]
    for one in lines[1:] if resumed is not None else lines:
        one.write(header) if resumed is None else one.replay(resumed)
    return lines
