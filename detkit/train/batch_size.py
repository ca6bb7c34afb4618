"""The batch size for `--batch auto`: tried on a copy of the network, with its own optimiser."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detkit.detections import Detections
from detkit.errors import RunError
from detkit.models.network import Network
from detkit.train.memory import available_bytes, measure_step
from detkit.train.selftest import Trial, rng_untouched

MOST_ON_CPU, MOST_ON_GPU = 64, 256

_SMALLEST = 2  # batch norm needs two
_FIRST_ON_CPU, _FIRST_ON_GPU = 8, 16
_MEMORY_SHARE = 0.9
_NOISE = 1.03  # a speed must be so many times higher to count as higher
_RATE = 1e-6  # the steps are timed, not learnt from
_STEPS = 3  # of each size: one to settle, two to time
_SEARCH_S = 45.0  # about as long as the search on a CPU may take
_AT_MOST, _FULL, _SLOWER = "the largest allowed", "the largest that fits into memory", "larger ones are not faster"
_LATE = "larger ones take too long to try"


@dataclass(frozen=True, slots=True)
class BatchChoice:
    """The batch size chosen, canvases per second of each size tried, and why it is not larger."""

    batch_size: int
    images_per_s: dict[int, float]
    reason: str


def largest_batch(
    model: Network,
    canvases: Tensor,
    truths: Sequence[Detections],
    *,
    precision: str = "fp32",
    most: int | None = None,
    reserved_bytes: int = 0,
) -> BatchChoice:
    """Choose a power of two: on a GPU the largest batch that fits into memory, on a CPU the fastest that fits.

    A batch fits when a step takes at most 90 % of the free memory. On a CPU larger batches soon cost speed: the
    search ends where the canvases per second stop rising, or after about 45 seconds.

    Args:
        model: the network, not compiled and not wrapped; it and every random generator stay as they are.
        canvases: uint8 [B, S, S, 3], repeated as needed. truths: B labelled canvases.
        precision: "fp32", "bf16" or "fp16", as in the run.
        most: never more than this (default: 64 on a CPU, 256 on a GPU).
        reserved_bytes: main memory to leave for something else, such as decoded photos.
    Raises:
        RunError: not even two canvases fit.
    """
    on_gpu = next(model.parameters()).is_cuda
    limit = most or (MOST_ON_GPU if on_gpu else MOST_ON_CPU)
    if limit < _SMALLEST:
        return BatchChoice(limit, {}, _AT_MOST)
    with rng_untouched():
        trial = Trial(model, precision, _RATE)
        if on_gpu:
            choice = choose_largest(limit, lambda n: _gpu_step_s(trial, *_repeated(canvases, truths, n)))
            torch.cuda.empty_cache()
        else:
            fitting = _fitting(trial, canvases, truths, limit, reserved_bytes)
            choice = choose_fastest(fitting, limit, lambda n: _step_s(trial, *_repeated(canvases, truths, n)))
    if choice is None:
        raise _nothing_fits(canvases, "too little on this GPU")
    return choice


def choose_fastest(fitting: Sequence[int], most: int, step_s: Callable[[int], float]) -> BatchChoice:
    """Try the sizes that fit, from 8 up (the largest alone where 8 do not fit), while the speed rises and time is left.

    Args:
        fitting: powers of two, rising. most: the limit they were cut at. step_s: seconds of a step of a size.
    """
    speeds: dict[int, float] = {}
    spent_s = 0.0
    reason = _FULL
    for n in [n for n in fitting if n >= _FIRST_ON_CPU] or fitting[-1:]:
        before = max(speeds.values(), default=0.0)
        if speeds and spent_s + _STEPS * n / before > _SEARCH_S:
            reason = _LATE
            break
        seconds = step_s(n)
        speeds[n], spent_s = n / seconds, spent_s + _STEPS * seconds
        if speeds[n] < _NOISE * before:
            reason = _SLOWER
            break
        reason = _AT_MOST if 2 * n > most else _FULL
    good = [n for n, speed in speeds.items() if _NOISE * speed >= max(speeds.values())]
    return BatchChoice(good[0], speeds, reason)


def choose_largest(most: int, step_s: Callable[[int], float | None]) -> BatchChoice | None:
    """Double from 16 while a step fits, or halve until one does; None where none does.

    Args:
        most: never more. step_s: seconds of a step of a size, None where it does not fit.
    """
    sizes = _powers(most)
    first = min(sizes[-1], _FIRST_ON_GPU)
    speeds: dict[int, float] = {}
    for n in [n for n in sizes if n >= first]:
        seconds = step_s(n)
        if seconds is None:
            break
        speeds[n] = n / seconds
    for n in [n for n in reversed(sizes) if n < first and not speeds]:
        seconds = step_s(n)
        if seconds is not None:
            speeds[n] = n / seconds
            break
    if not speeds:
        return None
    return BatchChoice(max(speeds), speeds, _AT_MOST if 2 * max(speeds) > most else _FULL)


def _fitting(trial: Trial, canvases: Tensor, truths: Sequence[Detections], most: int, reserved_bytes: int) -> list[int]:
    """The powers of two whose step should fit into main memory, by the measure of a small one."""
    pair = _repeated(canvases, truths, _SMALLEST)
    memory = measure_step(trial.twin, lambda: torch.stack(list(trial.parts(*pair).values())), _SMALLEST)
    available = available_bytes()
    room = math.inf if available is None else _MEMORY_SHARE * available - reserved_bytes
    fitting = [n for n in _powers(most) if memory.of(n) <= room]
    if not fitting:
        found, expected = (f"{value / 2**20:.0f} MiB" for value in (max(0.0, room), memory.of(_SMALLEST)))
        raise _nothing_fits(canvases, f"{found} to spare", f"about {expected}")
    return fitting


def _gpu_step_s(trial: Trial, canvases: Tensor, truths: Sequence[Detections]) -> float | None:
    """Seconds of a step, or None where it takes too much of the GPU's memory."""
    try:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(trial.device)
        free_bytes, _ = torch.cuda.mem_get_info(trial.device)
        before_bytes = torch.cuda.memory_reserved(trial.device)
        seconds = _step_s(trial, canvases, truths)
        taken_bytes = torch.cuda.max_memory_reserved(trial.device) - before_bytes
    except torch.OutOfMemoryError:
        trial.optimizer.zero_grad(set_to_none=True)
        return None
    return seconds if taken_bytes <= _MEMORY_SHARE * free_bytes else None


def _step_s(trial: Trial, canvases: Tensor, truths: Sequence[Detections]) -> float:
    """Seconds of a step: the better of two, after one to settle."""
    canvases = canvases.to(trial.device)
    taken_s = []
    for _ in range(_STEPS):
        began = time.perf_counter()
        trial.step(canvases, truths)
        if canvases.is_cuda:
            torch.cuda.synchronize()
        taken_s.append(time.perf_counter() - began)
    return min(taken_s[1:])


def _repeated(canvases: Tensor, truths: Sequence[Detections], count: int) -> tuple[Tensor, list[Detections]]:
    """A batch of `count`, the given one over and over."""
    chosen = [i % len(truths) for i in range(count)]
    return canvases[chosen], [truths[i] for i in chosen]


def _powers(most: int) -> list[int]:
    """The powers of two from the smallest batch to `most`."""
    return [2**k for k in range(1, 16) if 2**k <= most]


def _nothing_fits(canvases: Tensor, found: str, expected: str | None = None) -> RunError:
    message = f"not even a step on {_SMALLEST} canvases of {canvases.shape[1]} px fits into memory"
    return RunError(f"{message}; try a smaller --size", found=found, expected=expected)
