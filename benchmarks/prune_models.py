"""Pruned against masked on every model of the zoo and on topologies that are hard to prune, torch-pruning beside.

Each model is pruned at three ratios by three criteria, compiled to an FX module and to ONNX Runtime with its dynamic
dims, and run at sizes that it was not captured at. The reference is the eager model with the parameter slices of the
removed channels set to zero. An output holds if its error against that in float64, relative to its scale, is at most 4
times the worst of the masked eager model's own in float32 over the runs, plus 8 units in the last place (ONNX Runtime:
16 times and 64 units). (One run alone may be exact by luck.)

`--json FILE --resume` goes on where FILE ends, so that a long run may be cut into several with `--seconds`.
"""

from __future__ import annotations

import copy
import json
import time
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from prune_topologies import TOPOLOGIES
from torch import nn
from torch.utils import _pytree as pytree
from torch_pruning_peer import Outcome
from torch_pruning_peer import prune as prune_by_torch_pruning

import graphopt
from common import parse_args, print_table, write_json
from graphopt.analysis.channels import ChannelAnalysis
from graphopt.errors import GraphOptError
from graphopt.ir import Graph
from graphopt.passes.prune_channels import PruneChannels
from graphopt.passes.pruning.masked import mask_module, mask_slices
from graphopt.passes.pruning.report import PruningReport
from graphopt.passmanager import PassContext
from tests.zoo import MODELS
from tests.zoo.agreement import NOT_IN_ONNX, TARGETS, TOLERANCES
from tests.zoo.audit import call, other_sizes
from tests.zoo.model import Inputs

RATIOS = (0.25, 0.5, 0.75)
CRITERIA = ("l2", "taylor", "random")


@dataclass
class Row:
    """One model. share: parameters left at 0.5 by the first criterion. worst: the greatest error in terms of what is
    allowed, by target. refused: what stays, and why. peer: torch-pruning at 0.5."""

    name: str
    groups: int = 0
    share: float = 1.0
    worst: dict[str, float] = field(default_factory=dict)
    relative: dict[str, float] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    peer: Outcome = field(default_factory=Outcome)
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        """True if every run agreed with the masked model."""
        return not self.errors and all(value <= 1 for value in self.worst.values())


@dataclass
class Subject:
    """A model, inputs to capture it with and to run it on, and its dynamic dims."""

    name: str
    module: nn.Module
    inputs: Inputs
    runs: list[Inputs]
    dynamic: Any = None
    skipped_targets: tuple[str, ...] = ()
    random: bool = False


def subjects(names: Sequence[str], without: Collection[str]) -> Iterator[Subject]:
    """The zoo and the topologies, without models that draw numbers or change their inputs."""
    for name, entry in MODELS.items():
        if (names and name not in names) or name in without or entry.tags & {"random", "mutates"}:
            continue
        dynamic = entry.dynamic_shapes() if entry.dynamic is not None else None
        runs = other_sizes(entry) if dynamic is not None else [entry.inputs(seed=1)]
        skipped = ("onnxruntime",) if name in NOT_IN_ONNX else ()
        yield Subject(name, entry.build(), entry.inputs(), runs, dynamic, skipped)
    for name, (make, example) in TOPOLOGIES.items():
        if (names and name not in names) or name in without:
            continue
        torch.manual_seed(0)
        x = example()
        runs = [((torch.cat([x, -x, x])[:5],), {}), ((x[:1],), {})]
        yield Subject(name, make().eval(), ((x,), {}), runs, ({0: torch.export.Dim("N", min=1, max=64)},))


