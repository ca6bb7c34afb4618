"""The coco_results.json of `detkit detect`: its ids count the pictures and classes of the coco.json beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detkit.data.dataset import Dataset
from detkit.data.label_files import read_bytes
from detkit.errors import DataError
from detkit.evaluate.result_rows import listed

_DOCUMENT, _RESULTS = "coco", "coco_results"


def by_name(entries: Sequence[Any], path: Path, dataset: Dataset) -> Sequence[Any]:
    """Results with the photos' file names for image ids and the data set's category ids; others as they are.

    Args:
        entries: COCO's results list.
        path: its file; only where it is called coco_results*.json and lies beside a coco*.json, its ids are that one's.
        dataset: whose category ids to give.
    Raises:
        DataError: coco.json cannot be read, or has other classes than the data set.
    """
    beside = path.with_name(_DOCUMENT + path.name.removeprefix(_RESULTS))
    if not path.name.startswith(_RESULTS) or not beside.is_file():
        return entries
    try:
        document = json.loads(read_bytes(beside))
        names = {int(image["id"]): str(image["file_name"]) for image in document["images"]}
        classes = {int(one["id"]): str(one["name"]) for one in document["categories"]}
    except (ValueError, KeyError, TypeError) as error:
        what = f"cannot be read, and says which photos {path.name} means"
        raise DataError(what, file=beside, expected="images and categories with their ids and names") from error
    ids = dict(zip(dataset.class_names, dataset.category_ids, strict=True))
    own = {number: ids.get(name) for number, name in classes.items()}
    rows, strange = [], set()
    for entry in entries:
        image, category = (entry.get("image_id"), entry.get("category_id")) if type(entry) is dict else (None, None)
        if type(image) is int and type(category) is int and {image in names, category in own} == {True}:
            strange |= {classes[category]} if own[category] is None else set()
            entry = {**entry, "image_id": names[image], "category_id": own[category]}
        rows.append(entry)
    if strange:
        found, expected = listed(sorted(strange)), listed(dataset.class_names)
        raise DataError("the class names do not fit", file=path, found=found, expected=expected)
    return rows
