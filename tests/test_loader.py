"""The loader: the plan alone decides what comes, not the threads, the cache or where an epoch is taken up again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from detkit.data.dataset import Dataset, Sample
from detkit.detections import Detections
from detkit.errors import DataError, UsageError
from detkit.images import write_image
from detkit.train.augment import AugmentSettings
from detkit.train.loader import (
    Batch,
    Canvas,
    EpochPlan,
    PhotoCache,
    PhotoCanvases,
    batch_count,
    batches,
    multi_scale_sides,
)

ORDER = np.random.default_rng(3).permutation(11)
PLAN = EpochPlan(seed=7, epoch=2, batch_size=4, sides_px=(64,), closed=False, order=ORDER)
MIXED = AugmentSettings(mosaic=0.5, mixup=0.3, copy_paste=0.5, iou_crop=0.5)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    samples = []
    for number in range(11):
        size_hw = (40 + number, 90 - 3 * number)
        write_image(folder / f"{number}.png", rng.integers(0, 256, (*size_hw, 3), dtype=np.uint8))
        truth = Detections(size_hw, np.array([[5.0, 6, 30, 33]]), np.array([number]))
        samples.append(Sample(f"{number}.png", folder / f"{number}.png", truth, number + 1))
    names = tuple(map(str, range(11)))
    return Dataset("noise", names, tuple(samples), folder, "coco", "train", tuple(range(11)))


def _run(
    dataset: Dataset, plan: EpochPlan, settings: AugmentSettings = MIXED, *, workers: int = 2, budget: int = 10**9
) -> list[Batch]:
    return list(batches(PhotoCanvases(PhotoCache(dataset, 96, budget), settings), plan, workers=workers))


def _equal(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(np.array_equal(x[0], y[0]) and x[1] == y[1] for x, y in zip(a, b, strict=True))


def test_same_batches_for_any_number_of_threads_and_any_cache(dataset: Dataset) -> None:
    one = _run(dataset, PLAN, workers=1)
    assert _equal(one, _run(dataset, PLAN, workers=5))
    assert _equal(one, _run(dataset, PLAN, budget=0))
    assert not _equal(one, _run(dataset, replace(PLAN, epoch=3)))
    assert not _equal(one, _run(dataset, replace(PLAN, seed=8)))


def test_an_epoch_taken_up_in_the_middle_goes_on_as_it_would_have(dataset: Dataset) -> None:
    assert _equal(_run(dataset, PLAN)[1:], _run(dataset, replace(PLAN, start=1)))


def test_an_epoch_shows_each_photo_once_at_most(dataset: Dataset) -> None:
    plain = _run(dataset, replace(PLAN, closed=True), AugmentSettings())
    assert [images.shape for images, _ in plain] == [(4, 64, 64, 3)] * 2
    labels = [int(label) for _, truths in plain for truth in truths for label in truth.labels]
    assert len(labels) == len(set(labels))


def test_the_order_says_which_sample_comes_when() -> None:
    class Numbers:
        def __len__(self) -> int:
            return 100

        def make(self, index: int, side_px: int, rng: np.random.Generator, *, closed: bool) -> Canvas:
            canvas = np.full((side_px, side_px, 3), index, np.uint8)
            return canvas, Detections((side_px, side_px), rng.uniform(0, 9, (1, 4)), np.array([closed]))

    plan = replace(PLAN, order=np.array([5, 90, 5, 5, 0, 7]), batch_size=2)
    made = list(batches(Numbers(), plan))
    assert [images[:, 0, 0, 0].tolist() for images, _ in made] == [[5, 90], [5, 5], [0, 7]]
    drawn = [truth.boxes_xyxy.tolist() for _, truths in made for truth in truths]
    assert len({str(boxes) for boxes in drawn}) == 6  # the same sample varies with its position
    assert {
        int(truth.labels[0]) for _, truths in batches(Numbers(), replace(plan, closed=True)) for truth in truths
    } == {1}


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("start", [0, 1])
def test_ranks_make_the_batch_that_one_process_makes(dataset: Dataset, ranks: int, start: int) -> None:
    plan = replace(PLAN, sides_px=(32, 64, 96), start=start)
    whole = _run(dataset, plan)
    parts = [_run(dataset, replace(plan, rank=rank, ranks=ranks), workers=1 + rank) for rank in range(ranks)]
    assert [len(part) for part in parts] == [len(whole)] * ranks
    for batch, (images, truths) in enumerate(whole):
        for rank, part in enumerate(parts):
            assert np.array_equal(part[batch][0], images[rank::ranks])
            assert part[batch][1] == truths[rank::ranks]


def test_ranks_that_cannot_share_a_batch_are_told(dataset: Dataset) -> None:
    with pytest.raises(UsageError, match=r"multiple of the number of processes; found batch size 4, 3 processes"):
        replace(PLAN, ranks=3)
    with pytest.raises(UsageError, match=r"smaller than one batch.*11 photos"):
        replace(PLAN, batch_size=16, ranks=2)


def test_each_batch_draws_its_side(dataset: Dataset) -> None:
    plan = replace(PLAN, sides_px=(32, 64, 96), batch_size=1)
    sides = [images.shape[1] for images, _ in _run(dataset, plan)]
    assert set(sides) == {32, 64, 96}
    assert sides[4:] == [images.shape[1] for images, _ in _run(dataset, replace(plan, start=4))]
    assert sides != [images.shape[1] for images, _ in _run(dataset, replace(plan, epoch=3))]


def test_multi_scale_sides() -> None:
    assert multi_scale_sides(320, 0.0) == (320,)
    assert multi_scale_sides(320, 0.1) == (288, 320, 352)
    assert multi_scale_sides(320, 0.25) == (256, 288, 320, 352, 384)
    assert multi_scale_sides(64, 0.9) == (32, 64, 96)
    with pytest.raises(ValueError, match="multi-scale share is 1"):
        multi_scale_sides(320, 1.0)


def test_batch_count_of_small_sets(dataset: Dataset) -> None:
    assert [batch_count(n, 4) for n in (1, 3, 4, 7, 8)] == [1, 1, 1, 1, 2]
    small = _run(dataset, replace(PLAN, batch_size=16))
    assert [len(truths) for _, truths in small] == [11]


def test_large_photos_are_shrunk_with_their_boxes(dataset: Dataset) -> None:
    image, truth = PhotoCache(dataset, 30, 10**9)[0]  # 40 x 90 becomes 13 x 30
    assert image.shape == (13, 30, 3)
    assert truth.size_hw == (13, 30)
    assert truth.boxes_xyxy[0] == pytest.approx([5 / 3, 6 * 13 / 40, 10, 33 * 13 / 40], rel=1e-5)


def test_a_broken_photo_stops_the_epoch_and_names_itself(dataset: Dataset, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff")
    samples = (*dataset.samples[:5], replace(dataset.samples[5], image_path=broken))
    with pytest.raises(DataError, match=r"broken\.jpg"):
        _run(replace(dataset, samples=samples), replace(PLAN, batch_size=2, order=np.arange(6)))