def examine(subject: Subject, ratios: Sequence[float], criteria: Sequence[str]) -> Row:
    """Prune one model in all ways."""
    row, start = Row(subject.name), time.perf_counter()
    args, kwargs = subject.inputs
    program = torch.export.export(subject.module, args, kwargs, dynamic_shapes=subject.dynamic, strict=False)
    graph = graphopt.trace(program)
    analysis = ChannelAnalysis(graph)
    row.groups = len(analysis.groups)
    if not row.groups:
        _, row.refused = pruned_channels(graph, subject.inputs, 0.5, "l2")
    for ratio in ratios:
        for criterion in criteria if row.groups else ():
            try:
                report, refused = pruned_channels(graph, subject.inputs, ratio, criterion)
            except GraphOptError as error:
                row.errors.append(f"{criterion} at {ratio}: {error}")
                continue
            if (ratio, criterion) == (0.5, criteria[0]):
                row.share = report.after.parameters / max(report.before.parameters, 1)
            row.refused += [reason for reason in refused if reason not in row.refused]
            masked = copy.deepcopy(subject.module)
            selection = {g.name: np.isin(np.arange(g.before), g.removed) for g in report.groups}
            mask_module(masked, mask_slices(analysis, selection))
            # The targets prune the same channels, without asking the criterion again.
            pass_ = PruneChannels(ratio=0.0, channels={g.name: g.removed for g in report.groups if g.removed})
            compare(subject, program, pass_, masked, row)
    row.seconds = time.perf_counter() - start
    row.peer = prune_by_torch_pruning(subject.module, args, kwargs, 0.5)
    return row


def pruned_channels(graph: Graph, inputs: Inputs, ratio: float, criterion: str) -> tuple[PruningReport, list[str]]:
    """What the pass removes, and what it refuses and why."""
    pass_ = PruneChannels(ratio=ratio, criterion=criterion, loss=energy if criterion in ("taylor", "fisher") else None)
    report = pass_.run(graph.clone(), PassContext(target="fx", calibration=[inputs])).details
    return report, [f"{r.name}: {r.reason}" for r in report.refused]


def energy(outputs: Any) -> torch.Tensor:
    """A loss for any model: the mean square of all outputs."""
    squares = [
        t.square().mean() for t in pytree.tree_leaves(outputs) if isinstance(t, torch.Tensor) and t.requires_grad
    ]
    return torch.stack(squares).sum() if squares else torch.zeros(())


def compare(subject: Subject, program: Any, pass_: PruneChannels, masked: nn.Module, row: Row) -> None:
    """Hold the pruned model on each target to the masked one."""
    eager = [(call(masked, inputs), in_double(masked, inputs)) for inputs in subject.runs]
    own = max((relative(e, w) for outputs, wide in eager if wide for e, w in zip(outputs, wide)), default=1e-6)
    for target in TARGETS:
        if target in subject.skipped_targets:
            continue
        try:
            compiled = graphopt.compile(program, target=target, passes=[pass_], validate=False, on_failure="raise")
            for inputs, (outputs, wide) in zip(subject.runs, eager):
                got = pytree.tree_leaves(compiled(*copy.deepcopy(inputs[0]), **copy.deepcopy(inputs[1])))
                for g, e, w in zip(got, outputs, wide or [None] * len(outputs), strict=True):
                    error, (factor, units) = difference(g, e, w), TOLERANCES[target]
                    allowed = factor * own + units * torch.finfo(torch.float32).eps
                    row.worst[target] = max(row.worst.get(target, 0.0), error / allowed)
                    row.relative[target] = max(row.relative.get(target, 0.0), error)
        except Exception as error:  # the table shows what any model does, a failure included
            text = f"{target}: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
            row.errors += [text] if text not in row.errors else []


def in_double(module: nn.Module, inputs: Inputs) -> list[Any] | None:
    """The outputs in float64, or None if the model cannot run in it."""

    def widen(leaf: Any) -> Any:
        return leaf.double() if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf

    try:
        return call(nn.Module.double(copy.deepcopy(module)), pytree.tree_map(widen, copy.deepcopy(inputs)))
    except RuntimeError:
        return None


