"""Files of thresholds: round trip, every bad value one line, and the contract of the class names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detkit.errors import DataError, RunError, WeightsError
from detkit.thresholds import ClassThreshold, Thresholds, read_thresholds, write_thresholds
from detkit.weights import ModelCard

BUS = ClassThreshold(0.41, 0.33, 0.52, 0.81, 0.62, 0.7, 80)
GOOD = Thresholds({"bus": BUS, "café": ClassThreshold(None, truths=0)}, "precision 0.95", 0.5, "street.onnx", "street5")


def changed(**changes: Any) -> str:
    """The good file with changes at the top; ... removes a key."""
    tree = json.loads(GOOD.to_json()) | changes
    return json.dumps({key: value for key, value in tree.items() if value is not ...})


def of_bus(**changes: Any) -> str:
    return changed(classes={"bus": {"conf": 0.5} | changes})


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_thresholds(tmp_path / "t.json", GOOD)
    assert read_thresholds(tmp_path / "t.json") == GOOD
    tree = json.loads((tmp_path / "t.json").read_text("utf-8"))
    assert (tree["version"], tree["kind"], tree["rule"], tree["iou"]) == (1, "thresholds", "precision 0.95", 0.5)
    assert list(tree["classes"]) == ["bus", "café"]
    assert tree["classes"]["bus"]["conf"] == 0.41


def test_one_written_by_hand_needs_little() -> None:
    text = '\n{"version": 1, "kind": "thresholds", "classes": {"bus": {"conf": 1}}}'
    assert Thresholds.from_json(text) == Thresholds({"bus": ClassThreshold(1.0)})


SHARE = st.none() | st.floats(0, 1)
NAME = st.text(min_size=1).filter(lambda name: name.strip() and name.isprintable())
CLASS = st.builds(ClassThreshold, SHARE, st.none(), SHARE, SHARE, SHARE, SHARE, st.none() | st.integers(0, 10**9))
TEXT = st.none() | NAME


@settings(max_examples=60, deadline=None)
@given(st.builds(Thresholds, st.dictionaries(NAME, CLASS, min_size=1, max_size=4), TEXT, SHARE, TEXT, TEXT))
def test_any_thresholds_survive_a_round_trip(thresholds: Thresholds) -> None:
    assert Thresholds.from_json(thresholds.to_json()) == thresholds


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NEARLY = st.fixed_dictionaries(
    {"version": st.just(1) | JSON, "kind": st.just("thresholds") | JSON},
    optional={
        "classes": JSON
        | st.dictionaries(st.text(), st.fixed_dictionaries({"conf": JSON | SHARE}, optional={"low": JSON})),
        "rule": JSON,
        "iou": JSON,
        "modle": JSON,
    },
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), JSON.map(json.dumps), NEARLY.map(json.dumps)))
def test_any_text_is_thresholds_or_one_clear_line(text: str) -> None:
    try:
        read = Thresholds.from_json(text, "t.json")
    except DataError as error:
        assert str(error).startswith("t.json")
        assert "\n" not in str(error)
        str(error).encode()
    else:
        assert Thresholds.from_json(read.to_json()) == read


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON"),
        ("{", "t.json:1: is not JSON"),
        ('{"kind": NaN}', "NaN is not JSON"),
        ('{"kind": 1, "kind": 2}', "'kind' comes twice"),
        ("[" * 100_000, "is not JSON"),
        ("1" * 5000, "is not JSON"),
        ("[]", "the file is not an object; found []; expected a JSON object"),
        ("{}", "is no file of thresholds; found no 'kind'; expected 'kind': 'thresholds'"),
        (changed(kind="baseline"), "found 'baseline'"),
        (changed(version=2), "'version'; found 2; expected 1"),
        (changed(version=True), "'version'; found True"),
        (changed(rulle="F1"), "unknown key 'rulle'; did you mean 'rule'?"),
        (changed(classes=...), "has no 'classes'"),
        (changed(classes={}), "'classes'; found no class"),
        (changed(classes=[]), "'classes' is not an object"),
        (changed(classes={"": {"conf": 0.5}}), "a name of a class; found ''"),
        (changed(classes={"\ud800": {"conf": 0.5}}), "a name of a class"),
        (changed(classes={"bus": 0.5}), "class 'bus' is not an object; found 0.5"),
        (changed(classes={"bus": {"low": 0.5}}), "no 'conf' of class 'bus'; expected 0 to 1, or null"),
        (of_bus(cnof=0.5), "unknown key 'cnof' of class 'bus'; did you mean 'conf'?"),
        (of_bus(conf=1.5), "'conf' of class 'bus'; found 1.5; expected 0 to 1, or null"),
        (of_bus(conf="0.5"), "found '0.5'"),
        (of_bus(conf=True), "found True"),
        (of_bus(conf=10**400), "'conf' of class 'bus'"),
        (of_bus(truths=1.5), "'truths' of class 'bus'; found 1.5; expected a whole number"),
        (of_bus(low=0.5, high=0.4), "'low' is above 'high' of class 'bus'; found 0.5 and 0.4"),
        (changed(iou=-0.1), "'iou'; found -0.1"),
        (changed(data=" "), "'data'; found ' '; expected a text"),
    ],
)
def test_a_bad_file_is_one_line_that_says_what_was_found(text: str, said: str) -> None:
    with pytest.raises(DataError) as caught:
        Thresholds.from_json(text, "t.json")
    line = str(caught.value)
    assert said in line
    assert line.startswith("t.json")
    assert "\n" not in line


def test_files_that_cannot_be_read_or_written_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "latin.json").write_bytes("é".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        read_thresholds(tmp_path / "latin.json")
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            read_thresholds(path)
    with pytest.raises(RunError, match="cannot be written"):
        write_thresholds(tmp_path / "nowhere" / "t.json", GOOD)
    (tmp_path / "bom.json").write_text("\ufeff" + GOOD.to_json(), "utf-8")
    assert read_thresholds(tmp_path / "bom.json") == GOOD


def test_a_models_classes_get_their_thresholds_in_its_order() -> None:
    assert GOOD.for_classes(("café", "bus"), 0.25) == (0.25, 0.41)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("bus", "cafe"), "the model has no class 'café' and the thresholds have no class 'cafe'"),
        (("bus",), "the model has no class 'café'; expected one for each of 'bus'"),
        (("bus", "café", "car"), "another model: the thresholds have no class 'car'"),
    ],
)
def test_thresholds_of_other_classes_are_refused(names: tuple[str, ...], said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        GOOD.for_classes(names, 0.25, file="t.json")
    assert caught.value.file == "t.json"


# ---- in the model card -------------------------------------------------------------------------------------------

CARD = ModelCard("yolo", {}, ("bus", "car"), (32, 32), class_thresholds={"car": 0.4})


def test_a_card_keeps_thresholds_and_one_without_still_loads() -> None:
    assert ModelCard.from_json(CARD.to_json()) == CARD
    old = json.loads(CARD.to_json())
    del old["class_thresholds"]
    assert ModelCard.from_json(json.dumps(old)).class_thresholds == {}


@pytest.mark.parametrize("wrong", [{"cat": 0.4}, {"car": 1.4}, {"car": None}, {"car": True}, [0.4], {"": 0.4}])
def test_bad_thresholds_in_a_card_are_refused(wrong: Any) -> None:
    with pytest.raises(WeightsError, match="'class_thresholds' in the model card"):
        ModelCard.from_json(json.dumps(json.loads(CARD.to_json()) | {"class_thresholds": wrong}))
