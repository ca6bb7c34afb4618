"""COCO: coco.json with the pictures, boxes and classes, and coco_results.json with the boxes and their scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from detkit.files import replacing
from detkit.infer.records import Record, json_bytes
from detkit.infer.sinks.labels import boxes_with_area, visibility
from detkit.infer.sinks.names import OutputNames

Records = Callable[[], Iterator[Record]]
_Entry = dict[str, Any]


def write_coco(
    folder: Path,
    records: Records,
    names: OutputNames,
    point_edges: Sequence[tuple[int, int]] = (),
    suffix: str = "",
) -> None:
    """Write both files from the records of a run; whatever its length, memory stays flat.

    coco.json is a data set (`COCO("coco.json")`), its annotations with a score. coco_results.json is the list that
    `loadRes` takes. Image ids count the pictures from 1, category ids the classes.

    Args:
        folder: where to.
        records: gives them from the first to the last, the "run" record first, as often as it is called.
        names: of all items.
        point_edges: pairs of point indices.
        suffix: ends the files' names: of a shard.
    Raises:
        RunError: they cannot be written.
    """
    model = next(records())["model"]
    points = list(model["point_names"])
    skeleton = {"keypoints": points, "skeleton": [[a + 1, b + 1] for a, b in point_edges]} if points else {}
    categories = [{"id": number, "name": name} | skeleton for number, name in enumerate(model["class_names"], 1)]
    document, results = folder / f"coco{suffix}.json", folder / f"coco_results{suffix}.json"
    for target in (document, results):
        names.refuse_input(target)
    with replacing(document) as partial, partial.open("wb") as stream:
        stream.write(b'{"images": [')
        stream.writelines(_listed(_images(records(), names)))
        stream.write(b'],\n"annotations": [')
        stream.writelines(_listed(_annotations(records(), points)))
        stream.write(b'],\n"categories": ' + json_bytes(categories) + b"}\n")
    with replacing(results) as partial, partial.open("wb") as stream:
        stream.write(b"[")
        stream.writelines(_listed(_results(records(), points)))
        stream.write(b"]\n")


def _listed(entries: Iterable[_Entry]) -> Iterator[bytes]:
    """One entry a line, commas between them."""
    for number, entry in enumerate(entries):
        yield (b",\n" if number else b"\n") + json_bytes(entry)


def _pictures(records: Iterable[Record]) -> Iterator[tuple[int, Record]]:
    return enumerate((record for record in records if "detections" in record), 1)


def _images(records: Iterable[Record], names: OutputNames) -> Iterator[_Entry]:
    for number, record in _pictures(records):
        size = {"width": record["width"], "height": record["height"]}
        yield {"id": number, "file_name": names.picture_name(record), **size}


def _results(records: Iterable[Record], point_names: Sequence[str]) -> Iterator[_Entry]:
    for number, record in _pictures(records):
        for one in boxes_with_area(record):
            x1, y1, x2, y2 = one["box_xyxy"]
            box_xywh = [x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)]
            entry = {"image_id": number, "category_id": one["label"] + 1, "bbox": box_xywh}
            yield entry | ({} if one["score"] is None else {"score": one["score"]}) | _keypoints(one, point_names)


def _annotations(records: Iterable[Record], point_names: Sequence[str]) -> Iterator[_Entry]:
    for number, entry in enumerate(_results(records, point_names), 1):
        area = round(entry["bbox"][2] * entry["bbox"][3], 4)
        counted = {"num_keypoints": sum(v > 0 for v in entry["keypoints"][2::3])} if "keypoints" in entry else {}
        yield {"id": number, **entry, "area": area, "iscrowd": 0, **counted}


def _keypoints(one: Record, point_names: Sequence[str]) -> _Entry:
    if not point_names:
        return {}
    points = [one.get("points", {}).get(name, [0.0, 0.0, 0.0]) for name in point_names]
    return {"keypoints": [value for x, y, seen in points for value in (x, y, visibility(seen))]}