def difference(got: Any, eager: Any, wide: Any) -> float:
    """The relative error of an output; infinite if its form differs, or numbers that are no floats."""
    if not isinstance(eager, torch.Tensor):
        return 0.0 if got == eager else float("inf")
    if got.shape != eager.shape or got.dtype != eager.dtype:
        return float("inf")
    if not eager.is_floating_point():
        return 0.0 if torch.equal(got, eager) else float("inf")
    if not torch.equal(got.isfinite(), eager.isfinite()):
        return float("inf")
    return relative(got, eager if wide is None else wide)


def relative(got: Any, want: Any) -> float:
    """The error relative to the output's scale."""
    if not isinstance(want, torch.Tensor) or not want.is_floating_point() or not want.isfinite().any():
        return 0.0
    finite = want.isfinite()
    scale = want[finite].abs().max().double().clamp_min(1e-30)
    return float((got.double() - want.double())[finite].abs().max() / scale)


def main() -> None:
    options = parse_args(
        __doc__,
        ("--only", {"nargs": "*", "default": [], "help": "names of models"}),
        ("--ratios", {"nargs": "*", "type": float, "default": RATIOS, "help": "shares of channels to remove"}),
        ("--criteria", {"nargs": "*", "default": CRITERIA, "help": "criteria"}),
        ("--resume", {"action": "store_true", "help": "keep the models that the JSON file has already"}),
        ("--seconds", {"type": float, "default": float("inf"), "help": "start no model later than this"}),
    )
    warnings.simplefilter("ignore")
    quick = ["lenet", "hf-bert", "mobilenet-v2", *TOPOLOGIES]
    ratios, criteria = ((0.5,), ("l2",)) if options.quick else (options.ratios, options.criteria)
    rows = finished(options.json) if options.resume else []
    done, start = {row.name for row in rows}, time.perf_counter()
    for subject in subjects(options.only or (quick if options.quick else []), done):
        if time.perf_counter() - start > options.seconds:
            print("more to do: run again with --resume")
            break
        row = examine(subject, ratios, criteria)
        rows.append(row)
        peer = row.peer.problem or f"{row.peer.share:.2f} of the parameters, error {row.peer.error:.1e}"
        verdict = "holds" if row.holds else "FAILS"
        print(f"{row.name}: {verdict} {row.share:.2f} {row.relative} {row.errors} | torch-pruning: {peer}", flush=True)
        for reason in row.refused:
            print(f"    refused {reason}", flush=True)
        write_json(options.json, "prune_models", rows)
    show(rows)


def finished(path: Path | None) -> list[Row]:
    """The rows of an earlier run."""
    if path is None or not path.is_file():
        return []
    rows = json.loads(path.read_text())["results"]
    return [Row(**{**row, "peer": Outcome(**row["peer"])}) for row in rows]


def show(rows: Sequence[Row]) -> None:
    """The table, and the counts."""
    columns = ["model", "groups", "left", *(f"{t} / allowed" for t in TARGETS), "holds", "torch-pruning left", "error"]
    table = [
        [r.name, r.groups, r.share, *(r.worst.get(t) for t in TARGETS), r.holds,
         r.peer.problem[:40] or r.peer.share, r.peer.error]
        for r in rows
    ]  # fmt: skip
    print_table("Pruned against masked", columns, table, "an output holds at most at 1")
    ours = [r for r in rows if r.share < 1]
    theirs = [r for r in rows if r.peer.pruned]
    exact = [r.peer.error for r in theirs if r.peer.error == r.peer.error]
    print(f"graphopt: {len(ours)} of {len(rows)} pruned, {sum(r.holds for r in rows)} hold; worst relative error "
          f"{max((e for r in rows for e in r.relative.values()), default=0):.1e}")  # fmt: skip
    print(f"torch-pruning: {len(theirs)} of {len(rows)} pruned and run; worst error to its masked model "
          f"{max(exact, default=float('nan')):.1e}, above 1e-4 on {sum(e > 1e-4 for e in exact)}")  # fmt: skip


if __name__ == "__main__":
    main()
