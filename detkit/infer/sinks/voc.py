"""Pascal VOC XML: Annotations/NAME.xml for each picture, and classes.txt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from detkit.data.voc import label_text
from detkit.detections import Detections
from detkit.files import replacing
from detkit.infer.frames import Ended, Frame, Unreadable
from detkit.infer.records import Record
from detkit.infer.sinks.labels import as_labels
from detkit.infer.sinks.names import OutputNames
from detkit.infer.sinks.pictures import make_parent

_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


class VocLabels:
    """Writes an XML file for each photo and frame; one without objects gets a file without them.

    With photos put into JPEGImages/ beside Annotations/, the folder is a VOC data set. Points cannot be carried. As VOC
    counts from 1 and includes the last pixel, a box that is thinner than one has xmin above xmax.
    """

    def __init__(self, folder: Path, names: OutputNames, class_names: Sequence[str]) -> None:
        """`folder` gets a folder `Annotations`."""
        self._folder, self._names, self._class_names = folder, names, tuple(class_names)

    def write(self, frame: Frame, detections: Detections, record: Record) -> None:
        """Write the XML file.

        Raises:
            RunError: it cannot be written.
        """
        name = _NOT_XML.sub("\ufffd", PurePosixPath(self._names.picture_name(record)).name)
        target = self._names.below(self._folder / "Annotations", frame.item, frame.number, ".xml")
        self._write(target, label_text(as_labels(record), name, self._class_names))

    def _write(self, target: Path, text: str) -> None:
        self._names.refuse_input(target)
        make_parent(target)
        with replacing(target) as partial:
            partial.write_text(text, encoding="utf-8")

    def unreadable(self, item: Unreadable, record: Record) -> None:
        """There is no file: an empty one would say that there are no objects."""

    def ended(self, ended: Ended, record: Record) -> None:
        """Every frame has a file of its own."""

    def close(self) -> None:
        """Write classes.txt."""
        self._write(self._folder / "classes.txt", "\n".join([*self._class_names, ""]))

    def abort(self) -> None:
        """Every file is whole."""
