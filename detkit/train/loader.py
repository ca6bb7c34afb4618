"""The loader: threads that decode, augment and stack canvases ahead of the network, the same for any thread count."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from detkit.data.dataset import Dataset
from detkit.detections import Detections
from detkit.errors import UsageError
from detkit.images import read_image
from detkit.models.backbones import SIZE_MULTIPLE
from detkit.opencv import load_cv2
from detkit.train.augment import AugmentSettings, place_alone, vary
from detkit.train.mixing import copy_paste, mixup, mosaic

Image = NDArray[np.uint8]
Canvas = tuple[Image, Detections]  # uint8 [S, S, 3] and its truth
Batch = tuple[NDArray[np.uint8], list[Detections]]  # uint8 [B, S, S, 3] and B truths

# what a generator is for: no two of one epoch may draw the same numbers
_SIDE_STREAM, _CANVAS_STREAM = 2, 3
_NOT_SHRUNK_PX = 1 << 20
_PASTED = 3  # objects that copy-paste tries to add to a canvas


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

    def at_full_size(self) -> PhotoCache:
        """The same photos, not shrunk, in the same memory: use one of the two."""
        return PhotoCache(self.dataset, _NOT_SHRUNK_PX, self._left_bytes)

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
    factor_xy = np.array([width / image.shape[1], height / image.shape[0]])
    small = load_cv2().resize(image, (width, height), interpolation=load_cv2().INTER_AREA)
    boxes = truth.boxes_xyxy * np.tile(factor_xy, 2)
    points = None if truth.points_xyv is None else truth.points_xyv * np.append(factor_xy, 1.0)
    return np.asarray(small, np.uint8), replace(truth, size_hw=(height, width), boxes_xyxy=boxes, points_xyv=points)


class CanvasMaker(Protocol):
    """Makes the training canvas of a sample; all it varies comes from the generator it is given."""

    def __len__(self) -> int:
        """Samples in the data set."""
        ...

    def make(self, index: int, side_px: int, rng: np.random.Generator, *, closed: bool) -> Canvas:
        """A square canvas of sample `index`; `closed`: of nothing but this sample (the last epochs)."""
        ...


class PhotoCanvases:
    """The canvases of detector training: photos, mosaics and mixtures of them.

    Args:
        photos: what they are made of.
        settings: how they are varied.
    """

    def __init__(self, photos: PhotoCache, settings: AugmentSettings) -> None:
        self.photos, self.settings = photos, settings

    def __len__(self) -> int:
        return len(self.photos)

    def make(self, index: int, side_px: int, rng: np.random.Generator, *, closed: bool) -> Canvas:
        """See `CanvasMaker.make`; safe to call from several threads."""
        canvas = self._canvas(index, side_px, rng, closed)
        if not closed and rng.random() < self.settings.mixup:
            canvas = mixup(canvas, self._canvas(self._others(1, rng)[0], side_px, rng, closed))
        return canvas

    def _canvas(self, index: int, side_px: int, rng: np.random.Generator, closed: bool) -> Canvas:
        """A canvas before mixup."""
        settings = self.settings
        if not closed and rng.random() < settings.mosaic:
            chosen = [index, *self._others(3, rng)]
            canvas = mosaic([self.photos[i] for i in chosen], side_px, rng, settings)
        else:
            canvas = place_alone(self.photos[index], side_px, rng, settings)
        if not closed and rng.random() < settings.copy_paste:
            canvas = copy_paste(canvas, [self.photos[i] for i in self._others(_PASTED, rng)], rng, settings)
        return vary(canvas, rng, settings)

    def _others(self, count: int, rng: np.random.Generator) -> list[int]:
        return [int(i) for i in rng.integers(len(self), size=count)]


@dataclass(frozen=True, slots=True, eq=False)
class EpochPlan:
    """What one epoch feeds the network; equal plans give equal batches, whatever the number of threads.

    batch_size: canvases per step, of all ranks together. sides_px: canvas sides, of which each batch draws one.
    closed: no mixing of photos any more. order: int64 [positions], the sample at each. start: batches to leave out
    (resumed epoch). rank, ranks: which process of how many; together they make the batch that one alone would.

    Raises:
        UsageError: the batch cannot be shared out evenly, or the data set is smaller than it.
    """

    seed: int
    epoch: int
    batch_size: int
    sides_px: tuple[int, ...]
    closed: bool
    order: NDArray[np.int64]
    start: int = 0
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        if self.batch_size % self.ranks:
            raise UsageError("the batch size must be a multiple of the number of processes", found=self._found())
        if self.ranks > 1 and len(self.order) < self.batch_size:
            raise UsageError("the data set is smaller than one batch of all processes", found=self._found())

    def _found(self) -> str:
        return f"batch size {self.batch_size}, {self.ranks} processes, {len(self.order)} photos"

    def side_px(self, batch: int) -> int:
        """The canvas side of a batch."""
        if len(self.sides_px) == 1:
            return self.sides_px[0]
        rng = np.random.default_rng((_SIDE_STREAM, self.seed, self.epoch, batch))
        return self.sides_px[rng.integers(len(self.sides_px))]

    def positions(self, batch: int) -> range:
        """This rank's positions in the epoch's order for a batch."""
        first = batch * self.batch_size
        return range(first + self.rank, min(first + self.batch_size, len(self.order)), self.ranks)


def multi_scale_sides(side_px: int, share: float) -> tuple[int, ...]:
    """The multiples of 32 within side * (1 - share) .. side * (1 + share), smallest first."""
    if not 0 <= share < 1:
        raise ValueError(f"the multi-scale share is {share}; expected 0 or more, below 1")
    low, high = (side_px * (1 + sign * share) / SIZE_MULTIPLE for sign in (-1, 1))
    # the small number takes up rounding: 320 * 1.1 is a little more than 352
    return tuple(SIZE_MULTIPLE * n for n in range(max(1, math.ceil(low - 1e-9)), math.floor(high + 1e-9) + 1))


def batch_count(position_count: int, batch_size: int) -> int:
    """Batches in an epoch: the last one is full too, except where the epoch is shorter than one batch."""
    return max(1, position_count // batch_size)


def batches(maker: CanvasMaker, plan: EpochPlan, *, workers: int = 2) -> Generator[Batch, None, None]:
    """This rank's part of the batches of one epoch, made ahead by `workers` threads.

    Every canvas draws from a generator seeded by (seed, epoch, position), so the plan alone decides.
    """

    def make(position: int, side_px: int) -> Canvas:
        rng = np.random.default_rng((_CANVAS_STREAM, plan.seed, plan.epoch, position))
        return maker.make(int(plan.order[position]), side_px, rng, closed=plan.closed)

    with ThreadPoolExecutor(workers, thread_name_prefix="loader") as pool:
        ahead: deque[list[Future[Canvas]]] = deque()
        try:
            for batch in range(plan.start, batch_count(len(plan.order), plan.batch_size)):
                side_px = plan.side_px(batch)
                ahead.append([pool.submit(make, position, side_px) for position in plan.positions(batch)])
                if len(ahead) > 2:
                    yield _stack(ahead.popleft())
            while ahead:
                yield _stack(ahead.popleft())
        finally:
            for futures in ahead:
                for future in futures:
                    future.cancel()


def _stack(futures: list[Future[Canvas]]) -> Batch:
    made = [future.result() for future in futures]
    return np.stack([image for image, _ in made]), [truth for _, truth in made]
