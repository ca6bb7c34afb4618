"""Export: a trained network as a file that other programs run, proven equal before it is kept.

`trace` needs PyTorch and is imported when one of its names is asked for; the rest of the package works without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detkit.export.trace import (
        BOX_TOLERANCE_PX as BOX_TOLERANCE_PX,
    )
    from detkit.export.trace import (
        OPSET as OPSET,
    )
    from detkit.export.trace import (
        SCORE_TOLERANCE as SCORE_TOLERANCE,
    )
    from detkit.export.trace import (
        Proof as Proof,
    )
    from detkit.export.trace import (
        compare_outputs as compare_outputs,
    )
    from detkit.export.trace import (
        export_onnx as export_onnx,
    )

_TRACED = ("BOX_TOLERANCE_PX", "OPSET", "SCORE_TOLERANCE", "Proof", "compare_outputs", "export_onnx")


def __getattr__(name: str) -> Any:
    if name not in _TRACED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from detkit.export import trace

    return getattr(trace, name)
