"""Sampling: photos of rare classes come as often as Gupta 2019 says, and the seed and epoch alone decide."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from detkit.data.dataset import Dataset, Sample
from detkit.detections import Detections
from detkit.train.sampling import epoch_order, repeat_factors

ROOT = Path()


def _dataset(labels: list[list[int]], crowd: list[list[bool]] | None = None) -> Dataset:
    samples = []
    for number, row in enumerate(labels):
        flags = None if crowd is None else np.array(crowd[number], bool)
        truth = Detections((9, 9), np.tile([0.0, 0, 5, 5], (len(row), 1)), np.array(row, np.int64), crowd=flags)
        samples.append(Sample(f"{number}.png", ROOT / f"{number}.png", truth, number + 1))
    return Dataset("made", ("a", "b", "c"), tuple(samples), ROOT, "coco", "train", (1, 2, 3))


RARE = _dataset([[0, 0, 0], [0], [0, 2], [1, 0], [0, 1], [0], [0], []])  # f = 7/8, 2/8, 1/8


def test_repeat_factors_by_hand() -> None:
    assert repeat_factors(RARE, 0.5) == pytest.approx([1, 1, 2, 2**0.5, 2**0.5, 1, 1, 1])
    assert repeat_factors(RARE, 0.25) == pytest.approx([1, 1, 2**0.5, 1, 1, 1, 1, 1])
    assert repeat_factors(RARE, 1.0)[0] == pytest.approx((8 / 7) ** 0.5)
    assert (repeat_factors(RARE, 0.0) == 1).all()


def test_crowds_make_no_photo_rare() -> None:
    crowded = _dataset([[0], [0, 1], [0], [0]], [[False], [False, True], [False], [False]])
    assert (repeat_factors(crowded, 1.0) == 1).all()


def test_no_photos_and_no_boxes() -> None:
    assert epoch_order(_dataset([[], []]), 0, 0, 0.5).tolist() in ([0, 1], [1, 0])
    assert epoch_order(_dataset([]), 0, 0, 0.5).shape == (0,)


def test_without_balance_each_photo_comes_once_in_another_order_each_epoch() -> None:
    orders = [epoch_order(RARE, seed, epoch, 0.0) for seed in (0, 1) for epoch in range(3)]
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert len({tuple(order) for order in orders}) == 6
    assert orders[0].dtype == np.int64
    assert np.array_equal(epoch_order(RARE, 1, 2, 0.0), orders[5])


def test_with_balance_photos_come_as_often_as_their_factor_on_average() -> None:
    counts = sum(np.bincount(epoch_order(RARE, 3, epoch, 0.5), minlength=8) for epoch in range(400))
    assert counts / 400 == pytest.approx(repeat_factors(RARE, 0.5), abs=0.08)
    assert counts[[0, 1, 2, 5, 6, 7]].tolist() == [400, 400, 800, 400, 400, 400]  # whole factors leave no chance
    assert np.array_equal(epoch_order(RARE, 3, 9, 0.5), epoch_order(RARE, 3, 9, 0.5))


@pytest.mark.parametrize("balance", [-0.1, 1.1, float("nan")])
def test_a_share_is_between_0_and_1(balance: float) -> None:
    with pytest.raises(ValueError, match="balance is"):
        epoch_order(replace(RARE), 0, 0, balance)
