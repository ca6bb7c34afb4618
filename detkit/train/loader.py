"""The loader: threads that decode, augment and stack canvases ahead of the network, the same for any thread count."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from detkit.data.dataset import Dataset
from detkit.detections import Detections
from detkit.images import read_image
from detkit.opencv import load_cv2
from detkit.train.augment import AugmentSettings, augment

Image = NDArray[np.uint8]
Batch = tuple[NDArray[np.uint8], list[Detections]]  # uint8 [B, S, S, 3] and B truths


class PhotoCache:
    """Decoded photos, shrunk to what training can use, kept while they fit a budget.

    Args:
        dataset: the photos.
        max_side_px: a larger photo is shrunk to this longer side.
        budget_bytes: photos beyond it are decoded anew each time.
    """

    def __init__(self, dataset: Dataset, max_side_px: int, budget_bytes: int) -> None:
        self.dataset, self.max_side_px, self._left_bytes = dataset, max_side_px, budget_bytes
        self._kept: dict[int, tuple[Image, Detections]] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Image, Detections]:
        if index in self._kept:
            return self._kept[index]
        sample = self.dataset.samples[index]
        item = _shrink(read_image(sample.image_path), sample.truth, self.max_side_px)
        if item[0].nbytes <= self._left_bytes:
            self._left_bytes -= item[0].nbytes
            self._kept[index] = item
        return item


def _shrink(image: Image, truth: Detections, max_side_px: int) -> tuple[Image, Detections]:
    longer = max(image.shape[:2])
    if longer <= max_side_px:
        return image, truth
    height, width = (max(1, round(side * max_side_px / longer)) for side in image.shape[:2])
    factor = np.tile([width / image.shape[1], height / image.shape[0]], 2)
    cv2 = load_cv2()
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8), replace(truth, size_hw=(height, width), boxes_xyxy=truth.boxes_xyxy * factor)


@dataclass(frozen=True, slots=True)
class EpochPlan:
    """What one epoch feeds the network; equal plans give equal batches, whatever the number of threads.

    side_px: canvas side. mosaic: share of mosaics in this epoch. start: batches to leave out (resumed epoch).
    """

    seed: int
    epoch: int
    batch_size: int
    side_px: int
    mosaic: float
    start: int = 0


def batch_count(image_count: int, batch_size: int) -> int:
    """Batches in an epoch: the last one is full too, except where the data set is smaller than one batch."""
    return max(1, image_count // batch_size)


def batches(photos: PhotoCache, plan: EpochPlan, settings: AugmentSettings, *, workers: int = 2) -> Iterator[Batch]:
    """Shuffled, augmented batches of one epoch, made ahead by `workers` threads.

    Every canvas draws from a generator seeded by (seed, epoch, position), so the plan alone decides.
    """
    order = np.random.default_rng((plan.seed, plan.epoch)).permutation(len(photos))
    positions = [
        range(b * plan.batch_size, min((b + 1) * plan.batch_size, len(photos)))
        for b in range(plan.start, batch_count(len(photos), plan.batch_size))
    ]

    def make(position: int) -> tuple[Image, Detections]:
        rng = np.random.default_rng((plan.seed, plan.epoch, position))
        chosen = [int(order[position])]
        if rng.random() < plan.mosaic:
            chosen += [int(i) for i in rng.integers(len(photos), size=3)]
        return augment([photos[i] for i in chosen], plan.side_px, rng, settings)

    with ThreadPoolExecutor(workers, thread_name_prefix="loader") as pool:
        ahead: deque[list[Future[tuple[Image, Detections]]]] = deque()
        try:
            for upcoming in positions:
                ahead.append([pool.submit(make, p) for p in upcoming])
                if len(ahead) > 2:
                    yield _stack(ahead.popleft())
            while ahead:
                yield _stack(ahead.popleft())
        finally:
            for futures in ahead:
                for future in futures:
                    future.cancel()


def _stack(futures: list[Future[tuple[Image, Detections]]]) -> Batch:
    made = [future.result() for future in futures]
    return np.stack([image for image, _ in made]), [truth for _, truth in made]
