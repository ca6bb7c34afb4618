"""int8: decoding stays in float32, the card survives, the boxes stay; weights are rounded to keep the output."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx", reason="onnx comes with the train extra")

from detkit.boxes import iou_pairs  # noqa: E402
from detkit.engines.onnx import OnnxEngine  # noqa: E402
from detkit.errors import DataError, RunError, WeightsError  # noqa: E402
from detkit.export import quantise  # noqa: E402
from detkit.export.quantise import Quantised, quantise_int8  # noqa: E402
from detkit.export.rounding import Moments, rounded  # noqa: E402
from detkit.images import place, read_image  # noqa: E402
from detkit.infer.predictor import Predictor  # noqa: E402
from detkit.weights import CARD_KEY, ModelCard, find_weights, read_card  # noqa: E402

PHOTOS = Path(__file__).parent / "data" / "photos"
CARD = ModelCard("yolo", {"name": "two layers"}, ("cat", "dog", "cow"), (16, 16))
Canvases = list[NDArray[np.uint8]]


def sample_canvases(card: ModelCard) -> Canvases:
    """The three sample photos and their mirror images, and two quarters: eight canvases."""
    photos = [read_image(path) for path in sorted(PHOTOS.glob("*.jpg"))]
    photos += [photo[:, ::-1].copy() for photo in photos]
    photos += [photo[: len(photo) // 2, : photo.shape[1] // 2].copy() for photo in photos[:2]]
    return [place(photo, card.input_hw, card.fit, card.pad_value)[0] for photo in photos]


def small_graph(
    path: Path, *, mean: float | list[float] = 127.5, batch: int | str = "B", dtype: type = np.float32
) -> Path:
    """(pixel - mean) / 64, a 3x3 convolution to 8 channels, ReLU, a 1x1 to 7, and a decoding with a sigmoid."""
    helper, kind, rng = onnx.helper, onnx.TensorProto, np.random.default_rng(0)
    floats = kind.FLOAT if dtype is np.float32 else kind.FLOAT16
    held = {
        "mean": np.broadcast_to(np.array(mean, dtype), 3).reshape(1, 3, 1, 1),
        "deviation": np.full((1, 3, 1, 1), 64, dtype),
        "w1": rng.normal(0, 0.3, (8, 3, 3, 3)).astype(dtype),
        "b1": rng.normal(0, 0.3, 8).astype(dtype),
        "w2": rng.normal(0, 0.3, (7, 8, 1, 1)).astype(dtype),
        "b2": rng.normal(0, 0.3, 7).astype(dtype),
        "rows": np.array([0, -1, 7]),
        "four": np.array([4]),
        "seven": np.array([7]),
        "zero": np.array([0]),
        "last": np.array([2]),
    }
    nodes = [
        helper.make_node("Transpose", ["images"], ["chw"], name="turn", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["chw"], ["float"], name="cast", to=floats),
        helper.make_node("Sub", ["float", "mean"], ["centred"], name="minus"),
        helper.make_node("Div", ["centred", "deviation"], ["normal"], name="over"),
        helper.make_node("Conv", ["normal", "w1", "b1"], ["c1"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], name="head"),
        helper.make_node("Transpose", ["c2"], ["hwc"], name="back", perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["hwc", "rows"], ["flat"], name="flatten"),
        helper.make_node("Slice", ["flat", "zero", "four", "last"], ["offsets"], name="box part"),
        helper.make_node("Slice", ["flat", "four", "seven", "last"], ["logits"], name="class part"),
        helper.make_node("Sigmoid", ["logits"], ["halves"], name="squash"),
        helper.make_node("Cast", ["halves"], ["scores"], name="scores", to=kind.FLOAT),
        helper.make_node("Cast", ["offsets"], ["boxes"], name="boxes", to=kind.FLOAT),
    ]
    ends = [("boxes", 4), ("scores", 3)]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", kind.UINT8, (batch, "H", "W", 3))],
        [helper.make_tensor_value_info(name, kind.FLOAT, (batch, "N", length)) for name, length in ends],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in held.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {CARD_KEY: CARD.to_json()})
    onnx.save(model, path)
    return path


def noise(count: int = 6, side: int = 16) -> Canvases:
    return list(np.random.default_rng(1).integers(0, 256, (count, side, side, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Quantised]:
    source, target = find_weights("street-small"), tmp_path_factory.mktemp("int8") / "street.onnx"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(quantise, "_ROUNDING_PHOTOS", 2)  # quicker
        return target, quantise_int8(source, target, sample_canvases(read_card(source)))


def test_a_real_model_keeps_its_boxes_its_card_and_its_sizes(street: tuple[Path, Quantised]) -> None:
    path, done = street
    source = find_weights("street-small")
    assert path.stat().st_size < source.stat().st_size / 3
    card = read_card(source)
    assert read_card(path) == done.card
    assert {**done.card.training, "quantised": None} == {**card.training, "quantised": None}
    assert done.card.training["quantised"] == {"precision": "int8", "photos": 8}
    assert (done.photos, done.layers, done.kept) == (8, 79, 6)
    photo = read_image(PHOTOS / "chelsea.jpg")
    found, wanted = (Predictor(OnnxEngine(file)).predict(photo) for file in (path, source))
    assert found.labels[0] == wanted.labels[0]
    assert found.scores is not None
    assert wanted.scores is not None
    assert abs(found.scores[0] - wanted.scores[0]) < 0.1
    assert iou_pairs(found.boxes_xyxy[:1], wanted.boxes_xyxy[:1])[0] > 0.9
    other_size = OnnxEngine(path).run(np.zeros((2, 64, 96, 3), np.uint8))
    assert other_size.boxes_xyxy.shape[:2] == (2, 3 * (8 * 12 + 4 * 6 + 2 * 3))


def test_decoding_and_the_last_layers_of_a_real_model_stay_float(street: tuple[Path, Quantised]) -> None:
    model = onnx.load(street[0])
    producers = {name: node for node in model.graph.node for name in node.output}
    waiting, heads, after = ["boxes", "scores"], set(), set()
    while waiting:
        node = producers.get(waiting.pop())
        if node is None or node.name in after | heads or node.op_type == "Shape":
            continue
        assert "Quantize" not in node.op_type
        assert "Dequantize" not in node.op_type
        if node.op_type == "Conv":
            heads.add(node.name)
            assert producers.get(node.input[1]) is None  # its weights are no int8
        else:
            after.add(node.name)
            waiting += node.input
    assert len(heads) == 6  # boxes and classes at three scales
    assert [entry.domain for entry in model.opset_import] == [""]
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize("mean", [127.5, [124.0, 116.0, 104.0]])
def test_pixels_are_read_as_they_are_where_channels_are_normalised_alike(
    tmp_path: Path, mean: float | list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    source = small_graph(tmp_path / "m.onnx", mean=mean)
    done = quantise_int8(source, tmp_path / "q.onnx", noise())
    assert (done.layers, done.kept) == (1, 1)
    graph = onnx.load(tmp_path / "q.onnx").graph
    assert ("Sub" in [node.op_type for node in graph.node]) == isinstance(mean, list)
    assert {"w1_quantized", "w2"} <= {tensor.name for tensor in graph.initializer}  # the last layer's are floats
    canvases = np.stack(noise(20))
    found, wanted = (OnnxEngine(tmp_path / name).run(canvases) for name in ("q.onnx", "m.onnx"))
    off = found.boxes_xyxy - wanted.boxes_xyxy
    assert np.abs(off).max() < 0.5  # of values from -9 to 6: a step of the map before is 0.03, and has 8 channels
    assert np.abs(off.mean((0, 1))).max() < 0.004  # 0.015 where half a grey level is forgotten
    assert np.abs(found.scores - wanted.scores).max() < 0.05
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "q.onnx"]


def test_a_graph_for_a_fixed_number_of_canvases_is_calibrated_too(tmp_path: Path) -> None:
    source = small_graph(tmp_path / "m.onnx", batch=2)
    quantise_int8(source, tmp_path / "q.onnx", noise())
    canvases = np.stack(noise(2))
    found, wanted = (OnnxEngine(tmp_path / name).run(canvases) for name in ("q.onnx", "m.onnx"))
    assert np.abs(found.scores - wanted.scores).max() < 0.05


@pytest.mark.parametrize(
    ("canvases", "told"),
    [
        ([], "no photos"),
        ([np.zeros((16, 32, 3), np.uint8)], r"uint8 \[16, 32, 3\]; expected uint8 \[16, 16, 3\]"),
        ([*noise(1), np.zeros((16, 16), np.uint8)], r"\[16, 16\]"),
        ([np.zeros((16, 16, 3), np.float32)], "float32"),
    ],
)
def test_a_bad_calibration_set_is_one_line(tmp_path: Path, canvases: Iterable[NDArray[np.uint8]], told: str) -> None:
    source = small_graph(tmp_path / "m.onnx")
    with pytest.raises(DataError, match=told) as caught:
        quantise_int8(source, tmp_path / "q.onnx", iter(canvases))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "q.onnx").exists()


def test_what_cannot_be_quantised_is_one_line(tmp_path: Path, colour_model: Path) -> None:
    source = small_graph(tmp_path / "m.onnx")
    quantise_int8(source, tmp_path / "q.onnx", noise())
    with pytest.raises(WeightsError, match="quantised already"):
        quantise_int8(tmp_path / "q.onnx", tmp_path / "again.onnx", noise())
    with pytest.raises(WeightsError, match="float16"):
        quantise_int8(small_graph(tmp_path / "h.onnx", dtype=np.float16), tmp_path / "again.onnx", noise())
    with pytest.raises(WeightsError, match="no convolutions"):
        quantise_int8(colour_model, tmp_path / "again.onnx", noise(side=32))
    (tmp_path / "torn.onnx").write_bytes(source.read_bytes()[:300])
    with pytest.raises(WeightsError, match=r"torn\.onnx"):
        quantise_int8(tmp_path / "torn.onnx", tmp_path / "again.onnx", noise(), CARD)
    with pytest.raises(RunError, match="cannot be written"):
        quantise_int8(source, tmp_path / "nowhere" / "q.onnx", noise())
    assert not (tmp_path / "again.onnx").exists()


def output_error(layer: object, weights: NDArray[np.float32], ints: NDArray[np.int8], x: NDArray[np.float32]) -> float:
    """RMS of what rounding changes in a depthwise 3x3's output, steps of 0.1."""
    wrong = ints[:, 0] * np.float32(0.1) - weights[:, 0]
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x[0], ((0, 0), (1, 1), (1, 1))), (3, 3), (1, 2))
    return float(np.sqrt((np.einsum("chwij,cij->chw", windows, wrong) ** 2).mean()))


