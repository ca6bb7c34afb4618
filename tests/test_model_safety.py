"""Model files nobody should trust: refused before they are loaded, at once, in one line; no crash, no hang."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fuzz_models
import numpy as np
import onnx
import pytest
from fake_model import CARD, write_fake_model
from foreign_model import write_tables
from onnx import TensorProto, helper
from typer.testing import CliRunner

from detkit import cli, onnx_header
from detkit.engines.onnx import OnnxEngine
from detkit.errors import WeightsError
from detkit.images import write_image
from detkit.onnx_header import check_onnx, external_files

HERE = Path(__file__).parent
needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs the openvino extra")


def with_external_data(path: Path, location: str, place: str = "initializer") -> Path:
    """The tests' network, one of its numbers (255) in another file."""
    model = onnx.load_from_string(write_fake_model(path).read_bytes())
    [tensor] = [tensor for tensor in model.graph.initializer if tensor.name == "white"]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": "4"}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    if place == "constant":
        model.graph.node.insert(0, helper.make_node("Constant", [], ["white"], value=tensor))
    elif place == "branch":
        inner = helper.make_graph([], "inner", [], [helper.make_empty_tensor_value_info("white")], [tensor])
        model.graph.node.insert(0, helper.make_node("If", ["is_so"], ["white"], then_branch=inner, else_branch=inner))
        model.graph.initializer.append(helper.make_tensor("is_so", TensorProto.BOOL, (), [True]))
    if place != "initializer":
        model.graph.initializer.remove(tensor)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("place", ["initializer", "constant", "branch"])
@pytest.mark.parametrize(
    "location",
    [
        "../secret.bin",
        "ABSOLUTE",
        "/etc/passwd",
        "../../../../../etc/passwd",
        "link.bin",
        "sub/../../secret.bin",
        "..",
        "a\0b",
    ],
)
def test_a_model_reads_nothing_outside_its_folder(location: str, place: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.float32(255).tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link.bin").symlink_to(secret)
    path = with_external_data(folder / "m.onnx", str(secret) if location == "ABSOLUTE" else location, place)
    with pytest.raises(
        WeightsError, match=r"wants to read outside its folder; found '.*'; expected a file in"
    ) as refused:
        check_onnx(path)
    assert "\n" not in str(refused.value)
    with pytest.raises(WeightsError, match="wants to read outside its folder"):
        OnnxEngine(path)


@needs_openvino
def test_openvino_is_not_asked_to_either(tmp_path: Path) -> None:
    from detkit.engines.openvino import OpenVinoEngine

    path = with_external_data(tmp_path / "m.onnx", "/etc/passwd")
    with pytest.raises(WeightsError, match="wants to read outside its folder; found '/etc/passwd'"):
        OpenVinoEngine(path)


@pytest.mark.parametrize("location", ["missing.bin", "*/_ORT_MEM_ADDR_/*", ".", ""])
def test_data_that_are_no_file_are_missing(location: str, tmp_path: Path) -> None:
    """The second is onnxruntime's own word for an address in memory."""
    with pytest.raises(WeightsError, match="in another file, which is missing"):
        OnnxEngine(with_external_data(tmp_path / "m.onnx", location))


def test_data_beside_the_model_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "white.bin").write_bytes(np.float32(255).tobytes())
    path = with_external_data(tmp_path / "m.onnx", "white.bin")
    assert external_files(path) == ["white.bin"]
    monkeypatch.chdir(tmp_path)
    for given in (path, Path("m.onnx")):
        found = OnnxEngine(given).run(np.full((1, 64, 64, 3), 255, np.uint8))
        assert found.scores.min() == found.scores.max() == 1


def test_a_name_with_location_in_it_is_no_external_data(tmp_path: Path) -> None:
    path = write_tables(tmp_path / "m.onnx", {"location": np.zeros((21, 7), np.float32)})
    assert external_files(path) == []
    assert external_files(write_fake_model(tmp_path / "n.onnx")) == []


def field(number: int, value: bytes) -> bytes:
    """A protobuf field of bytes."""
    length, out = len(value), bytearray([number << 3 | 2])
    while length >= 0x80:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*out, length]) + value


def test_graphs_within_graphs_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = b""
    for _ in range(300):
        message = field(1, field(5, field(6, message)))
    (tmp_path / "deep.onnx").write_bytes(field(7, message))
    (tmp_path / "long.onnx").write_bytes(field(7, field(1, b"\x08\x01" * 600) * 4))
    monkeypatch.setattr(onnx_header, "_MOST_FIELDS", 2000)
    for name in ("deep.onnx", "long.onnx"):
        with pytest.raises(WeightsError, match="is no ONNX file that a runtime made: too long or too deep"):
            check_onnx(tmp_path / name)


