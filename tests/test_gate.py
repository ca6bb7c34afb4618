"""The gate: right by hand, wrong no more often than it says on equal models, and readable for CI systems."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from defusedxml import ElementTree
from test_evaluate_coco import dataset_of, found, truth
from test_matching import BOX, many
from worlds import rate, tossed, verdicts

from detkit.data.formats import read
from detkit.detections import Detections
from detkit.errors import DataError, UsageError
from detkit.evaluate.coco import CONF_FLOOR, MAX_DET
from detkit.evaluate.compare import PairedFigures, compare
from detkit.evaluate.flips import find_flips
from detkit.evaluate.gate import Demand, gate, judge
from detkit.evaluate.gate_report import junit, markdown, power

ALL = (Demand("AP"), Demand("class:*", -2))


def losing(images: int, every: int) -> tuple[PairedFigures, tuple]:
    """A baseline, and a candidate that loses its finds on every so many photos."""
    dataset, a = many(images)
    b = [p[p.boxes_xyxy[:, 0] > 0] if n % every == 0 else p for n, p in enumerate(a)]
    return PairedFigures(dataset, a, b, draws=200), (dataset, a, b)


def test_the_limit_decides() -> None:
    """The same figures pass, are inconclusive and regressed as the limit moves past the interval's ends."""
    paired, _ = losing(200, 10)
    change = paired.changes()[0][0]
    low, high = (100 * end for end in change.interval)
    assert low < high < 0
    for limit, want in ((low - 0.01, "pass"), (low + 0.01, "inconclusive"), (high - 0.01, "inconclusive")):
        assert judge(paired, [Demand("AP", limit)]).verdict == want
    assert judge(paired, [Demand("AP", high + 0.01)]).verdict == "regressed"
    assert judge(paired, [Demand("AP", 5)]).verdict == "regressed"  # asked to be better


def test_a_model_against_itself_passes() -> None:
    dataset, a = many(30)
    for limit in (-0.5, 0):
        result = gate(dataset, a, a, [Demand("AP", limit), Demand("class:*", limit)], draws=20)
        assert (result.verdict, len(result.judged)) == ("pass", 3)
        assert result.judged[0].pass_if_equal == 1
    assert gate(dataset, a, a, [Demand("AP", 0.1)], draws=20).verdict == "regressed"  # not better


def test_several_figures() -> None:
    """All have to pass, one regressed is enough, and their upper ends are those of level 1 - 0.05 / 3."""
    paired, _ = losing(200, 10)
    result = judge(paired, ALL)
    assert [judged.change.figure for judged in result.judged] == ["AP", "class:class 0", "class:class 1"]
    assert [judged.min_delta_points for judged in result.judged] == [-0.5, -2, -2]
    own, wide = paired.changes(0.95)[0][0], paired.changes(1 - 0.05 / 3)[0][0]
    assert result.judged[0].change == own
    assert result.judged[0].high == wide.interval.high > own.interval.high
    between = 50 * (wide.interval.high + own.interval.high)
    assert judge(paired, [Demand("AP", between)]).verdict == "regressed"
    three = judge(paired, [Demand("AP", between), Demand("class:*", -90)])
    assert [judged.verdict for judged in three.judged] == ["inconclusive", "pass", "pass"]
    assert "may be chance" in three.judged[0].sentence(0.95)
    assert three.verdict == "inconclusive"
    mixed = judge(paired, [Demand("AP", 3), Demand("AP50", -90), Demand("AP75", own.delta * 100)])
    assert mixed.verdict == "regressed"
    assert [judged.verdict for judged in mixed.judged] == ["regressed", "pass", "inconclusive"]


