"""The gate: may model B take the place of model A? Pass, regressed, or not enough photos to say."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, Literal

from detkit.data.dataset import Dataset
from detkit.detections import Detections
from detkit.errors import DataError, UsageError
from detkit.evaluate.coco import MAX_DET
from detkit.evaluate.compare import CLASS, POWER, Change, PairedFigures, points
from detkit.evaluate.intervals import DRAWS, LEVEL
from detkit.evaluate.resampling import FIGURES

Verdict = Literal["pass", "regressed", "inconclusive"]
EVERY_CLASS = f"{CLASS}*"

_NORMAL = NormalDist()


@dataclass(frozen=True)
class Demand:
    """A figure and how far it may fall.

    Args:
        figure: "AP", "AP50", "AP75", "class:NAME" (the AP of one class; "class50:NAME" its AP50), or "class:*".
        min_delta_points: B less A may not be below this, in AP points (hundredths); above 0 B has to be better.
    Raises:
        ValueError: not a number from -100 to 100.
    """

    figure: str = "AP"
    min_delta_points: float = -0.5

    def __post_init__(self) -> None:
        if not -100 <= self.min_delta_points <= 100:
            raise ValueError(f"min_delta_points is {self.min_delta_points}, expected a number from -100 to 100")

    @classmethod
    def parse(cls, text: str, min_delta_points: float) -> Demand:
        """Read "AP", or "AP=-1" with a limit of its own."""
        name, _, limit = text.rpartition("=")
        try:
            own = float(limit)
        except ValueError:
            return cls(text, min_delta_points)  # a class may be called a=b
        return cls(name, own) if name else cls(text, min_delta_points)


@dataclass(frozen=True, slots=True)
class Judged:
    """One figure before the gate; changes are in 0-1, those called `_points` in hundredths.

    Args:
        change: B against A, with its interval.
        min_delta_points: the limit.
        high: the upper end that decides on "regressed": that of the interval, moved up where several figures are
            judged, so that all of them together raise a false alarm no more often than one would.
        verdict: "pass": the interval lies above the limit. "regressed": `high` lies below it. Else "inconclusive".
        seen_loss_points: a true loss of this size would be called regressed 4 times in 5.
        pass_if_equal: how often a model that is truly equal to A would pass.
        photos_needed: about how many photos would let such a model pass 4 times in 5; None where no number would.
    """

    change: Change
    min_delta_points: float
    high: float
    verdict: Verdict
    seen_loss_points: float
    pass_if_equal: float
    photos_needed: int | None

    def sentence(self, level: float, *, a: str = "A", b: str = "B") -> str:
        """What was found and what follows, in plain words."""
        low, high = self.change.interval
        found = (
            f"{self.change.figure}: {b} less {a} is {points(self.change.delta)} points, "
            f"{100 * level:g} % interval {points(low)} to {points(high)}"
        )
        limit = f"{self.min_delta_points:+.2f}"
        if self.verdict == "pass":
            return f"{found}: not below {limit}."
        if self.verdict == "regressed":
            return f"{found}: below {limit}."
        if high < self.min_delta_points / 100:
            return f"{found}: below {limit}, but with several figures judged at once that may be chance."
        return f"{found}: it may be below {limit} or not."


@dataclass(frozen=True, slots=True)
class GateResult:
    """The verdict on all figures: "regressed" if one is, else "inconclusive" if one is, else "pass"."""

    verdict: Verdict
    judged: tuple[Judged, ...]
    images: int
    draws: int
    seed: int
    level: float

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values; an interval is [low, high]."""
        figures = [asdict(judged) for judged in self.judged]
        for row in figures:
            change = row.pop("change")
            row |= change | {"interval": list(change["interval"])}
        settings = {"images": self.images, "draws": self.draws, "seed": self.seed, "level": self.level}
        return {"verdict": self.verdict, "figures": figures, **settings}


