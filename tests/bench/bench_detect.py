"""`detkit detect` as a whole: throughput beside the bare engine, cold start, memory over a long film, cameras.

`python -m tests.bench.bench_detect throughput cold memory cameras` runs those of them that are named. That the engines
agree, and how closely, is what tests/test_engine_openvino.py and tests/test_engines.py check; `bench_engines` prints
each one's speed, with `--accuracy` its AP.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from detkit.allocator import keep_freed_blocks
from detkit.engines import EngineName, usable_cores
from detkit.errors import MissingExtraError, UsageError
from detkit.infer.frames import Item
from detkit.infer.job import Job, header_of
from detkit.infer.predictor import Predictor
from detkit.infer.reading import Reading
from detkit.infer.sinks.opening import Outputs, open_sinks
from tests.bench.bench_startup import PHOTO, cold
from tests.bench.detect_stages import CoreMs, film_stages, photo_stages
from tests.bench.films import looped, scaled

MODELS = ("street", "street-small")
ENGINES: tuple[EngineName, ...] = ("onnxruntime", "openvino-bf16")
PHOTOS, FILM_FRAMES, FILM_WH, BARE_RUNS = 500, 300, (1280, 720), 150
ROUNDS = 3  # the bare engine and the runs take turns, so that other programs disturb them alike
GOAL, COLD_GOAL_S, CAMERAS = 0.85, 1.0, 4
LONG_FRAMES, WARM_FRAMES, STEP_FRAMES, GOAL_MB = 10_000, 1_000, 250, 1.0  # the goal: for 1,000 frames
ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
CLIP = DATA / "video/car-detection.mp4"


def photo_items(number: int = PHOTOS) -> list[Item]:
    """The photos of street5's val split, over and over until there are so many, each with a name of its own."""
    files = sorted((DATA / "street5/images/val").glob("*.jpg"))
    again = enumerate(islice(cycle(files), number))
    return [Item(str(path), Path(f"{index}.jpg"), path=path) for index, path in again]


def film_item(path: Path, kind: str = "video") -> Item:
    if kind == "stream":
        return Item(f"{path.stem}", Path(path.name), "stream", url=f"file:{path}")
    return Item(str(path), Path(path.name), "video", path)


def predictor_of(model: str, engine: EngineName) -> Predictor | None:
    """As `detkit detect` opens it for many pictures; None, and a line that says why, where it cannot be had."""
    try:
        return Predictor(model, engine=engine, photos=PHOTOS)
    except (MissingExtraError, UsageError) as error:
        print(f"{model} on {engine}: skipped: {error}")
        return None


class Speed(NamedTuple):
    """Pictures a second, and what each takes of all cores: that is the same on a busy machine."""

    rate: float
    core_ms: float


@contextmanager
def timed(speeds: list[Speed], pictures: int) -> Iterator[None]:
    """Add the speed at which the block goes through so many pictures."""
    start_s, cores_s = time.perf_counter(), time.process_time()
    yield
    cores_s, taken_s = time.process_time() - cores_s, time.perf_counter() - start_s
    speeds.append(Speed(pictures / taken_s, 1000 * cores_s / pictures))


