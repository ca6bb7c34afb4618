"""How often intervals hold the truth and how often the gate errs: on the shipped models' boxes, and on made-up ones.

Each figure is a share of tests with its standard error: a set of photos is the world, sets drawn from it are the tests.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import NormalDist

import numpy as np

from detkit.data.dataset import Dataset
from detkit.data.formats import read
from detkit.detections import Detections
from detkit.evaluate.coco import MAX_DET, evaluate
from detkit.evaluate.gate import Demand
from detkit.evaluate.matching import match
from detkit.infer.predictor import Predictor

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' own modules

from test_intervals import arcsine, coverage
from test_matching import many
from worlds import World, as_they_are, rate, shaken, tossed, verdicts

TESTS, DRAWS = 400, 200
LEAST_SCORE = 0.01  # boxes below it cost time and hardly move a figure
STREET = Path(__file__).parents[3] / "shared" / "data" / "street5"
EQUAL = [[Demand("AP", 0.0)], [Demand("AP50", 0.0)], [Demand("AP", 0.0), Demand("class:*", 0.0)]]


def boxes_of(name: str, dataset: Dataset) -> list[Detections]:
    predictor = Predictor(name, conf=LEAST_SCORE, max_det=MAX_DET)
    return list(predictor.predict_files([sample.image_path for sample in dataset]))


def share(value: float) -> str:
    return f"{100 * value:.1f} ± {100 * (value * (1 - value) / TESTS) ** 0.5:.1f} %"


def held(val: Dataset, a: list[Detections]) -> None:
    found = coverage(match(val, a), TESTS, DRAWS, arcsine)[0]
    print(f"the 95 % interval covers the full-set AP {share(found[0, 0])} of the time, AP50 {share(found[1, 0])}")
    print(f"  classes, AP: {', '.join(share(value) for value in found[0, 1:])}", flush=True)


def false_alarms(title: str, world: World) -> None:
    """Of equal models, with a limit of 0, which is the hardest: one figure, another, all with every class."""
    found = [rate(results, "regressed") for results in verdicts(world, EQUAL, TESTS, DRAWS)]
    print(f"  {title}: AP {share(found[0])}, AP50 {share(found[1])}, AP and every class {share(found[2])}", flush=True)


def equal_models(val: Dataset, a: list[Detections], b: list[Detections]) -> None:
    print("the gate calls equal models regressed (wanted: at most 5 %)")
    for size in (40, 100, len(val)):
        false_alarms(f"street and street-small, tossed photo by photo, {size} photos", tossed(val, a, b, size))
    false_alarms(f"street twice, each shaken anew, {len(val)} photos", shaken(val, a, len(val), 0.5, 0.3))


def power(val: Dataset, a: list[Detections], b: list[Detections]) -> None:
    """How often a truly worse model is caught, and how often its own standard error says it would be."""
    loss = 100 * (evaluate(val, b).AP - evaluate(val, a).AP)
    print(f"street-small is {loss:.2f} points worse than street; on {len(val)} photos, by the limit")
    limits = (0.0, loss / 2, loss, 3 * loss)
    columns = verdicts(as_they_are(val, a, b, len(val)), [[Demand("AP", limit)] for limit in limits], TESTS, DRAWS)
    for limit, results in zip(limits, columns, strict=True):
        errors = np.array([100 * result.judged[0].change.error for result in results])
        foretold = [np.mean([NormalDist().cdf(gap / error - 1.97) for error in errors]) for gap in (limit - loss,)]
        foretold += [np.mean([NormalDist().cdf((loss - limit) / error - 1.97) for error in errors])]
        words = [
            f"{verdict} {share(rate(results, verdict))} (foretold {100 * value:.1f} %)"
            for verdict, value in zip(("regressed", "pass"), foretold, strict=True)
        ]
        seen = np.median([result.judged[0].seen_loss_points for result in results])
        print(f"  limit {limit:+.2f}: {', '.join(words)}; sees a loss of {seen:.2f} 4 times in 5", flush=True)


def main() -> None:
    print("made-up boxes: the gate calls equal models regressed")
    for images in (30, 200):
        dataset, a = many(images, 0)
        false_alarms(f"{images} photos", tossed(dataset, a, many(images, 1)[1], images))
    if not STREET.is_dir():
        print("no ../shared/data beside the repository: nothing measured on real boxes")
        return
    val = read(STREET, "val")
    a, b = boxes_of("street", val), boxes_of("street-small", val)
    equal_models(val, a, b)
    power(val, a, b)
    held(val, a)


if __name__ == "__main__":
    main()