@pytest.mark.parametrize(
    ("dims", "data", "is_refused"),
    [
        ([2**31], {"raw_data": b"\0" * 24}, True),  # over which onnxruntime hangs
        ([-1], {"raw_data": b"\0" * 24}, True),
        ([2**20, 2**20, 2**20, 2**20], {"raw_data": b"\0" * 24}, True),
        ([1000], {}, True),
        ([3], {"raw_data": b"\0" * 24}, False),
        ([3], {"int64_data": [1, 2, 3]}, False),
        ([0], {}, False),
        ([], {"int64_data": [0]}, False),
        ([2**40, 0], {}, False),
    ],
)
@pytest.mark.parametrize("place", ["initializer", "constant"])
def test_a_tensor_claims_no_more_numbers_than_it_has(
    dims: list[int], data: dict[str, Any], is_refused: bool, place: str, tmp_path: Path
) -> None:
    tensor = onnx.TensorProto(name="claim", data_type=TensorProto.INT64, dims=dims, **data)
    constant = helper.make_node("Constant", [], ["claim"], value=tensor)
    graph = helper.make_graph([constant], "g", [], []) if place == "constant" else onnx.GraphProto(initializer=[tensor])
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    if is_refused:
        with pytest.raises(
            WeightsError, match=r"the tensor 'claim' claims more numbers than the file holds; found \d+ by"
        ):
            check_onnx(path)
    else:
        check_onnx(path)


@pytest.mark.parametrize("batch", [0, 2**31 - 1, 10**6])
def test_a_graph_for_too_many_canvases_is_refused(batch: int, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model = onnx.load_from_string(write_fake_model(path).read_bytes())
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    path.write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError, match=r"the network.s canvases at a time; found .* expected 1 to 1024"):
        OnnxEngine(path)


@needs_openvino
def test_what_would_end_the_process_within_openvino_is_refused_before(tmp_path: Path) -> None:
    from detkit.engines.openvino import OpenVinoEngine

    path = tmp_path / "m.onnx"
    model = onnx.load_from_string(write_fake_model(path).read_bytes())
    [pool] = [node for node in model.graph.node if node.op_type == "AveragePool"]
    pool.op_type = "Pad"  # with the inputs of a pool
    path.write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError):
        OpenVinoEngine(path)


def sparse(path: Path, start: bytes, size: int) -> Path:
    """A file that says it is huge and takes no room on the disk."""
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)
    return path