def run_bare(predictor: Predictor, runs: int) -> None:
    """Nothing but the engine: as many threads as it may have, each with a canvas at a time."""
    engine = predictor.engine
    canvases = np.random.default_rng(0).integers(0, 256, (8, 1, *predictor.canvas_hw, 3), dtype=np.uint8)
    numbers = iter(range(runs))  # under the GIL each thread takes its own

    def work() -> None:
        for number in numbers:
            engine.run(canvases[number % len(canvases)])

    threads = [threading.Thread(target=work) for _ in range(engine.parallel)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def run_all(predictor: Predictor, items: Sequence[Item], folder: Path, to: tuple[str, ...] = ()) -> int:
    """A whole run, from files to records and to what else is written; gives how many pictures there were."""
    reading, job = Reading(whole_pictures=bool(to)), Job(predictor)
    out = Outputs(folder / "out" if to else None, to, jsonl=folder / "found.jsonl")
    header = header_of(predictor, reading, {})
    sinks = open_sinks(out, items, header, painter=job.paint)
    kinds = [one["kind"] for one in job.run(list(enumerate(items)), reading, sinks)]
    return sum(kind in ("photo", "frame") for kind in kinds)


def measure_throughput(folder: Path) -> None:
    """Whole runs beside the bare engine, and what the stages take by themselves."""
    photos, film = photo_items(), film_item(scaled(CLIP, folder / "720p.mp4", FILM_WH, FILM_FRAMES))
    cases: dict[str, tuple[list[Item], tuple[str, ...]]] = {
        f"{PHOTOS} photos to JSONL": (photos, ()),
        f"{PHOTOS} photos to pictures": (photos, ("pictures",)),
        "720p film to JSONL": ([film], ()),
        "720p film to film": ([film], ("videos",)),
    }
    print(f"medians of {ROUNDS} turns; goal: {GOAL} of the engine alone, where the engine is the bottleneck")
    for predictor in filter(None, (predictor_of(model, engine) for model in MODELS for engine in ENGINES)):
        run_all(predictor, photos[:20], folder)  # compiles, fills caches
        bare: list[Speed] = []
        runs: dict[str, list[Speed]] = {name: [] for name in cases}
        for _ in range(ROUNDS):
            for name, (items, to) in cases.items():
                with timed(bare, BARE_RUNS):
                    run_bare(predictor, BARE_RUNS)
                with timed(runs[name], PHOTOS if items == photos else FILM_FRAMES):
                    run_all(predictor, items, folder, to)
        alone = median(bare)
        print(f"{predictor.path and predictor.path.stem} on {predictor.engine.name}: the engine alone {_said(alone)}")
        for name, (items, to) in cases.items():
            stages = film_stages(predictor, film, folder if to else None)
            if items == photos:
                stages = photo_stages(predictor, photos[:100], folder if to else None)
            print(f"  {name:22s} {_compared(median(runs[name]), alone, stages)}", flush=True)


def median(speeds: Sequence[Speed]) -> Speed:
    return Speed(*(statistics.median(values) for values in zip(*speeds, strict=True)))


def _said(speed: Speed) -> str:
    return f"{speed.rate:4.0f}/s, {speed.core_ms:5.2f} core-ms"


def _compared(run: Speed, alone: Speed, stages: CoreMs) -> str:
    """What is not the engine takes time from it where cores are shared: core-ms bound the ratio by the clock."""
    share, slowest = stages["engine"] / sum(stages.values()), max(stages, key=lambda stage: stages[stage])
    listed = ", ".join(f"{stage} {ms:.2f}" for stage, ms in stages.items())
    ratios = (
        f"{run.rate / alone.rate:.2f} of the engine alone by the clock, {alone.core_ms / run.core_ms:.2f} by core-ms"
    )
    return f"{_said(run)}: {ratios}; most goes to {slowest} (engine {share:.0%}); singly: {listed}"


def measure_cold(_: Path) -> None:
    """The first result of a fresh process."""
    seconds, peak_mb = cold("detect", str(PHOTO), "--json")
    print(f"detkit detect PHOTO --json: {seconds:.2f} s (goal {COLD_GOAL_S}), peak {peak_mb:.0f} MB")


def measure_memory(folder: Path) -> None:
    """Resident memory of a process that goes through a long film."""
    if not Path("/proc/self/statm").exists():
        print("memory: skipped: this system has no /proc")
        return
    film = looped(CLIP, folder / "long.mp4", LONG_FRAMES)
    for options in ((), ("--track",)):
        sizes = resident_mb([str(film), "--weights", "street-small", *options])
        late = [(frame, mb) for frame, mb in sizes if frame >= WARM_FRAMES]
        slope = 1000 * statistics.linear_regression(*zip(*late, strict=True)).slope
        print(
            f"detkit detect FILM --jsonl - {' '.join(options)}: {sizes[-1][0]} frames, {late[0][1]:.0f} MB after "
            f"{late[0][0]}, {late[-1][1]:.0f} MB at the end, {slope:+.2f} MB in 1,000 frames (goal below {GOAL_MB})"
        )


def resident_mb(arguments: Sequence[str]) -> list[tuple[int, float]]:
    """Frames that are through, and the memory of `detkit detect ... --jsonl -` then."""
    command = [sys.executable, "-m", "detkit", "detect", *arguments, "--jsonl", "-"]
    page_mb, frames = os.sysconf("SC_PAGE_SIZE") / 2**20, 0
    sizes: list[tuple[int, float]] = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            frames += '"kind": "frame"' in line[:60]
            if frames % STEP_FRAMES == 0 and 0 < frames < LONG_FRAMES and (not sizes or sizes[-1][0] < frames):
                pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
                sizes.append((frames, pages * page_mb))
    if process.returncode or frames != LONG_FRAMES:
        sys.exit(f"{' '.join(command)} gave {frames} frames and exit {process.returncode}")
    return sizes


def measure_cameras(folder: Path) -> None:
    """Several streams that share the engine, against one with as many frames."""
    predictor = Predictor("street", photos=PHOTOS)
    speeds: dict[int, list[Speed]] = {1: [], CAMERAS: []}
    films = {cameras: looped(CLIP, folder / f"{cameras}.mp4", FILM_FRAMES // cameras) for cameras in speeds}
    links = [folder / f"camera-{number}.mp4" for number in range(CAMERAS)]
    for link in links:
        link.symlink_to(films[CAMERAS])
    run_all(predictor, [film_item(films[CAMERAS])], folder)
    for _ in range(ROUNDS):
        for cameras, paths in ((1, [films[1]]), (CAMERAS, links)):
            with timed(speeds[cameras], FILM_FRAMES):
                assert run_all(predictor, [film_item(path, "stream") for path in paths], folder) == FILM_FRAMES
    one, several = median(speeds[1]), median(speeds[CAMERAS])
    print(
        f"{FILM_FRAMES} frames of streams on {predictor.engine.name}: one camera {_said(one)}, {CAMERAS} at once",
        end=" ",
    )
    ratios = f"{several.rate / one.rate:.2f} of one by the clock, {one.core_ms / several.core_ms:.2f} by core-ms"
    print(f"{_said(several)}: {ratios}")


PARTS: dict[str, Callable[[Path], None]] = {
    "cold": measure_cold,
    "throughput": measure_throughput,
    "cameras": measure_cameras,
    "memory": measure_memory,
}


def main() -> None:
    keep_freed_blocks()  # as the command does
    print(f"load {os.getloadavg()[0]:.1f} on {usable_cores()} cores")
    for name in sys.argv[1:] or PARTS:
        if name != "cold" and not DATA.is_dir():
            print(f"{name}: skipped: no real photos and films (../shared/data beside the repository)")
            continue
        with tempfile.TemporaryDirectory() as folder:
            PARTS[name](Path(folder))


if __name__ == "__main__":
    main()
