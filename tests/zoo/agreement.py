"""Whether compiled models of the zoo agree with eager PyTorch, at sizes that they were not captured at.

An output holds if its error against eager PyTorch in float64 is at most 4 times eager's own float32 error plus 8 units
in the last place of its scale. ONNX Runtime, which fuses and reorders on its own, has 16 times and 64 units, as in
`graphopt.validation`.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils import _pytree as pytree

import graphopt
from tests.zoo.audit import call, other_sizes
from tests.zoo.model import ZooModel, seeded

TARGETS = ("fx", "onnxruntime")
NOT_IN_ONNX = {"custom-operator": "soft_clip"}
"""Models with an operator of their own, which ONNX has no word for: the refusal must name it."""

TOLERANCES = {"fx": (4, 8), "onnxruntime": (16, 64)}
"""For each target, the factor of eager's own error and the units in the last place."""


@dataclass
class Row:
    """One model: nodes traced and left, seconds to compile, and for each target the worst error in terms of what is
    allowed (at most 1 holds), or what went wrong."""

    name: str
    traced: int = 0
    left: int = 0
    sizes: int = 0
    dynamic: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    worst: dict[str, float] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """True if every target's outputs agree with eager."""
        return not self.errors and all(value <= 1 for value in self.worst.values())


def double(entry: ZooModel, inputs: Any) -> list[Any] | None:
    """Eager outputs in float64, or None if the model cannot run in float64."""
    args, kwargs = copy.deepcopy(inputs)

    def widen(leaf: Any) -> Any:
        return leaf.double() if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf

    try:
        return call(torch.nn.Module.double(entry.build()), pytree.tree_map(widen, (args, kwargs)))
    except RuntimeError:
        return None


def severity(got: Any, eager: Any, wide: Any, tolerance: tuple[int, int]) -> float:
    """The error of an output in terms of what is allowed; infinite if its form differs."""
    if not isinstance(eager, torch.Tensor):
        return 0.0 if got == eager else float("inf")
    if got.shape != eager.shape or got.dtype != eager.dtype:
        return float("inf")
    if not eager.numel():
        return 0.0
    if not eager.is_floating_point():
        return 0.0 if torch.equal(got, eager) else float("inf")
    want = eager.double() if wide is None else wide
    scale = want[want.isfinite()].abs().max().item() if want.isfinite().any() else 0.0
    own = 1e-6 * scale if wide is None else (eager.double() - want).nan_to_num(0, 0, 0).abs().max().item()
    factor, units = tolerance
    allowed = factor * own + units * torch.finfo(eager.dtype).eps * scale
    same = (got == eager) | (got.isnan() & eager.isnan())
    error = (got.double() - want).abs()[~same].max().item() if not bool(same.all()) else 0.0
    return error / allowed if allowed else (0.0 if error == 0 else float("inf"))


def check(entry: ZooModel, quick: bool = False) -> Row:
    """Compile one model for each target and compare; quick compares at one size in place of two."""
    dynamic = entry.dynamic is not None
    row = Row(entry.name, dynamic=dynamic)
    runs = other_sizes(entry) if dynamic else [entry.inputs(seed=1)]
    runs = runs[:1] if quick else runs
    row.sizes = len(runs)
    eager = [(call(entry.build(), inputs), double(entry, inputs)) for inputs in runs]
    for target in TARGETS:
        try:
            measure(entry, target, runs, eager, row)
        except Exception as error:  # the table shows what any model does, a failure included
            expected = NOT_IN_ONNX.get(entry.name)
            if target == "onnxruntime" and expected is not None and expected in str(error):
                continue
            row.errors[target] = f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
    return row


def measure(entry: ZooModel, target: str, runs: list[Any], eager: list[Any], row: Row) -> None:
    """Fill in a row's figures for one target."""
    args, kwargs = entry.inputs()
    shapes = entry.dynamic_shapes() if entry.dynamic is not None else None
    start = time.perf_counter()
    compiled = graphopt.compile(
        entry.build(), args, kwargs, target=target, dynamic_shapes=shapes, trainable=False, on_failure="raise"
    )
    row.seconds[target] = time.perf_counter() - start
    row.traced, row.left = compiled.report.passes.before.nodes, compiled.report.passes.after.nodes
    worst = 0.0
    for inputs, (outputs, wide) in zip(runs, eager):
        fresh = compiled if "mutates" not in entry.tags else copy.deepcopy(compiled)
        given_args, given_kwargs = copy.deepcopy(inputs)
        with torch.no_grad(), seeded():
            got = pytree.tree_leaves(fresh(*given_args, **given_kwargs))
        if "random" in entry.tags:
            wrong = [g for g, e in zip(got, outputs) if g.shape != e.shape or g.dtype != e.dtype]
            worst = max(worst, float("inf") if wrong else 0.0)
            continue
        wides = wide if wide is not None else [None] * len(outputs)
        worst = max(
            [worst, *(severity(g, e, w, TOLERANCES[target]) for g, e, w in zip(got, outputs, wides, strict=True))]
        )
    row.worst[target] = worst
