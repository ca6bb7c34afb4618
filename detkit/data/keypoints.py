"""Labelled points: COCO's `keypoints` checked, their names and edges, and which of them change sides in a mirror."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detkit.data.dataset import Dataset
from detkit.data.label_files import short, wrong
from detkit.errors import DataError, WeightsError

_NUMBERS = frozenset({int, float})
_LIMIT_PX = 10**9
_OUTSIDE_SHARE, _OUTSIDE_PX = 0.02, 2.0  # how far over the photo's edge a labelled point may lie
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^A-Za-z\d]+")
_SIDES = {"left": "right", "right": "left", "l": "r", "r": "l"}
Pair = tuple[int, int]
_Entry = Mapping[str, Any]  # one JSON object


class Points(NamedTuple):
    """Points of N boxes, [N, P, 3] as x, y in pixels and visibility 0, 1 or 2; P names; edges; P spreads or none."""

    xyv: NDArray[np.float32] | None = None
    names: tuple[str, ...] = ()
    edges: tuple[Pair, ...] = ()
    sigmas: tuple[float, ...] = ()


def read_points(
    annotations: Sequence[_Entry],
    categories: Mapping[int, _Entry],
    sizes_hw: Mapping[int, tuple[int, int]],
    positions: Sequence[int] | None = None,
) -> Points:
    """COCO's keypoints, when some are labelled and every class used has the same number of them.

    Args:
        annotations: their image_id and category_id are known to be good.
        categories: by id; `skeleton` names edges, and `sigmas`, which COCO itself has in its code, the spreads.
        sizes_hw: of each photo, by image id.
        positions: of each annotation in its file, for messages; 0 to N - 1 unless given.
    Raises:
        DataError: a wrong count, no number, a visibility COCO does not know, or a point outside its photo.
    """
    if not any("keypoints" in annotation for annotation in annotations):
        return Points()
    used = [categories[number] for number in sorted({annotation["category_id"] for annotation in annotations})]
    named = [names if type(names := category.get("keypoints")) is list else [] for category in used]
    if len(set(map(len, named))) != 1 or not named[0]:
        return Points()
    rows = []
    numbered = zip(range(len(annotations)) if positions is None else positions, annotations, strict=True)
    for position, annotation in numbered:
        row = annotation.get("keypoints", [0] * 3 * len(named[0]))
        problem = _problem(row, len(named[0]), sizes_hw[annotation["image_id"]])
        if problem:
            where = f"annotations[{position}] (id {short(annotation.get('id'))}): the keypoints {problem[0]}"
            raise wrong(where, None, *problem[1:])
        rows.append(row)
    alike = all(names == named[0] for names in named)
    names = _names(named[0]) if alike else numbered_names(len(named[0]))
    edges, sigmas = _edges(used[0], len(names)), _sigmas(used, len(names))
    return Points(np.array(rows, np.float32).reshape(len(rows), -1, 3), names, edges, sigmas)


def _problem(row: Any, count: int, size_hw: tuple[int, int]) -> tuple[str, Any, str] | None:
    """What is wrong with one annotation's keypoints: the fault, what was found and what was expected."""
    if type(row) is not list or len(row) != 3 * count:
        return (
            "have a wrong count",
            len(row) if type(row) is list else row,
            f"{3 * count} numbers: x, y and visibility of {count} points",
        )
    if not _NUMBERS.issuperset(map(type, row)) or not all(-_LIMIT_PX < value < _LIMIT_PX for value in row):
        return "are not all numbers", row, "x, y and visibility of each point"
    height, width = size_hw
    slack = max(_OUTSIDE_PX, _OUTSIDE_SHARE * max(size_hw))
    for x, y, visibility in zip(row[0::3], row[1::3], row[2::3], strict=True):
        if visibility not in (0, 1, 2):
            return "have a wrong visibility", visibility, "0 (not labelled), 1 (hidden) or 2 (visible)"
        if visibility and not (-slack <= x <= width + slack and -slack <= y <= height + slack):
            return f"lie outside the {width}x{height} photo", [x, y], "a point on the photo, or visibility 0"
    return None


def _names(listed: list[Any]) -> tuple[str, ...]:
    for name in listed:
        if type(name) is not str or not name.strip() or any(c < " " or "\ud800" <= c <= "\udfff" for c in name):
            raise wrong("a keypoint has no usable name", None, name, "text")
    if len(set(listed)) != len(listed):
        raise wrong("two keypoints have the same name", None, listed, "distinct names")
    return tuple(listed)


