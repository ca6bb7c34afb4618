"""Run every benchmark beside this file, or those named: `python -m tests.bench [eval ...]`; each in a fresh process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

names = sys.argv[1:] or sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))
for name in names:  # one's threads and memory must not show in another's figures
    print(f"== {name}", flush=True)
    subprocess.run([sys.executable, "-m", f"tests.bench.bench_{name}"], check=True)
