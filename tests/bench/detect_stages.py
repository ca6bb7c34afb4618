"""What each stage of detection costs by itself: milliseconds of one core a picture."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detkit.draw import draw
from detkit.images import decode_image, decode_reduced, place, read_image_bytes, write_image
from detkit.infer.frames import Frame, Item
from detkit.infer.predictor import Predictor
from detkit.infer.records import json_line, record
from detkit.infer.selection import select
from detkit.infer.video import VideoReader
from detkit.infer.video_writer import VideoWriter

Picture = NDArray[np.uint8]
CoreMs = dict[str, float]
FRAMES = 100


def photo_stages(predictor: Predictor, items: Sequence[Item], folder: Path | None) -> CoreMs:
    """Stage -> core-ms a photo; `folder` is where annotated pictures go."""
    card, canvas_hw, stages = predictor.card, predictor.canvas_hw, CoreMs()
    seen: list[tuple[Picture, tuple[int, int]]] = []
    with timed(stages, "decode", len(items)):
        for item in items:
            data = read_image_bytes(item.path or "")
            seen.append(decode_reduced(data, item.name, canvas_hw, card.fit))
            if folder is not None and seen[-1][0].shape[:2] != seen[-1][1]:
                decode_image(data, item.name)
    whole = [decode_image(read_image_bytes(item.path or ""), item.name) for item in items]
    frames = [Frame(image_rgb, 0, None, item.name, item) for image_rgb, item in zip(whole, items, strict=True)]
    drawn = _common_stages(predictor, stages, seen, frames, draws=folder is not None)
    if folder is not None:
        with timed(stages, "write", len(items)):
            for number, image in enumerate(drawn):
                write_image(folder / f"{number}.jpg", image)
    return stages


def film_stages(predictor: Predictor, item: Item, folder: Path | None) -> CoreMs:
    """Stage -> core-ms a frame; `folder` is where the annotated film goes."""
    stages = CoreMs()
    with VideoReader(item, 0) as reader, timed(stages, "decode", FRAMES):
        frames = list(islice(reader, FRAMES))
    seen = [(frame.image_rgb, (frame.image_rgb.shape[0], frame.image_rgb.shape[1])) for frame in frames]
    drawn = _common_stages(predictor, stages, seen, frames, draws=folder is not None)
    if folder is not None:
        with timed(stages, "encode", FRAMES), VideoWriter(folder / "stage.mp4", item, reader.info) as writer:
            for frame, image in zip(frames, drawn, strict=True):
                writer.write(image, frame.pts or 0)
    return stages


def _common_stages(
    predictor: Predictor,
    stages: CoreMs,
    seen: Sequence[tuple[Picture, tuple[int, int]]],
    frames: Sequence[Frame],
    *,
    draws: bool,
) -> list[Picture]:
    """Times what lies between reading and writing; gives the annotated pictures."""
    card, canvas_hw, names, number = predictor.card, predictor.canvas_hw, predictor.class_names, len(seen)
    with timed(stages, "prepare", number):
        placed = [place(pixels, canvas_hw, card.fit, card.pad_value, image_hw=full_hw) for pixels, full_hw in seen]
    predictor.engine.run(placed[0][0][None])
    with timed(stages, "engine", number):
        outputs = [predictor.engine.run(canvas[None]) for canvas, _ in placed]
    with timed(stages, "select", number):
        found = [
            select(out.boxes_xyxy[0], out.scores[0], at, predictor.selection)
            for out, (_, at) in zip(outputs, placed, strict=True)
        ]
    with timed(stages, "record", number):
        for frame, detections in zip(frames, found, strict=True):
            json_line(record(frame, detections, names))
    if not draws:
        return []
    with timed(stages, "draw", number):
        return [draw(frame.image_rgb, own, names) for frame, own in zip(frames, found, strict=True)]


@contextmanager
def timed(stages: CoreMs, name: str, pictures: int) -> Iterator[None]:
    """Note the processor time of the block, of all threads, a picture."""
    start_s = time.process_time()
    yield
    stages[name] = 1000 * (time.process_time() - start_s) / pictures
