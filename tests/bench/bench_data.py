"""Reading 100,000 labelled boxes on 5,000 photos, as a ratio to the least a reader can do: the files parsed or read."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from detkit.data import coco, yolo
from detkit.images import write_image

PHOTOS, BOXES_EACH = 5000, 20


def cpu_s(task: Callable[[], object]) -> float:
    """Processor seconds of the fastest of three runs."""
    seconds = []
    for _ in range(3):
        start_s = time.process_time()
        task()
        seconds.append(time.process_time() - start_s)
    return min(seconds)


def make_photos(folder: Path) -> None:
    """One real photo under many names."""
    folder.mkdir(parents=True)
    write_image(folder / "0.jpg", np.zeros((480, 640, 3), np.uint8))
    for number in range(1, PHOTOS):
        (folder / f"{number}.jpg").hardlink_to(folder / "0.jpg")


def make_coco(root: Path) -> Path:
    make_photos(root / "images/train")
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480} for i in range(PHOTOS)]
    row = {"category_id": 1, "bbox": [10.5, 20.25, 30.75, 40.5], "area": 1245.4, "iscrowd": 0}
    annotations = [{"id": i + 1, "image_id": i % PHOTOS, **row} for i in range(PHOTOS * BOXES_EACH)]
    (root / "annotations").mkdir()
    file = root / "annotations/instances_train.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}))
    return file


def make_yolo(root: Path) -> list[Path]:
    make_photos(root / "images/train")
    (root / "labels/train").mkdir(parents=True)
    (root / "data.yaml").write_text("train: images/train\nnames: [x]\n")
    files = [root / f"labels/train/{number}.txt" for number in range(PHOTOS)]
    for file in files:
        file.write_text("0 0.512345 0.523456 0.234567 0.345678\n" * BOXES_EACH)
    return files


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file, texts = make_coco(Path(folder) / "coco"), make_yolo(Path(folder) / "yolo")
        rows = {
            "COCO": (lambda: coco.read(Path(folder) / "coco"), "json.loads", lambda: json.loads(file.read_bytes())),
            "YOLO": (
                lambda: yolo.read(Path(folder) / "yolo"),
                "reading the files",
                lambda: [t.read_bytes() for t in texts],
            ),
        }
        print(f"{PHOTOS * BOXES_EACH:,} boxes on {PHOTOS:,} photos, processor seconds")
        for name, (read, floor_name, floor) in rows.items():
            ours, least = cpu_s(read), cpu_s(floor)
            print(f"  {name}  {ours:.2f} s (goal 2), {ours / least:.1f} times {floor_name} alone ({least:.2f} s)")


if __name__ == "__main__":
    main()
