"""The photos a model does worst on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from detkit.evaluate.overlaps import Conf, Overlaps, owners, told_apart


@dataclass(frozen=True, slots=True)
class PhotoErrors:
    """What went wrong on one photo with the boxes as shown, at IoU 0.5.

    Args:
        name, position: the photo's name, and its place in the data set.
        error: objects missed, and for each false alarm its score: a confident one counts nearly as much as a miss.
        truths, found, missed: objects; crowds are not counted.
        false_alarms: boxes that found nothing.
    """

    name: str
    position: int
    error: float
    truths: int
    found: int
    missed: int
    false_alarms: int

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return asdict(self)


def worst_photos(table: Overlaps, *, conf: Conf, limit: int | None = 50) -> tuple[PhotoErrors, ...]:
    """Photos with anything wrong, the worst first; of equals the first in the data set.

    Args:
        table: from `find_overlaps`.
        conf: the working threshold, one for all classes or one for each.
        limit: how many at most; None is all.
    """
    shown, photos = table.shown(conf), len(table.positions)
    owner = owners(table, 0.5, shown=shown)
    right, ignored = told_apart(table, owner)
    wrong = shown & ~right & ~ignored
    truths = np.bincount(table.truths.images[table.counts] - 1, minlength=photos)
    found = np.bincount(table.found.images[right] - 1, minlength=photos)
    alarms = np.bincount(table.found.images[wrong] - 1, minlength=photos)
    error = truths - found + np.bincount(table.found.images[wrong] - 1, table.found.scores[wrong], photos)
    order = np.lexsort((table.positions, -error))
    ranks = order[error[order] > 0][:limit]
    rows = zip(
        table.positions[ranks].tolist(),
        error[ranks].tolist(),
        truths[ranks].tolist(),
        found[ranks].tolist(),
        alarms[ranks].tolist(),
        strict=True,
    )
    samples = table.dataset.samples
    return tuple(PhotoErrors(samples[at].name, at, e, t, f, t - f, a) for at, e, t, f, a in rows)
