"""Why AP stays at 0: the likely cause in one sentence, with what to try."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from detkit.data.canvas import boxes_on_canvas
from detkit.data.dataset import Dataset

LOOKS = 3  # validations without a hit before anything is said
_FLAT_AP = 1e-3
_FALLEN = 0.9  # share of the first loss that counts as fallen
_CLASS_FALLEN = 0.8
_TINY_PX = 8.0  # the finest grid has a cell every 8 px
_FEW_BOXES = 20
_WARMUPS = 2  # a run this many warm-ups long has learnt something


@dataclass(frozen=True, slots=True)
class DataFacts:
    """What a diagnosis needs to know of the data; crowd boxes are left out.

    class_names: in label order. train_boxes, val_boxes: boxes of each class.
    median_side_px: median side (root of the area) of the val split's boxes on the canvas of side `size_px`.
    """

    class_names: tuple[str, ...]
    train_boxes: tuple[int, ...]
    val_boxes: tuple[int, ...]
    median_side_px: float
    size_px: int


def data_facts(train: Dataset, val: Dataset, size_px: int) -> DataFacts:
    """Count the boxes of two splits and measure those of `val` on the canvas; no photo is read."""
    sizes_wh = np.concatenate([np.zeros((0, 2)), *(boxes[:, 2:] for boxes in boxes_on_canvas(val, size_px))])
    median = float(np.median(np.sqrt(sizes_wh.prod(1)))) if len(sizes_wh) else 0.0
    return DataFacts(train.class_names, _boxes_per_class(train), _boxes_per_class(val), median, size_px)


def diagnose_flat(
    ap_history: Sequence[float],
    losses: Sequence[Mapping[str, float]],
    facts: DataFacts,
    *,
    steps: int,
    warmup_steps: int,
) -> str | None:
    """Say why AP stays at 0, once three looks at the val split have found nothing.

    Args:
        ap_history: AP of each look (-1 where it is undefined). losses: mean loss parts of each epoch.
        facts: of the data. steps: optimiser steps done. warmup_steps: of the learning rate.
    Returns:
        The likely cause and what to try, or None where AP is not flat or it is too early to say.
    """
    if len(ap_history) < LOOKS or max(ap_history) > _FLAT_AP:
        return None
    cause = (
        _no_common_class(facts)
        or _too_early(steps, warmup_steps)
        or _loss_stays(losses)
        or _tiny(facts)
        or _classes_not_learnt(losses, facts)
        or _few_boxes(facts)
        or "the loss falls but nothing is found: compare plots/first_batch.png (what the network is shown) with "
        "plots/val.png (what it finds), and make sure that both splits are labelled in the same way"
    )
    return f"AP is still 0 after {len(ap_history)} looks at the val split: {cause}"


def _no_common_class(facts: DataFacts) -> str | None:
    """Nothing in val that train teaches: the names may be in another order."""
    if not sum(facts.val_boxes):
        return "the val split has no box; label it, or split the data anew"
    taught, asked = (
        [name for name, count in zip(facts.class_names, counts, strict=True) if count]
        for counts in (facts.train_boxes, facts.val_boxes)
    )
    if set(taught) & set(asked):
        return None
    return (
        f"train has boxes of {_listing(taught)} only and val of {_listing(asked)} only: the class names or ids of the "
        "two splits are probably in another order; mend the labels"
    )


def _too_early(steps: int, warmup_steps: int) -> str | None:
    needed = _WARMUPS * warmup_steps
    if steps >= needed:
        return None
    return (
        f"only {steps} steps are done, of which the learning rate warms up for {warmup_steps}; train longer, "
        f"or try a smaller --batch or --set optim.warmup_steps={max(1, steps // 4)}"
    )


def _loss_stays(losses: Sequence[Mapping[str, float]]) -> str | None:
    """The total loss rises, or does not fall."""
    totals = [sum(parts.values()) for parts in losses]
    if len(totals) < 2 or totals[-1] < _FALLEN * totals[0]:
        return None
    trend = f"from {totals[0]:.3g} to {totals[-1]:.3g} in {len(totals)} epochs"
    if totals[-1] > totals[0] or min(totals) < _FALLEN * totals[-1]:
        return f"the loss went {trend} and is not falling: the learning rate is too high; try a third of optim.lr"
    return (
        f"the loss hardly moves ({trend}): try three times optim.lr, or --set optim.freeze=none if the photos look "
        "nothing like ordinary ones"
    )


def _tiny(facts: DataFacts) -> str | None:
    side = facts.median_side_px
    if side >= _TINY_PX:
        return None
    larger = min(1280, 32 * round(facts.size_px * 2 * _TINY_PX / max(side, 1.0) / 32))
    return (
        f"the objects are tiny: at --size {facts.size_px} half of them are below {side:.1f} px a side, and a cell of "
        f"the finest grid is 8 px; try --size {larger}, or cut the photos into tiles"
    )


def _classes_not_learnt(losses: Sequence[Mapping[str, float]], facts: DataFacts) -> str | None:
    """Boxes are learnt and classes are not: the labels of one class show different things."""
    first, last = (losses[i].get("class", 0.0) for i in (0, -1)) if len(losses) > 1 else (0.0, 0.0)
    if len(facts.class_names) < 2 or not first or last < _CLASS_FALLEN * first:
        return None
    return (
        f"boxes are learnt but their classes are not (class loss from {first:.3g} to {last:.3g}): look whether the "
        "names in plots/first_batch.png are right; if not, the class names are in the wrong order in some label files"
    )


def _few_boxes(facts: DataFacts) -> str | None:
    rare = [f"{name} {n}" for name, n in zip(facts.class_names, facts.train_boxes, strict=True) if n < _FEW_BOXES]
    if len(rare) * 2 <= len(facts.class_names):
        return None
    return (
        f"too few boxes to learn from ({_listing(rare)}; {_FEW_BOXES} a class is very little): label more photos, or "
        "begin from a trained model with --weights"
    )


def _boxes_per_class(dataset: Dataset) -> tuple[int, ...]:
    counts = np.zeros(len(dataset.class_names), np.int64)
    for sample in dataset:
        truth = sample.truth
        labels = truth.labels if truth.crowd is None else truth.labels[~truth.crowd]
        counts += np.bincount(labels, minlength=len(counts))
    return tuple(counts.tolist())


def _listing(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
