"""Every kind of export gives its source's boxes and carries the card, and what would not is refused or not kept."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import onnx  # noqa: E402
from fake_model import CARD as FAKE_CARD  # noqa: E402
from fake_model import write_fake_model  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from test_export import CARD, trained  # noqa: E402

from detkit.detections import Detections  # noqa: E402
from detkit.engines import Outputs, open_engine  # noqa: E402
from detkit.engines.onnx import OnnxEngine  # noqa: E402
from detkit.errors import DataError, RunError, UsageError, WeightsError  # noqa: E402
from detkit.export.half import to_half  # noqa: E402
from detkit.export.make import Made, make  # noqa: E402
from detkit.export.photos import Photos, find_photos, noise_photos  # noqa: E402
from detkit.export.settings import ExportSettings  # noqa: E402
from detkit.export.verify import TOLERANCES, Proof, Tolerance, proof_of  # noqa: E402
from detkit.images import write_image  # noqa: E402
from detkit.infer.predictor import Predictor  # noqa: E402
from detkit.models.checkpoint import save_model  # noqa: E402
from detkit.weights import CARD_KEY, ModelCard, read_card  # noqa: E402

needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs the openvino extra")
SHOWING = replace(CARD, thresholds={"conf": 0.3, "iou": 0.4}, class_thresholds={"train": 0.35})


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network that finds some boxes in noise."""
    path, model = tmp_path_factory.mktemp("source") / "m.safetensors", trained()
    with torch.no_grad():
        raw = model(torch.from_numpy(np.stack(list(noise_photos(2, CARD.input_hw).read()))))
        for head, level in zip(model.heads, raw.levels, strict=True):
            head.to_box.weight *= 1.5 / level[..., :5].std()
            head.to_class.weight *= 1.5 / level[..., 5:].std()
            head.to_box.bias.zero_()
            head.to_class.bias.zero_()
    save_model(path, model, SHOWING)
    return path


def labelled_photos(root: Path) -> Path:
    """A data set of one photo in train and three in val, with a box each."""
    for split, count in (("train", 1), ("val", 3)):
        for number in range(count):
            for kind in ("images", "labels"):
                (root / kind / split).mkdir(parents=True, exist_ok=True)
            picture = noise_photos(number + 1, (64, 96)).images[number]
            assert isinstance(picture, np.ndarray)
            write_image(root / "images" / split / f"{split}{number}.png", picture)
            (root / "labels" / split / f"{split}{number}.txt").write_text("1 0.5 0.5 0.4 0.4\n")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, train]\n")
    return root


def proof(made: Made, photos: Photos | None = None) -> Proof:
    tolerance = TOLERANCES[made.settings.precision]
    return proof_of(made.open_source(), made.open(), photos or noise_photos(3, made.card.input_hw), tolerance)


CASES = {
    "onnx": ExportSettings(),
    "fixed": ExportSettings(size_hw=(96, 64), batch=3),
    "nms": ExportSettings(nms=True),
    "nms, own thresholds": ExportSettings(nms=True, conf=0.25, iou=0.3, max_det=7),
    "half": ExportSettings(precision="fp16"),
    "half, nms, fixed": ExportSettings(precision="fp16", nms=True, size_hw=(64, 64), batch=2),
    "torchscript": ExportSettings(to="torchscript"),
}
OPENVINO_CASES = {
    "openvino": ExportSettings(to="openvino"),
    "openvino, all": ExportSettings(to="openvino", precision="fp16", nms=True, size_hw=(64, 96), batch=2),
}


