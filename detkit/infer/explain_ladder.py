"""The ladder's last rung: a window model slid over a photo and run as a convolution, level by level, compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detkit.detections import Detections
from detkit.engines import Engine
from detkit.infer.pyramid import Level
from detkit.infer.selection import Selection
from detkit.infer.sliding import LevelScores, choose, conv_scores, window_scores

EQUAL_UP_TO = 1e-4  # the difference of scores that rounding may make


@dataclass(frozen=True, slots=True, eq=False)
class Rung:
    """One level of the photo in both modes."""

    conv: LevelScores
    window: LevelScores

    @property
    def difference(self) -> float:
        """The largest difference of a score."""
        return float(np.abs(self.conv.scores - self.window.scores).max(initial=0))

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        rows, columns = self.conv.level.grid_hw
        return {
            "scale": self.conv.level.scale,
            "canvas": list(self.conv.level.canvas.shape[1::-1]),
            "rows": rows,
            "columns": columns,
            "best_score": float(self.conv.scores.max(initial=0)),
            "score_difference": self.difference,
            "seconds": {"window": self.window.seconds, "conv": self.conv.seconds},
        }


@dataclass(frozen=True, slots=True, eq=False)
class LadderExplanation:
    """A photo on all its levels.

    rungs: the largest level first. selection: thresholds. class_names: of the labels.
    detections, window_detections: what the scores of each mode come to, on the photo.
    """

    rungs: tuple[Rung, ...]
    selection: Selection
    class_names: tuple[str, ...]
    detections: Detections
    window_detections: Detections

    @property
    def max_score_difference(self) -> float:
        """Over all windows, classes and levels."""
        return max(rung.difference for rung in self.rungs)

    @property
    def evaluations(self) -> dict[str, int]:
        """How often each mode ran the network: once for each window, once for each level."""
        pairs = [(rung.window.evaluations, rung.conv.evaluations) for rung in self.rungs]
        return {"window": sum(window for window, _ in pairs), "conv": sum(conv for _, conv in pairs)}

    @property
    def seconds(self) -> dict[str, float]:
        """How long each mode took on all levels, once the network was warm."""
        pairs = [(rung.window.seconds, rung.conv.seconds) for rung in self.rungs]
        return {"window": sum(window for window, _ in pairs), "conv": sum(conv for _, conv in pairs)}

    @property
    def speedup(self) -> float:
        """How many times as fast the convolution is."""
        return self.seconds["window"] / self.seconds["conv"]

    @property
    def same_detections(self) -> bool:
        """Whether both modes come to the same detections, but for rounding of their scores."""
        ours, theirs = self.detections, self.window_detections
        if len(ours) != len(theirs):
            return False
        assert ours.scores is not None, "they are predictions"
        assert theirs.scores is not None, "they are predictions"
        scores = np.allclose(ours.scores, theirs.scores, atol=EQUAL_UP_TO)
        same = np.array_equal(ours.labels, theirs.labels) and np.allclose(ours.boxes_xyxy, theirs.boxes_xyxy, atol=0.01)
        return bool(scores and same)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        found, level = self.detections, self.rungs[0].conv.level
        assert found.scores is not None, "they are predictions"
        each = zip(found.labels.tolist(), found.scores.tolist(), found.boxes_xyxy.tolist(), strict=True)
        return {
            "max_score_difference": self.max_score_difference,
            "speedup": self.speedup,
            "evaluations": self.evaluations,
            "seconds": self.seconds,
            "same_detections": self.same_detections,
            "photo": list(level.placement.image_hw[::-1]),
            "window_px": level.window_px,
            "step_px": level.step_px,
            "conf": self.selection.conf if self.selection.class_conf is None else list(self.selection.class_conf),
            "iou": self.selection.iou,
            "levels": [rung.to_dict() for rung in self.rungs],
            "detections": [
                {"class": self.class_names[label], "score": score, "box": box} for label, score, box in each
            ],
        }


def climb(engine: Engine, levels: Sequence[Level]) -> Iterator[Rung]:
    """Run a window model over each level of a photo in both modes; both are measured once the network is warm.

    Args:
        engine: of a window model. levels: of one photo, see `pyramid`; at least one.
    """
    window_scores(engine, [min(levels, key=lambda level: level.grid_hw)])
    for level in levels:
        conv_scores(engine, [level])  # an engine plans for a canvas's size when it first meets it
        yield Rung(conv_scores(engine, [level])[0], window_scores(engine, [level])[0])


def explain_ladder(rungs: Sequence[Rung], selection: Selection, class_names: Sequence[str]) -> LadderExplanation:
    """Put the levels of a photo together, as `climb` gave them."""
    found = choose([rung.conv for rung in rungs], selection)
    by_window = choose([rung.window for rung in rungs], selection)
    return LadderExplanation(tuple(rungs), selection, tuple(class_names), found, by_window)
