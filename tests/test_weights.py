"""Model cards, model files' headers, and finding model files: whatever the bytes, the only error is `WeightsError`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pickle
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_model import CARD, card_with, write_fake_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detkit import manifest
from detkit.errors import WeightsError
from detkit.manifest import ModelFile
from detkit.weights import CARD_KEY, ModelCard, find_weights, read_card, read_manifest

FULL = card_with(
    anchors_wh_px=(((8.0, 9.5), (16.0, 30.0)), ((64.0, 64.0),)),
    training={"dataset": "made up", "seed": 0},
    licences={"code": "Apache-2.0"},
    class_names=("red", "синий", "bus stop"),
    fit="stretch",
    point_names=("left_eye", "right_eye"),
    flip_pairs=((0, 1),),
    point_edges=((0, 1),),
    crop_margin=0.1,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def write_safetensors(path: Path, card: ModelCard | None, tensor_bytes: bytes = b"\0" * 8) -> Path:
    header: dict[str, Any] = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    if card is not None:
        header["__metadata__"] = {CARD_KEY: card.to_json()}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + tensor_bytes)
    return path


@pytest.mark.parametrize("card", [CARD, FULL])
def test_a_card_survives_the_round_trip(card: ModelCard) -> None:
    assert ModelCard.from_json(card.to_json()) == card


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"class_names": []}, "'class_names'"),
        ({"class_names": ["a", "a"]}, "a list of different names"),
        ({"class_names": ["a", 3]}, "'class_names'"),
        ({"class_names": "ab"}, "'class_names'"),
        ({"class_names": ["\ud800"]}, "'class_names'"),
        ({"input_hw": [416]}, "[height, width] in pixels"),
        ({"input_hw": [416, 0]}, "'input_hw'"),
        ({"input_hw": [416, True]}, "'input_hw'"),
        ({"input_hw": [416, 1e2]}, "'input_hw'"),
        ({"input_hw": [10**9, 416]}, "'input_hw'"),
        ({"fit": "crop"}, "letterbox or letterbox-corner or stretch"),
        ({"fit": ["letterbox"]}, "or stretch"),
        ({"pad_value": 256}, "0-255"),
        ({"thresholds": {"conf": 0.5}}, "'thresholds'"),
        ({"thresholds": {"conf": 0.5, "iou": 1.5}}, "'thresholds'"),
        ({"anchors_wh_px": [[[1, 2, 3]]]}, "'anchors_wh_px'"),
        ({"anchors_wh_px": [[[1, -2]]]}, "'anchors_wh_px'"),
        ({"point_names": ["nose", "nose"]}, "'point_names'"),
        ({"point_names": ["a", "b"], "flip_pairs": [[0, 2]]}, "indices below 2, the number of points"),
        ({"point_names": ["a", "b"], "point_edges": [[0, 1, 1]]}, "'point_edges'"),
        ({"point_edges": [[0, 0]]}, "indices below 0"),
        ({"flip_pairs": [[-1, 0]]}, "'flip_pairs'"),
        ({"crop_margin": -0.1}, "'crop_margin'"),
        ({"architecture": None}, "'architecture'"),
        ({"licences": {"code": 1}}, "'licences'"),
        ({"format_version": 2}, "a newer detkit"),
        ({"format_version": True}, "format version"),
        ({"format_version": None}, "format version"),
        ({"class_name": ["a"]}, "did you mean 'class_names'?"),
    ],
)
def test_a_wrong_card_is_refused_in_one_line(change: dict[str, Any], said: str) -> None:
    values = json.loads(CARD.to_json()) | change
    with pytest.raises(WeightsError) as refused:
        ModelCard.from_json(json.dumps(values), file="model.onnx")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("model.onnx: ")


def test_a_card_from_before_there_were_points_is_read() -> None:
    values = json.loads(CARD.to_json())
    for key in ("point_names", "flip_pairs", "point_edges", "crop_margin"):
        del values[key]
    assert ModelCard.from_json(json.dumps(values)) == CARD


@pytest.mark.parametrize(
    "text", ["", "[]", "null", '"detkit"', "{", '{"format_version": 1}', '{"a": NaN}', "[" * 10**6]
)
def test_what_is_no_card_is_refused(text: str) -> None:
    with pytest.raises(WeightsError):
        ModelCard.from_json(text)


@given(JSON, st.sampled_from(sorted(json.loads(CARD.to_json()))))
def test_any_value_in_a_card_is_taken_or_refused(value: Any, key: str) -> None:
    try:
        card = ModelCard.from_json(json.dumps(json.loads(CARD.to_json()) | {key: value}))
    except WeightsError:
        return
    assert ModelCard.from_json(card.to_json()) == card


@given(JSON | st.text())
def test_any_json_or_text_is_taken_or_refused(value: Any) -> None:
    for text in (json.dumps(value), str(value)):
        with pytest.raises(WeightsError):
            ModelCard.from_json(text)


def test_the_card_is_read_from_both_kinds_of_file(tmp_path: Path) -> None:
    assert read_card(write_safetensors(tmp_path / "m.safetensors", FULL)) == FULL
    assert read_card(write_fake_model(tmp_path / "m.onnx", FULL)) == FULL


def test_the_card_is_read_from_a_file_of_the_safetensors_library(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "m.safetensors"
    safetensors.save_file({"w": np.zeros(3, np.float32)}, path, metadata={CARD_KEY: FULL.to_json()})
    assert read_card(path) == FULL


def bad_file(kind: str, folder: Path) -> Path:
    """A file that is no model, or not a whole one."""
    path = folder / ("m.safetensors" if "header" in kind or kind == "no card s" else "m.onnx")
    if kind == "missing":
        return path
    if kind.startswith("no card"):
        return write_fake_model(path, None) if path.suffix == ".onnx" else write_safetensors(path, None)
    if kind.startswith("zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", b"")
        return path if kind == "zip" else path.rename(folder / "m.pt")
    if kind == "truncated":
        whole = write_fake_model(path).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        return path
    contents = {
        "empty": b"",
        "pickle": pickle.dumps({"a": 1}),
        "text": b"version https://git-lfs.github.com/spec/v1\n",
        "4 GB header": (4 << 30).to_bytes(8, "little") + b"{}",
        "huge header": b"\xff" * 7 + b"\x7f" + b"{" + b"}" * 99,
        "header no JSON": (6).to_bytes(8, "little") + b"{nope}",
        "header no UTF-8": (3).to_bytes(8, "little") + b'{\xff"',
        "header a list": (2).to_bytes(8, "little") + b"[]",
        "endless number": b"\xff" * 100,
        "huge field": b"\x72\xff\xff\xff\xff\xff\xff\xff\xff\x7f" + b"x" * 100,
        "many fields": b"\x08\x01" * 300_000,
        "group": b"\x0b\x0c",
    }
    path.write_bytes(contents[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "cannot be read"),
        ("empty", "is empty"),
        ("zip", "is a pickle, which can run code, and is refused; give an .onnx or .safetensors"),
        ("zip as .pt", "is a pickle"),
        ("pickle", "is a pickle"),
        ("no card", "no detkit model card"),
        ("no card s", "no detkit model card"),
        ("truncated", "truncated"),
        ("text", "no ONNX"),
        ("4 GB header", "longer than the file"),
        ("huge header", "longer than the file"),
        ("header no JSON", "not JSON"),
        ("header no UTF-8", "not UTF-8"),
        ("header a list", "no safetensors file"),
        ("endless number", "no ONNX"),
        ("huge field", "no ONNX"),
        ("many fields", "no ONNX"),
        ("group", "no ONNX"),
    ],
)
def test_a_bad_file_is_refused_at_once(kind: str, said: str, tmp_path: Path) -> None:
    path = bad_file(kind, tmp_path)
    start_s = time.process_time()
    with pytest.raises(WeightsError) as refused:
        read_card(path)
    assert said in str(refused.value)
    assert refused.value.exit_code == 4
    assert time.process_time() - start_s < 1


def test_a_torch_file_is_refused_unread(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is a pickle"):
        read_card(tmp_path / "best.pt")  # there is none


@pytest.mark.parametrize("kind", ["onnx", "safetensors"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_files_are_read_or_refused(kind: str, data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / f"m.{kind}"
    whole = (write_fake_model if kind == "onnx" else write_safetensors)(path, FULL).read_bytes()
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for at in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        if at < len(damaged):
            damaged[at] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    with contextlib.suppress(WeightsError):
        read_card(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(max_size=64), kind=st.sampled_from(["onnx", "safetensors", "bin", "pt"]))
def test_any_bytes_are_refused(content: bytes, kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"m.{kind}"
    path.write_bytes(content)
    with pytest.raises(WeightsError):
        read_card(path)


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights folder with one model, "fake", the default."""
    folder = tmp_path / "weights"
    folder.mkdir()
    text = 'default = "fake"\n'
    for path in (write_fake_model(folder / "fake.onnx"), write_safetensors(folder / "fake.safetensors", CARD)):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        text += f'[[weights]]\nname = "fake"\nfile = "{path.name}"\nsha256 = "{digest}"\nclasses = ["red", "blue"]\n'
        text += 'licence = "Apache-2.0"\naccuracy = {AP = 0.1, AP50 = 0.2, split = "made up"}\n'
    (folder / "manifest.toml").write_text(text)
    monkeypatch.setattr(manifest, "weights_folder", lambda: folder)
    return folder