@pytest.fixture(scope="module")
def graph(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network as a graph, from which exports are made in no time."""
    with make(source, ExportSettings()) as made:
        return made.keep(tmp_path_factory.mktemp("graph") / "m.onnx")[0]


@pytest.mark.parametrize("case", [*CASES, *(pytest.param(case, marks=needs_openvino) for case in OPENVINO_CASES)])
def test_every_kind_gives_the_sources_boxes(source: Path, graph: Path, case: str) -> None:
    with make(source if case in ("onnx", "torchscript") else graph, (CASES | OPENVINO_CASES)[case]) as made:
        found = proof(made)
        assert found.boxes > 10
        assert found.passed, found
        engine = made.open()
        wanted = made.settings.size_hw or CARD.input_hw
        assert engine.card == made.card
        assert made.card.input_hw == wanted
        assert made.card.class_names == CARD.class_names
        assert made.card.max_det == ((made.settings.max_det or 100) if made.settings.nms else 0)
        if made.settings.conf is not None:
            assert made.card.class_conf() is None
            assert made.card.thresholds == {"conf": 0.25, "iou": 0.3}
        assert read_card(made.path) == made.card if made.settings.to != "torchscript" else True


def test_the_ends_say_what_is_fixed_and_what_is_not(graph: Path) -> None:
    with make(graph, CASES["onnx"]) as made:
        assert made.ends == {"images": ["B", "H", "W", "3"], "boxes": ["B", "N", "4"], "scores": ["B", "N", "2"]}
    with make(graph, CASES["fixed"]) as made:
        rows = str(2 * (12 * 8 + 6 * 4 + 3 * 2))  # anchors at strides 8, 16 and 32 of 96 x 64
        assert made.ends == {"images": ["3", "96", "64", "3"], "boxes": ["3", rows, "4"], "scores": ["3", rows, "2"]}
        assert onnx.load(made.path).producer_name == "detkit"
    with make(graph, CASES["nms"]) as made:
        assert made.ends == {"images": ["B", "H", "W", "3"], "detections": ["B", "100", "6"], "count": ["B"]}


def test_a_fixed_number_of_canvases_is_filled_up_or_split(graph: Path) -> None:
    canvases = np.stack(list(noise_photos(5, (96, 64)).canvases(replace(CARD, input_hw=(96, 64)))))
    with make(graph, ExportSettings(size_hw=(96, 64))) as plain, make(graph, CASES["fixed"]) as three:
        expected, engine = plain.open().run(canvases), three.open()
        for count in (1, 3, 5):
            found = engine.run(canvases[:count])
            assert found.boxes_xyxy.shape == expected.boxes_xyxy[:count].shape
            np.testing.assert_allclose(found.boxes_xyxy, expected.boxes_xyxy[:count], atol=1e-3)
            np.testing.assert_allclose(found.scores, expected.scores[:count], atol=1e-5)


@needs_openvino
def test_openvino_runs_its_own_format_at_every_size_and_number(graph: Path, tmp_path: Path) -> None:
    with make(graph, OPENVINO_CASES["openvino"]) as made:
        files = made.keep(tmp_path / "m.xml")
    assert [file.name for file in files] == ["m.xml", "m.bin"]
    engine, reference = open_engine(tmp_path / "m.xml"), open_engine(graph)
    assert engine.name == "openvino"
    for shape in ((1, 64, 96), (2, 32, 160)):
        canvases = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
        found, expected = engine.run(canvases), reference.run(canvases)
        np.testing.assert_allclose(found.boxes_xyxy, expected.boxes_xyxy, atol=0.01)
    assert (tmp_path / "m.xml").read_text().count(f"<{CARD_KEY} ") == 1
    (tmp_path / "m.bin").unlink()
    with pytest.raises(WeightsError, match="cannot load it"):
        open_engine(tmp_path / "m.xml")


def test_from_an_onnx_file_without_torch_what_a_graph_allows(tmp_path: Path) -> None:
    source = write_fake_model(tmp_path / "m.onnx")  # one size, any number
    with make(source, ExportSettings(nms=True, conf=0.3, batch=2)) as made:
        assert made.ends["detections"] == ["2", "100", "6"]
        found = proof(made, noise_photos(3, FAKE_CARD.input_hw))
        assert found.passed
        assert found.boxes > 3
        made.keep(tmp_path / "nms.onnx")
    for source_name, settings, message in (
        ("m.onnx", ExportSettings(to="torchscript"), "needs the .safetensors"),
        ("m.onnx", ExportSettings(size_hw=(128, 128)), "was made for H = 64"),
        ("m.onnx", ExportSettings(size_hw="dynamic"), "was made for H = 64"),
        ("nms.onnx", ExportSettings(nms=True), "inside already"),
        ("nms.onnx", ExportSettings(batch=1), "was made for B = 2"),
    ):
        with pytest.raises(UsageError, match=message), make(tmp_path / source_name, settings):
            pass


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nms": True, "conf": 0.0}, "--conf"),
        ({"nms": True, "iou": 1.5}, "--iou"),
        ({"nms": True, "max_det": 0}, "--max-det"),
        ({"conf": 0.5}, "for --nms"),
        ({"size_hw": (320, 330)}, "try 320"),
        ({"size_hw": (8192, 320)}, "try 4096"),
        ({"batch": 0}, "--batch"),
        ({"to": "torchscript", "nms": True}, "--nms"),
        ({"to": "torchscript", "precision": "fp16"}, "--half"),
        ({"to": "torchscript", "precision": "int8"}, "--int8"),
        ({"to": "torchscript", "batch": 2}, "--batch"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExportSettings(**settings)


def test_models_that_cannot_have_it_are_refused() -> None:
    card = replace(CARD, task="landmarks", point_names=("eye",))
    for settings in (ExportSettings(nms=True), ExportSettings(size_hw=(32, 32))):
        with pytest.raises(UsageError, match="a model for landmarks"):
            settings.check_model(card)
    ExportSettings(size_hw=CARD.input_hw).check_model(card)
    for settings in (ExportSettings(nms=True), ExportSettings(size_hw=CARD.input_hw)):
        with pytest.raises(UsageError, match="several sizes"):
            settings.check_model(replace(CARD, task="window"))
    with pytest.raises(UsageError, match="give --conf"):
        ExportSettings(nms=True).check_model(replace(CARD, thresholds={"conf": 0.0, "iou": 0.5}))


def test_the_predictor_refuses_what_the_graph_has_dropped(graph: Path, tmp_path: Path) -> None:
    target = tmp_path / "nms.onnx"
    with make(graph, CASES["nms, own thresholds"]) as made:
        made.keep(target)
    assert Predictor(target).selection.max_det == 7
    assert Predictor(target, conf=0.25, iou=0.3, nms="agnostic").selection.conf == 0.25
    for settings in ({"conf": 0.24}, {"iou": 0.5}, {"max_det": 8}, {"nms": "soft"}):
        with pytest.raises(UsageError, match="inside"):
            Predictor(target, **settings)  # type: ignore[arg-type]


def test_keeping_never_touches_the_source_and_leaves_nothing_half(source: Path, tmp_path: Path) -> None:
    own = write_fake_model(tmp_path / "m.onnx")
    before = own.read_bytes()
    with make(own, ExportSettings()) as made:
        for target, message in (
            (own, "never changed"),
            (tmp_path / "m.pt", "writes a .onnx"),
            (tmp_path / "no" / "m.onnx", "folder"),
        ):
            with pytest.raises(UsageError, match=message):
                made.keep(target)
        made.path.unlink()
        with pytest.raises(RunError):
            made.keep(tmp_path / "new.onnx")
    assert own.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("to", ["onnx", pytest.param("openvino", marks=needs_openvino)])
def test_int8_is_calibrated_on_the_canvases_and_says_so(graph: Path, to: Any) -> None:
    settings = ExportSettings(to, nms=True, precision="int8")
    canvases = list(noise_photos(8, CARD.input_hw).canvases(SHOWING))
    with make(graph, settings, canvases) as made, make(graph, CASES["nms"]) as full:
        assert made.card.training["quantised"]["photos"] == 8
        assert read_card(made.path) == made.card
        found = proof_of(full.open(), made.open(), noise_photos(3, CARD.input_hw), TOLERANCES["int8"])
        assert found.matched > 0.7 * found.boxes > 7
        if to == "onnx":
            made.keep(graph.with_name("int8.onnx"))
            for precision in ("fp16", "int8"):
                again = ExportSettings(precision=precision)  # type: ignore[arg-type]
                with pytest.raises(UsageError, match="quantised already"), make(graph.with_name("int8.onnx"), again):
                    pass


def test_half_stores_halves_and_decodes_in_full(graph: Path) -> None:
    with make(graph, CASES["half"]) as made, make(graph, CASES["onnx"]) as full:
        half = onnx.load(made.path)
        onnx.checker.check_model(half, full_check=True)
        assert made.path.stat().st_size < 0.7 * full.path.stat().st_size
    kinds = {tensor.data_type for tensor in half.graph.initializer if tensor.dims and np.prod(tensor.dims) > 100}
    assert kinds == {TensorProto.FLOAT16}
    assert [port.type.tensor_type.elem_type for port in half.graph.output] == [TensorProto.FLOAT] * 2
    assert not any(name.startswith("boxes") and name.endswith("_half") for n in half.graph.node for name in n.output)


def test_half_cuts_what_is_too_large_and_leaves_whole_numbers_alone(tmp_path: Path) -> None:
    """x -> conv by 1e6 (cut to 65504) -> conv by 2 ** -16, beside a Shape that must stay what it is."""
    weights = {name: np.full((1, 1, 1, 1), value, np.float32) for name, value in (("large", 1e6), ("small", 2.0**-16))}
    nodes = [
        helper.make_node("Conv", ["x", "large"], ["a"]),
        helper.make_node("Conv", ["a", "small"], ["b"]),
        helper.make_node("Shape", ["b"], ["s"]),
        helper.make_node("Identity", ["b"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 2, 2]) for name in "xy"]
    shape = helper.make_tensor_value_info("s", TensorProto.INT64, [4])
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], [ends[1], shape], tensors)
    model = to_half(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    onnx.checker.check_model(model, full_check=True)
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    y, s = session.run(None, {"x": np.full((1, 1, 2, 2), 0.5, np.float32)})
    np.testing.assert_allclose(y, 65504 * 0.5 / 2**16, rtol=1e-3)
    assert s.tolist() == [1, 1, 2, 2]


class Stub:
    """An engine that says the same boxes of every canvas."""

    name, parallel = "stub", 1

    def __init__(self, card: ModelCard, boxes: Any, scores: Any) -> None:
        self.card = card
        self.outputs = Outputs(np.array([boxes], np.float32), np.array([scores], np.float32))

    def run(self, batch_rgb: np.ndarray) -> Outputs:
        return self.outputs


BOXES = [[0, 0, 20, 20], [30, 30, 60, 60]]
SCORES = [[0.9, 0.0], [0.0, 0.5]]
STUB_CARD = ModelCard("yolo", {}, ("a", "b"), (64, 64), thresholds={"conf": 0.4, "iou": 0.5})
STRICT = Tolerance(0.1, 1e-3)


def stub_proof(boxes: Any = BOXES, scores: Any = SCORES, tolerance: Tolerance = STRICT, **card: Any) -> Proof:
    """Of the export's boxes, on a photo twice as large as the canvas."""
    own = replace(STUB_CARD, **card)
    photos = Photos("grey", [np.full((128, 128, 3), 114, np.uint8)])
    return proof_of(Stub(own, BOXES, SCORES), Stub(own, boxes, scores), photos, tolerance)


def test_differences_are_measured_on_the_canvas() -> None:
    same = stub_proof()
    assert (same.boxes, same.matched, same.box_px, same.score, same.passed) == (2, 2, 0.0, 0.0, True)
    moved = stub_proof([[0, 0, 20, 20.5], [30, 30, 60, 60]], [[0.9, 0.0], [0.0, 0.53]])
    assert moved.box_px == pytest.approx(0.5, abs=1e-4)
    assert moved.score == pytest.approx(0.03, abs=1e-6)
    assert not moved.passed
    with pytest.raises(RunError, match=r"2 of 2 boxes matched, up to 0\.5 px and 0\.03 apart"):
        moved.require()


def test_a_box_that_one_side_lacks_is_not_matched() -> None:
    assert stub_proof(scores=[[0.9, 0.0], [0.0, 0.0]]).share == 0.5
    elsewhere = stub_proof([[0, 0, 20, 20], [100, 100, 120, 120]])
    assert (elsewhere.boxes, elsewhere.matched) == (2, 1)  # outside the photo: the export shows one box
    other_class = stub_proof(scores=[[0.9, 0.0], [0.5, 0.0]])
    assert (other_class.boxes, other_class.matched) == (3, 1)
    assert not other_class.passed


def test_a_box_below_the_threshold_of_one_side_is_matched_if_it_is_there() -> None:
    assert stub_proof(scores=[[0.9, 0.0], [0.0, 0.39]]).matched == 2
    assert stub_proof(scores=[[0.9, 0.0], [0.0, 0.39]], thresholds={"conf": 0.4, "iou": 0.5}).boxes == 2
    edge = replace(STRICT, score=0.2)  # 0.5 is no further than this from the threshold
    assert stub_proof(scores=[[0.9, 0.0], [0.0, 0.0]], tolerance=edge).boxes == 1


def test_nan_never_passes() -> None:
    assert not stub_proof(scores=[[float("nan"), 0.0], [0.0, 0.5]]).passed


def test_networks_that_see_nothing_are_compared_row_by_row() -> None:
    blind = {"thresholds": {"conf": 0.95, "iou": 0.5}}
    found = stub_proof([[0, 0, 20, 20.25], [30, 30, 60, 60]], **blind)
    assert (found.boxes, found.matched) == (2, 2)
    assert found.box_px == 0.25
    assert not found.passed


def test_photos_of_a_data_set_come_from_val_and_bring_their_figures(graph: Path, tmp_path: Path) -> None:
    data = labelled_photos(tmp_path / "data")
    photos = find_photos(data, 2, SHOWING)
    assert photos.labels is not None
    assert photos.name == f"{data}, split val"
    assert [image.name for image in photos.images if isinstance(image, Path)] == ["val0.png", "val2.png"]
    assert find_photos(data, 9, SHOWING, split="train").images == [data / "images" / "train" / "train0.png"]
    assert find_photos(data / "images" / "val", 9, SHOWING).labels is None
    assert len(find_photos(data / "images" / "val", 9, SHOWING)) == 3
    with pytest.raises(WeightsError, match="class"):
        find_photos(data, 2, replace(SHOWING, class_names=("train", "cat"), class_thresholds={}))
    with pytest.raises(DataError, match="no such"):
        find_photos(tmp_path / "nowhere", 2, SHOWING)
    with make(graph, CASES["onnx"]) as made:
        found = proof(made, photos)
    assert set(found.figures) == {"AP", "AP50"}
    assert found.figures["AP"][0] == pytest.approx(found.figures["AP"][1])
    assert found.to_dict()["figures"]["AP50"]["delta"] == pytest.approx(0)


def test_points_are_compared_on_the_labelled_boxes() -> None:
    """A second engine whose points lie half a canvas pixel further right."""
    card = ModelCard("landmarks", {}, ("face",), (32, 32), point_names=("eye", "nose"), crop_margin=0.0)

    class Points(Stub):
        def __init__(self, shift: float) -> None:
            self.card, self.shift = card, shift

        def run(self, batch_rgb: np.ndarray) -> Outputs:
            count = len(batch_rgb)
            points = np.tile(np.float32([[4, 5, 0.9], [20, 9, 0.8]]), (count, 1, 1, 1))
            points[..., 0] += self.shift
            return Outputs(np.zeros((count, 1, 4), np.float32), np.zeros((count, 1, 1), np.float32), points)

    photos = Photos("grey", [np.zeros((64, 64, 3), np.uint8)])
    found = proof_of(Points(0), Points(0.5), photos, STRICT)
    assert (found.boxes, found.matched) == (1, 1)
    assert found.box_px == pytest.approx(0.5, abs=1e-4)


def test_noise_is_the_same_every_time_and_looks_like_something() -> None:
    first, second = noise_photos(2, (64, 96)), noise_photos(2, (64, 96))
    for a, b in zip(first.images, second.images, strict=True):
        np.testing.assert_array_equal(a, b)
        assert isinstance(a, np.ndarray)
        assert a.shape == (64, 96, 3)
        assert 40 < a.std() < 90
    assert isinstance(Predictor(Stub(STUB_CARD, BOXES, SCORES)).predict(np.zeros((64, 64, 3), np.uint8)), Detections)


def test_the_shipped_model_is_the_same_in_three_runtimes(shared_data: Path) -> None:
    """torch = onnxruntime = OpenVINO on real photos; 50 of them take 15 s: 92 of 92 boxes, 0.0003 px, 0.000002."""
    root = Path(__file__).parent.parent / "weights"
    photos = find_photos(shared_data / "street5", 4, read_card(root / "street.onnx"))
    from detkit.engines.torch import TorchEngine

    first = TorchEngine.open(root / "street.safetensors")
    others = [OnnxEngine(root / "street.onnx")]
    if importlib.util.find_spec("openvino") is not None:
        from detkit.engines.openvino import OpenVinoEngine

        others.append(OpenVinoEngine(root / "street.onnx", precision="fp32"))  # type: ignore[arg-type]
    for other in others:
        found = proof_of(first, other, photos, STRICT)
        assert found.boxes > 4
        assert found.passed, found