def gate(
    dataset: Dataset,
    predictions_a: Sequence[Detections],
    predictions_b: Sequence[Detections],
    demands: Sequence[Demand] = (Demand(),),
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
    max_det: int = MAX_DET,
) -> GateResult:
    """Judge candidate B against baseline A on the same photos.

    Both verdicts rest on the two-sided interval of the paired difference, so at level 0.95 each is wrong in at most one
    case of 40: a model exactly at the limit is called regressed, or passes, that often; an equal one, with a limit
    below 0, is called regressed less often still. To pass, every figure has to, which needs no correction; one
    regressed figure is enough to fail, so for M figures their upper ends are those of level 1 - (1 - level) / M
    (Bonferroni).

    Args:
        dataset: the labelled photos.
        predictions_a, predictions_b: one per sample each, in the data set's order.
        demands: the figures to judge.
        draws, seed, level, max_det: see `compare`.
    Raises:
        DataError: predictions that do not fit the data set, or a figure with too few objects to judge.
        UsageError: a figure there is not, one given twice, or a setting out of its range.
    """
    expand(demands, dataset.class_names)
    paired = PairedFigures(dataset, predictions_a, predictions_b, draws=draws, seed=seed, max_det=max_det)
    return judge(paired, demands, level)


def judge(paired: PairedFigures, demands: Sequence[Demand] = (Demand(),), level: float = LEVEL) -> GateResult:
    """The same for figures that are known already; see `gate`."""
    wanted = expand(demands, paired.class_names)
    own = {change.figure: change for row in paired.changes(level) for change in row}
    defined = [demand for demand, by_star in wanted if own[demand.figure].defined or not by_star]
    for demand in defined:
        if not own[demand.figure].defined:
            raise DataError(f"{demand.figure} cannot be judged: its objects lie on fewer than two photos")
    if not defined:
        raise DataError("no class has objects on two photos or more")
    wide = {c.figure: c for row in paired.changes(1 - (1 - level) / len(defined)) for c in row}
    judged = tuple(_judge(own[d.figure], wide[d.figure], d.min_delta_points, paired.images) for d in defined)
    found = {each.verdict for each in judged}
    verdict: Verdict = "regressed" if "regressed" in found else "inconclusive" if "inconclusive" in found else "pass"
    return GateResult(verdict, judged, paired.images, paired.draws, paired.seed, level)


def expand(demands: Sequence[Demand], class_names: Sequence[str]) -> list[tuple[Demand, bool]]:
    """Each demand and whether it comes from a "class:*", all of known figures and none twice.

    Raises:
        UsageError: a figure there is not, or one given twice.
    """
    prefixes = [CLASS, CLASS.replace(":", "50:"), CLASS.replace(":", "75:")]
    named = {f"{prefix}{name}" for prefix in prefixes for name in class_names}
    single = [(d, False) for d in demands if d.figure != EVERY_CLASS or EVERY_CLASS in named]
    stars = [d for d in demands if d.figure == EVERY_CLASS and EVERY_CLASS not in named]
    given = {d.figure for d, _ in single}
    every = [(Demand(f"{CLASS}{name}", d.min_delta_points), True) for d in stars for name in class_names]
    wanted = single + [(d, by_star) for d, by_star in every if d.figure not in given]
    known = [*FIGURES, *sorted(named)]
    for demand, _ in wanted:
        if demand.figure not in known:
            near = difflib.get_close_matches(demand.figure, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            expected = f"{', '.join(FIGURES)}, class:NAME or {EVERY_CLASS}"
            raise UsageError(f"no such figure{hint}", found=demand.figure, expected=expected)
    figures = [demand.figure for demand, _ in wanted]
    twice = sorted({figure for figure in figures if figures.count(figure) > 1})
    if twice or not wanted:
        raise UsageError(
            "a figure to judge twice" if twice else "no figure to judge", found=twice[0] if twice else None
        )
    return wanted


def _judge(change: Change, wide: Change, min_delta_points: float, images: int) -> Judged:
    limit, error = min_delta_points / 100, change.error
    (low, high), top = change.interval, wide.interval.high
    verdict: Verdict = "pass" if low >= limit else "regressed" if top < limit else "inconclusive"
    reach, reach_top = (high - low) / 2, (wide.interval.high - wide.interval.low) / 2
    seen_loss = reach_top + _NORMAL.inv_cdf(POWER) * error - limit
    if error > 0:
        pass_if_equal = _NORMAL.cdf((-limit - reach) / error)
    else:
        pass_if_equal = float(limit <= 0)
    needed = None
    if limit < 0:
        needed = max(2, math.ceil(images * ((reach + _NORMAL.inv_cdf(POWER) * error) / -limit) ** 2))
    return Judged(change, min_delta_points, top, verdict, 100 * seen_loss, pass_if_equal, needed)
