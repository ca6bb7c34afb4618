"""`detkit compare` and `detkit gate` from the shell's side: runs, models and results, exit codes, files, mistakes."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from defusedxml import ElementTree
from test_cli_eval import make_data

from detkit.cli import COMMANDS, _load, main
from detkit.data.formats import read
from detkit.detections import Detections
from detkit.evaluate.coco import results_list

COLOURS = ["red", "blue", "green", "red", "grey", "blue"] * 5


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `detkit ARGS`; returns exit code, stdout and stderr."""

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["detkit", *map(str, args)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data", COLOURS)


@pytest.fixture
def results(data: Path, tmp_path: Path) -> Any:
    """Writes a results file of a model that is right but on every so many photos (0: on all)."""

    def write(name: str, misses_every: int) -> Path:
        val = read(data, "val")
        boxes = []
        for number, sample in enumerate(val):
            found = sample.truth
            if misses_every and number % misses_every == 0:
                found = found[:0]
            boxes.append(Detections(found.size_hw, found.boxes_xyxy, found.labels, np.full(len(found), 0.9)))
        (tmp_path / name).write_text(json.dumps(results_list(val, boxes)))
        return tmp_path / name

    return write


def run_folder(folder: Path, model: Path, data: Path | None) -> Path:
    folder.mkdir(parents=True)
    (folder / "best.onnx").write_bytes(model.read_bytes())
    if data is not None:
        (folder / "config.toml").write_text(f'data = "{data}"\nformat = "none"\n')
    return folder


def test_compare_tables(shell: Any, data: Path, results: Any) -> None:
    code, out, err = shell("compare", results("old.json", 0), results("new.json", 2), "--data", data)
    assert code == 0, err
    lines = [line.split() for line in out.splitlines() if line]
    assert lines[1][:4] == ["AP", "1.0000", lines[1][2], lines[1][3]]
    assert float(lines[1][3]) < -20
    assert [line[0] for line in lines[4:8]] == ["class,", "red", "green", "blue"]
    assert "B does worse on (15)" not in out  # grey photos among them have nothing to lose
    assert re.search(r"^B does worse on \(\d+\) +lost +new false +found +gone false$", out, re.MULTILINE)
    assert out.splitlines()[-1].startswith("new.json is worse than old.json by ")
    assert "false alarms new, 0 gone" in err


def test_compare_json(shell: Any, data: Path, results: Any) -> None:
    a, b = results("old.json", 3), results("new.json", 0)
    code, out, _ = shell("compare", a, b, "--data", data, "--json", "--conf", "0.5", "--draws", "50", "--level", "0.9")
    document = json.loads(out)
    assert code == 0
    assert (document["a"]["given"], document["b"]["file"], document["split"]) == (str(a), str(b), "val")
    assert (document["AP"]["b"], document["draws"], document["level"]) == (pytest.approx(1), 50, 0.9)
    assert [c["name"] for c in document["per_class"]] == ["red", "green", "blue"]
    found = [flip["kind"] for photo in document["flips"]["photos"] for flip in photo["flips"]]
    assert found == ["found"] * document["flips"]["counts"]["found"]
    assert document["verdict"].startswith("new.json is better than old.json")
    assert document["data_sha256"] == read(data, "val").content_hash()


def test_runs_tell_their_data_and_one_model_runs_once(
    shell: Any, data: Path, tmp_path: Path, colour_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = run_folder(tmp_path / "one" / "run", colour_model, data)
    calls = []
    predict_files = "detkit.infer.predictor.Predictor.predict_files"
    original = __import__("detkit.infer.predictor", fromlist=["x"]).Predictor.predict_files
    monkeypatch.setattr(predict_files, lambda self, *args, **kw: calls.append(1) or original(self, *args, **kw))
    code, out, err = shell("compare", a, a)
    assert code == 0, err
    assert len(calls) == 1
    assert out.splitlines()[-1] == "A and B are equal in AP: nothing that counts differs on these 30 photos."
    b = run_folder(tmp_path / "two" / "run", colour_model, None)
    assert shell("compare", a, b, "--json")[0] == 0
    assert len(calls) == 3
    moved = run_folder(tmp_path / "three" / "run", colour_model, tmp_path / "gone")
    for others, words in (((b, b), "name them with --data"), ((moved, b), "is not there; name it with --data")):
        code, _, err = shell("compare", *others)
        assert code in (2, 3)
        assert words in err.splitlines()[-1]
    other = make_data(tmp_path / "other", ["red", "blue"])
    c = run_folder(tmp_path / "four" / "run", colour_model, other)
    code, _, err = shell("compare", a, c)
    assert code == 2
    assert f"A on {data} and B on {other}" in err
    assert shell("compare", a, c, "--data", other)[0] == 0


def test_gate_exit_codes(shell: Any, data: Path, results: Any) -> None:
    good, bad = results("good.json", 0), results("bad.json", 2)
    slightly = results("slightly.json", 14)
    cases = [
        (0, "pass", [good, good]),
        (0, "pass", [bad, good]),
        (7, "regressed", [good, bad]),
        (8, "inconclusive", [good, slightly]),
        (0, "inconclusive", [good, slightly, "--on-inconclusive", "pass"]),
        (7, "inconclusive", [good, slightly, "--on-inconclusive", "fail"]),
        (0, "pass", [good, slightly, "--min-delta", "-60"]),
        (7, "regressed", [good, bad, "--min-delta", "-60", "--figure", "AP", "--figure", "AP50=-1"]),
        (0, "pass", [good, slightly, "--figure", "class:blue", "--figure", "class:red=-90"]),
    ]
    for want, verdict, args in cases:
        code, out, err = shell("gate", *args, "--data", data)
        assert code == want, (args, out, err)
        assert re.search(rf"^{verdict}: ", out, re.MULTILINE), out
        assert "on these 30 photos" in err
        code, out, _ = shell("gate", *args, "--data", data, "--json")
        assert (code, json.loads(out)["verdict"], json.loads(out)["exit_code"]) == (want, verdict, want)


def test_gate_files(shell: Any, data: Path, results: Any, tmp_path: Path) -> None:
    a, b = results("good.json", 0), results("bad.json", 14)
    xml, page = tmp_path / "gate.xml", tmp_path / "gate.md"
    args = ["gate", a, b, "--data", data, "--junit", xml, "--markdown", page]
    assert shell(*args)[0] == 8
    assert ElementTree.parse(xml).getroot().get("skipped") == "1"
    assert "inconclusive" in page.read_text("utf-8")
    assert shell(*args, "--on-inconclusive", "fail")[0] == 7
    assert ElementTree.parse(xml).getroot().get("failures") == "1"


def test_mistakes_end_in_one_line(shell: Any, data: Path, results: Any, tmp_path: Path, colour_model: Path) -> None:
    good = results("good.json", 0)
    before = good.read_bytes()
    empty = tmp_path / "empty"
    empty.mkdir()
    cases: list[tuple[int, str, list[object]]] = [
        (2, "name them with --data", ["compare", good, good]),
        (4, "nothing to measure in this folder", ["compare", empty, good, "--data", data]),
        (4, "no model 'nothing'", ["compare", good, "nothing", "--data", data]),
        (3, "no such results", ["compare", good, "nothing.json", "--data", data]),
        (3, "no such data set", ["compare", good, good, "--data", tmp_path / "absent"]),
        (
            4,
            "know other classes: only A: red, green, blue; only B: ",
            ["compare", colour_model, "face", "--data", data],
        ),
        (4, "model of points", ["compare", "face-landmarks", good, "--data", data]),
        (4, "class names do not fit", ["compare", good, "face", "--data", data]),
        (2, "'--conf'", ["compare", good, good, "--data", data, "--conf", "2"]),
        (2, "'--level'", ["gate", good, good, "--data", data, "--level", "95"]),
        (2, "from -100 to 100", ["gate", good, good, "--data", data, "--min-delta", "nan"]),
        (2, "did you mean class:red?", ["gate", good, good, "--data", data, "--figure", "class:rd"]),
        (2, "--junit would overwrite", ["gate", good, good, "--data", data, "--junit", good]),
        (2, "--markdown: no such folder", ["gate", good, good, "--data", data, "--markdown", tmp_path / "no" / "x.md"]),
        (2, "", ["gate", good]),
    ]
    for expected, words, args in cases:
        code, out, err = shell(*args)
        assert (code, out) == (expected, ""), (args, err)
        last = err.splitlines()[-1]
        assert last.startswith("detkit: error: "), err
        assert words in last
    assert good.read_bytes() == before


def test_a_model_trained_on_these_photos_is_told(shell: Any, data: Path, tmp_path: Path, colour_model: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx comes with the train extra")
    model = onnx.load(str(colour_model))
    [entry] = model.metadata_props
    card = json.loads(entry.value)
    card["training"] = {"data_sha256": read(data, "val").content_hash()}
    entry.value = json.dumps(card)
    onnx.save(model, str(tmp_path / "seen.onnx"))
    code, _, err = shell("compare", colour_model, tmp_path / "seen.onnx", "--data", data, "--photos", "0")
    assert code == 0
    assert "detkit: warning: B" in err
    assert "was trained on these very photos" in err


def test_the_examples_for_ci_can_be_run(repo: Path) -> None:
    """Every YAML block of the page is YAML, and its gate's options exist."""
    page = (repo / "docs" / "gate.md").read_text("utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        assert yaml.safe_load(block)
    lines = [line.strip(" -") for block in blocks for line in block.splitlines() if "detkit gate" in line]
    assert len(lines) == 3
    known = {name for parameter in _load("gate").params for name in parameter.opts}
    for line in lines:
        words = shlex.split(line.partition("||")[0])
        assert words[1] in COMMANDS
        assert {word for word in words if word.startswith("--")} <= known
