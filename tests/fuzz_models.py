"""Damaged model files by the thousand: `python tests/fuzz_models.py SEED_FILE FIRST COUNT` loads and runs each one.

Run in a process of its own: a crash of a runtime, or a case that never ends, is a failure of the caller's to see. Case
number N is always the same damage. Prints one JSON object: how many were refused, how many ran, what went wrong.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

MAX_MEMORY_BYTES = 6 << 30  # of addresses, many of which PyTorch only reserves
ODD = (0, -1, 1, 3, 7, 10**6, 10**9, 2**31 - 1, 2**31, 2**62, -(2**63))
HUGE = (b"\xff" * 4, b"\xff" * 9 + b"\x01", b"\xff\xff\xff\xff\x07", b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"9" * 18)


def damaged(whole: bytes, number: int) -> bytes:
    """Case `number` of a file: flipped bits, missing or repeated parts, huge numbers; mostly where its header is."""
    rng = random.Random(f"{number}")
    data = bytearray(whole)
    header = 8 + int.from_bytes(whole[:8], "little")
    within = header if header < len(whole) and rng.random() < 0.8 else len(whole)  # of a .safetensors
    for _ in range(rng.choice((1, 1, 1, 2, 5, 20))):
        at, length = rng.randrange(min(within, len(data)) or 1), rng.choice((1, 4, 16, 200))
        kind = rng.choice(("flip", "flip", "flip", "byte", "cut", "huge", "insert", "drop", "repeat", "digits"))
        if not data:
            break
        at = min(at, len(data) - 1)
        if kind == "flip":
            data[at] ^= 1 << rng.randrange(8)
        elif kind == "byte":
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == "cut":
            del data[at if rng.random() < 0.3 else max(at, len(data) - length) :]
        elif kind == "huge":
            value = rng.choice(HUGE)
            data[at : at + len(value)] = value
        elif kind == "insert":
            data[at:at] = rng.choice((rng.randbytes(length), *HUGE))
        elif kind == "drop":
            del data[at : at + length]
        elif kind == "repeat":
            data[at:at] = data[at : at + length]
        else:
            digit = next((k for k in range(at, min(within, len(data))) if 48 <= data[k] <= 57), at)
            data[digit : digit + 1] = rng.choice((b"99999999999", b"-1", b"0", b"1e99", b"1.5"))
    return bytes(data)


def nonsense(whole: bytes, number: int) -> bytes:
    """Case `number` of an ONNX file that is whole and means nonsense: sizes, axes, wires and operators are wrong."""
    import onnx

    rng, model = random.Random(f"nonsense {number}"), onnx.load_from_string(whole)
    graph = model.graph
    for _ in range(rng.choice((1, 1, 2))):
        node, tensor = rng.choice(graph.node), rng.choice(graph.initializer)
        kind = rng.choice(("attribute", "side", "number", "wire", "operator", "end"))
        if kind == "attribute":
            numbers = [each for every in graph.node for each in every.attribute if each.ints or each.type == each.INT]
            chosen = rng.choice(numbers)
            if chosen.ints:
                chosen.ints[rng.randrange(len(chosen.ints))] = rng.choice(ODD)
            else:
                chosen.i = rng.choice(ODD)
        elif kind == "side" and tensor.dims:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(ODD)
        elif kind == "number" and tensor.data_type == tensor.INT64 and tensor.raw_data:
            values = np.frombuffer(tensor.raw_data, np.int64).copy()
            values[rng.randrange(values.size)] = rng.choice(ODD)
            tensor.raw_data = values.tobytes()
        elif kind == "wire" and node.input:
            wires = [each.name for each in graph.initializer] + [name for each in graph.node for name in each.output]
            node.input[rng.randrange(len(node.input))] = rng.choice(wires)
        elif kind == "operator":
            node.op_type = rng.choice(
                ("Expand", "Tile", "ConstantOfShape", "Reshape", "Resize", "Gather", "Conv", "Pad")
            )
        elif kind == "end":
            sides = rng.choice([*graph.input, *graph.output]).type.tensor_type.shape.dim
            sides[rng.randrange(len(sides))].dim_value = rng.choice(ODD)
    return bytes(model.SerializeToString())


def attempt(path: Path, adapter: str | None) -> str:
    """Load a file and run it once, with that adapter or in OpenVINO.

    Returns:
        "ran" or "refused"; anything but an ordinary DetkitError comes through.
    """
    from detkit.engines import Engine, open_engine
    from detkit.engines.adapters import read_adapter
    from detkit.engines.foreign import ForeignEngine
    from detkit.errors import DetkitError, ExitCode

    try:
        engine: Engine
        if adapter == "openvino":
            from detkit.engines.openvino import OpenVinoEngine

            engine = OpenVinoEngine(path, precision="fp32", threads=1)
        elif adapter is not None:
            engine = ForeignEngine(path, read_adapter([adapter]), ("cat", "dog"), threads=1)
        elif path.suffix == ".onnx":
            from detkit.engines.onnx import OnnxEngine

            engine = OnnxEngine(path, threads=1)
        else:
            engine = open_engine(path)
        height, width = engine.card.input_hw
        if height * width > 1 << 20:
            return "ran"  # a card may ask for a large canvas, and then gets it
        engine.run(np.zeros((1, height, width, 3), np.uint8))
    except DetkitError as error:
        text = str(error)
        if error.exit_code not in (ExitCode.WEIGHTS, ExitCode.USAGE) or "\n" in text or len(text) > 2000:
            raise AssertionError(f"exit {error.exit_code}: {text[:300]!r}") from error
        return "refused"
    return "ran"


def main(seed: Path, first: int, count: int) -> dict[str, Any]:
    """Every case from `first` on; the slowest is told, because one that takes seconds could take hours."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    adapter = seed.stem.partition("-")[2] or None
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    slowest = (0.0, -1)
    whole = seed.read_bytes()
    beside = seed.with_suffix(".bin").read_bytes() if seed.suffix == ".xml" else None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"case{seed.suffix}"
        for number in range(first, first + count):
            sound = seed.suffix == ".onnx" and number % 2  # as a file
            path.write_bytes(nonsense(whole, number) if sound else damaged(whole, number))
            if beside is not None:  # OpenVINO's weights; every fifth case damages them instead
                swap = number % 5 == 0
                path.with_suffix(".bin").write_bytes(damaged(beside, number) if swap else beside)
                path.write_bytes(whole if swap else damaged(whole, number))
            start_s = time.process_time()
            try:
                outcomes[attempt(path, adapter)] += 1
            except Exception as error:  # noqa: BLE001  (this is what is looked for)
                wrong.append(f"case {number}: {type(error).__name__}: {str(error)[:300]}")
            slowest = max(slowest, (time.process_time() - start_s, number))
            print(number, file=sys.stderr, flush=True)  # the last one is the one that crashed
    return {"outcomes": outcomes, "wrong": wrong, "slowest_s": round(slowest[0], 2), "slowest": slowest[1]}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
