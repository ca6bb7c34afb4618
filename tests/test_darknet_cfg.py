"""Darknet's cfg files: shapes by hand, every mistake at its line, and no text that crashes or takes memory."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_darknet import EVERYTHING, REGION, SQUARED, YOLO

from detkit.errors import WeightsError
from detkit.models.darknet.cfg import Cfg, parse_cfg
from detkit.models.darknet.layers import Conv, Head, MaxPool, Route


def test_shapes_by_hand() -> None:
    cfg = parse_cfg(EVERYTHING)
    assert cfg.input_hw == (64, 96)
    assert not cfg.letterbox
    found = [(shape.channels, shape.height, shape.width, float(shape.stride_px)) for shape in cfg.shapes]
    assert found == [
        (8, 32, 48, 2),
        (8, 32, 48, 2),
        (8, 1, 1, 2),
        (8, 1, 1, 2),
        (8, 1, 1, 2),
        (8, 32, 48, 2),
        (8, 32, 48, 2),
        (8, 16, 24, 4),
        (8, 16, 24, 4),
        (32, 8, 12, 8),
        (32, 8, 12, 8),  # stride 1 with one row and column more
        (12, 4, 6, 16),
        (14, 4, 6, 16),
        (14, 4, 6, 16),
        (12, 4, 6, 16),
        (12, 8, 12, 8),
        (22, 8, 12, 8),  # the second halves of 12 and 32 channels
        (14, 8, 12, 8),
        (14, 8, 12, 8),
    ]
    assert cfg.layers[10] == MaxPool(2, 1, 1)
    assert cfg.layers[16] == Route((15, 10), 2, 1)
    yolo, region = cfg.heads
    assert yolo == Head(((20, 30), (30.5, 20)), 16, 2, 1.05)
    assert region == Head(((12, 16), (4, 2)), 8, 2, softmax=True)  # anchors in cells of 8 px


def test_what_darknet_takes_where_a_key_is_missing() -> None:
    bare = "[net]\nwidth=32\nheight=32\n[convolutional]\n[maxpool]\nstride=2\n" + "[convolutional]\nfilters=25\n"
    first, second, _ = parse_cfg(bare + "activation=linear\n[yolo]\nanchors=3,4").layers[:3]
    assert first == Conv(3, 1, 1, 1, 0, 1, False, "logistic")
    assert second == MaxPool(2, 2, 1)


def test_pad_goes_before_padding() -> None:
    layer = parse_cfg(YOLO.replace("pad=1", "pad=1\npadding=2")).layers[0]
    assert isinstance(layer, Conv)
    assert layer.padding == 1


@pytest.mark.parametrize("text", [EVERYTHING, YOLO, SQUARED, REGION])
def test_the_text_kept_says_the_same_and_nothing_of_training(text: str) -> None:
    cfg = parse_cfg(text)
    assert parse_cfg(cfg.text) == cfg
    assert "jitter" not in cfg.text
    assert "#" not in cfg.text


def line_of(text: str, words: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if words in line)


MISTAKES = {  # what to replace, by what, words of the message, words on the line it names
    "a section": ("[dropout]", "[lstm]", "unknown section", "[lstm]"),
    "an activation": ("activation=mish", "activation=gelu", "found 'gelu'; expected linear or leaky", "gelu"),
    "a key": ("stride=2\npad=1", "stirde=2\npad=1", "'stirde', which may change the network; did you mean str", "stir"),
    "a key not built": ("groups=8", "groups=8\ndilation=2", "dilation is not supported; found '2'; expected 1", "dila"),
    "no number": ("filters=12", "filters=12x", "found '12x'; expected a whole number", "filters=12x"),
    "a billion filters": ("filters=12", "filters=1000000000", "found '1000000000'", "filters=1000000000"),
    "nan": ("20,30", "nan,30", "found 'nan'; expected a number, 0.001 to", "nan"),
    "anchors": ("20,30,", "20,", "found 5 numbers; expected 6", "anchors=5"),
    "a mask": ("mask=1,2", "mask=1,3", "found '3'; expected whole numbers, 0 to 2", "mask"),
    "filters of a head": (
        "filters=14\nactivation=linear\n\n[yolo]",
        "filters=15\nactivation=linear\n\n[yolo]",
        "found 15; expected 14 = 2 anchors x (5 + 2 classes)",
        "[yolo]",
    ),
    "no convolution before a head": ("[yolo]", "[dropout]\n[yolo]", "found Dropout; expected a convolution", "[yolo]"),
    "a layer to come": ("layers=-1,10", "layers=-1,17", "expected a layer before this one, 0 to 15", "-1,17"),
    "a head as a map": ("layers=-3", "layers=-1", "names a head", "layers=-1"),
    "a head's convolution": ("layers=-3", "layers=-2", "names a head", "layers=-2"),
    "a map of a head": ("[route]\nlayers=-3\n", "", "follows a head", "[upsample]"),
    "maps of two sizes": ("layers=-1,10", "layers=-1,7", "found 8 x 12, 16 x 24", "-1,7"),
    "shapes added": ("from=0", "from=2", "found 8 x 1 x 1; expected 8 x 32 x 48", "from=2"),
    "groups": ("groups=8", "groups=3", "found 3, for 8 channels and 8 filters", "groups=3"),
    "a side": ("width = 96", "width = 90", "found 90; expected a multiple of 32", "width"),
    "no side": ("width = 96", "", "found '0'; expected a whole number, 32 to 4096", "[net]"),
    "grey": ("channels=3", "channels=1", "expected a whole number, 3 to 3", "channels"),
    "given twice": ("filters=12", "filters=12\nfilters=13", "filters is given twice", "filters=13"),
    "no softmax": ("softmax=1", "softmax=0", "without softmax=1", "[region]"),
    "no key": ("filters=12", "filters", "is no line of a Darknet cfg; found 'filters'", "filters"),
}


@pytest.mark.parametrize("case", [name for name, row in MISTAKES.items() if row[2]])
def test_a_mistake_is_named_at_its_line(case: str) -> None:
    old, new, words, where = MISTAKES[case]
    text = EVERYTHING.replace(old, new, 1)
    assert text != EVERYTHING
    with pytest.raises(WeightsError) as caught:
        parse_cfg(text, "net.cfg")
    assert words in str(caught.value)
    lines = [number for number, line in enumerate(text.splitlines(), 1) if where in line]
    assert caught.value.line in lines, caught.value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no section"),
        ("hello", "expected [net]"),
        ("[convolutional]\nfilters=3", "is the first section; expected [net]"),
        ("[net]\nwidth=32\nheight=32", "is alone"),
        ("[net]\nwidth=32\nheight=32\n[avgpool]", "is the last section; expected [yolo] or [region]"),
        ("[net]\nwidth=32\nheight=32\n[yolo]\nanchors=1,2", "found NoneType; expected a convolution"),
        ("[net]\nwidth=32\nheight=32\n[convolutional]\nsize=40", "larger than the map; found 40 on 32 x 32"),
        ("[net]\n" * 2001, "too many sections"),
        ("[net]\n" + " " * (1 << 20), "too long"),
    ],
)
def test_no_network_at_all(text: str, words: str) -> None:
    with pytest.raises(WeightsError) as caught:
        parse_cfg(text, "net.cfg")
    assert words in str(caught.value)


def test_cells_must_tile_the_canvas() -> None:
    with pytest.raises(WeightsError, match="do not tile the canvas; found 2 x 3 for 32 x 64 px"):
        parse_cfg(YOLO.replace("stride=32", "stride=30"))


def test_a_letterboxed_network_says_so() -> None:
    assert parse_cfg(YOLO.replace("channels=3", "channels=3\nletter_box=1")).letterbox


def test_networks_larger_than_any_are_refused_without_memory() -> None:
    net, rest = YOLO.split("channels=3\n")
    layer = "[convolutional]\nfilters={}\nsize=3\npad=1\n"
    large = net.replace("64", "1024").replace("32", "1024")
    tracemalloc.start()
    for text, words in (
        (net + 2 * layer.format(60000) + rest, "is too large a network; found 32,4"),
        (large + 12 * layer.format(100) + rest, "is too slow a network; found 1,0"),
        (large + layer.format(200) + rest, "gives too large a map; found 200 x 1024 x 1024"),
        (net + "[upsample]\nstride=64\n" * 20 + rest, "gives too large a map"),
    ):
        with pytest.raises(WeightsError) as caught:
            parse_cfg(text)
        assert words in str(caught.value)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


words = st.sampled_from([*EVERYTHING.split(), "[net]", "layers=-1", "stride=0", "groups=0", "=", "[", "]", "\0", "é"])
texts = st.one_of(st.text(max_size=300), st.lists(words, max_size=60).map("\n".join))


@settings(max_examples=300, deadline=None)
@given(texts)
def test_any_text_is_a_network_or_a_line(text: str) -> None:
    refused_or_whole(text)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(EVERYTHING) - 1), st.integers(0, 3), st.characters(codec="ascii"))
def test_a_cfg_with_a_mistake_is_a_network_or_a_line(at: int, cut: int, put: str) -> None:
    refused_or_whole(EVERYTHING[:at] + put + EVERYTHING[at + cut :])
    refused_or_whole(EVERYTHING[:at])


def refused_or_whole(text: str) -> None:
    try:
        cfg: Cfg = parse_cfg(text, "net.cfg")
    except WeightsError as error:
        assert str(error).startswith("net.cfg")
    else:
        assert parse_cfg(cfg.text) == cfg


def conv(filters: int, size: int = 3, *, last: bool = False) -> str:
    kind = "activation=linear" if last else "batch_normalize=1\nactivation=leaky"
    return f"[convolutional]\nfilters={filters}\nsize={size}\nstride=1\npad=1\n{kind}\n"


def pool(stride: int = 2) -> str:
    return f"[maxpool]\nsize=2\nstride={stride}\n"


def test_networks_everybody_has_are_as_large_as_their_published_files() -> None:
    """yolov3-tiny.weights has 35,434,956 bytes, 20 of them a header; tiny-yolo-voc is known for 15,867,885 weights."""
    net = "[net]\nwidth=416\nheight=416\nchannels=3\n"
    trunk = "".join(conv(filters) + pool() for filters in (16, 32, 64, 128, 256)) + conv(512) + pool(1) + conv(1024)
    anchors = "anchors=10,14, 23,27, 37,58, 81,82, 135,169, 344,319\nclasses=80\nnum=6\n"
    first = conv(256, 1) + conv(512) + conv(255, 1, last=True) + "[yolo]\nmask=3,4,5\n" + anchors
    second = "[route]\nlayers=-4\n" + conv(128, 1) + "[upsample]\nstride=2\n[route]\nlayers=-1,8\n"
    second += conv(256) + conv(255, 1, last=True) + "[yolo]\nmask=0,1,2\n" + anchors
    tiny = parse_cfg(net + trunk + first + second)
    assert sum(layer.parameters for _, layer in tiny.convs) * 4 + 20 == 35_434_956
    assert [(shape.height, shape.width) for shape in tiny.shapes if shape.channels == 255] == [(13, 13)] * 2 + [
        (26, 26)
    ] * 2
    region = (
        "[region]\nanchors=1.08,1.19, 3.42,4.41, 6.63,11.38, 9.42,5.11, 16.62,10.52\nnum=5\nclasses=20\nsoftmax=1\n"
    )
    voc = parse_cfg(net + trunk + conv(1024) + conv(125, 1, last=True) + region)
    assert sum(layer.parameters for _, layer in voc.convs) == 15_867_885
    assert voc.heads[0].stride_px == 32