def _edges(category: _Entry, count: int) -> tuple[Pair, ...]:
    """COCO's `skeleton`, whose point numbers begin with 1, as pairs of indices."""
    edges = category.get("skeleton", [])
    if type(edges) is not list:
        raise wrong("the skeleton is wrong", None, edges, "a list of pairs of point numbers")
    for edge in edges:
        fits = type(edge) is list and len(edge) == 2 and all(type(end) is int and 1 <= end <= count for end in edge)
        if not fits:
            raise wrong("an edge of the skeleton is wrong", None, edge, f"two point numbers, 1 to {count}")
    return tuple((a - 1, b - 1) for a, b in edges)


def _sigmas(used: Sequence[_Entry], count: int) -> tuple[float, ...]:
    """The spreads that the classes give for their points; () where they give none, or not the same."""
    listed = [category["sigmas"] for category in used if "sigmas" in category]
    for sigmas in listed:
        fits = type(sigmas) is list and len(sigmas) == count and _NUMBERS.issuperset(map(type, sigmas))
        if not fits or not all(0 < sigma < _LIMIT_PX for sigma in sigmas):
            raise wrong("the sigmas are wrong", None, sigmas, f"{count} numbers above 0, one for each point")
    alike = len(listed) == len(used) and all(sigmas == listed[0] for sigmas in listed)
    return tuple(map(float, listed[0])) if alike else ()


def numbered_names(count: int) -> tuple[str, ...]:
    """Names for points that have none: point_1, point_2, ..."""
    return tuple(f"point_{k + 1}" for k in range(count))


def flip_pairs(names: Sequence[str]) -> tuple[Pair, ...]:
    """Pairs of points that change places in a mirror, told by their names: left_eye and right_eye, l_ear and r_ear.

    Args:
        names: of all points; one with a side in its name ("left", "right", "l", "r", as a word or in camelCase)
            needs its counterpart.
    Returns:
        Index pairs, the earlier point first.
    Raises:
        DataError: a point with a side has no counterpart.
    """
    index = {_words(name): k for k, name in enumerate(names)}
    pairs = []
    for words, k in index.items():
        other = tuple(_SIDES.get(word, word) for word in words)
        if other == words:
            continue
        if other not in index:
            raise DataError(
                f"point {short(names[k])} has no counterpart on the other side, so photos cannot be mirrored",
                found=", ".join(names),
                expected=f"a point {''.join(other)!r}",
            )
        if k < index[other]:
            pairs.append((k, index[other]))
    return tuple(sorted(pairs))


def mirrored_pairs(dataset: Dataset) -> tuple[Pair, ...]:
    """Pairs of a data set's points that change places in a mirror: as it says itself, else told by their names.

    Raises:
        DataError: a point with a side in its name has no counterpart.
    """
    return flip_pairs(dataset.point_names) if dataset.point_pairs is None else dataset.point_pairs


def _words(name: str) -> tuple[str, ...]:
    return tuple(word.lower() for word in _WORD.findall(name))


def eye_pair(names: Sequence[str]) -> Pair | None:
    """The indices of the points called left eye and right eye, or None where there are no such two."""
    eyes = {frozenset(_words(name)) - {"_", "-", " ", "."}: k for k, name in enumerate(names)}
    for left, right in (("left", "right"), ("l", "r")):
        pair = eyes.get(frozenset({left, "eye"})), eyes.get(frozenset({right, "eye"}))
        if pair[0] is not None and pair[1] is not None:
            return pair[0], pair[1]
    return None


def labelled_boxes(dataset: Dataset) -> list[tuple[int, int]]:
    """(photo, row) of every box with at least one labelled point, crowds left out.

    Raises:
        DataError: there is none.
    """
    found = []
    for photo, sample in enumerate(dataset):
        truth = sample.truth
        if truth.points_xyv is not None:
            counted = (truth.points_xyv[..., 2] > 0).any(axis=1)
            counted &= True if truth.crowd is None else ~truth.crowd
            found += [(photo, int(row)) for row in np.flatnonzero(counted)]
    if not found:
        raise DataError(
            "no box has a labelled point",
            file=dataset.source,
            found=f"{dataset.box_count} boxes without points",
            expected="keypoints in the annotations, and their names in the categories",
        )
    return found


def check_point_names(expected: Sequence[str], dataset: Dataset) -> None:
    """Make sure that a model's points, in order, are those of the data it meets; WeightsError when not."""
    if tuple(expected) != dataset.point_names:
        raise WeightsError(
            "the model's points are not those of the data",
            file=dataset.source,
            found=", ".join(dataset.point_names) or "no points",
            expected=", ".join(expected),
        )
