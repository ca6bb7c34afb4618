"""The card in OpenVINO's .xml, read without OpenVINO and without trusting a byte: damage is one line, at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest
from fake_model import CARD
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detkit import model_header
from detkit.errors import WeightsError
from detkit.weights import CARD_KEY, read_card

ODD = replace(CARD, class_names=('a "quoted" <&> one', "größe\n\t"), thresholds={"conf": 0.5, "iou": 0.6})
NET = """<?xml version="1.0"?>
<net name="m" version="11">
    <layers><layer id="0" name="images"><rt_info><{key} value="not this one" /></rt_info></layer></layers>
    <rt_info><conversion><{key} value="nor this" /></conversion><{key} value={value} /></rt_info>
</net>
"""


def write(path: Path, text: str | None = None) -> Path:
    path.write_text(text or NET.format(key=CARD_KEY, value=quoteattr(ODD.to_json())), "utf-8")
    return path


def test_the_card_is_that_of_the_network_and_survives_every_character(tmp_path: Path) -> None:
    assert read_card(write(tmp_path / "m.xml")) == ODD
    assert read_card(write(tmp_path / "M.XML")) == ODD


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<net><rt_info/></net>", "carries no detkit model card"),
        (f"<net><rt_info><{CARD_KEY}/></rt_info></net>", "carries no detkit model card"),
        (f'<net><rt_info><{CARD_KEY} value="{{"/></rt_info></net>', "not JSON"),
        (f'<other><rt_info><{CARD_KEY} value="{{}}"/></rt_info></other>', "carries no detkit model card"),
        ("<net><rt_info>", "damaged one"),
        ("hello", "damaged one"),
        ('<!DOCTYPE net [<!ENTITY a "aaaa">]><net>&a;</net>', "document type"),
        ('<!DOCTYPE net SYSTEM "file:///etc/passwd"><net/>', "document type"),
        ('<?xml version="1.0" encoding="nobody-knows"?><net/>', "damaged one"),
        ("<a>" * 100_000, "damaged one"),
    ],
)
def test_what_is_no_network_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_card(write(tmp_path / "m.xml", text))


def test_a_huge_file_is_not_even_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_header, "_MAX_XML_BYTES", 100)
    with pytest.raises(WeightsError, match="too large"):
        read_card(write(tmp_path / "m.xml"))
    (tmp_path / "empty.xml").touch()
    with pytest.raises(WeightsError, match="empty"):
        read_card(tmp_path / "empty.xml")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000), st.binary(max_size=6), st.booleans())
def test_damaged_bytes_give_a_card_or_one_line(tmp_path: Path, place: int, noise: bytes, cut: bool) -> None:
    whole = write(tmp_path / "m.xml").read_bytes()
    place %= len(whole)
    damaged = whole[:place] + noise + (b"" if cut else whole[place + len(noise) :])
    (tmp_path / "d.xml").write_bytes(damaged)
    try:
        read_card(tmp_path / "d.xml")
    except WeightsError as error:
        assert "\n" not in str(error)
