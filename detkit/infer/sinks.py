"""Where results go: annotated pictures in a folder, and plain records for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from detkit.detections import Detections
from detkit.draw import draw
from detkit.errors import RunError, UsageError
from detkit.images import write_image
from detkit.infer.frames import Frame, Item, Unreadable

RECORDS_VERSION = 1
_WRITTEN_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})


class PictureFolder:
    """Writes annotated pictures below one folder, under the names the photos have below theirs."""

    def __init__(
        self,
        folder: Path,
        class_names: Sequence[str],
        items: Iterable[Item],
        point_edges: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Settle every picture's name before anything is written.

        Args:
            folder: made when the first picture is written; pictures of an earlier run are replaced.
            class_names: names in label order.
            items: what will be read. Two that would get one name are told apart: a.jpg, a-2.jpg.
            point_edges: pairs of point indices to join by a line.
        Raises:
            UsageError: a picture would replace one of the photos.
        """
        self.folder, self._class_names, self._point_edges = folder, class_names, point_edges
        items = tuple(items)
        photos = {item.path.resolve() for item in items if item.path is not None}
        taken: set[str] = set()
        self._targets: dict[str, Path] = {}
        for item in items:
            target = folder / _free_name(item.relative, taken)
            if target.resolve() in photos:
                raise UsageError("an annotated picture would replace this photo; give another --out", file=target)
            self._targets[item.name] = target

    def write(self, frame: Frame, detections: Detections) -> Path:
        """Draw the detections on a copy of the frame, write it, and say where.

        Raises:
            RunError: the folder cannot be made or the picture not be written.
        """
        target = self._targets[frame.name]
        picture_rgb = draw(frame.image_rgb, detections, self._class_names, self._point_edges)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError("cannot be made", file=target.parent, found=error.strerror) from error
        write_image(target, picture_rgb)
        return target


def record(
    frame: Frame, detections: Detections, class_names: Sequence[str], point_names: Sequence[str] = ()
) -> dict[str, Any]:
    """One picture's detections as plain values for JSON: boxes and points in pixels to 1/1000, scores to 1e-6.

    Points go by name, each [x, y, probability that it is visible]; a box without points has no "points".
    """
    height, width = detections.size_hw
    rows = [_row(detections, row, class_names, point_names) for row in range(len(detections))]
    return {"name": frame.name, "width": width, "height": height, "detections": rows}


def _row(detections: Detections, row: int, class_names: Sequence[str], point_names: Sequence[str]) -> dict[str, Any]:
    label = int(detections.labels[row])
    values: dict[str, Any] = {
        "label": label,
        "class": class_names[label],
        "score": None if detections.scores is None else round(float(detections.scores[row]), 6),
        "box_xyxy": [round(value, 3) for value in detections.boxes_xyxy[row].tolist()],
    }
    if detections.points_xyv is not None and detections.points_xyv[row, :, 2].any():
        names = point_names or [str(k) for k in range(detections.points_xyv.shape[1])]
        points = zip(names, detections.points_xyv[row].tolist(), strict=True)
        values["points"] = {name: [round(value, 3) for value in point] for name, point in points}
    return values


def error_record(item: Unreadable) -> dict[str, Any]:
    """What stands in the place of a picture that could not be read."""
    return {"name": item.name, "error": str(item.error)}


def _free_name(relative: Path, taken: set[str]) -> Path:
    """A name nobody has yet, upper and lower case being the same, of a kind of file we can write."""
    suffix = relative.suffix if relative.suffix.lower() in _WRITTEN_SUFFIXES else ".jpg"
    name, count = relative.with_suffix(suffix), 1
    while str(name).casefold() in taken:
        count += 1
        name = relative.with_name(f"{relative.stem}-{count}{suffix}")
    taken.add(str(name).casefold())
    return name
