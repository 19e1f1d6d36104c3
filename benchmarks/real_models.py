"""Every model of the zoo through graphopt: outputs of the FX module and of ONNX Runtime against eager PyTorch.

Each model is compiled with its dynamic dims for both targets, and run at two sizes that it was not captured at (models
that torch.export specializes are run at their own size). An output holds if its error against eager PyTorch in float64
is at most 4 times eager's own float32 error plus 8 units in the last place of its scale.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils import _pytree as pytree

import graphopt
from common import parse_args, print_table, write_json
from tests.zoo import MODELS, ZooModel, seeded
from tests.zoo.audit import call, other_sizes

TARGETS = ("fx", "onnxruntime")
FACTOR, ULPS = 4, 8


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


def severity(got: Any, eager: Any, wide: Any) -> float:
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
    allowed = FACTOR * own + ULPS * torch.finfo(eager.dtype).eps * scale
    same = (got == eager) | (got.isnan() & eager.isnan())
    error = (got.double() - want).abs()[~same].max().item() if not bool(same.all()) else 0.0
    return error / allowed if allowed else (0.0 if error == 0 else float("inf"))


def check(entry: ZooModel, quick: bool) -> Row:
    """Compile one model for each target and compare."""
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
        worst = max([worst, *(severity(g, e, w) for g, e, w in zip(got, outputs, wides, strict=True))])
    row.worst[target] = worst


def main() -> None:
    options = parse_args(__doc__, ("--only", {"nargs": "*", "default": [], "help": "names of models"}))
    names = options.only or list(MODELS)
    if options.quick:
        names = [n for n in names if n in ("lenet", "hf-bert", "hf-gpt2", "unet", "tied", "in-place")]
    rows = []
    for name in names:
        row = check(MODELS[name], options.quick)
        rows.append(row)
        problem = "; ".join(f"{t}: {e}" for t, e in row.errors.items())
        print(f"{name}: {'holds' if row.holds else 'FAILS'} {row.worst} {problem}", flush=True)
    table = [[r.name, r.traced, r.left, r.sizes, r.dynamic, *(r.worst.get(t) for t in TARGETS), r.holds] for r in rows]
    columns = ["model", "nodes", "left", "sizes", "dynamic", *(f"{t} error / allowed" for t in TARGETS), "holds"]
    print_table("Real models", columns, table, "an output holds at most at 1")
    print(f"{sum(r.holds for r in rows)} of {len(rows)} models hold on {' and '.join(TARGETS)}")
    write_json(options.json, "real_models", rows)


if __name__ == "__main__":
    main()
