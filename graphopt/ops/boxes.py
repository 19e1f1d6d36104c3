"""The choice among overlapping boxes, as the `graphopt` operator `non_max_suppression`.

    boxes [B, N, 4], scores [B, C, N] → rows (image, class, box) of what is chosen

For each image and class the box of the highest score is chosen, those whose intersection with it is more than the
threshold times their union are dropped, and so on, until none is left or enough are chosen. Of equal scores the first
comes first. What it means is what `NonMaxSuppression` of ONNX does.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from graphopt.ir import Trait
from graphopt.ops.torch_dialects import register_torch_op

NAME = "graphopt.non_max_suppression"
_LIBRARY = torch.library.Library("graphopt", "FRAGMENT")
_LIBRARY.define(
    "non_max_suppression(Tensor boxes, Tensor scores, Tensor? max_output_boxes_per_class=None, "
    "Tensor? iou_threshold=None, Tensor? score_threshold=None, bool center_point_box=False) -> Tensor"
)


def _non_max_suppression(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    max_output_boxes_per_class: torch.Tensor | None = None,
    iou_threshold: torch.Tensor | None = None,
    score_threshold: torch.Tensor | None = None,
    center_point_box: bool = False,
) -> torch.Tensor:
    most = int(_number(max_output_boxes_per_class) or 0)
    most_overlap, least_score = _number(iou_threshold) or 0.0, _number(score_threshold)
    corners = _corners(boxes, center_point_box)
    rows = [torch.empty(0, 3, dtype=torch.int64, device=boxes.device)]
    for image, classes in enumerate(scores):
        for class_, score in enumerate(classes):
            order = torch.sort(score, descending=True, stable=True).indices
            if least_score is not None:
                order = order[score[order] > least_score]
            chosen = list(_chosen(corners[image], order, most_overlap, most))
            rows += [
                torch.stack([torch.full_like(box, image), torch.full_like(box, class_), box])[None] for box in chosen
            ]
    return torch.cat(rows)


def _number(x: torch.Tensor | None) -> float | None:
    return None if x is None or not x.numel() else x.reshape(-1)[0].item()


def _corners(boxes: torch.Tensor, centred: bool) -> torch.Tensor:
    """The lower and the upper corner of each box, `[B, N, 2, 2]`."""
    pairs = boxes.unflatten(-1, (2, 2))
    if not centred:
        return torch.stack([pairs.amin(-2), pairs.amax(-2)], -2)
    centre, half = pairs[..., 0, :], pairs[..., 1, :] / 2
    return torch.stack([centre - half, centre + half], -2)


def _chosen(corners: torch.Tensor, order: torch.Tensor, most_overlap: float, most: int) -> Iterator[torch.Tensor]:
    """The boxes that are chosen, from the best on."""
    areas = (corners[:, 1] - corners[:, 0]).prod(-1)
    while most > 0 and order.numel():
        best, order = order[0], order[1:]
        yield best
        most -= 1
        low = torch.maximum(corners[best, 0], corners[order, 0])
        high = torch.minimum(corners[best, 1], corners[order, 1])
        shared = (high - low).clamp(min=0).prod(-1)
        overlap = shared / (areas[best] + areas[order] - shared)
        order = order[~(overlap > most_overlap)]


def _fake(boxes: torch.Tensor, scores: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
    count = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty((count, 3), dtype=torch.int64)


_LIBRARY.impl("non_max_suppression", _non_max_suppression, "CompositeExplicitAutograd")
torch.library.register_fake("graphopt::non_max_suppression", _fake, lib=_LIBRARY)
register_torch_op(NAME, (Trait.PURE, Trait.DATA_DEPENDENT))
