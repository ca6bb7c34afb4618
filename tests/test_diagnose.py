"""Why AP stays at 0: each cause by figures that show it, and silence where nothing is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detkit.data.dataset import Dataset, Sample
from detkit.detections import Detections
from detkit.train.diagnose import DataFacts, data_facts, diagnose_flat

FACTS = DataFacts(("cat", "dog"), (500, 400), (50, 40), 40.0, 320)
FALLS = [{"box": 1.0, "class": 1.0}, {"box": 0.7, "class": 0.4}, {"box": 0.5, "class": 0.2}]
FLAT = [{"box": 1.0, "class": 1.0}] * 3
RISES = [{"box": 1.0, "class": 1.0}, {"box": 2.0, "class": 1.0}]
SWINGS = [{"box": 2.0}, {"box": 0.9}, {"box": 1.9}]
ONLY_BOXES = [{"box": 2.0, "class": 1.0}, {"box": 1.0, "class": 0.95}]

CAUSES = {
    "val is empty": (replace(FACTS, val_boxes=(0, 0)), FALLS, 900, "the val split has no box"),
    "other order": (
        replace(FACTS, train_boxes=(9, 0), val_boxes=(0, 9)),
        FALLS,
        900,
        "train has boxes of cat only",
    ),
    "too early": (FACTS, FALLS, 150, "only 150 steps are done, of which the learning rate warms up for 100"),
    "rises": (FACTS, RISES, 900, "from 2 to 3 in 2 epochs and is not falling: the learning rate is too high"),
    "swings": (FACTS, SWINGS, 900, "the learning rate is too high; try a third of optim.lr"),
    "stays": (FACTS, FLAT, 900, "hardly moves (from 2 to 2 in 3 epochs): try three times optim.lr"),
    "tiny": (replace(FACTS, median_side_px=5.0), FALLS, 900, "half of them are below 5.0 px a side"),
    "classes": (FACTS, ONLY_BOXES, 900, "their classes are not (class loss from 1 to 0.95)"),
    "few": (replace(FACTS, train_boxes=(9, 19)), FALLS, 900, "too few boxes to learn from (cat 9, dog 19;"),
    "unknown": (FACTS, FALLS, 900, "compare plots/first_batch.png"),
}


@pytest.mark.parametrize("case", CAUSES)
def test_the_cause_is_named(case: str) -> None:
    facts, losses, steps, said = CAUSES[case]
    found = diagnose_flat([0.0, 0.0, 0.0005], losses, facts, steps=steps, warmup_steps=100)
    assert found is not None
    assert found.startswith("AP is still 0 after 3 looks at the val split: ")
    assert said in found
    assert "\n" not in found


def test_the_size_to_try_shows_the_objects_in_two_cells() -> None:
    tiny = replace(FACTS, median_side_px=5.0)
    found = diagnose_flat([0.0] * 3, FALLS, tiny, steps=900, warmup_steps=100)
    assert found is not None
    assert "--size 1024" in found  # 320 * 16 / 5


@pytest.mark.parametrize("history", [[], [0.0, 0.0], [0.0, 0.0, 0.3], [0.002, 0.0, 0.0]])
def test_silence_where_it_is_too_early_or_all_is_well(history: list[float]) -> None:
    assert diagnose_flat(history, FLAT, FACTS, steps=900, warmup_steps=100) is None


def test_one_epoch_and_a_single_class_are_no_trouble() -> None:
    facts = DataFacts(("face",), (500,), (50,), 40.0, 320)
    for losses in ([], [{"box": 1.0}], [{"box": 1.0, "class": 0.0}] * 2):
        assert diagnose_flat([-1.0, 0.0, 0.0], losses, facts, steps=9, warmup_steps=0) is not None


def test_the_facts_are_counted_on_the_canvas_without_crowds() -> None:
    boxes = np.array([[0, 0, 40, 10], [0, 0, 160, 40], [0, 0, 640, 320]])
    truth = Detections((320, 640), boxes, np.array([0, 1, 1]), crowd=np.array([False, False, True]))
    empty = Detections((10, 10), np.zeros((0, 4)), np.zeros(0))
    samples = tuple(Sample(str(i), Path(str(i)), t, i) for i, t in enumerate((truth, empty)))
    data = Dataset("d", ("cat", "dog", "elk"), samples, Path(), "coco", "train", (1, 2, 3))
    facts = data_facts(data, data, 320)  # half the photo's scale: sides 10 and 40 px
    assert facts == DataFacts(("cat", "dog", "elk"), (1, 1, 0), (1, 1, 0), pytest.approx(25.0), 320)
    nothing = replace(data, samples=samples[1:])
    assert data_facts(data, nothing, 320).median_side_px == 0.0
