"""A model file with another card: every byte of the network stays, and neither torch nor onnx is needed."""

from __future__ import annotations

import json
from pathlib import Path

from detkit.errors import UsageError, WeightsError
from detkit.files import replacing
from detkit.model_header import protobuf_fields, read_header_text
from detkit.weights import CARD_KEY, ModelCard, read_card

_METADATA_PROPS = 14  # field of ONNX's ModelProto; its entries have a key (field 1) and a value (field 2)


def with_card(source: Path, card: ModelCard, target: Path) -> None:
    """Write a copy of a model file that carries another card.

    Args:
        source: an .onnx or .safetensors file with a card.
        card: the new one, of a network with as many classes; what it says of the network is not checked further.
        target: a file of the same suffix; `source` itself is refused.
    Raises:
        WeightsError: `source` cannot be used, or has another number of classes.
        UsageError: a `target` of another kind, or the source itself.
        RunError: the file cannot be written.
    """
    old = read_card(source)
    if len(old.class_names) != len(card.class_names):
        found, expected = f"{len(card.class_names)} classes", f"{len(old.class_names)}, as the network has"
        raise WeightsError("the new card does not fit", file=source, found=found, expected=expected)
    if target.suffix.lower() != source.suffix.lower():
        raise UsageError("a copy of another kind", file=target, expected=f"a {source.suffix} file")
    if target.exists() and target.samefile(source):
        raise UsageError("is the model itself, which is never changed", file=target, expected="another file")
    data = source.read_bytes()
    copy = _safetensors_copy(data, card) if source.suffix.lower() == ".safetensors" else _onnx_copy(source, data, card)
    with replacing(target) as partial:
        partial.write_bytes(copy)
        if read_header_text(partial, CARD_KEY) != card.to_json():
            raise WeightsError("stores its card in a way that cannot be changed; export the model again", file=source)


def _safetensors_copy(data: bytes, card: ModelCard) -> bytes:
    """Another header before the same tensors; their offsets count from its end, which stays at a multiple of 8."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"][CARD_KEY] = card.to_json()
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


def _onnx_copy(source: Path, data: bytes, card: ModelCard) -> bytes:
    """The message's fields but for the old card's entry, and the new entry at the end; ONNX forbids a key twice."""
    kept, begin = [], 0
    with source.open("rb") as stream:
        for number, start, length in list(protobuf_fields(stream, len(data), source)):
            end = start + length
            if number != _METADATA_PROPS or not data[start:end].startswith(_text_field(1, CARD_KEY)):
                kept.append(data[begin:end])
            begin = end
    entry = _text_field(1, CARD_KEY) + _text_field(2, card.to_json())
    return b"".join([*kept, _field(_METADATA_PROPS, entry)])


def _text_field(number: int, text: str) -> bytes:
    return _field(number, text.encode())


def _field(number: int, value: bytes) -> bytes:
    """A protobuf field of bytes: its number and wire type 2, the length, the bytes."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """Protobuf's integer: seven bits a byte, lowest first, the eighth bit says that more follow."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
