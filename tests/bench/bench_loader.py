"""Canvases per second and core: detkit's canvas maker against a straightforward OpenCV mosaic pipeline.

Both get the same decoded photos, zoom, aspect, flip, colour changes and box clipping. OpenCV's own threads are off,
so that one thread is one core. The ratio is what counts; the figures themselves depend on what else runs here.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from detkit.data.dataset import Dataset, Sample
from detkit.detections import Detections
from detkit.images import write_image
from detkit.train.augment import AugmentSettings
from detkit.train.loader import Canvas, CanvasMaker, EpochPlan, PhotoCache, PhotoCanvases, batches

SIDE, BATCH, PHOTOS, BOXES, BOUND = 320, 16, 64, 4, 1.5


class Straightforward:
    """What a mosaic loader is in most tutorials: paste on a canvas of twice the side, warp, mirror, HSV by tables."""

    def __init__(self, photos: PhotoCache, settings: AugmentSettings) -> None:
        self.photos, self.settings = photos, settings

    def __len__(self) -> int:
        return len(self.photos)

    def make(self, index: int, side_px: int, rng: np.random.Generator, *, closed: bool) -> Canvas:
        if not closed and rng.random() < self.settings.mosaic:
            chosen, canvas_side, zoom = [index, *rng.integers(len(self), size=3)], 2 * side_px, 0.7
        else:
            chosen, canvas_side, zoom = [index], side_px, 1.0
        canvas = np.full((canvas_side, canvas_side, 3), 114, np.uint8)
        parts = []
        for place, i in enumerate(chosen):
            image, truth = self.photos[int(i)]
            factor = side_px / max(image.shape[:2])
            image = cv2.resize(image, (round(image.shape[1] * factor), round(image.shape[0] * factor)))
            height, width = image.shape[:2]
            x = canvas_side // 2 - width * (place % 2 == 0) if len(chosen) == 4 else (side_px - width) // 2
            y = canvas_side // 2 - height * (place < 2) if len(chosen) == 4 else (side_px - height) // 2
            canvas[y : y + height, x : x + width] = image
            parts.append(np.column_stack([truth.boxes_xyxy * factor + [x, y, x, y], truth.labels]))
        return self._vary(canvas, np.concatenate(parts), side_px, zoom, rng)

    def _vary(
        self, canvas: np.ndarray, rows: np.ndarray, side_px: int, zoom: float, rng: np.random.Generator
    ) -> Canvas:
        settings = self.settings
        scale = zoom * np.exp(rng.uniform(*np.log(settings.zoom)))
        aspect = np.exp(rng.uniform(-1, 1) * np.log1p(settings.stretch) / 2)
        scale_xy = np.array([scale * aspect, scale / aspect])
        slack = side_px - len(canvas) * scale_xy
        offset = slack * rng.random(2)
        matrix = np.array([[scale_xy[0], 0, offset[0]], [0, scale_xy[1], offset[1]]])
        canvas = cv2.warpAffine(canvas, matrix, (side_px, side_px), borderValue=(114, 114, 114))
        boxes = np.clip(rows[:, :4] * np.tile(scale_xy, 2) + np.tile(offset, 2), 0, side_px)
        if rng.random() < settings.flip:
            canvas = cv2.flip(canvas, 1)
            boxes = np.stack([side_px - boxes[:, 2], boxes[:, 1], side_px - boxes[:, 0], boxes[:, 3]], 1)
        kept = ((boxes[:, 2:] - boxes[:, :2]) > 1).all(1)
        size_hw = (side_px, side_px)
        return self._hsv(canvas, rng), Detections(size_hw, boxes[kept], rows[kept, 4].astype(np.int64))

    def _hsv(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        gains = 1 + rng.uniform(-1, 1, 3) * [self.settings.hue_deg / 180, self.settings.saturation, 0.4]
        hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
        steps = np.arange(256)
        table_h = ((steps * gains[0]) % 180).astype(np.uint8)
        table_s = np.clip(steps * gains[1], 0, 255).astype(np.uint8)
        table_v = np.clip(steps * gains[2], 0, 255).astype(np.uint8)
        changed = cv2.merge([cv2.LUT(hue, table_h), cv2.LUT(saturation, table_s), cv2.LUT(value, table_v)])
        return cv2.cvtColor(changed, cv2.COLOR_HSV2RGB)


def noise_photos(folder: Path) -> PhotoCache:
    """Photos of 416 x 312 from JPEG files, with a few boxes each."""
    rng = np.random.default_rng(0)
    samples = []
    for number in range(PHOTOS):
        path = folder / f"{number}.jpg"
        write_image(path, rng.integers(0, 256, (312, 416, 3), dtype=np.uint8))
        corners = rng.uniform(0, 200, (BOXES, 2))
        truth = Detections((312, 416), np.concatenate([corners, corners + 80], 1), np.zeros(BOXES, np.int64))
        samples.append(Sample(path.name, path, truth, number + 1))
    return PhotoCache(Dataset("noise", ("a",), tuple(samples), folder, "coco", "train", (1,)), 480, 2**30)


def alone_us(maker: CanvasMaker) -> float:
    """CPU microseconds per canvas in one thread."""
    start_s = time.thread_time()
    for index in range(PHOTOS):
        maker.make(index, SIDE, np.random.default_rng(index), closed=False)
    return 1e6 * (time.thread_time() - start_s) / PHOTOS


def threads_us(maker: CanvasMaker) -> float:
    """Microseconds per canvas by the clock, stacked to batches by two threads."""
    plan = EpochPlan(0, 0, BATCH, (SIDE,), False, np.arange(PHOTOS, dtype=np.int64))
    start_s = time.perf_counter()
    count = sum(len(truths) for _, truths in batches(maker, plan, workers=2))
    return 1e6 * (time.perf_counter() - start_s) / count


def main() -> None:
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        photos = noise_photos(Path(folder))
        print(
            f"canvases of {SIDE} px from decoded photos of 416 x 312, microseconds per canvas; the quickest of 15 runs"
        )
        for name, share in {"all mosaic": 1.0, "no mosaic": 0.0}.items():
            settings = replace(AugmentSettings(), mosaic=share)
            ours, theirs = PhotoCanvases(photos, settings), Straightforward(photos, settings)
            for measure, how in ((alone_us, "one thread, CPU time"), (threads_us, "two threads, clock")):
                pairs = [(measure(ours), measure(theirs)) for _ in range(15)]  # in turn, so both are disturbed alike
                a, b = (min(column) for column in zip(*pairs, strict=True))
                verdict = "" if how.startswith("two") else f" (bound {BOUND})"
                print(f"  {name}, {how:<21} detkit {a:6.0f}   plain OpenCV {b:6.0f}   {b / a:.2f} times{verdict}")


if __name__ == "__main__":
    main()
