"""Engine x precision x batch on the shipped models: milliseconds per image and, beside it, how good the boxes are.

`python -m tests.bench.bench_engines [--all] [MODEL ...]`: AP50 (NME for a model of points) is measured on 100 photos of
the val split the manifest names, or with --all on every one; int8 is made here, calibrated on photos of its train
split. Without the data, which lies beside the repository, both are missing. Engines take turns in one process.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detkit.data.dataset import Dataset
from detkit.data.formats import read
from detkit.engines import MANY_PHOTOS, Engine, open_engine, weights_suffix
from detkit.engines.onnx import OnnxEngine
from detkit.engines.openvino import OpenVinoEngine
from detkit.errors import DetkitError
from detkit.evaluate.coco import CONF_FLOOR, MAX_DET, evaluate
from detkit.evaluate.landmarks import evaluate_landmarks
from detkit.export.photos import find_photos
from detkit.export.quantise import CALIBRATION_PHOTOS, quantise_int8
from detkit.infer.landmarks import LandmarkPredictor
from detkit.infer.predictor import Predictor
from detkit.weights import find_weights, read_card, read_manifest

BATCHES = (1, 4, 8)
ROUNDS, RUN_S, STARTS = 10, 0.15, 3  # in turns, so that other programs disturb all alike
PHOTOS = 100
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@dataclass(frozen=True)
class Row:
    """One engine with one precision; `start` opens it anew."""

    engine: str
    precision: str
    start: Callable[[], Engine]


def rows(model: str, int8: Path | None) -> Iterator[Row]:
    """Every engine that is installed and that this processor and this model's files allow, onnxruntime first."""
    onnx = find_weights(model)
    yield Row("onnxruntime", "fp32", lambda: OnnxEngine(onnx))
    if int8:
        yield Row("onnxruntime", "int8", lambda: OnnxEngine(int8))
    yield Row("openvino", "fp32", lambda: OpenVinoEngine(onnx, precision="fp32"))
    yield Row("openvino", "bf16", lambda: OpenVinoEngine(onnx, precision="bf16"))
    if int8:
        yield Row("openvino", "int8", lambda: OpenVinoEngine(int8, precision="fp32"))
        yield Row("openvino", "int8+bf16", lambda: OpenVinoEngine(int8, precision="bf16"))
    if (onnx.with_suffix(weights_suffix("torch"))).exists():
        yield Row("torch", "fp32", lambda: torch_engine(model, bf16=False))
        yield Row("torch", "bf16", lambda: torch_engine(model, bf16=True))


def torch_engine(model: str, *, bf16: bool) -> Engine:
    engine = open_engine(find_weights(model, weights_suffix("torch")), "torch")
    engine.bf16 = bf16  # type: ignore[attr-defined]
    return engine


def split_of(model: str, split: str) -> tuple[Path, str] | None:
    """The data set the manifest measured the model on, where it lies beside the repository."""
    promised = next(entry.accuracy for entry in read_manifest()[1] if entry.name == model)
    folder = DATA / str(promised.get("split", "-")).split()[0]
    return (folder, split) if folder.is_dir() else None


def make_int8(model: str, folder: Path) -> Path | None:
    """The int8 copy `detkit export --int8` would make."""
    where = split_of(model, "train")
    if where is None:
        return None
    source, target = find_weights(model), folder / f"{model}.onnx"
    card = read_card(source)
    photos = find_photos(where[0], CALIBRATION_PHOTOS, card, split=where[1])
    start_s = time.perf_counter()
    done = quantise_int8(source, target, photos.canvases(card))
    size = f"{source.stat().st_size / 1e6:.1f} to {target.stat().st_size / 1e6:.1f} MB"
    print(
        f"{model}: {size}, {done.layers} layers in int8 and {done.kept} in float32, "
        f"calibrated on {done.photos} canvases in {time.perf_counter() - start_s:.0f} s",
        flush=True,
    )
    return target


def noise(engine: Engine, batch: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (batch, *engine.card.input_hw, 3), dtype=np.uint8)


