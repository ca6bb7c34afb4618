"""What can be wrong with labelled photos: the table of codes, one fault as an exception, one finding as a record.

Readers say each fault to a `Report`: strict reading raises the first (`stop`), `detkit data check` collects them all
and reads on. A collecting reader mends what it can (`Code.mended`) and leaves out the box or the photo otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from detkit.errors import DataError

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Code:
    """One kind of finding.

    Args:
        severity: "error" for what loses an image or a box or makes one wrong.
        meaning: what is wrong, in a few words.
        advice: how to mend it.
        mended: what `detkit data fix` does; "" where it can only leave the photo (or the orphan label) out.
        whole_set: the fault concerns every photo, so leaving photos out does not help.
    """

    severity: Severity
    meaning: str
    advice: str
    mended: str = ""
    whole_set: bool = False


CODES: dict[str, Code] = {
    # label files
    "labels-unreadable": Code(
        "error", "a label file that cannot be parsed", "export it again; the message names the line"
    ),
    "labels-orphan": Code(
        "error", "labels whose photo is not there", "add the photo under that name, or delete the label"
    ),
    "labels-missing": Code(
        "error", "a photo that is listed as labelled and has no label file", "label it, or take it off the list"
    ),
    "labels-wrong": Code("error", "a value in a label file that means nothing", "correct the value named"),
    "xml-entities": Code(
        "error", "XML that declares entities, which can explode or read files", "delete the DOCTYPE of the file"
    ),
    "link-loop": Code(
        "error", "a link that leads back into the data set", "remove the link", "the link is not followed"
    ),
    "path-outside": Code(
        "error",
        "a photo's path that leaves the data folder",
        "move the photo into the data folder and name it relative to the label file",
    ),
    # images
    "image-missing": Code("error", "a photo that is not on disk", "restore the photo, or remove its labels"),
    "image-twice": Code(
        "error",
        "one photo listed twice, or two photos for one label file",
        "keep one of them",
        "the second is left out",
    ),
    "image-id-twice": Code(
        "error", "two photos with one id: nobody can tell whose the boxes are", "give each photo its own id"
    ),
    "image-empty": Code("error", "an image file of 0 bytes", "restore the photo from its source"),
    "image-truncated": Code("error", "an image file that was cut off", "copy or download the photo again"),
    "image-unreadable": Code("error", "a file that cannot be decoded as an image", "replace the file by a real image"),
    "image-size-wrong": Code(
        "error",
        "the recorded size is not the photo's",
        "record the true size; if the photo was resized, resize its boxes too",
        "the true size is recorded; boxes are scaled where the shape is the same, else the photo is left out",
    ),
    "image-rotated": Code(
        "error",
        "labels made on the unrotated pixels of a photo that EXIF rotates",
        "rotate the boxes, or save the photo upright without the EXIF tag",
        "the boxes are rotated",
    ),
    "image-orientation": Code(
        "warning",
        "EXIF rotates a labelled photo, and nothing says on which pixels the labels were made",
        "draw the boxes on the photo once; save the photo upright to be sure",
    ),
    "image-extension": Code(
        "warning", "the file's name says another format than its content", "rename the file", "the file is renamed"
    ),
    "image-unlabelled": Code(
        "note", "a photo without labels: it teaches that nothing is there", "label it, if objects are on it"
    ),
    "image-copy": Code("warning", "the same file twice in one split", "keep one, with all the labels"),
    "image-near-copy": Code("note", "two photos of one split that look the same", "keep one, unless both are meant"),
    "leak": Code("warning", "the same file in two splits: scores will be too good", "keep it in one split only"),
    "near-leak": Code(
        "warning",
        "photos in two splits that look the same: scores will be too good",
        "keep both in one split; `detkit data split` does",
    ),
    # classes
    "class-name-empty": Code(
        "error", "a class without a name", "name the class", "it is called class_N", whole_set=True
    ),
    "class-name-twice": Code(
        "error", "two classes of one name", "merge them or rename one", "the second gets a number", whole_set=True
    ),
    "class-id-twice": Code(
        "error", "two categories with one id", "give each its own id", "the second is left out", whole_set=True
    ),
    "class-lists-differ": Code(
        "error", "splits with different lists of classes", "give all splits one list", whole_set=True
    ),
    "class-unknown": Code("error", "a box of a class that is not in the list", "add the class, or correct the label"),
    "class-ids-from-one": Code(
        "error",
        "class ids that count from 1, where the format counts from 0: every box has the wrong class",
        "subtract 1 from every class id",
        "1 is subtracted from every class id",
        whole_set=True,
    ),
    "class-unused": Code("warning", "a class that no box has", "remove the class from the list, or label some"),
    "class-missing-in-split": Code(
        "warning", "a class without a box in one of the splits", "split again: `detkit data split` stratifies"
    ),
    "class-rare": Code("warning", "a class with few boxes to learn from", "label more of it"),
    # annotations
    "annotation-id-twice": Code(
        "error", "two annotations with one id: COCO's tools keep only one", "number them afresh", "they are renumbered"
    ),
    "annotation-id-zero": Code(
        "warning",
        "an annotation with id 0: pycocotools takes a match with it for a miss",
        "count ids from 1",
        "annotations are renumbered",
    ),
    "area-wrong": Code(
        "error",
        "an object's area that is no number: COCO's scores by size need it",
        "correct or remove the area",
        "the box's own area is recorded",
    ),
    "points-wrong": Code("error", "keypoints that cannot be read", "correct the keypoints named"),
    "crowd": Code("note", "crowd or difficult boxes: detkit neither trains on them nor scores them", "nothing to do"),
    # boxes
    "box-not-finite": Code("error", "a box with NaN, infinite or absurdly large numbers", "draw the box again"),
    "box-inverted": Code(
        "error", "a box with a negative side: its corners are swapped", "swap the corners", "the corners are swapped"
    ),
    "box-empty": Code("error", "a box without area", "draw the box again, or remove it", "the box is left out"),
    "box-outside": Code(
        "error",
        "a box outside its photo",
        "draw the box again, or remove it",
        "it is clipped where part of it is on the photo, else left out",
    ),
    "box-over-edge": Code("warning", "a box that reaches over the photo's edge", "clip the box, unless it is meant"),
    "box-in-fractions": Code(
        "error",
        "a box in fractions of the photo in a format of pixels",
        "multiply by the photo's width and height",
        "it is multiplied by the photo's width and height",
    ),
    "box-in-pixels": Code(
        "error",
        "a box in pixels in a format of fractions",
        "divide by the photo's width and height",
        "it is divided by the photo's width and height",
    ),
    "box-as-corners": Code(
        "error",
        "boxes written as x1, y1, x2, y2 where the format has x, y, width, height",
        "write width and height",
        "width and height are computed",
        whole_set=True,
    ),
    "box-twice": Code(
        "warning", "the same box with the same class twice on a photo", "remove one", "the second is left out"
    ),
    "box-two-classes": Code("warning", "two classes on one box", "decide for one of them"),
    "box-tiny": Code("warning", "boxes too small to be learnt at the training size", "train at a larger --size"),
    "box-extreme-shape": Code("warning", "a box many times longer than wide", "check that it is meant"),
    "cell-crowded": Code(
        "warning",
        "more objects in one cell of the training grid than it has anchors: some cannot be learnt",
        "train at a larger --size",
    ),
}


class Fault(DataError):
    """One fault in labelled data, as strict reading raises it.

    Args:
        code: a key of `CODES`. message, file, line, found, expected: as every DataError.
        photo: the photo it concerns. item: the annotation's id (COCO) or the object's number in its file (VOC).
        boxes: how many boxes it loses.
        mended: the box as it must have been meant, where that is certain, in the reader's own form.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        file: Path | str | None = None,
        line: int | None = None,
        found: object = None,
        expected: object = None,
        photo: Path | None = None,
        item: int | None = None,
        boxes: int = 0,
        mended: Sequence[float] | None = None,
    ) -> None:
        super().__init__(message, file=file, line=line, found=found, expected=expected)
        self.code, self.photo, self.item, self.boxes, self.mended = code, photo, item, boxes, mended