def test_shipped_models_are_found_by_name(shipped: Path) -> None:
    assert find_weights() == find_weights("fake") == shipped / "fake.onnx"
    assert find_weights("fake", ".safetensors") == shipped / "fake.safetensors"
    default, models = read_manifest()
    assert default == "fake"
    assert isinstance(models[0], ModelFile)
    assert models[0].accuracy == {"AP": 0.1, "AP50": 0.2, "split": "made up"}


def test_a_shipped_file_with_another_hash_is_refused(shipped: Path) -> None:
    path = shipped / "fake.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="damaged; install detkit again"):
        find_weights()


@pytest.mark.parametrize("text", ["", "default", 'default = "a"\n[[weights]]\nnme = "a"', 'default="a"\nweights=["a"]'])
def test_a_broken_manifest_is_refused(shipped: Path, text: str) -> None:
    (shipped / "manifest.toml").write_text(text)
    with pytest.raises(WeightsError, match="manifest"):
        find_weights()


def test_without_a_manifest_there_is_no_default(shipped: Path) -> None:
    (shipped / "manifest.toml").unlink()
    with pytest.raises(WeightsError, match="no default model"):
        find_weights()


def test_a_file_is_found_and_a_missing_one_meets_its_neighbours(shipped: Path, tmp_path: Path) -> None:
    path = write_fake_model(tmp_path / "street.onnx")
    assert find_weights(str(path)) == find_weights(path) == path
    with pytest.raises(WeightsError, match=r"did you mean .*street\.onnx\?"):
        find_weights(tmp_path / "steet.onnx")
    with pytest.raises(WeightsError, match="did you mean fake"):
        find_weights("fakes")
    with pytest.raises(WeightsError, match="models that come with detkit: fake"):
        find_weights("quite-another")
    with pytest.raises(WeightsError, match="is a folder"):
        find_weights(tmp_path)
    for odd in ("a\0b", "x" * 5000, ".", "~nobody/x"):
        with pytest.raises(WeightsError):
            find_weights(odd)


def test_the_manifest_in_the_tree_tells_the_truth() -> None:
    """Every listed file is there, has its hash, and carries the classes the manifest names."""
    default, models = read_manifest()
    if not models:
        pytest.skip("no model is shipped yet")
    assert default in {model.name for model in models}
    for model in models:
        if model.url:  # published, and here only where somebody pulled it
            assert model.file.endswith(f"-{model.sha256}.pth")
            assert model.url.endswith(f"/{model.file}")
            continue
        suffix = Path(model.file).suffix
        assert read_card(find_weights(model.name, suffix)).class_names == model.classes