def test_what_the_photos_can_show() -> None:
    """With error e and an interval of delta -+ r, a loss of r + 0.84 e beyond the limit is seen 4 times in 5."""
    paired, _ = losing(200, 10)
    [judged] = judge(paired, [Demand("AP", -3)]).judged
    error = 100 * judged.change.error
    low, high = judged.change.interval
    reach = 50 * (high - low)
    assert 1.96 < reach / error < 2.2  # Student's t: 20 photos make the difference
    assert judged.seen_loss_points == pytest.approx(3 + reach + 0.8416 * error, rel=1e-3)
    assert judged.pass_if_equal == pytest.approx(NormalDist().cdf((3 - reach) / error), abs=1e-6)
    assert judged.photos_needed == pytest.approx(200 * ((reach + 0.8416 * error) / 3) ** 2, abs=1)
    assert judge(paired, [Demand("AP", 0)]).judged[0].photos_needed is None


@pytest.mark.parametrize(
    ("text", "figure", "limit"),
    [
        ("AP", "AP", -0.5),
        ("AP50=-1.5", "AP50", -1.5),
        ("class:a=b", "class:a=b", -0.5),
        ("class:a=b=2", "class:a=b", 2),
        ("=3", "=3", -0.5),
    ],
)
def test_a_demand_as_typed(text: str, figure: str, limit: float) -> None:
    assert Demand.parse(text, -0.5) == Demand(figure, limit)


def test_wrong_demands() -> None:
    dataset, a = many(5)
    for limit in (float("nan"), -101, float("inf")):
        with pytest.raises(ValueError, match="from -100 to 100"):
            Demand("AP", limit)
    with pytest.raises(UsageError, match=r"did you mean class:class 1\?; found class:clas 1"):
        gate(dataset, a, a, [Demand("class:clas 1")])
    with pytest.raises(UsageError, match="twice; found AP"):
        gate(dataset, a, a, [Demand("AP"), Demand("AP", -1)])
    with pytest.raises(UsageError, match="no figure"):
        gate(dataset, a, a, [])


def test_figures_with_nothing_to_judge_by() -> None:
    dataset = dataset_of([truth(BOX, BOX, labels=[0, 1]), truth(BOX)], classes=3)
    boxes = [found((*BOX, 0, 0.9)), found((*BOX, 0, 0.9))]
    with pytest.raises(DataError, match="class:class 1 cannot be judged"):
        gate(dataset, boxes, boxes, [Demand("class:class 1")])
    every = gate(dataset, boxes, boxes, [Demand("class:*")])
    assert [judged.change.figure for judged in every.judged] == ["class:class 0"]
    with pytest.raises(DataError, match="no class has objects"):
        gate(dataset_of([truth()]), [found()], [found()], [Demand("class:*")])


def test_junit() -> None:
    paired, _ = losing(200, 10)
    result = judge(paired, [Demand("AP", 3), Demand("AP50", -90), Demand("AP75", paired.changes()[0][0].delta * 100)])
    for fail, outcomes in ((False, ["failure", None, "skipped"]), (True, ["failure", None, "failure"])):
        text = junit(result, a="<old> & \x00", b='"new"\ud800', fail_inconclusive=fail)
        suites = ElementTree.fromstring(text.encode("utf-8"))
        [suite] = suites
        assert (suites.tag, suite.tag) == ("testsuites", "testsuite")
        counts = {"failure": suite.get("failures"), "skipped": suite.get("skipped")}
        assert {kind: str(outcomes.count(kind)) for kind in counts} == counts
        assert (suite.get("tests"), suite.get("errors")) == ("3", "0")
        assert "<old> & �" in suite.get("name")
        for case, outcome, judged in zip(suite, outcomes, result.judged, strict=True):
            assert case.get("name") == f"{judged.change.figure} at least {judged.min_delta_points:+g} points"
            assert [child.tag for child in case if child.tag != "system-out"] == ([outcome] if outcome else [])
            if outcome:
                assert "interval" in case.find(outcome).get("message")


