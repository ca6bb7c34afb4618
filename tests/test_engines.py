"""Which engine opens which file: what auto takes, what is refused, and what is missing."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from fake_model import CARD, write_fake_model
from test_weights import write_safetensors
from typer.testing import CliRunner

from detkit import cli
from detkit.cli import options
from detkit.engines import MANY_PHOTOS, EngineName, open_engine, weights_suffix
from detkit.engines import openvino as openvino_engine
from detkit.errors import MissingExtraError, UsageError, WeightsError
from detkit.images import write_image
from detkit.infer.predictor import Predictor

needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs the openvino extra")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_fake_model(tmp_path / "fake.onnx")


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """What this processor is said to compute in."""
    abilities = {"FP32", "BF16"}
    core = openvino_engine.load_openvino().Core

    class Core:
        def __new__(cls) -> object:
            real = core()
            real.get_property = lambda *_: sorted(abilities)
            return real

    monkeypatch.setattr(openvino_engine.load_openvino(), "Core", Core)
    return abilities


@pytest.fixture
def no_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    openvino_engine.load_openvino.cache_clear()
    monkeypatch.setitem(sys.modules, "openvino", None)


def test_a_few_photos_run_in_onnxruntime_and_load_nothing_else(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_engine, "load_openvino", lambda: pytest.fail("not needed"))
    for engine in (open_engine(model), open_engine(model, "auto", photos=MANY_PHOTOS - 1), Predictor(model).engine):
        assert engine.name == "onnxruntime"


@needs_openvino
def test_many_photos_run_in_openvino_where_that_is_faster(model: Path, processor: set[str]) -> None:
    assert open_engine(model, photos=MANY_PHOTOS).name == "openvino-bf16"
    assert Predictor(model, photos=MANY_PHOTOS).engine.name == "openvino-bf16"
    assert open_engine(model, "onnxruntime", photos=MANY_PHOTOS).name == "onnxruntime"
    processor.remove("BF16")
    assert open_engine(model, photos=MANY_PHOTOS).name == "onnxruntime"


def test_auto_does_without_openvino(model: Path, no_openvino: None) -> None:
    assert open_engine(model, photos=MANY_PHOTOS).name == "onnxruntime"
    for named in ("openvino", "openvino-bf16"):
        with pytest.raises(MissingExtraError, match=r"detkit-cv\[openvino\]"):
            open_engine(model, named)


@needs_openvino
def test_auto_leaves_what_openvino_cannot_read_to_onnxruntime(
    model: Path, processor: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: object, **__: object) -> None:
        raise WeightsError("OpenVINO cannot load it")

    monkeypatch.setattr(openvino_engine, "OpenVinoEngine", cannot)
    assert open_engine(model, photos=MANY_PHOTOS).name == "onnxruntime"
    with pytest.raises(WeightsError):
        open_engine(model, "openvino")


@needs_openvino
def test_a_named_engine_is_the_one_that_runs(model: Path, processor: set[str]) -> None:
    for name in ("onnxruntime", "openvino", "openvino-bf16"):
        assert open_engine(model, name).name == name
    processor.remove("BF16")
    with pytest.raises(UsageError, match="does not compute in bf16"):
        open_engine(model, "openvino-bf16")


@pytest.mark.parametrize("name", get_args(EngineName))
def test_an_engine_that_does_not_run_this_kind_of_file(name: EngineName, model: Path, tmp_path: Path) -> None:
    other = {".onnx": write_safetensors(tmp_path / "m.safetensors", CARD), ".safetensors": model}
    if name != "auto":
        wanted = weights_suffix(name)
        with pytest.raises(UsageError, match=f"{name} does not run this file; expected a model in {wanted}"):
            open_engine(other[wanted], name)
    (tmp_path / "m.pt").write_bytes(b"\x80\x02}q\0.")
    for unusable in ("m.pt", "m.txt", "absent.onnx"):
        with pytest.raises(WeightsError):
            open_engine(tmp_path / unusable, name)


def test_an_unknown_engine(model: Path) -> None:
    with pytest.raises(UsageError, match="no such engine; found 'tensorrt'; expected auto or onnxruntime"):
        open_engine(model, "tensorrt")  # type: ignore[arg-type]


def test_torch_takes_the_safetensors_of_a_shipped_model(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    opened: list[str] = []

    def fake(path: Path) -> object:
        opened.append(path.name)
        return open_engine(model)

    monkeypatch.setattr("detkit.engines._torch_engine", fake)
    Predictor("street", engine="torch")
    assert opened == ["street.safetensors"]


def test_the_command_line_knows_every_engine_and_tells_the_rule() -> None:
    assert get_args(options.BackendName) == get_args(EngineName)
    shown = " ".join(CliRunner().invoke(cli.app, ["detect", "--help"], env={"COLUMNS": "200"}).stdout.split())
    assert f"from {MANY_PHOTOS} photos on openvino-bf16" in shown


@needs_openvino
@pytest.mark.parametrize("option", ["--backend", "--engine"])
def test_detect_says_what_ran(option: str, model: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "red.png", np.full((20, 20, 3), (255, 0, 0), np.uint8))
    arguments = ["detect", str(tmp_path / "red.png"), "-w", str(model), "--json", option]
    done = CliRunner().invoke(cli.app, [*arguments, "openvino"])
    assert (done.exit_code, json.loads(done.stdout)["model"]["engine"]) == (0, "openvino")
    assert "fake.onnx on openvino" in done.stderr
    assert CliRunner().invoke(cli.app, [*arguments, "torch"]).exit_code == 2
    assert CliRunner().invoke(cli.app, [*arguments, "fast"]).exit_code == 2


def test_a_missing_engine_is_exit_5(model: Path, tmp_path: Path, no_openvino: None) -> None:
    write_image(tmp_path / "red.png", np.zeros((20, 20, 3), np.uint8))
    done = CliRunner().invoke(
        cli.app, ["detect", str(tmp_path / "red.png"), "-w", str(model), "--backend", "openvino", "--no-pictures"]
    )
    assert done.exit_code == 5
    assert 'pip install "detkit-cv[openvino]"' in done.stderr
    assert len(done.stderr.splitlines()) == 1


@needs_openvino
def test_eval_runs_in_onnxruntime_unless_told(tmp_path: Path, colour_model: Path) -> None:
    from test_cli_eval import make_data

    data = make_data(tmp_path / "data", ["red", "blue"])

    def run(*arguments: str) -> tuple[dict[str, object], str]:
        done = CliRunner().invoke(cli.app, ["eval", str(data), "-w", str(colour_model), "--json", *arguments])
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout), done.stderr

    plain, said = run()
    assert plain["backend"] == "onnxruntime"
    assert "colours.onnx on onnxruntime" in said
    told, said = run("--backend", "openvino", "--engine", "pycocotools")
    assert (told["backend"], told["engine"], told["AP"]) == ("openvino", "pycocotools", plain["AP"])
