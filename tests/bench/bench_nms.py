"""Time detkit.nms against torchvision and OpenCV: `python tests/bench/bench_nms.py`."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from detkit.nms import nms

CLASSES, IOU_THRESHOLD = 80, 0.6
OPENCV_LIMIT = 10_000  # boxes; on 30,000 scattered ones OpenCV takes 20 seconds


def scattered(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes anywhere on a 640-pixel canvas: few suppress each other, the worst case."""
    corner_xy, size_wh = rng.uniform(0, 560, (count, 2)), rng.uniform(8, 160, (count, 2))
    boxes_xyxy = np.concatenate([corner_xy, corner_xy + size_wh], axis=1).astype(np.float32)
    return boxes_xyxy, rng.random(count, np.float32), rng.integers(0, CLASSES, count)


def clustered(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """About 30 boxes round each object, as a detector gives: most are suppressed."""
    boxes_xyxy, _, labels = scattered(max(count // 30, 1), rng)
    owner = rng.integers(0, len(boxes_xyxy), count)
    jittered_xyxy = (boxes_xyxy[owner] + rng.normal(0, 4, (count, 4))).astype(np.float32)
    return jittered_xyxy, rng.random(count, np.float32), labels[owner]


def rounds_ms(calls: list[Callable[[], object]], rounds: int = 9, slice_s: float = 0.03) -> np.ndarray:
    """Milliseconds [rounds, calls]: in every round each call in turn has a slice of time, whose quickest run counts."""
    found = np.full((rounds, len(calls)), np.inf)
    for row in found:
        for column, call in enumerate(calls):
            stop = time.perf_counter() + slice_s
            while (start := time.perf_counter()) < stop:
                call()
                row[column] = min(row[column], time.perf_counter() - start)
    return found * 1e3


def main() -> None:
    """Print one line per size and kind of boxes: quickest times, and the medians of the rounds' ratios."""
    import cv2
    import torch
    from torchvision.ops import batched_nms

    torch.set_num_threads(1)
    worst = 0.0
    print(f"{'boxes':>16} {'kept':>6} {'detkit ms':>10} {'torchvision':>12} {'opencv':>8}   ratios, below 1 is faster")
    for make, count in itertools.product((scattered, clustered), (300, 1_000, 3_000, 10_000, 30_000)):
        columns = boxes_xyxy, scores, labels = make(count, np.random.default_rng(0))
        tensors = [torch.from_numpy(column) for column in columns]
        boxes_xywh = np.concatenate([boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]], axis=1)
        kept = nms(*columns, IOU_THRESHOLD)
        theirs = batched_nms(*tensors, IOU_THRESHOLD).numpy()
        assert np.array_equal(np.sort(kept), np.sort(theirs)), "another keep-set than torchvision's"
        found = rounds_ms([lambda: nms(*columns, IOU_THRESHOLD), lambda: batched_nms(*tensors, IOU_THRESHOLD)])  # noqa: B023
        call = lambda: cv2.dnn.NMSBoxesBatched(boxes_xywh, scores, labels, 0.0, IOU_THRESHOLD)  # noqa: B023, E731
        opencv = f"{rounds_ms([call], rounds=1).min():.2f}" if count <= OPENCV_LIMIT else "-"
        (ours, torchvision), ratio = found.min(axis=0), np.median(found[:, 0] / found[:, 1])
        worst = max(worst, ratio)
        name, beside = f"{make.__name__} {count}", "" if opencv == "-" else f", {ours / float(opencv):.2f} x opencv"
        print(f"{name:>16} {len(kept):6d} {ours:10.3f} {torchvision:12.3f} {opencv:>8}", end="")
        print(f"   {ratio:.2f} x torchvision{beside}", flush=True)
    print(f"at most {worst:.2f} times as long as torchvision")


if __name__ == "__main__":
    main()