Report = Callable[[Fault], None]


def stop(fault: Fault) -> None:
    """Strict reading: the first fault ends it."""
    raise fault


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing `detkit data check` found; see `Fault` for the fields."""

    code: str
    message: str
    file: Path | None = None
    line: int | None = None
    item: int | None = None
    photo: Path | None = None
    found: str | None = None
    expected: str | None = None
    boxes: int = 0

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return CODES[self.code].severity

    @property
    def advice(self) -> str:
        """How to mend it."""
        return CODES[self.code].advice

    def to_dict(self) -> dict[str, Any]:
        """The finding as JSON has it."""
        paths = {"file": self.file and str(self.file), "photo": self.photo and str(self.photo)}
        row = {name: getattr(self, name) for name in ("code", "severity", "message", "line", "item")}
        return row | paths | {"found": self.found, "expected": self.expected, "advice": self.advice}

    def __str__(self) -> str:
        """One line, as a DataError reads; with the photo's name where the file is another."""
        named = self.photo is None or self.photo == self.file or self.photo.name in self.message
        what = self.message if named else f"{self.photo and self.photo.name}: {self.message}"
        return str(DataError(what, file=self.file, line=self.line, found=self.found, expected=self.expected))


def finding_of(error: DataError) -> Finding:
    """The record of a fault; an error without a code is a label file that cannot be used."""
    found, expected = (None if value is None else str(value) for value in (error.found, error.expected))
    file = None if error.file is None else Path(error.file)
    if not isinstance(error, Fault):
        return Finding("labels-unreadable", error.message, file, error.line, found=found, expected=expected)
    place = file, error.line, error.item, error.photo
    return Finding(error.code, error.message, *place, found, expected, error.boxes)


def unknown_codes(codes: Iterable[str]) -> list[str]:
    """Those that are no codes."""
    return [code for code in codes if code not in CODES]
