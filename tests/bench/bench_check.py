"""Checking 5,000 photos of 640x480, all different, as a ratio to decoding them and nothing else."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from detkit.data.check import check
from detkit.images import read_image
from detkit.opencv import load_cv2

PHOTOS, BOXES_EACH = 5000, 8
SOURCES = Path(__file__).parent.parent / "data" / "photos"


def make_set(root: Path) -> None:
    """Crops of real photos, each with its own place, size and brightness."""
    cv2, rng = load_cv2(), np.random.default_rng(0)
    sources = [read_image(path)[:, :, ::-1] for path in sorted(SOURCES.glob("*.jpg"))]
    (root / "images/train").mkdir(parents=True)
    (root / "annotations").mkdir()
    annotations = []
    for number in range(PHOTOS):
        source = sources[number % len(sources)]
        side = int(rng.integers(120, min(source.shape[:2])))
        top, left = (int(rng.integers(0, limit - side + 1)) for limit in source.shape[:2])
        crop = cv2.resize(source[top : top + side, left : left + side], (640, 480))
        crop = cv2.convertScaleAbs(crop, alpha=float(rng.uniform(0.6, 1.2)))
        cv2.imwrite(str(root / f"images/train/{number}.jpg"), crop, [cv2.IMWRITE_JPEG_QUALITY, 85])
        for box in rng.uniform(20, 300, (BOXES_EACH, 4)).round(1).tolist():
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "bbox": box, "iscrowd": 0}
            annotations.append(entry)
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 640, "height": 480} for n in range(PHOTOS)]
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (root / "annotations/instances_train.json").write_text(json.dumps(document))


def timed(task: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock and of the processor."""
    start, start_cpu = time.perf_counter(), time.process_time()
    task()
    return time.perf_counter() - start, time.process_time() - start_cpu


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_set(root)
        photos = sorted((root / "images/train").iterdir())
        _, floor = timed(lambda: [read_image(photo) for photo in photos])
        print(f"checking {PHOTOS:,} photos of 640x480 with {PHOTOS * BOXES_EACH:,} boxes")
        for name, fast in (("all", False), ("--fast", True)):
            clock, cpu = timed(lambda fast=fast: check(root, fast=fast))
            print(f"  {name:7} {clock:.1f} s (goal 60), processor {cpu:.1f} s, {cpu / floor:.2f} times decoding alone")


if __name__ == "__main__":
    main()
