"""Run every benchmark beside this file, or those named: `python -m tests.bench [eval ...]`."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

names = sys.argv[1:] or sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))
for name in names:
    print(f"== {name}", flush=True)
    runpy.run_module(f"tests.bench.bench_{name}", run_name="__main__")