def test_rounding_keeps_the_output_of_a_depthwise_layer_on_smooth_maps() -> None:
    """Nine equal inputs: what counts is the sum of the nine errors, which plain rounding leaves to chance."""
    rng = np.random.default_rng(2)
    x = np.broadcast_to(rng.uniform(1, 6, (1, 5, 1, 1)), (1, 5, 12, 12)).astype(np.float32)
    x = x + rng.normal(0, 0.05, x.shape).astype(np.float32)
    weights = rng.normal(0, 2, (5, 1, 3, 3)).astype(np.float32)
    layer = onnx.helper.make_node("Conv", ["x", "w"], ["y"], group=5, pads=[1, 1, 1, 1])
    moments = Moments(layer, weights)
    moments.add(x)
    scales = np.full(5, 0.1, np.float32)
    plain = np.round(weights / 0.1).astype(np.int8)
    better = rounded(moments, scales)
    assert better.shape == weights.shape
    assert np.abs(better - plain.astype(int)).max() <= 2
    assert output_error(layer, weights, better, x) < 0.7 * output_error(layer, weights, plain, x)


@pytest.mark.parametrize(
    ("attributes", "shape"),
    [
        ({}, (6, 4, 1, 1)),
        ({"group": 2, "strides": [2, 1], "pads": [1, 0, 2, 1]}, (6, 2, 3, 2)),
        ({"dilations": [2, 3], "pads": [2, 3, 2, 3]}, (6, 4, 3, 3)),
    ],
)
def test_moments_are_those_of_the_patches_a_layer_sees(attributes: dict[str, object], shape: tuple[int, ...]) -> None:
    """The products give the mean square of what the layer gives, which PyTorch computes here."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    x, weights = rng.normal(size=(1, 4, 9, 11)).astype(np.float32), rng.normal(size=shape).astype(np.float32)
    moments = Moments(onnx.helper.make_node("Conv", ["x", "w"], ["y"], **attributes), weights)
    for _ in range(100):  # places are drawn at random
        moments.add(x)
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))  # type: ignore[misc]
    padded = torch.nn.functional.pad(torch.from_numpy(x), (left, right, top, bottom))
    kept = {"stride": attributes.get("strides", 1), "dilation": attributes.get("dilations", 1)}
    wanted = torch.nn.functional.conv2d(padded, torch.from_numpy(weights), groups=moments.groups, **kept)
    places = wanted.shape[2] * wanted.shape[3]
    rows = weights.reshape(moments.groups, -1, weights[0].size)
    [products] = moments.products
    squares = np.einsum("grd,gde,gre->gr", rows, products, rows).ravel() / (100 * min(256, places))
    assert squares == pytest.approx((wanted[0] ** 2).mean((1, 2)).numpy(), rel=0.05)


def test_int8_weights_stay_in_range_and_dead_channels_are_zero() -> None:
    weights = np.zeros((3, 2, 1, 1), np.float32)
    weights[0] = 12.8
    moments = Moments(onnx.helper.make_node("Conv", ["x", "w"], ["y"]), weights)
    moments.add(np.ones((1, 2, 4, 4), np.float32))
    assert rounded(moments, np.array([0.1, 1.0, 1e-9], np.float32))[:, :, 0, 0].tolist() == [[127, 127], [0, 0], [0, 0]]