def test_markdown() -> None:
    paired, sides = losing(200, 10)
    result = judge(paired, ALL)
    odd = replace(result.judged[1], change=replace(result.judged[1].change, figure="class:a|b*\nc"))
    result = replace(result, judged=(result.judged[0], odd))
    text = markdown(result, a="old`", b="new", flips=find_flips(*sides))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert text.startswith("### detkit gate: ❌ regressed\n")
    assert "A (baseline): `old'`, B (candidate): `new`" in text
    assert {row.replace("\\|", "").count("|") for row in rows[:4]} == {8}
    assert "class:a\\|b\\* c" in rows[3]
    assert f"The photos B does worse on: {len(find_flips(*sides).worse())}" in text
    assert len(rows) == 4 + 2 + 10
    assert "photos B does worse on" not in markdown(result, a="a", b="b")


def test_the_power_in_words() -> None:
    dataset, a = many(40)
    result = gate(dataset, a, many(40, seed=3)[1], [Demand("AP", -0.5), Demand("AP50", 5)], draws=50)
    few, better = (power(judged, 40) for judged in result.judged)
    assert few.startswith("on these 40 photos a true loss of ")
    assert "photos would make it 80 %)" in few
    assert "points would be called regressed 4 times in 5" in few or "points better would be called" in better
    assert "make it 80 %" not in better


def test_plain_json() -> None:
    paired, _ = losing(60, 10)
    document = json.loads(json.dumps(judge(paired, ALL).to_dict()))
    assert document["figures"][0]["figure"] == "AP"
    assert document["figures"][0]["interval"] == list(paired.changes()[0][0].interval)
    assert document["verdict"] in ("pass", "regressed", "inconclusive")


def test_equal_models_raise_few_false_alarms_and_worse_ones_are_found() -> None:
    """Two unlike models, tossed photo by photo; then one that finds 70 % against one that finds 85 %."""
    dataset, a = many(40, 2)
    equal = tossed(dataset, a, many(40, 3)[1], 40)
    single, several = verdicts(
        equal, [[Demand("AP", 0)], [Demand("AP", 0), Demand("class:*", 0)]], 100, draws=150, seed=1
    )
    assert rate(single, "regressed") <= 0.05
    assert rate(several, "regressed") <= 0.05

    def worse(rng: np.random.Generator) -> tuple:
        dataset, good = many(60, int(rng.integers(1 << 30)), quality=0.85)
        return dataset, good, many(60, int(rng.integers(1 << 30)), quality=0.7)[1]

    results, allowed = verdicts(worse, [[Demand("AP", 0)], [Demand("AP", -60)]], 40, draws=40)
    foretold = np.mean([NormalDist().cdf(-r.judged[0].change.delta / r.judged[0].change.error - 2) for r in results])
    assert rate(results, "regressed") == pytest.approx(foretold, abs=0.15)
    assert rate(results, "regressed") > 0.5
    assert rate(results, "pass") == 0
    assert rate(allowed, "pass") > 0.9


@pytest.mark.slow
def test_on_real_predictions_equal_models_raise_few_false_alarms(shared_data: Path) -> None:
    """The shipped street models on street5's val photos; tests/bench/bench_gate.py measures more."""
    from detkit.infer.predictor import Predictor

    val = read(shared_data / "street5", "val")
    a, b = (
        list(Predictor(n, conf=CONF_FLOOR, max_det=MAX_DET).predict_files([s.image_path for s in val]))
        for n in ("street", "street-small")
    )
    for size in (60, len(val)):
        [results] = verdicts(tossed(val, a, b, size), [[Demand("AP", 0)]], 200, draws=100)
        assert rate(results, "regressed") <= 0.05
    assert compare(val, a, b).AP.interval.high < 0


def test_the_worlds_themselves() -> None:
    """Tossed models are the two, exchanged on about half of the photos."""
    dataset, a = many(50, 0)
    b = [Detections(p.size_hw, p.boxes_xyxy, p.labels, p.scores / 2) for p in a]
    _, first, second = tossed(dataset, a, b, 1000)(np.random.default_rng(0))
    halved = [p.scores.max() < q.scores.max() for p, q in zip(first, second, strict=True)]
    assert np.mean(halved) == pytest.approx(0.5, abs=0.05)
