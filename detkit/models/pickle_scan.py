"""What a PyTorch file (.pth, .pt) asks for, read without running any of it and without PyTorch.

Such a file is a pickle, whose reader would call whatever functions the file names. Only those that put tensors
together are let through here, and only sizes that fit the file; PyTorch then reads it with the same restraint.
"""

from __future__ import annotations

import pickletools
import re
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

from detkit.errors import WeightsError

LARGEST_BYTES = 1 << 30  # torchvision's largest published detector has 237 MB

_ALLOWED = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)|torch Size|"
    r"torch (Float|Double|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage"
)
_ITEM_BYTES = {f"torch {kind}Storage": size for kind, size in (("Float", 4), ("Half", 2), ("BFloat16", 2), ("Int", 4))}
_ITEM_BYTES |= {f"torch {kind}Storage": size for kind, size in (("Short", 2), ("Char", 1), ("Byte", 1), ("Bool", 1))}
_GETS, _PUTS = ("GET", "BINGET", "LONG_BINGET"), ("PUT", "BINPUT", "LONG_BINPUT")
_NEVER_WRITTEN = ("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4")  # by torch.save
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_LEGACY_PICKLES = 3  # magic number, protocol, system; the tensors' pickle follows
_MOST_OPCODES = 1_000_000  # a state dict of 500 tensors takes 15,000
_SPARE = 1 << 20


def check_torch_file(path: Path) -> None:
    """Refuse a file that is anything but tensors by name.

    Raises:
        WeightsError: missing, damaged, of another kind, too large, or a pickle that would run code.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            if size > LARGEST_BYTES:
                found, expected = f"{size / 2**20:.0f} MiB", f"at most {LARGEST_BYTES >> 20}"
                raise WeightsError("is larger than any detector", file=path, found=found, expected=expected)
            if stream.read(4) == b"PK\x03\x04":
                _check_archive(stream, path, size)
                return
            stream.seek(0)
            if stream.read(len(_LEGACY_MAGIC)) != _LEGACY_MAGIC:
                raise WeightsError("is no PyTorch file, or a damaged one", file=path, expected="what torch.save wrote")
            stream.seek(0)
            for _ in range(_LEGACY_PICKLES):
                _claimed_bytes(stream, path, None)
            if _claimed_bytes(stream, path, size) > size - stream.tell():
                raise WeightsError("damaged, or not whole", file=path, found=f"{size} bytes", expected="more")
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror or error}", file=path) from error


def _check_archive(stream: BinaryIO, path: Path, size: int) -> None:
    """A zip archive with one pickle, and a file for each tensor, none of them compressed."""
    try:
        with zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
            pickles = [member for member in members if member.filename.endswith(".pkl")]
            packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
            if packed or sum(member.file_size for member in members) > size or len(pickles) != 1:
                raise WeightsError("is no archive that torch.save wrote", file=path, expected="a state dict")
            with archive.open(pickles[0]) as inner:
                if _claimed_bytes(inner, path, size) > size:  # type: ignore[arg-type]  # it reads as a file does
                    raise WeightsError("damaged: its tensors are larger than the file", file=path)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError) as error:
        raise WeightsError("damaged, or not whole: its archive cannot be read", file=path) from error


def _claimed_bytes(stream: BinaryIO, path: Path, size: int | None) -> int:
    """What the storages of one pickle take; it is read opcode by opcode, and nothing is made of it.

    The numbers in it may add up to twice the file's size (None: to anything).
    """
    total = 0
    claimed: dict[str, int] = {}
    memo: dict[object, object] = {}
    pushed: list[object] = []  # since the last mark
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            _check_opcode(opcode.name, argument, path)
            if opcode.name == "MARK":
                pushed = []
            elif opcode.name in _GETS:
                pushed.append(memo.get(argument))
            elif opcode.name in _PUTS:
                memo[argument] = pushed[-1] if pushed else None
            elif opcode.name == "BINPERSID":  # of "storage", its class, a key, a device, a length
                claimed[str(pushed[2])] = _ITEM_BYTES.get(str(pushed[1]), 8) * int(str(pushed[4]))
            elif argument is not None:
                pushed.append(argument)
                total += abs(argument) if isinstance(argument, int) else 0
            if count > _MOST_OPCODES or (size is not None and total > 2 * size + _SPARE):
                raise WeightsError("speaks of more numbers than it holds", file=path)
    except (ValueError, OverflowError, MemoryError, EOFError, IndexError, TypeError, struct.error) as error:
        raise WeightsError("damaged: its pickle ends early or makes no sense", file=path) from error
    return sum(claimed.values())


def _check_opcode(name: str, argument: object, path: Path) -> None:
    """Refuse what fetches a function that a state dict has no need of."""
    if name in _NEVER_WRITTEN or (name == "GLOBAL" and not _ALLOWED.fullmatch(str(argument))):
        asked = str(argument).replace(" ", ".")[:60] if name == "GLOBAL" else name
        expected = "a state dict: tensors by name"
        raise WeightsError("would run code, and is refused", file=path, found=asked, expected=expected)