def per_image_ms(every: list[Engine], batch: int) -> list[tuple[float, float]]:
    """For each engine the median milliseconds per image, and the fewest core-milliseconds, of many runs in turns."""
    canvases = noise(every[0], batch)
    taken: list[list[float]] = [[] for _ in every]
    busy: list[list[float]] = [[] for _ in every]
    for engine in every:
        engine.run(canvases)  # compiles, fills caches
    for _ in range(ROUNDS):
        for engine, times, cores in zip(every, taken, busy, strict=True):
            begin_s, core_s, runs = time.perf_counter(), time.process_time(), 0
            while time.perf_counter() < begin_s + RUN_S:
                start_s = time.perf_counter()
                engine.run(canvases)
                times.append(1000 * (time.perf_counter() - start_s) / batch)
                runs += 1
            cores.append(1000 * (time.process_time() - core_s) / batch / runs)
    return [(statistics.median(times), min(cores)) for times, cores in zip(taken, busy, strict=True)]


def batch_px(engine: Engine) -> float:
    """The largest difference of a coordinate between canvases run together and one by one: AP50 has no batch."""
    canvases = noise(engine, max(BATCHES))
    together = engine.run(canvases).boxes_xyxy
    alone = np.concatenate([engine.run(canvas[None]).boxes_xyxy for canvas in canvases])
    return float(np.abs(together - alone).max(initial=0.0))


def val_of(model: str, most: int | None) -> Dataset | None:
    """The val split, or `most` of its photos, evenly spread."""
    where = split_of(model, "val")
    if where is None:
        return None
    val = read(*where)
    at = np.linspace(0, len(val) - 1, min(most or len(val), len(val))).round().astype(int)
    return replace(val, samples=tuple(val.samples[index] for index in np.unique(at)))


def figure(engine: Engine, val: Dataset | None) -> str:
    """AP50 on these photos; NME for a model of points."""
    if val is None:
        return "(no data)"
    if engine.card.task == "landmarks":
        predictor = LandmarkPredictor(engine)
        return f"NME {evaluate_landmarks(val, list(predictor.stream_truth(val.samples))).NME:.4f}"
    found = Predictor(engine, conf=CONF_FLOOR, max_det=MAX_DET).predict_files([s.image_path for s in val])
    return f"{evaluate(val, list(found)).AP50:.4f}"


def first_result_s(start: Callable[[], Engine]) -> float:
    """Seconds a new engine takes to its first result, imports of this process not counted."""
    start_s = time.perf_counter()
    engine = start()
    engine.run(noise(engine, 1))
    return time.perf_counter() - start_s


def print_table(model: str, folder: Path, most: int | None) -> None:
    """The rows of one model."""
    val = val_of(model, most)
    opened: list[tuple[Row, Engine]] = []
    for row in rows(model, make_int8(model, folder)):
        try:
            opened.append((row, row.start()))
        except (DetkitError, ImportError) as error:
            print(f"{model}: no {row.engine} {row.precision}: {error}")
    every = [engine for _, engine in opened]
    times = [per_image_ms(every, batch) for batch in BATCHES]
    for index, (row, engine) in enumerate(opened):
        cells = "".join(f"{ms[index][0]:8.1f} ({ms[index][0] / ms[0][0]:4.2f})" for ms in times)
        start_s = min(first_result_s(row.start) for _ in range(STARTS))
        print(
            f"{model:15} {row.engine:12} {row.precision:10} {start_s:7.2f}{cells} {times[0][index][1]:8.1f}"
            f" {batch_px(engine):9.3f}   {figure(engine, val)}",
            flush=True,
        )


def main() -> None:
    asked = [name for name in sys.argv[1:] if not name.startswith("-")]
    most = None if "--all" in sys.argv[1:] else PHOTOS
    models = asked or dict.fromkeys(entry.name for entry in read_manifest()[1] if not entry.url)
    print(f"ms per image, median; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    head = "".join(f"  batch {batch}      " for batch in BATCHES)
    photos = "all photos" if most is None else f"{most} photos"
    print(f"{'model':15} {'engine':12} {'precision':10} {'start s':>7}{head} core-ms  batch px   AP50, {photos}")
    with tempfile.TemporaryDirectory() as folder:
        for model in models:
            print_table(model, Path(folder), most)
    print("In brackets: times onnxruntime's in fp32. core-ms: of all cores together, at best, batch 1.")
    print("batch px: how far a box moves when photos share a batch.")
    print(f"detect's auto takes openvino bf16 from {MANY_PHOTOS} photos on.")


if __name__ == "__main__":
    main()
