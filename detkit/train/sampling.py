"""Which photos an epoch shows, how often and in what order: drawn from the seed and the epoch alone."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from detkit.data.dataset import Dataset

_STREAM = 1  # sets these draws apart from the loader's, which has the same seed and epoch


def epoch_order(dataset: Dataset, seed: int, epoch: int, balance: float = 0.0) -> NDArray[np.int64]:
    """The sample index at each position of one epoch.

    Args:
        dataset: the photos.
        seed: of the run.
        epoch: from 0.
        balance: 0 shows each photo once; above it, photos with a class that fewer than this share of the photos
            show come more often (see `repeat_factors`), so the epoch grows.
    Returns:
        int64 [positions], shuffled.
    """
    rng = np.random.default_rng((_STREAM, seed, epoch))
    order = np.arange(len(dataset), dtype=np.int64)
    factors = repeat_factors(dataset, balance)
    if (factors > 1).any():
        whole = np.floor(factors)
        order = np.repeat(order, (whole + (rng.random(len(order)) < factors - whole)).astype(np.int64))
    return rng.permutation(order)


def repeat_factors(dataset: Dataset, balance: float) -> NDArray[np.float64]:
    """How often each photo comes in an epoch on average: max over its classes of max(1, sqrt(balance / f)).

    f is the share of photos with a box of the class, crowd boxes left out. Gupta 2019 (LVIS), section 5.1.

    Args:
        dataset: the photos.
        balance: 0 to 1, the share below which a class counts as rare.
    Returns:
        float64 [N], 1 for a photo without boxes.
    """
    if not (math.isfinite(balance) and 0 <= balance <= 1):
        raise ValueError(f"balance is {balance}; expected 0 to 1")
    factors = np.ones(len(dataset))
    if balance == 0 or dataset.box_count == 0:
        return factors
    photos = np.repeat(np.arange(len(dataset)), [len(sample.truth) for sample in dataset])
    labels = np.concatenate([sample.truth.labels for sample in dataset])
    own = np.concatenate([_own(sample.truth.crowd, len(sample.truth)) for sample in dataset])
    shown = np.unique(np.stack([photos[own], labels[own]], 1), axis=0)  # each (photo, class) once, [pairs, 2]
    share = np.bincount(shown[:, 1], minlength=len(dataset.class_names)) / len(dataset)
    np.maximum.at(factors, shown[:, 0], np.sqrt(balance / share[shown[:, 1]]))
    return factors


def _own(crowd: NDArray[np.bool_] | None, count: int) -> NDArray[np.bool_]:
    """The boxes of a photo that stand for one object each."""
    return np.ones(count, np.bool_) if crowd is None else ~crowd
