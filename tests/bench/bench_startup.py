"""Cold start of the command line: `detkit --help`, and `detkit detect PHOTO --json` with its peak memory."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PHOTO = ROOT / "tests/data/photos/chelsea.jpg"
RUNS = 5


def cold(*arguments: str) -> tuple[float, float]:
    """Median seconds and largest peak memory in MB of fresh `detkit` processes."""
    seconds, peaks = [], []
    for _ in range(RUNS):
        start_s = time.perf_counter()
        command = [sys.executable, "-m", "detkit", *arguments]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds.append(time.perf_counter() - start_s)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"detkit {' '.join(arguments)} failed: exit {process.returncode}")
        peaks.append(usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2))
    return statistics.median(seconds), max(peaks)


def default_or_fake(folder: Path) -> tuple[str, str]:
    """The weights to measure with, and what to call them; nothing large is imported, children inherit its memory."""
    sys.path[:0] = [str(ROOT)]
    from detkit.weights import read_manifest

    default, _ = read_manifest()
    if default:
        return default, f"the default model, {default}"
    script = f"from fake_model import *; write_fake_model(Path({str(folder)!r}) / 'fake.onnx')"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    return str(folder / "fake.onnx"), "a fake model of 1 kB (no default model is shipped)"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        weights, called = default_or_fake(Path(folder))
        lines = [("detkit --help", cold("--help"), 0.3, None)]
        command = ("detect", str(PHOTO), "--json", "--weights", weights)
        lines.append(("detkit detect PHOTO --json", cold(*command), 0.7, 250))
    print(f"median of {RUNS} cold starts, {called}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name, (seconds, peak_mb), goal_s, goal_mb in lines:
        memory = f"{peak_mb:4.0f} MB" + (f" (goal {goal_mb})" if goal_mb else "")
        print(f"{name:28s} {seconds:.2f} s (goal {goal_s})  peak {memory}")


if __name__ == "__main__":
    main()
