"""Every engine on every shipped model: milliseconds per image at batch 1 and 8, as ratios in one process.

`python -m tests.bench.bench_engines --accuracy` adds AP and AP50 on street5's val split, where the data lies beside
the repository (a few minutes).
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from detkit.data.formats import read
from detkit.engines import MANY_PHOTOS, Engine, open_engine, weights_suffix
from detkit.errors import MissingExtraError, UsageError
from detkit.evaluate.coco import CONF_FLOOR, MAX_DET, evaluate
from detkit.infer.predictor import Predictor
from detkit.weights import find_weights, read_manifest

ENGINES = ("onnxruntime", "openvino", "openvino-bf16", "torch")  # the first is what the others are compared with
BATCHES = (1, 8)
ROUNDS, RUN_S = 15, 0.15  # engines take turns, so that other programs disturb them alike
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def engines(model: str) -> Iterator[Engine]:
    """Every engine that is installed and that this processor has."""
    for name in ENGINES:
        try:
            yield open_engine(find_weights(model, weights_suffix(name)), name)
        except (MissingExtraError, UsageError) as error:
            print(f"{model}: no {name}: {error}")


def per_image_ms(every: list[Engine], batch: int) -> dict[str, float]:
    """Engine name -> median milliseconds per image over many runs in turns."""
    noise = np.random.default_rng(0).integers(0, 256, (batch, *every[0].card.input_hw, 3), dtype=np.uint8)
    taken: dict[str, list[float]] = {engine.name: [] for engine in every}
    for engine in every:
        engine.run(noise)  # compiles, fills caches
    for _ in range(ROUNDS):
        for engine in every:
            stop_s = time.perf_counter() + RUN_S
            while time.perf_counter() < stop_s:
                start_s = time.perf_counter()
                engine.run(noise)
                taken[engine.name].append(1000 * (time.perf_counter() - start_s) / batch)
    return {name: statistics.median(times) for name, times in taken.items()}


def accuracy(engine: Engine, model: str) -> str:
    """AP and AP50 on the val split the manifest names, where it lies beside the repository."""
    promised = next(entry.accuracy for entry in read_manifest()[1] if entry.name == model)
    folder = DATA / str(promised["split"]).split()[0]
    if not folder.is_dir():
        return "  (no data)"
    val = read(folder, "val")
    found = Predictor(engine, conf=CONF_FLOOR, max_det=MAX_DET).predict_files([s.image_path for s in val])
    result = evaluate(val, list(found))
    return f"  {result.AP:6.4f} {result.AP50:6.4f}"


def first_result_s(model: str, name: str) -> float:
    """Seconds a new engine takes to its first result, imports of this process not counted."""
    start_s = time.perf_counter()
    engine = open_engine(find_weights(model, weights_suffix(name)), name)
    engine.run(np.zeros((1, *engine.card.input_hw, 3), np.uint8))
    return time.perf_counter() - start_s


def main() -> None:
    scored = "--accuracy" in sys.argv[1:]
    print(f"ms per image, median; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    head = "".join(f"   batch {batch}     " for batch in BATCHES)
    print(f"{'model':16} {'engine':14} {'start s':>7}{head}{'  AP     AP50' if scored else ''}")
    for model in dict.fromkeys(entry.name for entry in read_manifest()[1]):
        every = list(engines(model))
        times = [per_image_ms(every, batch) for batch in BATCHES]
        for engine in every:
            cells = [f"{ms[engine.name]:8.1f} ({ms[engine.name] / ms[every[0].name]:4.2f})" for ms in times]
            start_s = min(first_result_s(model, engine.name) for _ in range(3))
            row = f"{model:16} {engine.name:14} {start_s:7.2f} {' '.join(cells)}"
            print(row + (accuracy(engine, model) if scored else ""), flush=True)
    print(f"In brackets: times onnxruntime's. detect's auto takes openvino-bf16 from {MANY_PHOTOS} photos on.")


if __name__ == "__main__":
    main()
