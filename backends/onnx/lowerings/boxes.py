"""The choice among overlapping boxes."""

from __future__ import annotations

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, lowers
from graphopt.ir import DType


@lowers("graphopt.non_max_suppression")
def _lower_non_max_suppression(e: Emitter, a: Call) -> Tensor:
    return e.op(
        "NonMaxSuppression",
        a.boxes,
        a.scores,
        a.max_output_boxes_per_class,
        a.iou_threshold,
        a.score_threshold,
        dtype=DType.I64,
        center_point_box=int(a.center_point_box),
    )
