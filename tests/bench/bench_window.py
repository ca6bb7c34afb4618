"""Time a window model window by window and as a convolution: `python tests/bench/bench_window.py`."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from detkit.engines import Engine
from detkit.infer.pyramid import Level, Sliding, pyramid
from detkit.infer.sliding import LevelScores, conv_scores, window_scores

SIZE_HW = (375, 500)
CASES = (("lenet5", 8, 64), ("efficientnet_lite0", 8, 96), ("efficientnet_lite0", 4, 64))
LEAST = 20  # times that the convolution must be faster


def seconds(found: list[LevelScores]) -> float:
    """What the network took for all levels of a photo."""
    return sum(one.seconds for one in found)


def compared(engine: Engine, levels: list[Level]) -> tuple[int, int, float, float, float]:
    """Windows, runs as a convolution, seconds of both, and the largest difference of a score."""
    conv_scores(engine, levels)  # warm up
    at_once = min((conv_scores(engine, levels) for _ in range(3)), key=seconds)
    one_by_one = window_scores(engine, levels)
    gap = max(float(np.abs(a.scores - b.scores).max()) for a, b in zip(at_once, one_by_one, strict=True))
    return sum(b.evaluations for b in one_by_one), len(at_once), seconds(one_by_one), seconds(at_once), gap


def main() -> None:
    """Print one line per network and engine: times, their ratio in one run, and the difference of the scores."""
    import torch

    from detkit.engines.onnx import OnnxEngine
    from detkit.engines.torch import TorchEngine
    from detkit.export import export_onnx
    from detkit.models.window import SlidingWindow, WindowSettings
    from detkit.weights import ModelCard

    image = np.random.default_rng(0).integers(0, 256, (*SIZE_HW, 3), dtype=np.uint8)
    worst = np.inf
    print(f"a photo of {SIZE_HW[1]} x {SIZE_HW[0]} px, at its own size and at half of it")
    columns = f"{'network':>20} {'stride':>6} {'window':>6} {'engine':>12}"
    print(f"{columns} {'windows':>8} {'window s':>9} {'conv s':>8}   ratio")
    for backbone, stride, window_px in CASES:
        torch.manual_seed(0)
        model = SlidingWindow(
            WindowSettings(backbone, pretrained=False, stride=stride, hidden=64), window_px, ("face",), ((40.0, 50.0),)
        ).eval()
        model.scores.weight.data.mul_(30)  # scores that differ from window to window
        architecture = {"backbone": backbone, "stride": stride, "hidden": 64, "hidden_layers": 1}
        card = ModelCard(
            "window", architecture, ("face",), (window_px, window_px), anchors_wh_px=(((40.0, 50.0),),), crop_margin=0.1
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "window.onnx"
            export_onnx(model, card, path)
            engines: list[Engine] = [OnnxEngine(path)]
            if (backbone, stride, window_px) == CASES[0]:
                engines.append(TorchEngine(model, card))
            for engine in engines:
                started = time.perf_counter()
                levels = pyramid(image, card, Sliding(scale_step=2.0))[:2]
                resized_s = time.perf_counter() - started
                windows, runs, slow_s, fast_s, gap = compared(engine, levels)
                worst = min(worst, slow_s / fast_s)
                print(
                    f"{backbone:>20} {stride:>6} {window_px:>6} {engine.name:>12} {windows:>8,} {slow_s:>9.2f} "
                    f"{fast_s:>8.3f}   {slow_s / fast_s:.0f} times; {runs} runs, scores differ by {gap:.0e}, "
                    f"levels made in {resized_s * 1e3:.0f} ms"
                )
    verdict = "as it should be" if worst >= LEAST else f"TOO LITTLE, {LEAST} is the least"
    print(f"the convolution is at least {worst:.0f} times as fast: {verdict}")


if __name__ == "__main__":
    main()
