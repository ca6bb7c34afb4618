"""YOLO txt: labels/NAME.txt for each picture, data.yaml with the names of classes and points."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detkit.data.yolo_writer import config_text, label_lines
from detkit.detections import Detections
from detkit.files import replacing
from detkit.infer.frames import Ended, Frame, Unreadable
from detkit.infer.records import Record
from detkit.infer.sinks.labels import as_labels
from detkit.infer.sinks.names import OutputNames
from detkit.infer.sinks.pictures import make_parent


class YoloLabels:
    """Writes a label file for each photo and frame; one without objects gets an empty file.

    With photos put into images/ beside labels/, the folder is a YOLO data set.
    """

    def __init__(
        self,
        folder: Path,
        names: OutputNames,
        class_names: Sequence[str],
        point_names: Sequence[str] = (),
        *,
        scores: bool = False,
    ) -> None:
        """`scores` adds one at the end of each line, which what reads labels for training refuses."""
        self._folder, self._names, self._scores = folder, names, scores
        self._class_names, self._point_names = tuple(class_names), tuple(point_names)

    def write(self, frame: Frame, detections: Detections, record: Record) -> None:
        """Write the label file.

        Raises:
            RunError: it cannot be written.
        """
        labels = as_labels(record, self._point_names)
        lines = label_lines(labels)[0].splitlines()
        if self._scores and labels.scores is not None:
            lines = [f"{line} {score:.6f}" for line, score in zip(lines, labels.scores.tolist(), strict=True)]
        target = self._names.below(self._folder / "labels", frame.item, frame.number, ".txt")
        self._write(target, "".join(f"{line}\n" for line in lines))

    def _write(self, target: Path, text: str) -> None:
        self._names.refuse_input(target)
        make_parent(target)
        with replacing(target) as partial:
            partial.write_text(text, encoding="utf-8")

    def unreadable(self, item: Unreadable, record: Record) -> None:
        """There is no label file: an empty one would say that there are no objects."""

    def ended(self, ended: Ended, record: Record) -> None:
        """Every frame has a file of its own."""

    def close(self) -> None:
        """Write data.yaml."""
        self._write(
            self._folder / "data.yaml", config_text(self._class_names, len(self._point_names), self._point_names)
        )

    def abort(self) -> None:
        """Every file is whole."""