class Harmful:
    """Its pickle runs code when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(os.environ["DETKIT_TEST_MARK"]),)


def untrusted(kind: str, folder: Path) -> Path:
    path = folder / f"m.{kind.partition(' ')[0]}"
    what = kind.partition(" ")[2]
    if what == "pickle":
        path.write_bytes(pickle.dumps(Harmful()))
        return path
    if what.startswith("4 GB"):
        size = 4 << 30
        header = size.to_bytes(8, "little") + b'{"a":'
        varint = bytes([0x7A, *[0x80 | (size >> 7 * k) & 0x7F for k in range(4)], size >> 28])
        return sparse(
            path,
            {"safetensors": header, "onnx": varint, "xml": b"<?xml version='1.0'?><net>"}[path.suffix[1:]],
            size + 64,
        )
    if what == "tensors beyond the file":
        values = {"__metadata__": {"detkit": CARD.to_json()}}
        text = json.dumps(values | {"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4 << 40]}}).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text)
        return path
    whole = write_fake_model(path).read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    return path


@pytest.mark.parametrize(
    "kind",
    [
        "onnx pickle",
        "safetensors pickle",
        "xml pickle",
        "pt pickle",
        "pth pickle",
        "onnx 4 GB",
        "safetensors 4 GB",
        "xml 4 GB",
        "onnx truncated",
        "safetensors truncated",
        "xml truncated",
        "safetensors tensors beyond the file",
    ],
)
def test_untrusted_files_end_with_exit_4_and_one_line(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "the pickle ran"
    monkeypatch.setenv("DETKIT_TEST_MARK", str(mark))
    photo = tmp_path / "photo.png"
    write_image(photo, np.zeros((8, 8, 3), np.uint8))
    path = untrusted(kind, tmp_path)
    start_s = time.process_time()
    done = CliRunner().invoke(cli.app, ["detect", str(photo), "--weights", str(path), "--no-pictures"])
    assert done.exit_code == 4, done.output
    assert len(done.stderr.splitlines()) == 1
    assert str(path) in done.stderr
    assert not mark.exists()
    if kind != "safetensors tensors beyond the file":  # which PyTorch is imported for
        assert time.process_time() - start_s < 1


def test_the_same_from_a_shell(tmp_path: Path) -> None:
    path = untrusted("safetensors 4 GB", tmp_path)
    command = [sys.executable, "-m", "detkit", "weights", "info", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE.parent)
    assert done.returncode == 4
    assert done.stderr == (f"detkit: error: {path}: damaged: its header is longer than the file or than any real one\n")


def seed_file(kind: str, folder: Path) -> Path:
    """A whole model to damage; the part of its name after - says how it is run."""
    if kind == "onnx":
        return write_fake_model(folder / "fake.onnx")
    if kind == "openvino":
        pytest.importorskip("openvino")
        return write_fake_model(folder / "fake-openvino.onnx")
    if kind == "foreign":
        table = np.zeros((21, 7), np.float32)
        return write_tables(folder / "grid-yolox.onnx", {"output": table}, metadata={"names": "['cat', 'dog']"})
    if kind == "xml":
        pytest.importorskip("openvino")
        from detkit.export.openvino import write_openvino

        write_openvino(write_fake_model(folder / "fake.onnx"), folder / "fake.xml", CARD, half=False)
        return folder / "fake.xml"
    pytest.importorskip("torch")
    from dataclasses import replace

    from detkit.models.build import architecture
    from detkit.models.checkpoint import save_model
    from detkit.models.yolo import Yolo, YoloSettings

    anchors = (((8.0, 8.0),), ((32.0, 32.0),), ((80.0, 60.0),))
    settings = YoloSettings(backbone="lenet5", pretrained=False, width=8, anchors_per_scale=1)
    card = replace(CARD, architecture=architecture(settings), anchors_wh_px=anchors)
    save_model(folder / "yolo.safetensors", Yolo(settings, card.class_names, anchors), card)
    return folder / "yolo.safetensors"


def fuzz(kind: str, first: int, count: int, folder: Path, limit_s: float) -> None:
    """Run so many cases in a process of their own; whatever ends it but itself is a failure."""
    seed = seed_file(kind, folder)
    command = [sys.executable, str(HERE / "fuzz_models.py"), str(seed), str(first), str(count)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=limit_s, check=False, env=environment, cwd=folder
    )
    last = [line for line in done.stderr.splitlines() if line.isdecimal()][-1:]
    assert done.returncode == 0, f"{kind} crashed after case {last}: {done.stderr[-500:]}"
    result = json.loads(done.stdout)
    assert result["wrong"] == []
    assert sum(result["outcomes"].values()) == count
    assert result["slowest_s"] < 20, result


@pytest.mark.parametrize(
    ("kind", "count"), [("onnx", 35), ("openvino", 15), ("foreign", 25), ("xml", 15), ("safetensors", 10)]
)
def test_a_hundred_damaged_files_neither_crash_nor_hang(kind: str, count: int, tmp_path: Path) -> None:
    fuzz(kind, 0, count, tmp_path, limit_s=300)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "count"), [("onnx", 500), ("openvino", 300), ("foreign", 500), ("xml", 400), ("safetensors", 300)]
)
def test_two_thousand_damaged_files_neither_crash_nor_hang(kind: str, count: int, tmp_path: Path) -> None:
    fuzz(kind, 1000, count, tmp_path, limit_s=1800)


def test_damage_is_always_the_same_and_is_damage() -> None:
    whole = bytes(range(256)) * 8
    cases = [fuzz_models.damaged(whole, number) for number in range(200)]
    assert cases == [fuzz_models.damaged(whole, number) for number in range(200)]
    assert sum(case != whole for case in cases) > 190
    assert any(len(case) < len(whole) // 2 for case in cases)


@pytest.mark.parametrize("width", [16, 20_000, 10**6, 10**9])
def test_a_card_cannot_claim_more_memory_than_its_file_has_numbers_for(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20,000 channels would take 14 GB before the first tensor is compared."""
    path = seed_file("safetensors", tmp_path)
    import torch

    from detkit.models import checkpoint
    from detkit.weights import read_card

    tensors, metadata = checkpoint.load_tensors(path)
    card = json.loads(read_card(path).to_json())
    card["architecture"]["width"] = width
    checkpoint.save_tensors(path, tensors, metadata | {"detkit": json.dumps(card)})
    built, build = [], checkpoint.build

    def counted(*arguments: Any) -> Any:
        built.append(torch.empty(0).device.type)
        return build(*arguments)

    monkeypatch.setattr(checkpoint, "build", counted)
    with pytest.raises(
        WeightsError, match=r"yolo\.safetensors: (tensor .* has another shape|the card's network is larg)"
    ):
        checkpoint.load_model(path)
    assert built == ["meta"]
